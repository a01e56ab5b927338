package idem_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

// seed inserts n records whose values begin with prefix and that expire after d, which is negative for expired ones; each
// a second later than the one before.
func seed(t testing.TB, pool *pgxpool.Pool, prefix string, n int, d time.Duration) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `
		INSERT INTO idem.keys (created_at, expires_at, response_status, request_hash, project, endpoint, key, response_header, response_body)
		SELECT now() - interval '30 days', clock_timestamp() + $3::interval + i * interval '1 second', 200, sha256('x'),
		       'acme', 'POST /orders', $1::text || i, '', 'body'
		FROM generate_series(0, $2::int - 1) AS i`, prefix, n, d)
	noError(t, err)
}

// like counts the records whose values begin with prefix.
func like(t testing.TB, pool *pgxpool.Pool, prefix string) int {
	t.Helper()
	return count(t, pool, `SELECT count(*) FROM idem.keys WHERE key LIKE $1 || '%'`, prefix)
}

// undo rolls back at the end of a test, when the transaction may have ended already.
func undo(t testing.TB, tx pgx.Tx) {
	_ = tx.Rollback(context.WithoutCancel(t.Context()))
}

func reap(t testing.TB, r idem.Reaper) idem.ReapResult {
	t.Helper()
	res, err := r.Reap(t.Context())
	noError(t, err)
	return res
}

func TestReaper_case87_deletesOnlyWhatExpired(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		r := idem.Reaper{DB: pool, BatchSize: 10}
		if res := reap(t, r); res.Deleted != 0 || res.Batches != 0 || res.Backlog != 0 || res.Skipped != "" || res.Note != "" {
			t.Errorf("on an empty table: %+v", res)
		}
		seed(t, pool, "dead", 25, -time.Hour)
		seed(t, pool, "live", 5, time.Minute)
		res := reap(t, r)
		if res.Deleted != 25 || res.Batches != 3 || res.Blocked != 0 || res.Backlog != 0 || !res.OldestExpired.IsZero() || res.Behind() != 0 {
			t.Errorf("of 25 expired ones: %+v", res)
		}
		if dead, live := like(t, pool, "dead"), like(t, pool, "live"); dead != 0 || live != 5 {
			t.Errorf("left: %d expired, %d live", dead, live)
		}
		if res := reap(t, r); res.Deleted != 0 {
			t.Errorf("a second time: %+v", res)
		}
		var deleted, batches int64
		var clock string
		var took *time.Duration
		noError(t, pool.QueryRow(t.Context(), `SELECT deleted, batches, clock, duration FROM idem.reaper`).Scan(&deleted, &batches, &clock, &took))
		if deleted != 0 || batches != 0 || clock != "ok" || took == nil {
			t.Errorf("idem.reaper says %d, %d, %q, %v", deleted, batches, clock, took)
		}
	})
}

// A record expires at expires_at, for the reaper as for a call: that very instant it is gone.
func TestReaper_case87_boundary(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	seed(t, pool, "k", 3, -time.Hour)
	var middle time.Time
	noError(t, pool.QueryRow(t.Context(), `SELECT expires_at FROM idem.keys WHERE key = 'k1'`).Scan(&middle))
	rows, err := pool.Query(t.Context(), idem.SQLReapDelete, time.Time{}, middle, 10, 0)
	noError(t, err)
	deleted, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	noError(t, err)
	if len(deleted) != 2 || like(t, pool, "k2") != 1 {
		t.Errorf("deleted %v up to %v", deleted, middle)
	}
}

func TestReaper_grace(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	seed(t, pool, "old", 4, -3*time.Hour)
	seed(t, pool, "new", 4, -time.Hour)
	if res := reap(t, idem.Reaper{DB: pool, Grace: 2 * time.Hour}); res.Deleted != 4 || res.Backlog != 0 {
		t.Errorf("%+v", res)
	}
	if like(t, pool, "old") != 0 || like(t, pool, "new") != 4 {
		t.Error("the grace was not kept")
	}
}

