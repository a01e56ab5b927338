//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A server that IDEM_DATABASE_URL names, with a role that may create databases only.
func TestSomebodyElsesServer(t *testing.T) {
	theirs := start(t, Options{TCP: true})
	admin := connect(t, theirs.URL(""))
	exec1(t, admin, `CREATE ROLE tester LOGIN CREATEDB`)
	exec1(t, admin, `CREATE ROLE nobody_special LOGIN`)
	exec1(t, admin, `CREATE DATABASE precious OWNER tester`)
	old := "pgidem_1000000000_abcdef_left"
	exec1(t, admin, `CREATE DATABASE `+old+` OWNER tester`)
	exec1(t, admin, `CREATE DATABASE pgidem_1000000000_abcdef_busy OWNER tester`)
	busy := connect(t, theirs.URL("pgidem_1000000000_abcdef_busy"))
	exec1(t, admin, `CREATE DATABASE pgidem_9000000000_abcdef_new OWNER tester`)
	exec1(t, admin, `CREATE DATABASE pgidem_1000000001_abcdef_others`)
	databases := func() string {
		return value[string](t, admin, `SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE NOT datistemplate`)
	}
	before := databases()

	host, port, _ := strings.Cut(theirs.Addr(), ":")
	u := &url.URL{Scheme: "postgres", User: url.User("tester"), Host: theirs.Addr(), Path: "/postgres", RawQuery: "sslmode=disable"}
	for _, dsn := range []string{
		u.String(),
		fmt.Sprintf("host=%s port=%s user=tester dbname=postgres sslmode=disable", host, port),
	} {
		t.Setenv(EnvURL, dsn)
		s := start(t, Options{TCP: true, Settings: map[string]string{"max_connections": "7"}})
		other := start(t, Options{}) // another program at the same time
		if s.Source() != sourceURL || s.Addr() != theirs.Addr() || s.URL("") != dsn || s.Pid() != 0 || s.DataDir() != "" {
			t.Errorf("source %q, address %q, URL %q, pid %d", s.Source(), s.Addr(), s.URL(""), s.Pid())
		}
		for _, s := range []*Server{s, other} {
			if _, err := s.CreateDatabase(t.Context(), "base", ""); err != nil {
				t.Fatal(err)
			}
			exec1(t, connect(t, s.URL("base")), `CREATE TABLE note (body text)`)
			if err := s.Seal(t.Context(), "base"); err != nil {
				t.Fatal(err)
			}
			if _, err := pgx.Connect(t.Context(), s.URL("base")); err == nil {
				t.Error("a sealed database lets somebody in")
			}
			got, err := s.CreateDatabase(t.Context(), "it's", "base")
			if err != nil {
				t.Fatal(err)
			}
			if got != s.URL("it's") {
				t.Errorf("%q and %q differ", got, s.URL("it's"))
			}
			if n := value[int](t, connect(t, got), `SELECT count(*) FROM note`); n != 0 {
				t.Errorf("%d notes", n)
			}
		}
		if err := s.DropDatabase(t.Context(), "precious"); err == nil {
			t.Error("dropped a database that it did not create")
		}
		for _, err := range []error{s.Kill(), s.StopImmediate(), s.Restart(t.Context())} {
			if !errors.Is(err, ErrUnsupported) {
				t.Errorf("stopped somebody else's server: %v", err)
			}
		}
		other.Keep("it's")
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		hint, err := other.StopHint()
		if err != nil {
			t.Fatal(err)
		}
		_, kept, _ := strings.Cut(hint, ": ")
		if n := value[int](t, connect(t, theirs.URL(kept)), `SELECT count(*) FROM note`); n != 0 {
			t.Errorf("hint %q", hint)
		}
		exec1(t, admin, `DROP DATABASE `+quote(kept)+` WITH (FORCE)`)
		if want := strings.Replace(before, old+" ", "", 1); databases() != want {
			t.Errorf("databases:\n%s\nwant:\n%s", databases(), want)
		}
	}
	if err := busy.Ping(t.Context()); err != nil {
		t.Error("a leftover in use was dropped:", err)
	}

	u.User = url.UserPassword("nobody_special", "hunter2")
	t.Setenv(EnvURL, u.String())
	if _, err := Start(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "may not create databases") {
		t.Errorf("without the right: %v", err)
	}
	u.Path = "/no_such_database"
	t.Setenv(EnvURL, u.String())
	if _, err := Start(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), EnvURL) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("wrong URL: %v", err)
	}
	t.Setenv(EnvURL, "postgres://me:hunter2@%zz/x")
	if _, err := Start(t.Context(), Options{}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("no URL: %v", err)
	}
	// What Download returns is used in the same way.
	u.User, u.Path = url.User("tester"), "/postgres"
	nothingElse(t)
	s := start(t, Options{Download: func(context.Context) (string, error) { return u.String(), nil }})
	if s.Source() != sourceDownload {
		t.Errorf("source %q", s.Source())
	}
	if _, err := s.CreateDatabase(t.Context(), "x", ""); err != nil {
		t.Error(err)
	}
	t.Setenv(EnvURL, u.String())
	if _, err := Start(t.Context(), Options{Private: true}); !errors.Is(err, ErrNoDatabase) {
		t.Errorf("a private server: %v", err)
	}
}
