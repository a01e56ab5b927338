package idem_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

// The two places that compare times agree to the microsecond: what the look takes for expired is what a record replaces.
func TestExpiry_case81_exact(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	now := time.Date(2026, 11, 21, 10, 2, 11, 123456000, time.UTC)
	key := keyFor("k")
	for _, tt := range []struct {
		expires time.Time
		live    bool
	}{
		{now.Add(time.Hour), true}, {now.Add(time.Microsecond), true}, // just before expiry
		{now, false}, // at expiry
		{now.Add(-time.Microsecond), false}, {now.Add(-time.Hour), false},
	} {
		if got := idem.LiveAt(tt.expires, now); got != tt.live {
			t.Errorf("the look: a record that expires %v from now is live: %v", tt.expires.Sub(now), got)
		}
		empty(t, pool)
		record := func(created, expires time.Time, body string) int64 {
			tx := begin(t, pool)
			var begun time.Time
			noError(t, tx.QueryRow(t.Context(), `SELECT pg_catalog.now()`).Scan(&begun))
			tag, err := tx.Exec(t.Context(), idem.Statements["record over"], created, expires, 200, key.RequestHash[:],
				key.Project, key.Endpoint, key.Value, []byte{}, []byte(body), begun)
			noError(t, err)
			noError(t, tx.Commit(t.Context()))
			return tag.RowsAffected()
		}
		if n := record(tt.expires.Add(-2*time.Hour), tt.expires, "old"); n != 1 {
			t.Fatalf("%d rows", n)
		}
		replaced := record(now, now.Add(time.Hour), "new") == 1
		if replaced == tt.live {
			t.Errorf("the record: one that expires %v from now is replaced: %v", tt.expires.Sub(now), replaced)
		}
		if n := count(t, pool, `SELECT count(*) FROM idem.keys WHERE response_body = 'new'`); (n == 1) == tt.live {
			t.Errorf("the record: one that expires %v from now is new: %v", tt.expires.Sub(now), n == 1)
		}
	}
}

func TestExpiry_case81_liveAndExpired(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		store(t, pool, keyFor("live"), "old", "now() - interval '1 day'", "now() + interval '1 minute'")
		store(t, pool, keyFor("expired"), "old", "now() - interval '1 day'", "clock_timestamp()")
		r, err := call(t.Context(), pool, keyFor("live"), never(t))
		noError(t, err)
		if !r.Replayed || string(r.Body) != "old" {
			t.Errorf("a live record gives %+v", r)
		}
		var c counter
		r, err = call(t.Context(), pool, keyFor("expired"), c.order("expired"))
		noError(t, err)
		if r.Replayed {
			t.Error("an expired record is replayed")
		}
		one(t, pool, "expired")
	})
}

// Retention counts from the record, not from the beginning of fn: a slow fn does not use it up.
func TestExpiry_case82_slowFn(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		const pause, ttl = 300 * time.Millisecond, 200 * time.Millisecond
		var begun time.Time
		first, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (r idem.Response, err error) {
			if err = tx.QueryRow(ctx, `SELECT pg_catalog.clock_timestamp()`).Scan(&begun); err == nil {
				time.Sleep(pause)
			}
			return r, err
		}, idem.WithTTL(ttl))
		noError(t, err)
		if first.CreatedAt.Sub(begun) < pause-50*time.Millisecond { // but for the way of the clock to us
			t.Errorf("recorded %v after fn began, which took %v", first.CreatedAt.Sub(begun), pause)
		}
		var created, expires time.Time
		noError(t, pool.QueryRow(t.Context(), `SELECT created_at, expires_at FROM idem.keys`).Scan(&created, &expires))
		if expires.Sub(created) != ttl || !created.Equal(first.CreatedAt) {
			t.Errorf("created %v, expires %v after that, CreatedAt %v", created, expires.Sub(created), first.CreatedAt)
		}
	})
}

func TestExpiry_TTL(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for name, tt := range map[string]struct {
			opts []idem.Option
			want time.Duration
		}{
			"default":   {nil, 24 * time.Hour},
			"own":       {[]idem.Option{idem.WithTTL(90 * time.Minute)}, 90 * time.Minute},
			"shortest":  {[]idem.Option{idem.WithTTL(1)}, time.Microsecond},
			"last wins": {[]idem.Option{idem.WithTTL(0), idem.WithTTL(time.Hour)}, time.Hour},
			"longest":   {[]idem.Option{idem.WithTTL(1<<63 - 1)}, time.Duration(1<<63 - 1).Truncate(time.Microsecond)},
		} {
			key := keyFor("ttl-" + name[:3])
			_, err := call(t.Context(), pool, key, returns(idem.Response{}), tt.opts...)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var created, expires time.Time
			noError(t, pool.QueryRow(t.Context(), `SELECT created_at, expires_at FROM idem.keys WHERE key = $1`, key.Value).Scan(&created, &expires))
			if got := expires.Sub(created); got != tt.want {
				t.Errorf("%s: retained for %v, want %v", name, got, tt.want)
			}
		}
	})
}

func TestExpiry_case83_replayDoesNotExtend(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		_, err := call(t.Context(), pool, keyFor("k"), returns(idem.Response{}), idem.WithTTL(time.Hour))
		noError(t, err)
		before := row(t, pool, "k")
		for _, opts := range [][]idem.Option{{}, {idem.WithTTL(48 * time.Hour)}, {idem.WithReplicatedReplay()}} {
			_, err = call(t.Context(), pool, keyFor("k"), never(t), opts...)
			noError(t, err)
		}
		if after := row(t, pool, "k"); after != before {
			t.Errorf("replays changed the record from %s to %s", before, after)
		}
	})
}

