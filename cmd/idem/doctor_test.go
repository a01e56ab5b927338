package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

// open2 connects outside of a test's life, or returns nil.
func open2(url string) *pgx.Conn {
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		return nil
	}
	return conn
}

func TestDoctor_well(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	call("reap", "--database-url", url).says(t, exitOK)
	o := call("doctor", "--database-url", url)
	o.says(t, exitOK, "✓ connected to database", "PostgreSQL ", "✓ schema version 2 is applied, the newest that there is",
		"✓ table idem.keys keeps the promise", "✓ this role may call Do and Run, and reap", "✓ the reaper last ran", "✓ no expired record waits",
		"✓ synchronous_commit is on: what was acknowledged survives")
	if strings.Contains(o.stdout, "✗") || strings.Contains(o.stdout, "%!") {
		t.Errorf("%s", o.stdout)
	}
	if n := count(t, open(t, url), `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idem'`); n > 1 {
		t.Errorf("%d connections left", n)
	}
}

func TestDoctor_findings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, sql string
		code      int
		says      []string
	}{
		{"older_schema", `DELETE FROM idem_goose_version WHERE version_id = 2; DROP PROCEDURE idem.reap; DROP TABLE idem.reaper`, exitCheck, []string{"✗ schema version 1 is applied, this tool needs 2", `→ Run "idem migrate up"`}},
		{"by_hand", `DROP TABLE idem_goose_version`, exitOK, []string{"✓ the tables are there; which version is not recorded"}},
		{"half_by_hand", `DROP TABLE idem_goose_version; DROP TABLE idem.reaper`, exitCheck, []string{"✗ a part of the schema idem is missing"}},
		{"table_dropped", `DROP TABLE idem.keys`, exitCheck, []string{"✗ a part of the schema idem is missing"}},
		{"no_index", `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey; ALTER TABLE idem.keys SET UNLOGGED`, exitCheck, []string{
			"✗ table idem.keys cannot keep the promise (idem.keys is UNLOGGED)", "✗ table idem.keys cannot keep the promise (there is no unique index", "2 problems",
		}},
		{"row_security", `ALTER TABLE idem.keys ENABLE ROW LEVEL SECURITY`, exitOK, []string{"⚠ row-level security is on for idem.keys"}},
		{"never_reaped", ``, exitOK, []string{"⚠ no reaper has run yet", "CALL idem.reap()"}},
		{"reaper_long_ago", `INSERT INTO idem.reaper VALUES (true, now() - interval '3 hours', 'ok', '1 second', 5, 1, 0, 0)`, exitOK, []string{"⚠ the reaper last ran 3h0m", "crontab"}},
		{"reaper_killed", `INSERT INTO idem.reaper VALUES (true, now() - interval '3 hours', 'ok', NULL, 0, 0, 0, 0)`, exitOK, []string{"ago and did not end: it was killed"}},
		{"reaper_at_work", `INSERT INTO idem.reaper VALUES (true, now() - interval '3 seconds', 'ok', NULL, 0, 0, 0, 0)`, exitOK, []string{"✓ the reaper began ", "is at work"}},
		{"clock_jumped", `INSERT INTO idem.reaper VALUES (true, now() - interval '1 minute', 'jumped', '0', 0, 0, 0, 0)`, exitOK, []string{"⚠ the reaper deleted nothing 1m", "was far ahead"}},
		{"clock_went_back", `INSERT INTO idem.reaper VALUES (true, now() + interval '1 hour', 'ok', '0', 0, 0, 0, 0)`, exitOK, []string{"from now: the server's clock went back"}},
		{"backlog", `INSERT INTO idem.keys SELECT now() - interval '2 days', now() - interval '1 day', 200, sha256(''), 'p', 'e', i::text, '', '' FROM generate_series(1, 3) AS i`, exitOK, []string{"⚠ 3 expired records, the oldest for 24h0m"}},
		{"small_backlog", `INSERT INTO idem.keys SELECT now() - interval '2 days', now() - interval '1 minute', 200, sha256(''), 'p', 'e', 'k', '', ''`, exitOK, []string{"✓ 1 expired record, the oldest for 1m"}},
		{"async", `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$`, exitOK, []string{"✓ synchronous_commit is off here; Do and Run turn it on"}},
		{"read_only", `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`, exitCheck, []string{"✗ transactions of this role are read-only by default"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.New(t)
			if c.sql != "" {
				exec(t, open(t, url), c.sql)
			}
			o := call("doctor", "--database-url", url)
			o.says(t, c.code, c.says...)
			for line := range strings.Lines(o.stdout) {
				if (strings.HasPrefix(line, "✗ ") || strings.HasPrefix(line, "⚠ ")) && strings.Contains(line, "ERROR") {
					t.Errorf("a bare database error: %s", line)
				}
			}
		})
	}
}

func TestDoctor_emptyDatabase(t *testing.T) {
	t.Parallel()
	o := call("doctor", "--database-url", pgtest.Empty(t))
	o.says(t, exitCheck, "✗ there is no schema idem in this database", `→ Run "idem migrate up"`, "1 problem")
}

func TestDoctor_case101_roles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, grants string
		code         int
		says         []string
	}{
		{"nothing", "", exitCheck, []string{"✗ this role may neither call Do and Run (it lacks USAGE on schema idem, SELECT on idem.keys, INSERT", "→ For an application: GRANT USAGE"}},
		{"application", "GRANT USAGE ON SCHEMA idem TO %s; GRANT SELECT, INSERT, UPDATE ON idem.keys TO %s", exitOK, []string{
			"✓ the tables are there; which version is not for this role to see", "✓ this role may call Do and Run; it may not reap (it lacks DELETE on idem.keys, SELECT on idem.reaper",
			"✓ when the reaper last ran is not for this role to see", "✓ no expired record waits",
		}},
		{"reaper", "GRANT USAGE ON SCHEMA idem TO %s; GRANT SELECT, DELETE ON idem.keys TO %s; GRANT SELECT, INSERT, UPDATE ON idem.reaper TO %s", exitOK, []string{
			"✓ this role may reap; it may not call Do and Run (it lacks INSERT on idem.keys, UPDATE on idem.keys)",
		}},
		{"without_update", "GRANT USAGE ON SCHEMA idem TO %s; GRANT SELECT, INSERT ON idem.keys TO %s", exitCheck, []string{"✗ this role may neither call Do and Run (it lacks UPDATE on idem.keys) nor reap"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.New(t)
			asRole(t, url, c.grants, func(url string) {
				o := call("doctor", "--database-url", url)
				o.says(t, c.code, c.says...)
				if c.name == "reaper" {
					call("reap", "--database-url", url).says(t, exitOK, "nothing deleted")
				}
				if c.name == "application" {
					call("reap", "--database-url", url).says(t, exitError, "permission denied", "the reaper's SELECT and DELETE")
				}
			})
		})
	}
}

// A statement that hangs is given up, and the rest is looked at all the same.
func TestDoctor_timeout(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	tx, err := open(t, url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // the end of the test
	if _, err := tx.Exec(t.Context(), `LOCK TABLE idem.keys IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	call("doctor", "--database-url", url, "--timeout", "300ms").says(t, exitCheck, "✗ reaper: ", "statement timeout", "✓ synchronous_commit")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
}
