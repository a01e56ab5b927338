package integration

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/integration_test/internal/ledger"
	"github.com/pgidem/pgidem/integration_test/internal/pgbouncer"
	"github.com/pgidem/pgidem/integration_test/internal/provider"
)

// poolerModes are the ways to send statements that work through a transaction
// pooler of any version. PgBouncer from 1.21 on lets cache_statement work too, with
// max_prepared_statements set.
var poolerModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

// pooled is a database behind PgBouncer.
type pooled struct {
	pool   *pgxpool.Pool // through the pooler, with more connections than that has to the server
	direct *pgxpool.Pool
}

const (
	poolerServers = 5
	poolerClients = 25
)

func newPooled(t *testing.T, mode pgx.QueryExecMode) pooled {
	t.Helper()
	url := provider.New(t)
	pooler := pgbouncer.New(t, url, poolerServers)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return pooled{
		pool:   newPool(t, pooler.URL(config.Database), mode, poolerClients),
		direct: newPool(t, url, pgx.QueryExecModeCacheStatement, 2),
	}
}

// noLocks checks that nothing is left on the connections that others get next:
// case 49.
func (p pooled) noLocks(t *testing.T) {
	t.Helper()
	var locks, backends int
	err := p.direct.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM pg_locks l WHERE locktype = 'advisory' AND l.database = d.oid),
		       (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND a.pid <> pg_backend_pid() AND backend_type = 'client backend')
		FROM pg_database d WHERE datname = current_database()`).Scan(&locks, &backends)
	if err != nil {
		t.Fatal(err)
	}
	if locks != 0 {
		t.Errorf("%d advisory locks are left", locks)
	}
	if most := poolerServers + 1; backends > most { // and ours
		t.Errorf("%d connections to the server, want at most %d: the pooler does not pool", backends, most)
	}
}

// 100 callers of one key: one run, 99 equal replays.
func TestPgBouncer_case38_hundredCallers(t *testing.T) {
	eachMode(t, poolerModes, func(t *testing.T, mode pgx.QueryExecMode) {
		for _, how := range []string{"Run", "Do"} {
			t.Run(how, func(t *testing.T) {
				t.Parallel()
				p := newPooled(t, mode)
				const callers = 100
				runs := 0 // nobody runs at once, or the race detector says so
				fn := entry("op-1", &runs)
				results := make([]idem.Response, callers)
				var wg sync.WaitGroup
				for i := range callers {
					wg.Go(func() {
						var err error
						if how == "Run" {
							results[i], err = idem.Run(t.Context(), p.pool, newKey("op-1"), fn, idem.WithWait(long))
						} else {
							results[i], err = doAndCommit(t.Context(), p.pool, newKey("op-1"), fn)
						}
						if err != nil {
							t.Errorf("caller %d: %v", i, err)
						}
					})
				}
				wg.Wait()
				if t.Failed() {
					return
				}
				first := 0
				for _, r := range results {
					if !r.Replayed {
						first++
					}
					if string(r.Body) != string(results[0].Body) || r.Status != results[0].Status {
						t.Errorf("%d %s differs from %d %s", r.Status, r.Body, results[0].Status, results[0].Body)
					}
				}
				if runs != 1 || first != 1 {
					t.Errorf("%d runs, %d answers that are no replay, want 1 of each", runs, first)
				}
				p.noLocks(t)
				checkEntry(t, p.pool, "op-1", 1, results[0])
			})
		}
	})
}

// The same without waiting: whoever does not get the key is told so, and nobody runs a second time.
func TestPgBouncer_case39_noWait(t *testing.T) {
	eachMode(t, poolerModes, func(t *testing.T, mode pgx.QueryExecMode) {
		p := newPooled(t, mode)
		const callers = 100
		runs, told := 0, 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		var resp idem.Response
		for range callers {
			wg.Go(func() {
				r, err := idem.Run(t.Context(), p.pool, newKey("op-1"), entry("op-1", &runs), idem.WithWait(0))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					told++
					r.Replayed = false
					resp = r
				case !errors.Is(err, idem.ErrInProgress):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if runs != 1 || told < 1 {
			t.Errorf("%d runs, %d callers got an answer, want 1 and at least 1", runs, told)
		}
		p.noLocks(t)
		checkEntry(t, p.pool, "op-1", 1, resp)
	})
}

// The wait in Do elapses: the transaction is as usable as before, and the settings
// of a connection that others get next are what they were.
func TestPgBouncer_case44_waitElapses(t *testing.T) {
	eachMode(t, poolerModes, func(t *testing.T, mode pgx.QueryExecMode) {
		p := newPooled(t, mode)
		// Somebody holds the key until the test ends.
		began, finish := make(chan struct{}), make(chan struct{})
		begin := sync.OnceFunc(func() { close(began) })
		var holder sync.WaitGroup
		end := sync.OnceFunc(func() { close(finish); holder.Wait() })
		defer end()
		runs := 0
		holder.Go(func() {
			_, err := idem.Run(t.Context(), p.pool, newKey("op-1"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				resp, err := entry("op-1", &runs)(ctx, tx)
				begin()
				<-finish
				return resp, err
			})
			if err != nil {
				t.Error(err)
			}
		})
		<-began

		var before, after map[string]string
		err := pgx.BeginFunc(t.Context(), p.pool, func(tx pgx.Tx) error {
			before = settings(t, tx)
			_, err := idem.Do(t.Context(), tx, newKey("op-1"), func(context.Context, pgx.Tx) (idem.Response, error) {
				t.Error("fn ran")
				return idem.Response{}, nil
			}, idem.WithWait(50*time.Millisecond))
			if !errors.Is(err, idem.ErrInProgress) {
				t.Errorf("Do: %v, want ErrInProgress", err)
			}
			after = settings(t, tx)
			_, err = ledger.Insert(t.Context(), tx, "usable", "still")
			return err
		})
		if err != nil {
			t.Fatalf("the transaction is not usable any more: %v", err)
		}
		if !maps.Equal(before, after) {
			t.Errorf("settings changed from\n%v to\n%v", before, after)
		}
		ledger.Once(t, p.direct, "usable")
		ledger.None(t, p.direct, "op-1")
		end()
		ledger.Once(t, p.direct, "op-1")
		p.noLocks(t)
		// Whatever connection the pooler gives out: none has kept anything.
		for range 2 * poolerServers {
			if err := pgx.BeginFunc(t.Context(), p.pool, func(tx pgx.Tx) error {
				if now := settings(t, tx); !maps.Equal(before, now) {
					t.Errorf("settings of a connection are\n%v, want\n%v", now, before)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// settings are those of a session that differ from what the server's configuration says.
func settings(t testing.TB, tx pgx.Tx) map[string]string {
	t.Helper()
	rows, _ := tx.Query(t.Context(), `SELECT name, setting FROM pg_settings WHERE source IN ('session', 'client')`)
	all := map[string]string{}
	var name, setting string
	if _, err := pgx.ForEachRow(rows, []any{&name, &setting}, func() error {
		all[name] = setting
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}
