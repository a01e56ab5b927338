package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/migrations"
)

const (
	oldestServer = 140000
	// lateReaper is for how long no reaper may have run, and expired records may lie about, without a warning.
	lateReaper = 2 * time.Hour
	// longPass is after which a pass that has not ended is taken for one that was killed.
	longPass = 2 * time.Hour
)

// checks are what the doctor looks at, in this order. Each prints what it finds; its error means that it could not look.
var checks = []struct {
	name string
	look func(context.Context, pgx.Tx, *report) error
}{
	{"server", checkServer},
	{"schema version", checkVersion},
	{"table idem.keys", checkTable},
	{"privileges", checkPrivileges},
	{"reaper", checkReaper},
	{"durability", checkDurability},
}

func checkServer(ctx context.Context, tx pgx.Tx, r *report) error {
	var database, role, version, readOnly string
	var number int
	var standby bool
	if err := tx.QueryRow(ctx, sqlWhere).Scan(&database, &role, &version, &number, &standby, &readOnly); err != nil {
		return err
	}
	where := fmt.Sprintf("connected to database %q as role %q, PostgreSQL %s", database, role, version)
	if number < oldestServer {
		r.bad(where, "PostgreSQL 14 is the oldest that is supported: upgrade the server.")
	} else {
		r.good("%s", where)
	}
	switch {
	case standby:
		r.bad("the server is a standby: it answers reads only", "Do and Run need the primary: name it in the URL, or add target_session_attrs=read-write.")
	case readOnly == "on":
		r.bad("transactions of this role are read-only by default (default_transaction_read_only)", "Do and Run write: ALTER ROLE … SET default_transaction_read_only = off.")
	}
	return nil
}

const migrateHint = `Run "idem migrate up", or goose with the files in migrations/.`

func checkVersion(ctx context.Context, tx pgx.Tx, r *report) error {
	s, err := readSchema(ctx, tx)
	if err != nil {
		return err
	}
	newest := newestSchema()
	switch have := s.version(); {
	case !s.keys && !s.tracked:
		r.bad("there is no schema idem in this database", migrateHint)
	case !s.tracked && s.reaper:
		r.good("the tables are there; which version is not recorded (no table %s in the search path)", migrations.VersionTable)
	case s.tracked && !s.readable && s.keys && s.reaper:
		r.good("the tables are there; which version is not for this role to see (SELECT on %s)", migrations.VersionTable)
	case !s.readable, !s.keys:
		r.bad("a part of the schema idem is missing", migrateHint)
	case have < newest:
		r.bad(fmt.Sprintf("schema version %d is applied, this tool needs %d", have, newest), migrateHint)
	case have > newest:
		r.odd(fmt.Sprintf("schema version %d is newer than this tool, which knows %d", have, newest), "Install the tool in the version that the application uses.")
	default:
		r.good("schema version %d is applied, the newest that there is", have)
	}
	return nil
}

func checkTable(ctx context.Context, tx pgx.Tx, r *report) error {
	err := idem.Check(ctx, tx)
	var joined interface{ Unwrap() []error }
	switch {
	case errors.Is(err, idem.ErrNoSchema):
		return nil // said already
	case err == nil:
	case errors.Is(err, idem.ErrUnsafeSchema) && errors.As(err, &joined):
		for _, e := range joined.Unwrap() {
			r.bad(strings.TrimPrefix(e.Error(), "idem: "), "")
		}
	default:
		return err
	}
	var records, size int64
	var rowSecurity bool
	if scanErr := tx.QueryRow(ctx, sqlTable).Scan(&records, &size, &rowSecurity); scanErr != nil {
		return scanErr
	}
	if err == nil {
		about := "not analyzed yet"
		if records >= 0 {
			about = "about " + plural(records, "record")
		}
		r.good("table idem.keys keeps the promise: a key is unique, the table is logged, nothing interferes (%s, %.1f MB)", about, float64(size)/1e6)
	}
	if rowSecurity {
		r.odd("row-level security is on for idem.keys", "A record that a policy hides makes every call with its key fail: let the application's role see all rows of its projects.")
	}
	return nil
}