// The pass ends with MaxDuration, and says what is left.
func TestReaper_maxDuration(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	seed(t, pool, "dead", 20, -time.Hour)
	res := reap(t, idem.Reaper{DB: pool, MaxDuration: time.Nanosecond})
	if res.Deleted != 0 || res.Backlog != 20 || res.Behind().Round(time.Minute) != time.Hour {
		t.Errorf("%+v, behind %v", res, res.Behind())
	}
	var backlog int64
	var oldest time.Time
	noError(t, pool.QueryRow(t.Context(), `SELECT backlog, oldest_expired_at FROM idem.reaper`).Scan(&backlog, &oldest))
	if backlog != 20 || !oldest.Equal(res.OldestExpired) {
		t.Errorf("idem.reaper says %d, %v", backlog, oldest)
	}
}

func TestReaper_case88_secondOneStops(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	other := connect(t, pool.Config().ConnString(), func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["application_name"] = "night shift" })
	seed(t, pool, "dead", 5, -time.Hour)
	tx, err := other.Begin(t.Context())
	noError(t, err)
	var pid int32
	noError(t, tx.QueryRow(t.Context(), `SELECT pg_backend_pid() FROM (SELECT pg_advisory_xact_lock($1)) AS l`, idem.ReaperLock).Scan(&pid))

	res := reap(t, idem.Reaper{DB: pool})
	if res.Skipped != idem.SkipBusy || res.Deleted != 0 || like(t, pool, "dead") != 5 {
		t.Errorf("beside another one: %+v", res)
	}
	if want := fmt.Sprintf(`another reaper is running (pid %d, application "night shift")`, pid); res.Note != want {
		t.Errorf("note is %q, want %q", res.Note, want)
	}
	if n := count(t, pool, `SELECT count(*) FROM idem.reaper`); n != 0 {
		t.Error("the one that stopped wrote a report")
	}
	noError(t, tx.Rollback(t.Context()))
	if res := reap(t, idem.Reaper{DB: pool}); res.Skipped != "" || res.Deleted != 5 {
		t.Errorf("after the other one: %+v", res)
	}
}

func TestReaper_case88_manyAtOnce(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	seed(t, pool, "dead", 3000, -2*time.Hour)
	var wg sync.WaitGroup
	results := make([]idem.ReapResult, 6)
	errs := make([]error, len(results))
	for i := range results {
		wg.Go(func() {
			r := idem.Reaper{DB: pool, BatchSize: 50}
			for range 50 { // until there is nothing left that somebody else could do
				var res idem.ReapResult
				res, errs[i] = r.Reap(t.Context())
				results[i].Deleted += res.Deleted
				if errs[i] != nil || res.Skipped == "" {
					return
				}
			}
		})
	}
	wg.Wait()
	var total int64
	for i, res := range results {
		noError(t, errs[i])
		total += res.Deleted
	}
	if left := like(t, pool, "dead"); total != 3000-int64(left) {
		t.Errorf("%d reported as deleted, %d of 3000 left", total, left)
	}
	if left := reap(t, idem.Reaper{DB: pool}); total+left.Deleted != 3000 {
		t.Errorf("%d and %d deleted of 3000", total, left.Deleted)
	}
}

// takeOver calls Do for an expired key and leaves the transaction open.
func takeOver(t testing.TB, tx pgx.Tx, value string) {
	t.Helper()
	_, err := idem.Do(t.Context(), tx, keyFor(value), func(context.Context, pgx.Tx) (idem.Response, error) {
		return idem.Response{Status: 200, Body: []byte("taken over")}, nil
	})
	noError(t, err)
}

func TestReaper_case89_besideATakeover(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		seed(t, pool, "dead", 40, -time.Hour)
		tx, err := pool.Begin(t.Context())
		noError(t, err)
		defer undo(t, tx)
		takeOver(t, tx, "dead7")

		res := reap(t, idem.Reaper{DB: pool, BatchSize: 16})
		if res.Deleted != 39 || res.Blocked != 1 || res.Backlog != 1 || res.Skipped != "" {
			t.Errorf("beside a takeover: %+v", res)
		}
		if res.Behind() < 50*time.Minute {
			t.Errorf("behind %v", res.Behind())
		}
		noError(t, tx.Commit(t.Context()))
		if res := reap(t, idem.Reaper{DB: pool}); res.Deleted != 0 || res.Blocked != 0 {
			t.Errorf("after the takeover: %+v", res)
		}
		if records(t, pool, "dead7") != 1 {
			t.Error("the record that was taken over is gone")
		}
	})
}

