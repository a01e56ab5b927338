package pgbouncer

import (
	"os/exec"
	"runtime"
)

// spawn starts cmd such that it dies with this program where the system offers
// that. The offer is tied to the thread that starts the process, so that thread
// stays until the process has ended; then done is closed.
func spawn(cmd *exec.Cmd) (done <-chan struct{}, err error) {
	dieWithParent(cmd)
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(ended)
		}
	}()
	return ended, <-started
}