// The clock of the application is years behind here. Records carry the database's time, expire by it, and replay.
func TestExpiry_case84_applicationClock(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	observer := connect(t, url)
	clock := func() (now time.Time) {
		noError(t, observer.QueryRow(context.Background(), `SELECT pg_catalog.clock_timestamp()`).Scan(&now))
		return now
	}
	store(t, observer, keyFor("live"), "old", "now() - interval '1 day'", "now() + interval '1 minute'")
	store(t, observer, keyFor("expired"), "old", "now() - interval '1 day'", "clock_timestamp()")
	before := clock()
	answers := map[string]idem.Response{}
	synctest.Test(t, func(t *testing.T) {
		if time.Now().Year() != 2000 {
			t.Fatalf("the clock says %v", time.Now())
		}
		cfg, err := pgxpool.ParseConfig(url)
		noError(t, err)
		for i, mode := range modes {
			cfg.ConnConfig.DefaultQueryExecMode = mode
			pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
			noError(t, err)
			for name, call := range map[string]caller{"run": idem.Run, "do": do} {
				for _, value := range []string{"live", "expired", fmt.Sprint(name, i)} {
					r, err := call(t.Context(), pool, keyFor(value), returns(idem.Response{Body: []byte("new")}), idem.WithTTL(time.Hour))
					noError(t, err)
					if _, seen := answers[value]; !seen {
						answers[value] = r
					}
				}
			}
			pool.Close()
		}
	})
	after := clock()
	if r := answers["live"]; !r.Replayed || string(r.Body) != "old" {
		t.Errorf("a live record gives %+v", r)
	}
	for value, r := range answers {
		if value != "live" && (r.Replayed || r.CreatedAt.Before(before) || r.CreatedAt.After(after)) {
			t.Errorf("%s: Replayed %v, created %v, the database's clock said %v before and %v after", value, r.Replayed, r.CreatedAt, before, after)
		}
	}
}

func TestExpiry_case85_expiredAndNotReaped(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		old := keyFor("k")
		old.RequestHash[0]++ // an expired record binds nothing
		store(t, pool, old, "old", "now() - interval '2 days'", "now() - interval '1 day'")
		var c counter
		first, err := call(t.Context(), pool, keyFor("k"), c.order("k"))
		noError(t, err)
		replay, err := call(t.Context(), pool, keyFor("k"), never(t))
		noError(t, err)
		if same(t, first, replay); first.Replayed || !replay.Replayed {
			t.Error("markers are wrong")
		}
		one(t, pool, "k")
		if n := count(t, pool, `SELECT count(*) FROM idem.keys WHERE response_body = 'old' OR created_at < now() - interval '1 day' OR expires_at < now()`); n != 0 {
			t.Error("something of the expired record is left")
		}
		_, err = call(t.Context(), pool, old, never(t))
		want(t, err, idem.ErrKeyReused)
	})
}

// The time that counts is the clock's and not the transaction's: one that began long ago sees what expired meanwhile, and
// records as of now.
func TestExpiry_case81_oldTransaction(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		tx := begin(t, pool)
		var begun, before time.Time
		noError(t, tx.QueryRow(t.Context(), `SELECT pg_catalog.now()`).Scan(&begun))
		store(t, pool, keyFor("k"), "old", "now() - interval '1 day'", "clock_timestamp()") // after the transaction began
		noError(t, pool.QueryRow(t.Context(), `SELECT pg_catalog.clock_timestamp()`).Scan(&before))
		r, err := idem.Do(t.Context(), tx, keyFor("k"), returns(idem.Response{}))
		noError(t, err)
		if r.Replayed || r.CreatedAt.Before(before) {
			t.Errorf("Replayed %v, created %v, the transaction began %v, the clock said %v before the call", r.Replayed, r.CreatedAt, begun, before)
		}
	})
}

func TestExpiry_case86_takeoverFailsInFn(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		store(t, pool, keyFor("k"), "old", "now() - interval '2 days'", "now() - interval '1 day'")
		before := row(t, pool, "k")
		_, err := call(t.Context(), pool, keyFor("k"), thenFail("k", errOutOfStock))
		want(t, err, errOutOfStock)
		_, err = call(t.Context(), pool, keyFor("k"), func(context.Context, pgx.Tx) (idem.Response, error) {
			return idem.Response{Body: []byte("too large")}, nil
		}, idem.WithMaxBody(1))
		want(t, err, idem.ErrResponseTooLarge)
		if after := row(t, pool, "k"); after != before {
			t.Errorf("the expired record changed from %s to %s", before, after)
		}
		if n := orders(t, pool, "k"); n != 0 {
			t.Errorf("%d orders", n)
		}
	})
}

// A test of a user's may run in a synctest bubble, and the next one outside of it: nothing of the one is left for the other.
func TestRun_insideAndOutsideOfABubble(t *testing.T) {
	url := pgtest.New(t)
	outside := connect(t, url)
	for range 3 {
		var c counter
		_, err := idem.Run(t.Context(), outside, keyFor("k"), c.order("k"))
		noError(t, err)
		synctest.Test(t, func(t *testing.T) {
			inside, err := pgxpool.New(t.Context(), url)
			noError(t, err)
			defer inside.Close()
			_, err = idem.Run(t.Context(), inside, keyFor("k"), c.order("k"))
			noError(t, err)
		})
		empty(t, outside)
	}
}
