//go:build !unix

package localpg

import (
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

func isolate(*exec.Cmd, *account, bool)       {}
func dieWithParent(*exec.Cmd, syscall.Signal) {}

// signalServer has no signals here: pg_ctl and taskkill know the ways around.
func signalServer(c *cluster, p *process, how stopMode) error {
	var cmd *exec.Cmd
	switch how {
	case stopKill:
		cmd = exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(p.cmd.Process.Pid))
	case stopImmediate:
		cmd = exec.Command(program(c.bin, "pg_ctl"), "stop", "-W", "-m", "immediate", "-D", c.data)
	default:
		cmd = exec.Command(program(c.bin, "pg_ctl"), "stop", "-W", "-m", "fast", "-D", c.data)
	}
	out, err := cmd.CombinedOutput()
	if err != nil && p.running() {
		return fmt.Errorf("localpg: %w: %s", err, out)
	}
	return nil
}