// Held records, alone and in rows, among records that all expired at the same instant or did not: every other one goes.
func TestReaper_case89_manyHeld(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		held []int
		ties bool
		size int
	}{
		{"first", []int{0}, false, 64},
		{"last", []int{59}, false, 64},
		{"in a row", []int{10, 11, 12, 13}, false, 64},
		{"scattered", []int{0, 7, 31, 59}, false, 64},
		{"batches of one", []int{3, 4}, false, 1},
		{"batches of two", []int{3, 8}, false, 2},
		{"ties", []int{1, 20, 21, 40}, true, 64},
		{"ties in small batches", []int{1, 20, 21}, true, 7},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			seed(t, pool, "dead", 60, -time.Hour)
			if c.ties {
				_, err := pool.Exec(t.Context(), `UPDATE idem.keys SET expires_at = now() - interval '1 hour'`)
				noError(t, err)
			}
			tx, err := pool.Begin(t.Context())
			noError(t, err)
			defer undo(t, tx)
			for _, i := range c.held {
				takeOver(t, tx, fmt.Sprint("dead", i))
			}
			res := reap(t, idem.Reaper{DB: pool, BatchSize: c.size})
			if want := int64(60 - len(c.held)); res.Deleted != want || res.Blocked != len(c.held) || res.Backlog != int64(len(c.held)) {
				t.Errorf("%d held: %+v", len(c.held), res)
			}
			// Rolled back, they are as expired as before.
			noError(t, tx.Rollback(t.Context()))
			if res := reap(t, idem.Reaper{DB: pool}); res.Deleted != int64(len(c.held)) || res.Blocked != 0 {
				t.Errorf("once released: %+v", res)
			}
		})
	}
}

// The reaper waits for a takeover that commits while it waits: what it sees then is alive. Without its second look at
// expires_at the same statement deletes it, which shows that this test can fail.
func TestReaper_case89_takenOverWhileItWaits(t *testing.T) {
	t.Parallel()
	const second = "\n  AND k.expires_at OPERATOR(pg_catalog.<=) $2::pg_catalog.timestamptz"
	careless := strings.Replace(idem.SQLReapDelete, second, "", 1)
	if careless == idem.SQLReapDelete {
		t.Fatal("the second look is not where this test looks for it")
	}
	for _, c := range []struct {
		name, sql string
		deletes   int
	}{{"as it is", idem.SQLReapDelete, 0}, {"careless", careless, 1}} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			seed(t, pool, "dead", 1, -time.Hour)
			tx, err := pool.Begin(t.Context())
			noError(t, err)
			defer undo(t, tx)
			takeOver(t, tx, "dead0")

			deleted := make(chan int, 1)
			go func() {
				rows, err := pool.Query(t.Context(), c.sql, time.Time{}, time.Now(), 10, 0)
				if err != nil {
					t.Error(err)
				}
				all, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
				if err != nil {
					t.Error(err)
				}
				deleted <- len(all)
			}()
			waiting(t, pool, "%idem: reap delete%")
			noError(t, tx.Commit(t.Context()))
			if n := <-deleted; n != c.deletes || records(t, pool, "dead0") != 1-c.deletes {
				t.Errorf("deleted %d, %d left", n, records(t, pool, "dead0"))
			}
		})
	}
}

// waiting returns when a statement like that waits for a lock.
func waiting(t testing.TB, pool *pgxpool.Pool, statement string) {
	t.Helper()
	for range 1000 {
		if count(t, pool, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1 AND pid <> pg_backend_pid()`, statement) > 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nothing like %q waits", statement)
}

// Above READ COMMITTED a row that changed under the reaper would be an error; so it says what it needs.
func TestReaper_isolationByDefault(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(strings.ReplaceAll(level, " ", "_"), func(t *testing.T) {
			inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
				pool = connect(t, pool.Config().ConnString(), func(c *pgxpool.Config) {
					c.ConnConfig.DefaultQueryExecMode = pool.Config().ConnConfig.DefaultQueryExecMode
					c.ConnConfig.RuntimeParams["default_transaction_isolation"] = level
				})
				seed(t, pool, "dead", 10, -time.Hour)
				if res := reap(t, idem.Reaper{DB: pool}); res.Deleted != 10 {
					t.Errorf("%+v", res)
				}
				var aborts int
				noError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_settings WHERE name = 'lock_timeout' AND setting <> '0'`).Scan(&aborts))
				if aborts != 0 {
					t.Error("the reaper left its lock_timeout in the session")
				}
			})
		})
	}
}

