//go:build unix

package localpg

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// envChild makes the test binary play the program that dies.
const envChild = "LOCALPG_TEST_CHILD"

// patience is for things that happen soon; no test depends on how soon.
const patience = time.Minute

func TestMain(m *testing.M) {
	if role := os.Getenv(envChild); role != "" {
		child(role)
		return
	}
	// These tests choose their sources themselves.
	os.Unsetenv(EnvURL)
	os.Exit(m.Run())
}

// child starts a server, says where it is, and then does what its role says.
func child(role string) {
	ctx := context.Background()
	s, err := Start(ctx, Options{TCP: role == "tcp"})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	if _, err := s.CreateDatabase(ctx, "work", ""); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("shm", sharedMemory(s.DataDir()))
	if role == "killed" {
		if err := s.Kill(); err != nil {
			fmt.Println("error:", err)
		}
	}
	fmt.Println("data", s.DataDir())
	_, _ = io.Copy(io.Discard, os.Stdin) // until told, or killed
	switch role {
	case "panic":
		panic("on purpose")
	case "exit":
		os.Exit(3)
	}
	if err := s.Stop(); err != nil {
		fmt.Println("error:", err)
	}
}

// childProgram is a child process that plays a role.
type childProgram struct {
	cmd       *exec.Cmd
	stdin     io.Closer
	dir, shm  string
	complaint string
}

func startChild(t *testing.T, role string, env ...string) *childProgram {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &childProgram{cmd: exec.Command(exe)}
	p.cmd.Env = append(os.Environ(), append(env, envChild+"="+role)...)
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		word, value, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "shm":
			p.shm = value
		case "data":
			p.dir = filepath.Dir(value)
			return p
		default:
			p.complaint += lines.Text() + "\n"
		}
	}
	t.Fatalf("child %s: %s", role, p.complaint)
	return nil
}

// start starts a server for one test.
func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.Log())
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec1(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func value[T any](t *testing.T, conn *pgx.Conn, sql string) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// eventually waits until what is left is nothing.
func eventually(t *testing.T, left func() []string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		l := left()
		if len(l) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %q", l)
		}
	}
}

// leftBy lists what is left of a server: its directory, processes that name it on
// their command line (the postmaster, the watchdog), its System V memory.
func leftBy(t *testing.T, dir, shm string) []string {
	t.Helper()
	var left []string
	if _, err := os.Lstat(dir); err == nil {
		left = append(left, dir)
	}
	out, err := exec.Command("ps", "-axww", "-o", "pid=,state=,args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) {
			left = append(left, strings.TrimSpace(line))
		}
	}
	if shm != "" {
		out, err := exec.Command("ipcs", "-m").Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) > 1 && f[1] == shm {
				left = append(left, "shared memory "+strings.TrimSpace(line))
			}
		}
	}
	return left
}

// sharedMemory is the id of a running server's System V memory, by its lock file.
func sharedMemory(data string) string {
	lock, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return ""
	}
	lines := strings.Split(string(lock), "\n")
	if len(lines) < 7 {
		return ""
	}
	fields := strings.Fields(lines[6])
	if len(fields) != 2 {
		return ""
	}
	return fields[1]
}
