package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

// session is a connection that keeps what the server has to say.
type session struct {
	*pgx.Conn
	mu      sync.Mutex
	notices []string
}

func connect(t testing.TB, url string, params ...string) *session {
	t.Helper()
	s := &session{}
	cfg, err := pgx.ParseConfig(url)
	noError(t, err)
	for i := 0; i < len(params); i += 2 {
		cfg.RuntimeParams[params[i]] = params[i+1]
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.notices = append(s.notices, n.Severity+": "+n.Message)
	}
	s.Conn, err = pgx.ConnectConfig(t.Context(), cfg)
	noError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Close(ctx)
	})
	return s
}

// call runs a CALL and returns what was said meanwhile.
func (s *session) call(t testing.TB, statement string) string {
	t.Helper()
	_, err := s.Exec(t.Context(), statement)
	noError(t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	said := strings.Join(s.notices, "\n")
	s.notices = nil
	return said
}

func says(t testing.TB, said, want string) {
	t.Helper()
	if !strings.Contains(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
}

func TestReap_case87(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	pool, s := open(t, url), connect(t, url, "search_path", "")
	says(t, s.call(t, `CALL idem.reap()`), "NOTICE: idem.reap: deleted 0 expired records in 0 batches; passed over 0 held ones; 0 expired ones left")
	seed(t, pool, "dead", 25, -time.Hour)
	seed(t, pool, "live", 5, time.Minute)
	says(t, s.call(t, `CALL idem.reap(batch_size => 10)`), "deleted 25 expired records in 3 batches")
	if like(t, pool, "dead") != 0 || like(t, pool, "live") != 5 {
		t.Errorf("left: %d expired, %d live", like(t, pool, "dead"), like(t, pool, "live"))
	}
	seed(t, pool, "old", 2, -3*time.Hour)
	seed(t, pool, "new", 2, -time.Hour)
	says(t, s.call(t, `CALL idem.reap(grace => '2 hours')`), "deleted 2 expired records")
	if like(t, pool, "old") != 0 || like(t, pool, "new") != 2 {
		t.Error("the grace was not kept")
	}
	says(t, s.call(t, `CALL idem.reap(max_duration => '0')`), "deleted 0 expired records in 0 batches; passed over 0 held ones; 2 expired ones left, the oldest since 20")
	if n := count(t, pool, `SELECT count(*) FROM idem.reaper WHERE backlog = 2 AND oldest_expired_at < now() - interval '50 minutes' AND duration IS NOT NULL AND clock = 'ok'`); n != 1 {
		t.Error("idem.reaper does not say what is left")
	}
}

// Batches commit one by one: another session sees the table shrink, and what was done stays when the session dies.
func TestReap_case93_killedInTheMiddle(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	pool, s := open(t, url), connect(t, url)
	seed(t, pool, "dead", 100, -time.Hour)
	holder, err := pool.Begin(t.Context())
	noError(t, err)
	defer holder.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // the end of the test
	// The third batch is held up, and those after it for 100 ms each: there it dies.
	_, err = holder.Exec(t.Context(), `SELECT FROM idem.keys WHERE key = ANY (ARRAY(SELECT key FROM idem.keys ORDER BY expires_at LIMIT 60 OFFSET 25)) FOR UPDATE`)
	noError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := s.Exec(context.WithoutCancel(t.Context()), `CALL idem.reap(10)`)
		ended <- err
	}()
	waiting(t, pool, "CALL idem.reap%")
	exec(t, pool, `SELECT pg_terminate_backend($1)`, s.PgConn().PID())
	if err := <-ended; err == nil {
		t.Fatal("the procedure outlived its session")
	}
	left := like(t, pool, "dead")
	if left > 80 || left < 75 {
		t.Errorf("%d left", left)
	}
	noError(t, holder.Rollback(t.Context()))
	says(t, connect(t, url).call(t, `CALL idem.reap(10)`), fmt.Sprintf("deleted %d expired records in 8 batches", left))
}

func TestReap_case88_besideTheReaper(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	pool, s := open(t, url), connect(t, url)
	seed(t, pool, "dead", 3000, -2*time.Hour)
	var wg sync.WaitGroup
	var byGo, batches int64
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			res, err := (&idem.Reaper{DB: pool, BatchSize: 10}).Reap(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			byGo += res.Deleted
			batches += int64(res.Batches)
		}
	})
	deleted := regexp.MustCompile(`deleted (\d+) expired`)
	var bySQL int64
	for like(t, pool, "dead") > 0 {
		said := s.call(t, `CALL idem.reap(10)`)
		if m := deleted.FindStringSubmatch(said); m != nil {
			var n int64
			if _, err := fmt.Sscan(m[1], &n); err != nil {
				t.Fatal(err)
			}
			bySQL += n
		} else {
			says(t, said, "another reaper is running, nothing deleted")
		}
	}
	close(stop)
	wg.Wait()
	if byGo+bySQL != 3000 {
		t.Errorf("%d deleted by the Reaper, %d by the procedure, of 3000", byGo, bySQL)
	}
	t.Logf("%d by the Reaper, %d by the procedure", byGo, bySQL)

	// And each stops for the other.
	tx, err := pool.Begin(t.Context())
	noError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // the end of the test
	_, err = tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(-5220929711436346261)`)
	noError(t, err)
	says(t, s.call(t, `CALL idem.reap()`), "another reaper is running")
	if res, err := (&idem.Reaper{DB: pool}).Reap(t.Context()); err != nil || res.Skipped != idem.SkipBusy {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestReap_case89_held(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		held []int
		ties bool
		size int
	}{
		{"one", []int{7}, false, 64},
		{"first and last", []int{0, 59}, false, 64},
		{"in a row", []int{10, 11, 12, 13}, false, 64},
		{"batches of one", []int{3, 4}, false, 1},
		{"ties", []int{1, 20, 21, 40}, true, 64},
		{"ties in small batches", []int{1, 20, 21}, true, 7},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			url := pgtest.New(t)
			pool, s := open(t, url), connect(t, url)
			seed(t, pool, "dead", 60, -time.Hour)
			if c.ties {
				exec(t, pool, `UPDATE idem.keys SET expires_at = now() - interval '1 hour'`)
			}
			tx, err := pool.Begin(t.Context())
			noError(t, err)
			defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // the end of the test
			for _, i := range c.held {
				takeOver(t, tx, fmt.Sprint("dead", i))
			}
			n := len(c.held)
			said := s.call(t, fmt.Sprintf(`CALL idem.reap(%d)`, c.size))
			says(t, said, fmt.Sprintf("deleted %d expired records", 60-n))
			says(t, said, fmt.Sprintf("passed over %d held ones; %d expired ones left", n, n))
			noError(t, tx.Commit(t.Context()))
			says(t, s.call(t, `CALL idem.reap()`), "deleted 0 expired records")
			if left := like(t, pool, "dead"); left != n {
				t.Errorf("%d of %d left that were taken over", left, n)
			}
		})
	}
}

func takeOver(t testing.TB, tx pgx.Tx, value string) {
	t.Helper()
	_, err := idem.Do(t.Context(), tx, idem.Key{Project: "acme", Endpoint: "e", Value: value},
		func(context.Context, pgx.Tx) (idem.Response, error) { return idem.Response{Status: 200}, nil }, idem.WithoutRequestHash())
	noError(t, err)
}

// A takeover that commits while the procedure waits for its row makes that alive. Without the second look at expires_at
// the row is deleted, which shows that this test can fail.
func TestReap_case89_takenOverWhileItWaits(t *testing.T) {
	t.Parallel()
	for _, careless := range []bool{false, true} {
		t.Run(fmt.Sprint("careless_", careless), func(t *testing.T) {
			t.Parallel()
			url := pgtest.New(t)
			pool, s := open(t, url), connect(t, url)
			if careless {
				var source string
				noError(t, pool.QueryRow(t.Context(), `SELECT pg_get_functiondef('idem.reap'::regproc)`).Scan(&source))
				second := regexp.MustCompile(`\s+AND k\.expires_at OPERATOR\(pg_catalog\.<=\) cutoff -- once more[^\n]*`)
				if !second.MatchString(source) {
					t.Fatal("the second look is not where this test looks for it")
				}
				exec(t, pool, second.ReplaceAllString(source, ""))
			}
			lost := 0
			for i := range 12 { // the procedure waits for 100 ms only, and a busy machine may be later than that
				name := fmt.Sprintf("dead-%d-", i)
				seed(t, pool, name, 1, -time.Hour)
				tx, err := pool.Begin(t.Context())
				noError(t, err)
				takeOver(t, tx, name+"0")
				ended := make(chan error, 1)
				go func() {
					_, err := s.Exec(t.Context(), `CALL idem.reap()`)
					ended <- err
				}()
				waiting(t, pool, "CALL idem.reap%")
				noError(t, tx.Commit(t.Context()))
				noError(t, <-ended)
				if like(t, pool, name) == 0 {
					lost++
				}
			}
			if careless == (lost == 0) {
				t.Errorf("%d of 12 records lost that were taken over", lost)
			}
		})
	}
}

func TestReap_clock(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	pool, s := open(t, url), connect(t, url)
	set := func(ago time.Duration, clock string) {
		t.Helper()
		exec(t, pool, `UPDATE idem.reaper SET last_run_at = clock_timestamp() - $1::interval, clock = $2`, ago, clock)
		exec(t, pool, `TRUNCATE idem.keys`)
		seed(t, pool, "dead", 5, -time.Hour)
	}
	s.call(t, `CALL idem.reap()`)
	for _, c := range []struct {
		ago        time.Duration
		clock      string
		call, said string
		left       int
		after      string
	}{
		{time.Hour, "ok", `CALL idem.reap()`, "deleted 5", 0, "ok"},
		{2 * time.Hour, "ok", `CALL idem.reap()`, "WARNING: idem.reap: the last run was 02:00:0", 5, "jumped"},
		{25 * time.Hour, "ok", `CALL idem.reap(run_interval => '1 day')`, "deleted 5", 0, "ok"},
		{60 * time.Hour, "ok", `CALL idem.reap(run_interval => '1 day')`, "Nothing is deleted until", 5, "jumped"},
		{10 * time.Second, "jumped", `CALL idem.reap()`, "WARNING: idem.reap: the clock jumped ahead before", 5, "jumped"},
		{time.Minute, "jumped", `CALL idem.reap()`, "deleted 5", 0, "ok"},
		{-30 * time.Hour, "ok", `CALL idem.reap()`, "WARNING: idem.reap: the clock went back", 0, "went_back"},
		{-30 * time.Hour, "jumped", `CALL idem.reap()`, "deleted 5", 0, "went_back"},
	} {
		set(c.ago, c.clock)
		said := s.call(t, c.call)
		says(t, said, c.said)
		if left := like(t, pool, "dead"); left != c.left {
			t.Errorf("%v ago, %s, %s: %d left\n%s", c.ago, c.clock, c.call, left, said)
		}
		if n := count(t, pool, `SELECT count(*) FROM idem.reaper WHERE clock = $1`, c.after); n != 1 {
			t.Errorf("%v ago, %s, %s: idem.reaper does not say %q", c.ago, c.clock, c.call, c.after)
		}
	}
	// The Reaper and the procedure understand each other's notes.
	set(30*time.Hour, "ok")
	s.call(t, `CALL idem.reap()`)
	if res, err := (&idem.Reaper{DB: pool}).Reap(t.Context()); err != nil || res.Skipped != idem.SkipClockJumped {
		t.Errorf("the Reaper after the procedure saw a jump: %+v, %v", res, err)
	}
	set(30*time.Hour, "ok")
	if _, err := (&idem.Reaper{DB: pool}).Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	says(t, s.call(t, `CALL idem.reap()`), "the clock jumped ahead before")
}

func TestReap_wrongCalls(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	pool, s := open(t, url), connect(t, url)
	seed(t, pool, "dead", 5, -time.Hour)
	for _, call := range []string{
		`CALL idem.reap(0)`, `CALL idem.reap(NULL)`, `CALL idem.reap(max_duration => '-1 s')`, `CALL idem.reap(grace => '-1 s')`,
		`CALL idem.reap(run_interval => '0')`, `CALL idem.reap(run_interval => NULL)`,
	} {
		_, err := s.Exec(t.Context(), call)
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "22023" {
			t.Errorf("%s: %v", call, err)
		}
	}
	// In a transaction it fails before it has done anything.
	err := pgx.BeginFunc(t.Context(), s, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `CALL idem.reap()`)
		return err
	})
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "2D000" {
		t.Errorf("in a transaction: %v", err)
	}
	if like(t, pool, "dead") != 5 {
		t.Error("a wrong call deleted something")
	}
}

// Sessions may have any isolation level, and any schema in front of pg_catalog.
func TestReap_session(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		url := pgtest.New(t)
		pool, s := open(t, url), connect(t, url, "default_transaction_isolation", level)
		seed(t, pool, "dead", 25, -time.Hour)
		says(t, s.call(t, `CALL idem.reap(10)`), "deleted 25 expired records")
		var timeout string
		noError(t, s.QueryRow(t.Context(), `SHOW lock_timeout`).Scan(&timeout))
		if timeout != "0" {
			t.Errorf("lock_timeout is %s afterwards", timeout)
		}
	}

	url := pgtest.New(t)
	pool := open(t, url)
	exec(t, pool, `CREATE SCHEMA evil;
		CREATE FUNCTION evil.always(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT true';
		CREATE OPERATOR evil.<= (FUNCTION = evil.always, LEFTARG = timestamptz, RIGHTARG = timestamptz);
		CREATE OPERATOR evil.>= (FUNCTION = evil.always, LEFTARG = timestamptz, RIGHTARG = timestamptz);
		CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT 'infinity'::timestamptz$$;
		CREATE FUNCTION evil.later(timestamptz, interval) RETURNS timestamptz LANGUAGE sql AS $$SELECT 'infinity'::timestamptz$$;
		CREATE OPERATOR evil.- (FUNCTION = evil.later, LEFTARG = timestamptz, RIGHTARG = interval);
		CREATE TABLE evil.keys (LIKE idem.keys)`)
	seed(t, pool, "dead", 5, -time.Hour)
	seed(t, pool, "live", 5, time.Hour)
	s := connect(t, url, "search_path", "evil, pg_catalog")
	_, err := s.Exec(t.Context(), `CREATE TEMP TABLE keys (LIKE idem.keys)`)
	noError(t, err)
	_, err = s.Exec(t.Context(), `CREATE TEMP TABLE reaper (LIKE idem.reaper)`)
	noError(t, err)
	var tricked bool
	noError(t, s.QueryRow(t.Context(), `SELECT timestamptz '2000-01-02' <= timestamptz '2000-01-01'`).Scan(&tricked))
	if !tricked {
		t.Fatal("the session is not tricked, this proves nothing")
	}
	says(t, s.call(t, `CALL idem.reap()`), "deleted 5 expired records")
	if like(t, pool, "live") != 5 || like(t, pool, "dead") != 0 {
		t.Errorf("%d live, %d dead left", like(t, pool, "live"), like(t, pool, "dead"))
	}
}

// Not one operator in the procedure depends on search_path.
func TestReap_operators(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("00002_reaper.sql")
	noError(t, err)
	_, body, _ := strings.Cut(string(file), "$reap$")
	body, _, ok := strings.Cut(body, "$reap$")
	if !ok {
		t.Fatal("no procedure found")
	}
	for _, allowed := range []string{
		`--[^\n]*`, `'[^']*'`, `OPERATOR\(pg_catalog\.[^)]+\)`, `:=`, `count\(\*\)`,
		`(SET|,)\s+[a-z_]+ = (excluded\.[a-z_]+|NULL|0)`, `SET LOCAL [a-z_.]+ =`, `USING (ERRCODE|HINT) =`,
	} {
		body = regexp.MustCompile(allowed).ReplaceAllString(body, " ")
	}
	if at := strings.IndexAny(body, "=<>+*/%~|&!@#^`?"); at >= 0 {
		t.Errorf("unqualified operator at: %.60q", body[at:])
	}
	if m := regexp.MustCompile(`(?i)\b(BETWEEN|LIKE|ILIKE|SIMILAR)\b`).FindString(body); m != "" {
		t.Errorf("%s uses operators by name", m)
	}
	if m := regexp.MustCompile(`(?i)[^.a-z_](now|clock_timestamp|count|min|max|coalesce_|pg_[a-z_]+)\(`).FindString(body); m != "" {
		t.Errorf("unqualified function at %q", m)
	}
}
