package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	const nowhere = "--database-url=postgres://127.0.0.1:1/x"
	for _, c := range []struct {
		args string
		says string
	}{
		{"frobnicate", `unknown command "frobnicate"`},
		{"migrate", "needs one of: down, status, up"},
		{"migrate sideways", `unknown command "sideways"`},
		{"migrate up now", `unknown command "now"`},
		{"migrate down " + nowhere, "deletes every key"},
		{"reap --frobnicate", "unknown flag: --frobnicate"},
		{"reap --batch many", `invalid argument "many" for "--batch"`},
		{"reap --batch 0 " + nowhere, "--batch is 0"},
		{"reap --max-duration 0s " + nowhere, "must be above 0"},
		{"reap --interval -1m " + nowhere, "must be above 0"},
		{"reap --grace -1s " + nowhere, "--grace is -1s"},
		{"doctor --timeout 0s " + nowhere, "--timeout must be above 0"},
		{"doctor --database-url", "flag needs an argument"},
		{"reap", "no database: set --database-url"},
		{"migrate up", "no database: set --database-url"},
		{"migrate status", "no database: set --database-url"},
		{"doctor", "no database: set --database-url"},
		{"reap --database-url mysql://u:hunter2@h/d", "cannot parse"},
		{"doctor --database-url postgres://u:hunter2@h:port/d", "invalid port"},
		{"migrate up --database-url =", "cannot parse"},
	} {
		t.Run(strings.ReplaceAll(c.args, " ", "_"), func(t *testing.T) {
			t.Parallel()
			o := call(strings.Fields(c.args)...)
			o.says(t, exitUsage, c.says, `--help" for usage.`)
			if o.stdout != "" || strings.Count(o.stderr, "\n") > 4 {
				t.Errorf("a usage error is short and on stderr:\nstdout: %s\nstderr: %s", o.stdout, o.stderr)
			}
			if strings.Contains(o.stderr, "hunter2") {
				t.Errorf("the password is printed: %s", o.stderr)
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		code int
	}{{"reap", exitError}, {"migrate up", exitError}, {"migrate status", exitError}, {"migrate down --yes", exitError}, {"doctor", exitCheck}} {
		o := call(append(strings.Fields(c.args), "--database-url", "postgres://u:hunter2@127.0.0.1:1/x")...)
		o.says(t, c.code, "connection refused", "Is the server running there")
		if strings.Contains(o.stdout+o.stderr, "hunter2") {
			t.Errorf("the password is printed: %s%s", o.stdout, o.stderr)
		}
	}
	url := pgtest.New(t)
	cfg := open(t, url).Config()
	o := call("doctor", "--database-url", "host="+cfg.Host+" port="+strings.TrimSpace(itoa(cfg.Port))+" user="+cfg.User+" dbname=nosuch sslmode=disable")
	o.says(t, exitCheck, `database "nosuch" does not exist`, "createdb")
}

func TestHelp(t *testing.T) {
	t.Parallel()
	call().says(t, exitOK, "idem doctor", "Exit codes")
	call("--version").says(t, exitOK, "idem ", "schema 2", "go1.")
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "completion" || c.Name() == "help" {
			return
		}
		if c.Long == "" || c.Example == "" || c.Short == "" {
			t.Errorf("%s lacks a long text or an example", c.CommandPath())
		}
		for line := range strings.Lines(c.Long) {
			if n := len([]rune(line)); n > 92 {
				t.Errorf("%s: a line of %d characters: %s", c.CommandPath(), n, line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).command())
}

// Where no URL is given, the environment names the database.
func TestDatabaseFromEnvironment(t *testing.T) {
	url := pgtest.New(t)
	cfg := open(t, url).Config()
	t.Run("DATABASE_URL", func(t *testing.T) {
		t.Setenv("DATABASE_URL", url)
		call("migrate", "status").says(t, exitOK, "00001_keys.sql")
	})
	t.Run("the flag wins", func(t *testing.T) {
		t.Setenv("DATABASE_URL", "postgres://127.0.0.1:1/x")
		call("migrate", "status", "--database-url", url).says(t, exitOK, "00001_keys.sql")
	})
	t.Run("PG variables", func(t *testing.T) {
		t.Setenv("PGHOST", cfg.Host)
		t.Setenv("PGPORT", itoa(cfg.Port))
		t.Setenv("PGUSER", cfg.User)
		t.Setenv("PGPASSWORD", cfg.Password)
		t.Setenv("PGDATABASE", cfg.Database)
		call("migrate", "status").says(t, exitOK, "00001_keys.sql")
	})
	t.Run("settings of a pool", func(t *testing.T) {
		separator := "?"
		if strings.Contains(url, "?") {
			separator = "&"
		}
		if !strings.Contains(url, "://") {
			t.Skip("not a URL")
		}
		t.Setenv("DATABASE_URL", url+separator+"pool_max_conns=7")
		call("reap").says(t, exitOK, "nothing deleted")
	})
}

// A pipe is no terminal, so that no escape sequences get into logs.
func TestNoColor(t *testing.T) {
	t.Parallel()
	if o := call("doctor", "--database-url", pgtest.New(t)); strings.Contains(o.stdout, "\x1b") {
		t.Errorf("escape sequences: %q", o.stdout)
	}
	var b bytes.Buffer
	r := report{w: &b, color: true}
	r.bad("fact", "hint")
	if want := "\x1b[31m✗\x1b[0m fact\n  → hint\n"; b.String() != want {
		t.Errorf("%q", b.String())
	}
}
