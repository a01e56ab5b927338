//go:build unix

package localpg

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// isolate makes cmd run as who, in a process group of its own, so that Ctrl-C
// reaches the program and not the server under it.
func isolate(cmd *exec.Cmd, who *account, session bool) {
	attr := &syscall.SysProcAttr{Setpgid: !session, Setsid: session}
	if who != nil {
		attr.Credential = &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid)}
	}
	cmd.SysProcAttr = attr
}

// signalServer asks a postmaster to stop.
func signalServer(c *cluster, p *process, how stopMode) error {
	sig := syscall.SIGINT
	switch how {
	case stopImmediate:
		sig = syscall.SIGQUIT
	case stopKill:
		return killTree(p)
	}
	return ignoreGone(p.cmd.Process.Signal(sig))
}

// killTree kills a postmaster and its children as if the power went. While the
// postmaster is halted it neither starts children nor reaps them, so that the
// list is complete and no process id in it can have passed to somebody else.
func killTree(p *process) error {
	if err := ignoreGone(p.cmd.Process.Signal(syscall.SIGSTOP)); err != nil {
		return err
	}
	pid := p.cmd.Process.Pid
	children, err := childrenOf(pid)
	for _, child := range children {
		_ = syscall.Kill(child.pid, syscall.SIGKILL)
	}
	err = errors.Join(err, ignoreGone(p.cmd.Process.Kill()))
	<-p.done
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		left, lerr := stillThere(children)
		if lerr != nil || len(left) == 0 {
			return errors.Join(err, lerr)
		}
		if time.Now().After(deadline) {
			return errors.Join(err, errors.New("localpg: processes of a killed server do not go away"))
		}
	}
}

func childrenOf(pid int) ([]procInfo, error) {
	all, err := processes()
	var children []procInfo
	for _, p := range all {
		if p.parent == pid {
			children = append(children, p)
		}
	}
	return children, err
}

// stillThere returns those that run; a zombie that nobody reaps does not.
func stillThere(of []procInfo) ([]procInfo, error) {
	if len(of) == 0 {
		return nil, nil
	}
	all, err := processes()
	if err != nil {
		return nil, err
	}
	var left []procInfo
	for _, was := range of {
		for _, p := range all {
			if p.pid == was.pid && p.started == was.started && !p.zombie {
				left = append(left, p)
			}
		}
	}
	return left, nil
}

// procInfo is one process of the system's list.
type procInfo struct {
	pid, parent int
	started     string // tells apart two processes with one pid
	zombie      bool
}

func ignoreGone(err error) error {
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}