// A call that meets the reaper's delete waits for it and runs, whichever way the delete ends.
func TestReaper_case90_callRacesTheDelete(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for _, end := range []string{"commit", "rollback"} {
			value := "dead-" + end + "-"
			seed(t, pool, value, 1, -time.Hour)
			tx, err := pool.Begin(t.Context())
			noError(t, err)
			defer undo(t, tx)
			rows, err := tx.Query(t.Context(), idem.SQLReapDelete, time.Time{}, time.Now(), 10, 0)
			noError(t, err)
			deleted, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
			noError(t, err)
			if len(deleted) != 1 {
				t.Fatalf("%d deleted", len(deleted))
			}
			var c counter
			done := make(chan error, 1)
			go func() {
				r, err := call(t.Context(), pool, keyFor(value+"0"), c.order(value))
				if err == nil && r.Replayed {
					err = errors.New("replayed an expired record")
				}
				done <- err
			}()
			waiting(t, pool, "%idem: record over%")
			_, err = tx.Exec(t.Context(), end)
			noError(t, err)
			noError(t, <-done)
			if c.calls.Load() != 1 || orders(t, pool, value) != 1 || records(t, pool, value+"0") != 1 {
				t.Errorf("%s: %d calls, %d orders, %d records", end, c.calls.Load(), orders(t, pool, value), records(t, pool, value+"0"))
			}
			if res := reap(t, idem.Reaper{DB: pool}); res.Deleted != 0 {
				t.Errorf("%s: the new record was reaped: %+v", end, res)
			}
		}
	})
}

// The reaper's session dies in the middle of a batch: what the batches before committed stays, and the next pass finishes.
func TestReaper_case93_killedInTheMiddle(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	seed(t, pool, "dead", 100, -time.Hour)
	// Row locks far into the table hold the third batch up, and those after it for 100 ms each: there it dies.
	holder, err := pool.Begin(t.Context())
	noError(t, err)
	defer undo(t, holder)
	_, err = holder.Exec(t.Context(), `SELECT FROM idem.keys WHERE key = ANY (ARRAY(SELECT key FROM idem.keys ORDER BY expires_at LIMIT 60 OFFSET 25)) FOR UPDATE`)
	noError(t, err)

	conn, err := pgx.Connect(t.Context(), pool.Config().ConnString())
	noError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	pid := conn.PgConn().PID()
	killed := make(chan bool, 1)
	go func() {
		waiting(t, pool, "%idem: reap delete%")
		killed <- count(t, pool, `SELECT count(*) FROM pg_terminate_backend($1) AS ok WHERE ok`, pid) == 1
	}()
	res, err := (&idem.Reaper{DB: conn, BatchSize: 10}).Reap(t.Context())
	if err == nil || !<-killed {
		t.Fatalf("the reaper outlived its session: %+v", res)
	}
	if res.Deleted < 20 || res.Deleted > 25 || like(t, pool, "dead") != 100-int(res.Deleted) {
		t.Errorf("%+v, %d left", res, like(t, pool, "dead"))
	}
	noError(t, holder.Rollback(t.Context()))
	if next := reap(t, idem.Reaper{DB: pool}); next.Deleted != 100-res.Deleted || next.Note != "" {
		t.Errorf("the next pass: %+v", next)
	}
}

// Records that can be seen and not be deleted, for a trigger or a policy, do not keep the reaper busy.
func TestReaper_undeletable(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	seed(t, pool, "dead", 20, -time.Hour)
	_, err := pool.Exec(t.Context(), `
		CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER no BEFORE DELETE ON idem.keys FOR EACH ROW WHEN (old.key < 'dead2') EXECUTE FUNCTION public.no()`)
	noError(t, err)
	res := reap(t, idem.Reaper{DB: pool, BatchSize: 5, MaxDuration: time.Minute})
	if res.Deleted != 8 || res.Blocked == 0 || res.Backlog != 12 {
		t.Errorf("%+v", res)
	}
}

