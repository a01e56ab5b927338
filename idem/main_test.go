package idem_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
	"github.com/pgidem/pgidem/migrations"
)

func TestMain(m *testing.M) {
	code := pgtest.Main(m, localpg.Options{}, migrate)
	if left := leftGoroutines(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left running:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leftGoroutines returns the stacks of goroutines that this package or pgx left behind, after giving them time to end.
func leftGoroutines() string {
	var left []string
	for range 100 {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = left[:0]
		for g := range strings.SplitSeq(string(buf), "\n\n") {
			if strings.Contains(g, "leftGoroutines") { // this one
				continue
			}
			if strings.Contains(g, "pgidem/idem") || strings.Contains(g, "pgidem/internal/pgtx") || strings.Contains(g, "jackc/") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return ""
		}
		time.Sleep(50 * time.Millisecond)
	}
	return strings.Join(left, "\n\n")
}

// migrate applies this package's migrations and adds a business table. The table has no unique constraint: what keeps
// its rows single is the package alone.
func migrate(ctx context.Context, url string) error {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithTableName(migrations.VersionTable))
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `CREATE TABLE public.orders (id bigint GENERATED ALWAYS AS IDENTITY, ref text NOT NULL)`)
	return err
}

// modes are the five ways in which pgx sends a statement.
var modes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

// inAllModes runs test once for each exec mode, each with a database of its own.
func inAllModes(t *testing.T, test func(t *testing.T, pool *pgxpool.Pool)) {
	t.Helper()
	t.Parallel()
	for _, mode := range modes {
		t.Run(strings.ReplaceAll(mode.String(), " ", "_"), func(t *testing.T) {
			t.Parallel()
			test(t, newPool(t, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode }))
		})
	}
}

// newPool connects to a migrated database of the test's own.
func newPool(t testing.TB, change ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return connect(t, pgtest.New(t), change...)
}

func connect(t testing.TB, url string, change ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = 10
	// Unqualified names would hide what a user's search_path can do to them.
	cfg.ConnConfig.RuntimeParams["search_path"] = ""
	for _, f := range change {
		f(cfg)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// keyFor makes a key of the test's own.
func keyFor(value string) idem.Key {
	return idem.Key{Project: "acme", Endpoint: "POST /orders", Value: value, RequestHash: idem.HashRequest([]byte(value))}
}

// counter is an fn that inserts an order for its key and counts its calls.
type counter struct{ calls atomic.Int64 }

func (c *counter) order(ref string) idem.Func {
	return func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		n := c.calls.Add(1)
		if err := insertOrder(ctx, tx, ref); err != nil {
			return idem.Response{}, err
		}
		return idem.Response{
			Status: 201, Header: map[string][]string{"Location": {"/orders/" + ref}},
			Body: fmt.Appendf(nil, `{"ref":%q,"call":%d}`, ref, n),
		}, nil
	}
}

func insertOrder(ctx context.Context, tx pgx.Tx, ref string) error {
	_, err := tx.Exec(ctx, `INSERT INTO public.orders (ref) VALUES ($1)`, ref)
	return err
}

// orders counts the committed orders of ref, on a connection of its own.
func orders(t testing.TB, pool *pgxpool.Pool, ref string) int {
	t.Helper()
	return count(t, pool, `SELECT count(*) FROM public.orders WHERE ref = $1`, ref)
}

// records counts the committed records of a key's value, in whatever project.
func records(t testing.TB, pool *pgxpool.Pool, value string) int {
	t.Helper()
	return count(t, pool, `SELECT count(*) FROM idem.keys WHERE key = $1`, value)
}

func count(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) int {
	t.Helper()
	var n int
	if err := pool.QueryRow(context.WithoutCancel(t.Context()), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// want fails the test unless err is target.
func want(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error is %v, want %v", err, target)
	}
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same fails the test unless b answers what a answers, byte for byte.
func same(t testing.TB, a, b idem.Response) {
	t.Helper()
	if a.Status != b.Status || string(a.Body) != string(b.Body) || fmt.Sprint(a.Header) != fmt.Sprint(b.Header) || !a.CreatedAt.Equal(b.CreatedAt) {
		t.Fatalf("the replay differs:\nfirst  %d %v %q %v\nreplay %d %v %q %v", a.Status, a.Header, a.Body, a.CreatedAt, b.Status, b.Header, b.Body, b.CreatedAt)
	}
}

// do is Do in a transaction that is committed when Do succeeds and rolled back when it fails.
func do(ctx context.Context, pool *pgxpool.Pool, key idem.Key, fn idem.Func, opts ...idem.Option) (r idem.Response, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		r, err = idem.Do(ctx, tx, key, fn, opts...)
		return err
	})
	return r, err
}

// both runs test with Run and with Do plus its caller's COMMIT, in all exec modes.
func both(t *testing.T, test func(t *testing.T, pool *pgxpool.Pool, call caller)) {
	t.Helper()
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		t.Run("Run", func(t *testing.T) { test(t, pool, idem.Run) })
		t.Run("Do", func(t *testing.T) { test(t, connect(t, pgtest.New(t), sameMode(pool)), do) })
	})
}

type caller func(ctx context.Context, pool *pgxpool.Pool, key idem.Key, fn idem.Func, opts ...idem.Option) (idem.Response, error)

func sameMode(pool *pgxpool.Pool) func(*pgxpool.Config) {
	mode := pool.Config().ConnConfig.DefaultQueryExecMode
	return func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode }
}
