package localpg

import (
	"os/exec"
	"runtime"
	"syscall"
)

// process is a child that has been started and is being waited for.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read after done
}

// spawn starts cmd such that it gets sig when this program dies (on Linux). That
// signal is tied to the thread that starts the process, not to the program: the
// thread belongs to this goroutine for as long as the process lives.
func spawn(cmd *exec.Cmd, sig syscall.Signal) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		dieWithParent(cmd, sig)
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}
