package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

func TestMigrate_case102_upDownUp(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	conn := open(t, url)
	o := call("migrate", "status", "--database-url", url)
	o.says(t, exitOK, "00001_keys.sql", "00002_reaper.sql")
	if strings.Count(o.stdout, " no\n") != 2 {
		t.Errorf("not all are unapplied:\n%s", o.stdout)
	}
	if n := count(t, conn, `SELECT count(*) FROM pg_class WHERE relname = 'idem_goose_version'`); n != 0 {
		t.Error("status has made a table")
	}
	call("migrate", "up", "--database-url", url).says(t, exitOK, "up 00001_keys.sql (", "up 00002_reaper.sql (")
	call("migrate", "up", "--database-url", url).says(t, exitOK, "nothing to do")
	if o := call("migrate", "status", "--database-url", url); strings.Contains(o.stdout, " no\n") || !strings.Contains(o.stdout, time.Now().UTC().Format("2006-01-")) {
		t.Errorf("status after up:\n%s%s", o.stdout, o.stderr)
	}
	if err := idem.Check(t.Context(), conn); err != nil {
		t.Error(err)
	}
	call("migrate", "down", "--database-url", url).says(t, exitUsage, "--yes")
	if err := idem.Check(t.Context(), conn); err != nil {
		t.Errorf("down without --yes: %v", err)
	}
	call("migrate", "down", "--yes", "--database-url", url).says(t, exitOK, "down 00002_reaper.sql (", "down 00001_keys.sql (")
	call("migrate", "down", "--yes", "--database-url", url).says(t, exitOK, "nothing to do")
	call("migrate", "up", "--database-url", url).says(t, exitOK, "up 00001_keys.sql (")
}

func TestMigrate_case103_fourAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	var wg sync.WaitGroup
	outcomes := make([]outcome, 4)
	for i := range outcomes {
		wg.Go(func() { outcomes[i] = call("migrate", "up", "--database-url", url) })
	}
	wg.Wait()
	applied := 0
	for _, o := range outcomes {
		o.says(t, exitOK)
		applied += strings.Count(o.stdout, "up 0000")
	}
	if applied != 2 {
		t.Errorf("%d migrations applied in all: %+v", applied, outcomes)
	}
}

func TestMigrate_byHandBefore(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	exec(t, open(t, url), `DROP TABLE idem_goose_version`)
	call("migrate", "status", "--database-url", url).says(t, exitOK, "it was made by other means")
	call("migrate", "up", "--database-url", url).says(t, exitError, "already exists", "by hand", "Go on with those means")
}

func TestMigrate_otherThingsInTheSchema(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	conn := open(t, url)
	exec(t, conn, `CREATE TABLE idem.mine ()`)
	call("migrate", "down", "--yes", "--database-url", url).says(t, exitError, "down 00002_reaper.sql", "other objects depend on it", "remove that first")
	if n := count(t, conn, `SELECT count(*) FROM pg_class WHERE oid = to_regclass('idem.mine') OR oid = to_regclass('idem.keys')`); n != 2 {
		t.Errorf("%d of 2 tables left", n)
	}
}

func TestMigrate_newerSchema(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	exec(t, open(t, url), `INSERT INTO idem_goose_version (version_id, is_applied) VALUES (99, true)`)
	call("migrate", "status", "--database-url", url).says(t, exitOK, "99       (of a newer version of this tool)")
	call("doctor", "--database-url", url).says(t, exitOK, "schema version 99 is newer than this tool", "warning")
}

func TestMigrate_withoutTheRight(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	asRole(t, url, "", func(url string) {
		call("migrate", "up", "--database-url", url).says(t, exitError, "permission denied", "GRANT CREATE ON DATABASE")
	})
}

// asRole calls f with a URL of a new role that may log in, and nothing else but what grants (with %s for its name) say.
func asRole(t *testing.T, url, grants string, f func(url string)) {
	t.Helper()
	conn := open(t, url)
	name := fmt.Sprintf("idem_test_%016x", rand.Uint64()) // roles are the server's, which other tests share
	exec(t, conn, `CREATE ROLE "`+name+`" LOGIN PASSWORD 'pw'`)
	t.Cleanup(func() {
		conn := open2(url)
		if conn == nil {
			return
		}
		ctx := context.Background()
		_, _ = conn.Exec(ctx, `DROP OWNED BY "`+name+`"`)
		_, _ = conn.Exec(ctx, `DROP ROLE "`+name+`"`)
		_ = conn.Close(ctx)
	})
	if grants != "" {
		exec(t, conn, strings.ReplaceAll(grants, "%s", `"`+name+`"`))
	}
	cfg := conn.Config()
	f("host=" + cfg.Host + " port=" + itoa(cfg.Port) + " dbname=" + cfg.Database + " user=" + name + " password=pw sslmode=disable")
}
