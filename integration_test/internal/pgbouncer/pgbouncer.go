// Package pgbouncer runs PgBouncer in transaction mode in front of a server.
package pgbouncer

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// EnvRequire makes a missing PgBouncer a failure where it is otherwise a skip.
const EnvRequire = "IDEM_TEST_REQUIRE_PGBOUNCER"

const patience = time.Minute

// Pooler is a running PgBouncer.
type Pooler struct {
	// Servers is the number of connections to the server that clients of one
	// database share.
	Servers int

	config *pgx.ConnConfig // of the server
	port   int
}

// New starts a pooler in transaction mode in front of the server that dsn names,
// with servers connections to it. It ends with the test, which is skipped where
// there is no PgBouncer, unless IDEM_TEST_REQUIRE_PGBOUNCER=1.
func New(t testing.TB, dsn string, servers int) *Pooler {
	t.Helper()
	binary := find(t)
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	p := &Pooler{Servers: servers, config: config}
	// The free port may be taken by the time PgBouncer wants it: take another one.
	for try := 1; ; try++ {
		p.port = freePort(t)
		err := p.start(t, binary)
		if err == nil {
			return p
		}
		if try == 5 {
			t.Fatal(err)
		}
	}
}

func find(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer", "/opt/homebrew/bin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "PgBouncer is not on this machine (Debian, Ubuntu: apt install pgbouncer; macOS: brew install pgbouncer)"
	if os.Getenv(EnvRequire) == "1" {
		t.Fatalf("%s, and %s=1", missing, EnvRequire)
	}
	t.Skipf("%s; %s=1 makes this a failure", missing, EnvRequire)
	return ""
}

// start starts the process and waits until it lets us through to the server.
func (p *Pooler) start(t testing.TB, binary string) error {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgidem-bouncer-") // t.TempDir is closed to the user that it runs as
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ini, logFile := filepath.Join(dir, "pgbouncer.ini"), filepath.Join(dir, "log")
	for path, content := range map[string]string{ini: p.ini(), logFile: ""} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.OpenFile(logFile, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(binary, ini)
	cmd.Stdout, cmd.Stderr = out, out
	if err := unprivileged(cmd, dir, ini, logFile); err != nil {
		t.Fatal(err)
	}
	done, err := spawn(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the directory is removed
		_ = cmd.Process.Kill()
		<-done
		if t.Failed() {
			t.Logf("PgBouncer's log:\n%s", tail(logFile))
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, p.URL(p.config.Database))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-done:
			return fmt.Errorf("PgBouncer has ended; its log:\n%s", tail(logFile))
		case <-ctx.Done():
			return fmt.Errorf("PgBouncer does not answer: %w; its log:\n%s", err, tail(logFile))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *Pooler) ini() string {
	server := fmt.Sprintf("host=%s port=%d user=%s", p.config.Host, p.config.Port, p.config.User)
	if p.config.Password != "" {
		server += " password='" + strings.ReplaceAll(p.config.Password, "'", "''") + "'"
	}
	return fmt.Sprintf(`[databases]
* = %s

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = %d
max_client_conn = 500
`, server, p.port, p.Servers)
}

// URL is the DSN of a database through the pooler.
func (p *Pooler) URL(database string) string {
	return (&url.URL{
		Scheme: "postgres", User: url.User(p.config.User), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)),
		Path: "/" + database, RawQuery: "sslmode=disable",
	}).String()
}

// unprivileged makes cmd run as somebody else when we are root, which PgBouncer
// refuses, and lets that user read its files.
func unprivileged(cmd *exec.Cmd, files ...string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(nobody.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(nobody.Gid)
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := os.Chown(file, uid, gid); err != nil {
			return err
		}
	}
	return setUser(cmd, uid, gid)
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-4<<10):])
}
