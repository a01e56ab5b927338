package localpg

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// dieWithParent makes the kernel signal the process when the thread that started
// it ends. SIGQUIT is the postmaster's immediate shutdown: it takes its children
// along, which SIGKILL would not.
func dieWithParent(cmd *exec.Cmd, sig syscall.Signal) { cmd.SysProcAttr.Pdeathsig = sig }

func processes() ([]procInfo, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var all []procInfo
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		// pid (name, which may hold anything) state ppid … starttime, which is field 22
		line := string(data)
		open, end := strings.IndexByte(line, ' '), strings.LastIndexByte(line, ')')
		if open < 0 || end < 0 {
			continue
		}
		fields := strings.Fields(line[end+1:])
		if len(fields) < 20 {
			continue
		}
		pid, _ := strconv.Atoi(line[:open])
		parent, _ := strconv.Atoi(fields[1])
		all = append(all, procInfo{pid: pid, parent: parent, started: fields[19], zombie: fields[0] == "Z" || fields[0] == "X"})
	}
	return all, nil
}
