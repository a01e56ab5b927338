//go:build unix && !linux

package localpg

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// dieWithParent does nothing here: the watchdog does it.
func dieWithParent(*exec.Cmd, syscall.Signal) {}

func processes() ([]procInfo, error) {
	cmd := exec.Command("ps", "-axo", "pid=,ppid=,state=,lstart=")
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("localpg: ps: %w", err)
	}
	var all []procInfo
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		pid, err1 := strconv.Atoi(fields[0])
		parent, err2 := strconv.Atoi(fields[1])
		if err1 != nil || err2 != nil {
			continue
		}
		all = append(all, procInfo{
			pid: pid, parent: parent,
			started: strings.Join(fields[3:], " "),
			zombie:  strings.HasPrefix(fields[2], "Z"),
		})
	}
	return all, nil
}
