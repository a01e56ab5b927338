//go:build unix

package localpg

import (
	"os/exec"
	"strconv"
	"testing"
)

// However a program ends, nothing of its server stays.
func TestNothingIsLeftBehind(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, role string
		sigkill    bool
	}{
		{"kill -9", "wait", true},
		{"kill -9, TCP", "tcp", true},
		{"kill -9 after Kill", "killed", true},
		{"panic", "panic", false},
		{"exit without Stop", "exit", false},
		{"Stop", "stop", false},
		{"Stop after Kill", "killed", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := startChild(t, test.role)
			if p.shm == "" {
				t.Error("no shared memory to look for")
			}
			want := 3 // directory, watchdog, postmaster
			if test.role == "killed" {
				want = 2
			}
			if left := leftBy(t, p.dir, ""); len(left) < want {
				t.Fatalf("the test does not see what it should see go: %q", left)
			}
			if test.sigkill {
				if err := p.cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			p.stdin.Close()
			_ = p.cmd.Wait()
			eventually(t, func() []string { return leftBy(t, p.dir, p.shm) })
		})
	}
}

// A pid that has passed to somebody else is left alone.
func TestWatchdogKillsOnlyTheServer(t *testing.T) {
	t.Parallel()
	other := exec.Command("sleep", "600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- other.Wait() }()
	defer func() {
		_ = other.Process.Kill()
		t.Logf("the other process: %v", <-ended)
	}()

	dir, err := makeDir(nil)
	if err != nil {
		t.Fatal(err)
	}
	dog, err := startWatchdog(nil, "/usr/bin:/bin", guardCluster, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := dog.tell("pid " + strconv.Itoa(other.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if err := dog.release(); err != nil {
		t.Fatal(err)
	}
	if left := leftBy(t, dir, ""); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	select {
	case err := <-ended:
		ended <- err
		t.Errorf("the watchdog killed another process: %v", err)
	default:
	}
}
