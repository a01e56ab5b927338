package idem_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
	"github.com/pgidem/pgidem/migrations"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(pgtest.EnvSkip) == "1" { // an Example cannot skip itself
		if err := flag.Set("test.skip", "^Example"); err != nil {
			panic(err)
		}
	}
	// A test waits for the server most of the time.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("6"); err != nil {
			panic(err)
		}
	}
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

// inAllModes runs test once for each exec mode, one after the other in a database of the test's own whose tables each
// finds empty.
func inAllModes(t *testing.T, test func(t *testing.T, pool *pgxpool.Pool)) {
	t.Helper()
	t.Parallel()
	url := pgtest.New(t)
	for _, mode := range modes {
		t.Run(strings.ReplaceAll(mode.String(), " ", "_"), func(t *testing.T) {
			pool := connect(t, url, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode })
			empty(t, pool)
			test(t, pool)
		})
	}
}

func empty(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, `DELETE FROM idem.keys`)
	exec(t, pool, `DELETE FROM public.orders`)
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
	if a.Status != b.Status || !bytes.Equal(a.Body, b.Body) || !maps.EqualFunc(a.Header, b.Header, slices.Equal) || !a.CreatedAt.Equal(b.CreatedAt) {
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

// both runs test with Run and with Do plus its caller's COMMIT, in all exec modes. The two find the tables empty.
func both(t *testing.T, test func(t *testing.T, pool *pgxpool.Pool, call caller)) {
	t.Helper()
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		t.Run("Run", func(t *testing.T) { test(t, pool, idem.Run) })
		empty(t, pool)
		t.Run("Do", func(t *testing.T) { test(t, pool, do) })
	})
}

type caller func(ctx context.Context, pool *pgxpool.Pool, key idem.Key, fn idem.Func, opts ...idem.Option) (idem.Response, error)