func checkPrivileges(ctx context.Context, tx pgx.Tx, r *report) error {
	var usage, sel, ins, upd, del, reaperSel, reaperIns, reaperUpd bool
	err := tx.QueryRow(ctx, sqlPrivileges).Scan(&usage, &sel, &ins, &upd, &del, &reaperSel, &reaperIns, &reaperUpd)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // no schema, said already
	}
	if err != nil {
		return err
	}
	type need struct {
		has  bool
		what string
	}
	lacks := func(needs ...need) string {
		var missing []string
		for _, n := range needs {
			if !n.has {
				missing = append(missing, n.what)
			}
		}
		return strings.Join(missing, ", ")
	}
	schema := need{usage, "USAGE on schema idem"}
	call := lacks(schema, need{sel, "SELECT on idem.keys"}, need{ins, "INSERT on idem.keys"}, need{upd, "UPDATE on idem.keys"})
	reap := lacks(schema, need{sel, "SELECT on idem.keys"}, need{del, "DELETE on idem.keys"},
		need{reaperSel, "SELECT on idem.reaper"}, need{reaperIns, "INSERT on idem.reaper"}, need{reaperUpd, "UPDATE on idem.reaper"})
	const (
		grantCall = "For an application: GRANT USAGE ON SCHEMA idem TO …; GRANT SELECT, INSERT, UPDATE ON idem.keys TO …"
		grantReap = "For a reaper: GRANT USAGE ON SCHEMA idem TO …; GRANT SELECT, DELETE ON idem.keys TO …; GRANT SELECT, INSERT, UPDATE ON idem.reaper TO …"
	)
	switch {
	case call == "" && reap == "":
		r.good("this role may call Do and Run, and reap")
	case call == "":
		r.good("this role may call Do and Run; it may not reap (it lacks %s), which another role can do", reap)
	case reap == "":
		r.good("this role may reap; it may not call Do and Run (it lacks %s), which is the application's to do", call)
	default:
		r.bad("this role may neither call Do and Run (it lacks "+call+") nor reap (it lacks "+reap+")", grantCall+"\n  → "+grantReap)
	}
	return nil
}

func checkReaper(ctx context.Context, tx pgx.Tx, r *report) error {
	var usage, keys, state bool
	var unused bool
	err := tx.QueryRow(ctx, sqlPrivileges).Scan(&usage, &keys, &unused, &unused, &unused, &state, &unused, &unused)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !usage {
		return nil // said already
	}
	if err != nil {
		return err
	}
	if !state {
		r.good("when the reaper last ran is not for this role to see (SELECT on idem.reaper)")
	} else if err := lastRun(ctx, tx, r); err != nil {
		return err
	}
	if !keys {
		return nil
	}
	var backlog int64
	var age *time.Duration
	if err := tx.QueryRow(ctx, sqlBacklog).Scan(&backlog, &age); err != nil {
		return err
	}
	if backlog == 0 {
		r.good("no expired record waits for the reaper")
		return nil
	}
	fact := fmt.Sprintf("%s, the oldest for %v", expired(backlog), short(*age))
	if *age > lateReaper {
		r.odd(fact, "The table only grows, calls are not affected: run the reaper more often, or with a longer --max-duration.")
	} else {
		r.good("%s", fact)
	}
	return nil
}

func lastRun(ctx context.Context, tx pgx.Tx, r *report) error {
	var ago time.Duration
	var clock string
	var took *time.Duration
	var deleted, blocked int64
	err := tx.QueryRow(ctx, sqlLastRun).Scan(&ago, &clock, &took, &deleted, &blocked)
	const schedule = `Schedule it: "idem reap" in a crontab, CALL idem.reap() by pg_cron, or idem.Reaper in a process.`
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		r.odd("no reaper has run yet: expired records stay for ever", schedule)
	case err != nil:
		return err
	case ago < -time.Second:
		r.odd(fmt.Sprintf("the reaper last ran %v from now: the server's clock went back", short(-ago)), "Nothing is deleted too early by that. Look at the server's time synchronisation.")
	case clock == "jumped":
		r.odd(fmt.Sprintf("the reaper deleted nothing %v ago: the server's clock was far ahead of the run before", short(ago)),
			"Either the clock jumped (look at it now), or the reaper did not run for long: then say how often it runs with --interval.")
	case took == nil && ago > longPass:
		r.odd(fmt.Sprintf("the last run of the reaper began %v ago and did not end: it was killed", short(ago)), "The next run goes on where it stopped. "+schedule)
	case took == nil:
		r.good("the reaper began %v ago and is at work, or was stopped", short(ago))
	case ago > lateReaper:
		r.odd(fmt.Sprintf("the reaper last ran %v ago", short(ago)), schedule+" Where it runs once a day, this is nothing.")
	default:
		r.good("the reaper last ran %v ago: deleted %s in %v, passed over %d", short(ago), plural(deleted, "record"), short(*took), blocked)
	}
	return nil
}

func checkDurability(ctx context.Context, tx pgx.Tx, r *report) error {
	var fsync, pages, commit, standbys string
	if err := tx.QueryRow(ctx, sqlDurability).Scan(&fsync, &pages, &commit, &standbys); err != nil {
		return err
	}
	if fsync == "off" || pages == "off" {
		r.odd(fmt.Sprintf("fsync is %s, full_page_writes is %s: when the machine dies, acknowledged keys may be lost and the database broken", fsync, pages),
			"Right for a test, nowhere else: turn both on in postgresql.conf.")
	}
	switch {
	case commit == "off":
		r.good("synchronous_commit is off here; Do and Run turn it on for their own transactions")
	case standbys != "":
		r.good("synchronous_commit is %s with synchronous standbys; WithReplicatedReplay makes replays wait for them too", commit)
	default:
		r.good("synchronous_commit is %s: what was acknowledged survives a crash of the server", commit)
	}
	return nil
}