// A context that ends lets the running batch end, and the pass reports what it did.
func TestReaper_contextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batch := 0
	pool := newPool(t, func(c *pgxpool.Config) {
		c.ConnConfig.Tracer = deleteTracer(func(time.Time) {
			if batch++; batch == 3 {
				cancel()
			}
		})
	})
	seed(t, pool, "dead", 60, -time.Hour)
	res, err := (&idem.Reaper{DB: pool, BatchSize: 10}).Reap(ctx)
	want(t, err, context.Canceled)
	if res.Deleted != 30 || res.Backlog != 30 || like(t, pool, "dead") != 30 {
		t.Errorf("%+v, %d left", res, like(t, pool, "dead"))
	}
	if n := count(t, pool, `SELECT deleted FROM idem.reaper`); n != 30 {
		t.Errorf("idem.reaper says %d", n)
	}
	if _, err := (&idem.Reaper{DB: pool}).Reap(ctx); !errors.Is(err, context.Canceled) || like(t, pool, "dead") != 30 {
		t.Errorf("begun although the context had ended: %v", err)
	}
}

// A lock on the whole table stops the pass with an error that says so, and soon.
func TestReaper_tableLocked(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	seed(t, pool, "dead", 3, -time.Hour)
	reap(t, idem.Reaper{DB: pool, MaxDuration: time.Nanosecond})
	tx, err := pool.Begin(t.Context())
	noError(t, err)
	defer undo(t, tx)
	_, err = tx.Exec(t.Context(), `LOCK TABLE idem.keys IN ACCESS EXCLUSIVE MODE`)
	noError(t, err)
	_, err = (&idem.Reaper{DB: pool, BatchSize: 2}).Reap(t.Context())
	if err == nil || !strings.Contains(err.Error(), "lock on the whole table") {
		t.Errorf("error is %v", err)
	}
}

func TestReaper_clock(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, c := range []struct {
		name     string
		last     time.Duration // how long ago the last pass was
		clock    string        // what it thought of the clock
		interval time.Duration
		skipped  idem.ReaperSkip
		note     string
		after    string // what the clock column says then
	}{
		{"a minute ago", time.Minute, "ok", 0, "", "", "ok"},
		{"an hourly cron line", time.Hour + time.Minute, "ok", 0, "", "", "ok"},
		{"two hours ago", 2 * time.Hour, "ok", 0, idem.SkipClockJumped, "Set Interval to the time between runs", "jumped"},
		{"thirty hours ago", 30 * time.Hour, "ok", 0, idem.SkipClockJumped, "the last pass was 30h0m0s ago", "jumped"},
		{"yesterday, each day", 25 * time.Hour, "ok", day, "", "", "ok"},
		{"three days ago, each day", 3 * day, "ok", day, idem.SkipClockJumped, "more than 48h0m0s", "jumped"},
		{"just after a jump", 10 * time.Second, "jumped", 0, idem.SkipClockJumped, "nothing is deleted until", "jumped"},
		{"an interval after a jump", 57 * time.Second, "jumped", 0, "", "", "ok"},
		{"a day after a jump, each minute", day, "jumped", 0, "", "", "ok"},
		{"in the future", -30 * time.Hour, "ok", 0, "", "went back by 30h0m0s", "went_back"},
		{"in the future after a jump", -30 * time.Hour, "jumped", 0, "", "went back by", "went_back"},
		{"a hair in the future", -100 * time.Millisecond, "ok", 0, "", "", "ok"},
		{"the pass after it went back", time.Minute, "went_back", 0, "", "", "ok"},
	} {
		t.Run(strings.NewReplacer(" ", "_", ",", "").Replace(c.name), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			seed(t, pool, "dead", 5, -time.Hour)
			reap(t, idem.Reaper{DB: pool, MaxDuration: time.Nanosecond})
			_, err := pool.Exec(t.Context(), `UPDATE idem.reaper SET last_run_at = clock_timestamp() - $1::interval, clock = $2`, c.last, c.clock)
			noError(t, err)
			res := reap(t, idem.Reaper{DB: pool, Interval: c.interval})
			if res.Skipped != c.skipped || !strings.Contains(res.Note, c.note) || (res.Note == "") != (c.note == "") {
				t.Errorf("%+v", res)
			}
			wantLeft := 0
			if c.skipped != "" {
				wantLeft = 5
			}
			if left := like(t, pool, "dead"); left != wantLeft || res.Deleted != int64(5-wantLeft) || res.Backlog != int64(wantLeft) {
				t.Errorf("%d left, want %d: %+v", left, wantLeft, res)
			}
			if n := count(t, pool, `SELECT count(*) FROM idem.reaper WHERE clock = $1`, c.after); n != 1 {
				t.Errorf("idem.reaper does not say %q", c.after)
			}
		})
	}
}

