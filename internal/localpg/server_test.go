//go:build unix

package localpg

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestRootDropsPrivileges(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	s := start(t, Options{})
	info, err := os.Stat(s.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid == 0 {
		t.Error("the data directory is root's")
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the data directory has mode %v", info.Mode())
	}
	if info, err := os.Stat(filepath.Dir(s.DataDir())); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others reach the socket: %v, %v", info.Mode(), err)
	}
	// What the server does it does as that user.
	conn := connect(t, s.URL(""))
	if _, err := conn.Exec(t.Context(), `COPY (SELECT 1) TO PROGRAM '[ $(id -u) != 0 ] && [ "$(id -G)" = "$(id -g)" ]'`); err != nil {
		t.Errorf("the server has root's rights: %v", err)
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	for _, tcp := range []bool{false, true} {
		s := start(t, Options{TCP: tcp, Settings: map[string]string{"max_prepared_transactions": "7", "fsync": "on"}})
		if got := s.Addr() != ""; got != tcp {
			t.Errorf("TCP %v: Addr() = %q", tcp, s.Addr())
		}
		if s.Source() != sourceBinaries || s.Version() == "" || s.major() < 9 {
			t.Errorf("source %q, version %q, major %d", s.Source(), s.Version(), s.major())
		}
		for _, name := range []string{"plain", `ev'il" na\me%20/é?x=y`} {
			url, err := s.CreateDatabase(t.Context(), name, "")
			if err != nil {
				t.Fatal(err)
			}
			if url != s.URL(name) {
				t.Errorf("%q and %q differ", url, s.URL(name))
			}
			conn := connect(t, url)
			if got := value[string](t, conn, `SELECT current_database()`); got != name {
				t.Errorf("connected to %q, not %q", got, name)
			}
			if got := value[bool](t, conn, `SELECT inet_server_addr() IS NOT NULL`); got != tcp {
				t.Errorf("TCP is %v, not %v", got, tcp)
			}
			if err := s.DropDatabase(t.Context(), name); err != nil { // conn is still open
				t.Fatal(err)
			}
			if err := s.DropDatabase(t.Context(), name); err != nil {
				t.Errorf("dropping a second time: %v", err)
			}
		}
		conn := connect(t, s.URL(""))
		for setting, want := range map[string]string{
			"max_prepared_transactions": "7", "fsync": "on", "full_page_writes": "off", "max_connections": "200",
		} {
			if got := value[string](t, conn, `SHOW `+setting); got != want {
				t.Errorf("%s is %s, not %s", setting, got, want)
			}
		}
	}
}

func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	for _, tcp := range []bool{false, true} {
		s := start(t, Options{TCP: tcp, Durable: true})
		url := s.URL("")
		conn := connect(t, url)
		exec1(t, conn, `CREATE TABLE note (body text)`)
		for _, end := range []struct {
			name string
			end  func() error
		}{
			{"killed", s.Kill},
			{"stopped", s.StopImmediate},
			{"running", func() error { return nil }},
		} {
			exec1(t, conn, `INSERT INTO note VALUES ('`+end.name+`')`)
			pid := s.Pid()
			children, err := childrenOf(pid)
			if err != nil || len(children) < 4 {
				t.Fatalf("children of %d: %v, %v", pid, children, err)
			}
			if err := end.end(); err != nil {
				t.Fatal(err)
			}
			if end.name != "running" {
				if s.Pid() != 0 {
					t.Errorf("%s: still has pid %d", end.name, s.Pid())
				}
				if left, err := stillThere(children); err != nil || len(left) > 0 {
					t.Errorf("%s: children are left: %v, %v", end.name, left, err)
				}
				if _, err := pgx.Connect(t.Context(), url); err == nil {
					t.Errorf("%s: it still answers", end.name)
				}
				if err := end.end(); err != nil {
					t.Errorf("%s a second time: %v", end.name, err)
				}
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s.Pid() == pid || s.Pid() == 0 {
				t.Errorf("%s: pid %d after %d", end.name, s.Pid(), pid)
			}
			if s.URL("") != url {
				t.Errorf("%s: the URL changed from %s to %s", end.name, url, s.URL(""))
			}
			conn = connect(t, url)
			if n := value[int](t, conn, `SELECT count(*) FROM note WHERE body = '`+end.name+`'`); n != 1 {
				t.Errorf("%s: the row is lost", end.name)
			}
		}
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	s := start(t, Options{LogFile: log})
	dir, shm := filepath.Dir(s.DataDir()), sharedMemory(s.DataDir())
	connect(t, s.URL("")) // a session is no obstacle
	for range 2 {
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if left := leftBy(t, dir, shm); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
	if err := s.Restart(t.Context()); err == nil {
		t.Error("started again after Stop")
	}
	if data, err := os.ReadFile(log); err != nil || !strings.Contains(string(data), "ready to accept connections") {
		t.Errorf("log: %q, %v", data, err)
	}
}

func TestKeep(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	if _, err := s.CreateDatabase(t.Context(), "kept", ""); err != nil {
		t.Fatal(err)
	}
	s.Keep("kept")
	dir := filepath.Dir(s.DataDir())
	hint, err := s.StopHint()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if _, err := os.Stat(filepath.Join(s.DataDir(), "PG_VERSION")); err != nil {
		t.Error("the data is gone:", err)
	}
	if left := leftBy(t, dir, ""); len(left) != 1 { // the directory
		t.Errorf("left behind: %q", left)
	}
	if !strings.Contains(hint, "-D "+s.DataDir()) {
		t.Errorf("hint: %s", hint)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		"port":            "belongs to this package",
		"a b":             "not the name of a setting",
		"no_such_setting": `unrecognized configuration parameter "no_such_setting"`, // from the server's log
	} {
		s, err := Start(t.Context(), Options{Settings: map[string]string{setting: "1"}})
		if err == nil {
			_ = s.Stop()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", setting, err)
		}
		if errors.Is(err, ErrNoDatabase) {
			t.Errorf("%s: there is a database: %v", setting, err)
		}
	}
}
