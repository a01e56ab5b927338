//go:build unix

package localpg

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakeDocker answers as docker does, with the address of a server that runs
// already, and writes down what it is asked. It shows that we ask for the right
// things; that docker does them is for the integration tests.
const fakeDocker = `#!/bin/sh
echo "$@" >>"$FAKE_DOCKER_LOG"
case $1 in
port) echo "$FAKE_DOCKER_ADDR"; echo "[::1]:1" ;;
inspect) echo true ;;
esac
`

func TestDocker(t *testing.T) {
	server := start(t, Options{TCP: true})
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(fakeDocker), 0o755); err != nil {
		t.Fatal(err)
	}
	sleep, err := exec.LookPath("sleep") // for the watchdog
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(sleep, filepath.Join(dir, "sleep")); err != nil {
		t.Fatal(err)
	}
	nothingElse(t)
	t.Setenv("PATH", dir)
	t.Setenv("FAKE_DOCKER_LOG", log)
	t.Setenv("FAKE_DOCKER_ADDR", server.Addr())
	t.Setenv(EnvImage, "example.org/postgres:1")
	asked := func() string {
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(log); err != nil {
			t.Fatal(err)
		}
		return string(data)
	}

	s := start(t, Options{Settings: map[string]string{"work_mem": "5MB"}})
	if s.Source() != sourceDocker || s.Addr() != server.Addr() || s.Pid() != 0 || s.DataDir() != "" {
		t.Errorf("source %q, address %q, pid %d", s.Source(), s.Addr(), s.Pid())
	}
	if _, err := s.CreateDatabase(t.Context(), "work", ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("Kill would lose the data: %v", err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	got := asked()
	for _, want := range []string{
		"run -d --name pgidem-", " --rm ", "-p 127.0.0.1::5432 ", "--label pgidem.localpg=1 ", "POSTGRES_HOST_AUTH_METHOD=trust",
		"--tmpfs /pgdata ", " example.org/postgres:1 postgres ", " -c fsync=off", " -c work_mem=5MB", "\nrm -f -v pgidem-",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("did not ask docker for %q:\n%s", want, got)
		}
	}

	s = start(t, Options{Private: true})
	if err := errors.Join(s.Kill(), s.Restart(t.Context()), s.StopImmediate()); err != nil {
		t.Error(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	got = asked()
	if strings.Contains(got, "--rm") || strings.Contains(got, "--tmpfs") {
		t.Errorf("the data of a private server would be lost:\n%s", got)
	}
	for _, want := range []string{"\nkill pgidem-", "\nstart pgidem-", "\nkill -s QUIT pgidem-", "\nrm -f -v pgidem-"} {
		if !strings.Contains(got, want) {
			t.Errorf("did not ask docker for %q:\n%s", want, got)
		}
	}

	// The watchdog removes the container when we do not.
	dog, err := startWatchdog(nil, os.Getenv("PATH"), guardContainer, filepath.Join(dir, "docker"), "pgidem-x")
	if err != nil {
		t.Fatal(err)
	}
	if err := dog.release(); err != nil {
		t.Fatal(err)
	}
	if got := asked(); strings.Count(got, "rm -f -v pgidem-x\n") != 2 {
		t.Errorf("the watchdog asked:\n%s", got)
	}
}