// After a jump nobody deletes for one interval, however many reapers there are, and then they do.
func TestReaper_clockJumpHoldsAllReapers(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	seed(t, pool, "dead", 5, -time.Hour)
	reap(t, idem.Reaper{DB: pool, MaxDuration: time.Nanosecond})
	shift := func(by string) {
		_, err := pool.Exec(t.Context(), `UPDATE idem.reaper SET last_run_at = last_run_at - $1::interval`, by)
		noError(t, err)
	}
	shift("30 hours")
	for range 3 {
		if res := reap(t, idem.Reaper{DB: pool}); res.Skipped != idem.SkipClockJumped || res.Deleted != 0 {
			t.Errorf("right after the jump: %+v", res)
		}
	}
	shift("1 minute")
	if res := reap(t, idem.Reaper{DB: pool}); res.Skipped != "" || res.Deleted != 5 {
		t.Errorf("an interval later: %+v", res)
	}
}

func TestReaper_case106_readsByIndex(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	seed(t, pool, "dead", 20_000, -300*time.Hour)
	seed(t, pool, "live", 20_000, time.Hour)
	tx, err := pool.Begin(t.Context())
	noError(t, err)
	defer undo(t, tx)
	for _, set := range idem.ReapSettings {
		_, err := tx.Exec(t.Context(), set)
		noError(t, err)
	}
	plan := func(sql string, args ...any) string {
		rows, err := tx.Query(t.Context(), "EXPLAIN "+sql, append([]any{pgx.QueryExecModeExec}, args...)...)
		noError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		noError(t, err)
		return strings.Join(lines, "\n")
	}
	for _, state := range []string{"fresh", "analyzed"} {
		for name, p := range map[string]string{
			"delete": plan(idem.SQLReapDelete, time.Time{}, time.Now(), 1000, 3),
			"peek":   plan(idem.SQLReapPeek, time.Time{}, time.Now(), 3),
		} {
			if strings.Contains(p, "Sort") || strings.Contains(p, "Seq Scan") || !strings.Contains(p, "keys_expires_at_idx") {
				t.Errorf("%s, table %s:\n%s", name, state, p)
			}
		}
		_, err := pool.Exec(t.Context(), `ANALYZE idem.keys`)
		noError(t, err)
	}
	// So that this test can fail.
	if p := plan(`DELETE FROM idem.keys WHERE response_status = $1`, 0); !strings.Contains(p, "Seq Scan") {
		t.Errorf("control:\n%s", p)
	}
}

// Each batch begins where the one before ended: it does not step over what that has left dead in the index.
func TestReaper_windowMoves(t *testing.T) {
	t.Parallel()
	var floors []time.Time
	pool := newPool(t, func(c *pgxpool.Config) {
		c.ConnConfig.Tracer = deleteTracer(func(floor time.Time) { floors = append(floors, floor) })
	})
	seed(t, pool, "dead", 30, -time.Hour)
	reap(t, idem.Reaper{DB: pool, BatchSize: 10})
	if len(floors) < 3 {
		t.Fatalf("%d batches", len(floors))
	}
	for i, floor := range floors[1:] {
		if d := floor.Sub(floors[i]); d < 9*time.Second { // the records are a second apart
			t.Errorf("batch %d begins %v after the one before", i+1, d)
		}
	}
}

// deleteTracer is told of each delete that begins, and of where its window does.
type deleteTracer func(floor time.Time)

func (f deleteTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	if d.SQL == idem.SQLReapDelete {
		f(d.Args[0].(time.Time))
	}
	return ctx
}