// exec runs a statement of the test's own, whatever became of the test's context.
func exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(context.WithoutCancel(t.Context()), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// begin begins a transaction that is rolled back when the test ends, at the latest.
func begin(t testing.TB, pool *pgxpool.Pool, options ...pgx.TxOptions) pgx.Tx {
	t.Helper()
	var o pgx.TxOptions
	if len(options) > 0 {
		o = options[0]
	}
	tx, err := pool.BeginTx(t.Context(), o)
	noError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// usable fails the test unless tx can still write and commit.
func usable(t testing.TB, pool *pgxpool.Pool, tx pgx.Tx) {
	t.Helper()
	ref := "written after an error"
	before := orders(t, pool, ref)
	if err := insertOrder(context.WithoutCancel(t.Context()), tx, ref); err != nil {
		t.Fatalf("the transaction is not usable: %v", err)
	}
	if err := tx.Commit(context.WithoutCancel(t.Context())); err != nil {
		t.Fatalf("the transaction does not commit: %v", err)
	}
	if n := orders(t, pool, ref); n != before+1 {
		t.Fatalf("%d orders after the commit, %d before", n, before)
	}
}

// nothing fails the test when an order or a record of name is durable.
func nothing(t testing.TB, pool *pgxpool.Pool, name string) {
	t.Helper()
	if o, r := orders(t, pool, name), records(t, pool, name); o != 0 || r != 0 {
		t.Fatalf("%q has %d orders and %d records, want none", name, o, r)
	}
}

// one fails the test unless exactly one order and one record of name are durable.
func one(t testing.TB, pool *pgxpool.Pool, name string) {
	t.Helper()
	if o, r := orders(t, pool, name), records(t, pool, name); o != 1 || r != 1 {
		t.Fatalf("%q has %d orders and %d records, want one of each", name, o, r)
	}
}

// ran fails the test unless c's functions were called n times.
func (c *counter) ran(t testing.TB, n int64) {
	t.Helper()
	if got := c.calls.Load(); got != n {
		t.Fatalf("fn was called %d times, want %d", got, n)
	}
}

// never is an fn that must not be called.
func never(t testing.TB) idem.Func {
	return func(context.Context, pgx.Tx) (idem.Response, error) {
		t.Error("fn was called")
		return idem.Response{}, nil
	}
}

// returns is an fn that does nothing but answer.
func returns(r idem.Response) idem.Func {
	return func(context.Context, pgx.Tx) (idem.Response, error) { return r, nil }
}

// store writes a record past the package, as a call would have that began with created and ended with expires, two SQL
// expressions.
func store(t testing.TB, pool *pgxpool.Pool, key idem.Key, body, created, expires string) {
	t.Helper()
	exec(t, pool, `INSERT INTO idem.keys (project, endpoint, key, request_hash, response_status, response_header, response_body, created_at, expires_at)
		VALUES ($1, $2, $3, $4, 200, '', $5, `+created+`, `+expires+`)`,
		key.Project, key.Endpoint, key.Value, key.RequestHash[:], []byte(body))
}

// row returns the only record of a key's value as text, with the transaction that wrote it.
func row(t testing.TB, pool *pgxpool.Pool, value string) string {
	t.Helper()
	var s string
	noError(t, pool.QueryRow(context.WithoutCancel(t.Context()), `SELECT xmin::text || k::text FROM idem.keys k WHERE key = $1`, value).Scan(&s))
	return s
}

// spy lists the statements that pgx sends. What travels together is joined with " + ".
type spy struct {
	mu   sync.Mutex
	sent []string

	// sending is called with each flight before it is sent, done after its answer.
	sending, done func(flight string)
}

type spyKey struct{}

func (s *spy) start(ctx context.Context, flight string) context.Context {
	s.mu.Lock()
	s.sent = append(s.sent, flight)
	f := s.sending
	s.mu.Unlock()
	if f != nil {
		f(flight)
	}
	return context.WithValue(ctx, spyKey{}, flight)
}

func (s *spy) end(ctx context.Context) {
	s.mu.Lock()
	f := s.done
	s.mu.Unlock()
	if flight, ok := ctx.Value(spyKey{}).(string); f != nil && ok {
		f(flight)
	}
}

// label is a statement's name where it has one, otherwise its text.
func label(sql string) string {
	if name, ok := strings.CutPrefix(sql, "-- "); ok {
		name, _, _ = strings.Cut(name, "\n")
		return name
	}
	return sql
}

func (s *spy) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return s.start(ctx, label(d.SQL))
}

func (s *spy) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) { s.end(ctx) }

func (s *spy) TraceBatchStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	var labels []string
	for _, q := range d.Batch.QueuedQueries {
		labels = append(labels, label(q.SQL))
	}
	return s.start(ctx, strings.Join(labels, " + "))
}

func (s *spy) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (s *spy) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchEndData) { s.end(ctx) }

// taken returns what was sent since the last time.
func (s *spy) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := s.sent
	s.sent = nil
	return sent
}

// on sets the hooks.
func (s *spy) on(sending, done func(flight string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending, s.done = sending, done
}

// spied connects once more to pool's database, with a spy.
func spied(t testing.TB, pool *pgxpool.Pool) (*pgxpool.Pool, *spy) {
	t.Helper()
	s := &spy{}
	cfg := pool.Config()
	cfg.ConnConfig.Tracer = s
	p, err := pgxpool.NewWithConfig(t.Context(), cfg)
	noError(t, err)
	t.Cleanup(p.Close)
	return p, s
}

// alone connects once more to pool's database, through at most one connection.
func alone(t testing.TB, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	cfg := pool.Config()
	cfg.MaxConns = 1
	p, err := pgxpool.NewWithConfig(t.Context(), cfg)
	noError(t, err)
	t.Cleanup(p.Close)
	return p
}

// untilDone is a wait for tests in which the time does not run out on a slow machine.
const untilDone = time.Minute

// goexit is what t.FailNow does to a goroutine.
func goexit() { runtime.Goexit() }

// hasState reports whether a server sent the error with this SQLSTATE.
func hasState(err error, state string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == state
}