func (deleteTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A batch that finds less than it looked for, because a record came alive while it waited, is not the last one.
func TestReaper_case89_goesOnAfterATakeover(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	inTime := 0
	for i := range 8 { // the reaper waits for 100 ms only, and a busy machine may be later than that
		name := fmt.Sprintf("dead-%d-", i)
		seed(t, pool, name, 6, -time.Hour)
		tx, err := pool.Begin(t.Context())
		noError(t, err)
		takeOver(t, tx, name+"0")
		var res idem.ReapResult
		done := make(chan error, 1)
		go func() {
			var err error
			res, err = (&idem.Reaper{DB: pool, BatchSize: 2}).Reap(t.Context())
			done <- err
		}()
		waiting(t, pool, "%idem: reap delete%")
		noError(t, tx.Commit(t.Context()))
		noError(t, <-done)
		left := like(t, pool, name)
		if res.Deleted != int64(6-left) || records(t, pool, name+"0") != 1 {
			t.Errorf("%+v, %d left", res, left)
		}
		if res.Blocked == 0 {
			inTime++
			if left != 1 {
				t.Errorf("stopped early: %+v, %d left", res, left)
			}
		}
	}
	if inTime == 0 {
		t.Error("the takeover never came in time")
	}
}

func TestReaper_wrongCalls(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	tx, err := pool.Begin(t.Context())
	noError(t, err)
	defer undo(t, tx)
	for _, c := range []struct {
		r    idem.Reaper
		says string
	}{
		{idem.Reaper{}, "DB is nil"},
		{idem.Reaper{DB: tx}, "DB is a transaction"},
		{idem.Reaper{DB: pool, BatchSize: -1}, "negative"},
		{idem.Reaper{DB: pool, Interval: -1}, "negative"},
		{idem.Reaper{DB: pool, MaxDuration: -1}, "negative"},
		{idem.Reaper{DB: pool, Grace: -1}, "negative"},
	} {
		_, err := c.r.Reap(t.Context())
		want(t, err, idem.ErrInvalidCall)
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v does not say %q", err, c.says)
		}
		want(t, c.r.Run(t.Context()), idem.ErrInvalidCall)
	}
}

func TestReaper_errors(t *testing.T) {
	t.Parallel()
	empty := connect(t, pgtest.Empty(t))
	_, err := (&idem.Reaper{DB: empty}).Reap(t.Context())
	want(t, err, idem.ErrNoSchema)
	if !strings.Contains(err.Error(), "idem.reaper does not exist: run") {
		t.Errorf("error is %v", err)
	}

	pool := newPool(t, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on" })
	_, err = (&idem.Reaper{DB: pool}).Reap(t.Context())
	want(t, err, idem.ErrReadOnly)
}

// Run makes passes until its context ends, logs what they did, and survives the ones that fail.
func TestReaper_Run(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	_, err := pool.Exec(t.Context(), `ALTER TABLE idem.reaper RENAME TO away`)
	noError(t, err)
	seed(t, pool, "dead", 3, -time.Hour)
	logged := &syncBuffer{}
	r := idem.Reaper{DB: pool, Interval: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(logged, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logged:\n%s", logged)
		}
	})

	eventually(t, func() bool { return strings.Contains(logged.String(), "reaper failed") })
	_, err = pool.Exec(t.Context(), `ALTER TABLE idem.away RENAME TO reaper`)
	noError(t, err)
	eventually(t, func() bool { return like(t, pool, "dead") == 0 })
	seed(t, pool, "again", 3, -time.Hour)
	eventually(t, func() bool { return like(t, pool, "again") == 0 })
	// Records that expire in the past may be seen by a pass that has just been there, so what it calls itself is open.
	eventually(t, func() bool { return strings.Count(logged.String(), "deleted=3") >= 2 })
	cancel()
	noError(t, <-ended)
	out := logged.String()
	if !strings.Contains(out, "idem migrate up") || !strings.Contains(out, "level=INFO msg=\"idem: reaped\" deleted=3 batches=1 backlog=0") {
		t.Errorf("log:\n%s", out)
	}
	if strings.Contains(out, "nothing to reap") {
		t.Error("passes that did nothing are logged at info")
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not happen in half a minute")
}
