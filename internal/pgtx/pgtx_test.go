package pgtx_test

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
	"github.com/pgidem/pgidem/internal/pgtx"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, localpg.Options{}, nil)) }

var modes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

// begun returns a connection in a transaction that has inserted the row 1 into table t. held, when not nil, holds back
// what the server sends.
func begun(t *testing.T, mode pgx.QueryExecMode, held *hold) (*pgx.Conn, pgx.Tx, *pgx.Conn) {
	t.Helper()
	url := pgtest.New(t)
	other, err := pgx.Connect(t.Context(), url)
	noError(t, err)
	t.Cleanup(func() { _ = other.Close(context.Background()) })
	_, err = other.Exec(t.Context(), `CREATE TABLE t (id int PRIMARY KEY, late int UNIQUE DEFERRABLE INITIALLY DEFERRED)`)
	noError(t, err)
	cfg, err := pgx.ParseConfig(url)
	noError(t, err)
	cfg.DefaultQueryExecMode = mode
	if held != nil {
		dial := cfg.DialFunc
		cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			return &heldConn{c, held}, err
		}
	}
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	noError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	tx, err := conn.Begin(t.Context())
	noError(t, err)
	_, err = tx.Exec(t.Context(), `INSERT INTO t VALUES ($1, $1)`, 1)
	noError(t, err)
	return conn, tx, other
}

func rows(t *testing.T, conn *pgx.Conn) (n int) {
	t.Helper()
	noError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM t`).Scan(&n))
	return n
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func insert(id int, late int) *pgtx.Batch {
	return last(`INSERT INTO t VALUES ($1::int, $2::int)`, id, late)
}

func last(sql string, args ...any) *pgtx.Batch {
	b := &pgtx.Batch{}
	b.Queue(sql, args)
	return b
}

func never(t *testing.T) pgtx.Releaser { return release(func() { t.Error("late was released") }) }

type release func()

func (f release) Release() { f() }

func TestCommit(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			t.Run("with a last statement", func(t *testing.T) {
				conn, _, other := begun(t, mode, nil)
				noError(t, pgtx.Commit(t.Context(), conn, insert(2, 2), "commit", time.Minute, never(t)))
				if n := rows(t, other); n != 2 {
					t.Errorf("%d rows", n)
				}
			})
			t.Run("alone", func(t *testing.T) {
				conn, _, other := begun(t, mode, nil)
				noError(t, pgtx.Commit(t.Context(), conn, nil, "commit", time.Minute, never(t)))
				if n := rows(t, other); n != 1 {
					t.Errorf("%d rows", n)
				}
			})
			t.Run("a context that has ended cancels nothing", func(t *testing.T) {
				conn, _, other := begun(t, mode, nil)
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				noError(t, pgtx.Commit(ctx, conn, insert(2, 2), "commit", time.Minute, never(t)))
				if n := rows(t, other); n != 2 {
					t.Errorf("%d rows", n)
				}
			})
			t.Run("the last statement fails", func(t *testing.T) {
				conn, tx, other := begun(t, mode, nil)
				err := pgtx.Commit(t.Context(), conn, insert(1, 2), "commit", time.Minute, never(t))
				pg, ok := errors.AsType[*pgconn.PgError](err)
				if _, unknown := err.(*pgtx.CommitError); unknown || !ok || pg.Code != "23505" {
					t.Fatalf("error is %#v, want the server's 23505 and no CommitError", err)
				}
				noError(t, tx.Rollback(t.Context()))
				if n := rows(t, other); n != 0 {
					t.Errorf("%d rows", n)
				}
			})
			t.Run("the last statement does not prepare", func(t *testing.T) {
				conn, tx, other := begun(t, mode, nil)
				err := pgtx.Commit(t.Context(), conn, last("SELECT nothing"), "commit", time.Minute, never(t))
				if _, unknown := err.(*pgtx.CommitError); unknown || err == nil {
					t.Fatalf("error is %#v, want one that is no CommitError", err)
				}
				noError(t, tx.Rollback(t.Context()))
				if n := rows(t, other); n != 0 {
					t.Errorf("%d rows", n)
				}
			})
			t.Run("COMMIT fails", func(t *testing.T) {
				conn, _, other := begun(t, mode, nil)
				err := pgtx.Commit(t.Context(), conn, insert(2, 1), "commit", time.Minute, never(t)) // the deferred constraint
				ce, ok := err.(*pgtx.CommitError)
				if !ok || ce.Late {
					t.Fatalf("error is %#v, want a CommitError that is not late", err)
				}
				if n := rows(t, other); n != 0 {
					t.Errorf("%d rows", n)
				}
			})
			t.Run("COMMIT rolls back", func(t *testing.T) {
				conn, _, other := begun(t, mode, nil)
				_, err := conn.Exec(t.Context(), "SELECT nothing")
				if err == nil {
					t.Fatal("no error")
				}
				err = pgtx.Commit(t.Context(), conn, nil, "commit", time.Minute, never(t))
				if _, ok := err.(*pgtx.CommitError); !ok || !errors.Is(err, pgx.ErrTxCommitRollback) {
					t.Fatalf("error is %#v", err)
				}
				if n := rows(t, other); n != 0 {
					t.Errorf("%d rows", n)
				}
			})
			t.Run("the backend is gone", func(t *testing.T) {
				conn, _, other := begun(t, mode, nil)
				_, err := other.Exec(t.Context(), `SELECT pg_terminate_backend($1, 60000)`, conn.PgConn().PID())
				noError(t, err)
				err = pgtx.Commit(t.Context(), conn, insert(2, 2), "commit", time.Minute, never(t))
				if _, prepared := errors.AsType[pgx.ErrPreprocessingBatch](err); prepared {
					return // it went before COMMIT was sent
				}
				if _, ok := err.(*pgtx.CommitError); !ok {
					t.Fatalf("error is %#v, want a CommitError: nobody can know here", err)
				}
			})
		})
	}
}

// An answer that takes too long: Commit returns, nothing is cancelled, the transaction commits, and late is called once.
func TestCommit_late(t *testing.T) {
	t.Parallel()
	held := &hold{release: make(chan struct{})}
	conn, _, other := begun(t, pgx.QueryExecModeExec, held)
	held.on.Store(true)
	late := make(chan struct{})
	err := pgtx.Commit(t.Context(), conn, insert(2, 2), "commit", 20*time.Millisecond, release(func() { close(late) }))
	if ce, ok := err.(*pgtx.CommitError); !ok || !ce.Late || !errors.Is(err, pgtx.ErrLate) {
		t.Fatalf("error is %#v", err)
	}
	select {
	case <-late:
		t.Error("late was called before the answer came")
	default:
	}
	close(held.release)
	<-late
	if conn.IsClosed() {
		t.Error("the connection was closed: something was cancelled")
	}
	if n := rows(t, other); n != 2 {
		t.Errorf("%d rows", n)
	}
}

// The same without anything between: a COMMIT that the server takes its time for. A NOTICE that comes ahead of the answer is
// not taken for it.
func TestCommit_slow(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			conn, tx, other := begun(t, mode, nil)
			noError(t, tx.Commit(t.Context()))
			for _, sql := range []string{
				`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''soon''; PERFORM pg_sleep(0.3); RETURN NULL; END'`,
				`CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()`,
			} {
				_, err := other.Exec(t.Context(), sql)
				noError(t, err)
			}
			_, err := conn.Begin(t.Context())
			noError(t, err)
			noError(t, pgtx.Commit(t.Context(), conn, insert(2, 2), "commit", time.Minute, never(t)))

			_, err = conn.Begin(t.Context())
			noError(t, err)
			late := make(chan struct{})
			err = pgtx.Commit(t.Context(), conn, insert(3, 3), "commit", 10*time.Millisecond, release(func() { close(late) }))
			if ce, ok := err.(*pgtx.CommitError); !ok || !ce.Late {
				t.Fatalf("error is %#v, want a CommitError that is late", err)
			}
			<-late
			if n := rows(t, other); n != 3 {
				t.Errorf("%d rows", n)
			}
			noError(t, conn.Ping(t.Context())) // nothing was cancelled or closed, no deadline is left
		})
	}
}

type panicTracer struct{}

func (panicTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	if d.SQL == "commit" {
		panic("tracer")
	}
	return ctx
}
func (panicTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A panic of a tracer surfaces where the caller can recover it, not in a goroutine that takes the process down.
func TestCommit_panic(t *testing.T) {
	t.Parallel()
	cfg, err := pgx.ParseConfig(pgtest.New(t))
	noError(t, err)
	cfg.Tracer = panicTracer{}
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	noError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Begin(t.Context())
	noError(t, err)
	defer func() {
		if r := recover(); r != "tracer" {
			t.Errorf("recovered %v", r)
		}
	}()
	_ = pgtx.Commit(t.Context(), conn, nil, "commit", time.Minute, never(t))
	t.Error("no panic")
}

type exitTracer struct{ panicTracer }

func (exitTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	if d.SQL == "commit" {
		runtime.Goexit()
	}
	return ctx
}

// A tracer that ends its goroutine, as a test's FailNow does, leaves an outcome that is unknown and not a success.
func TestCommit_goexit(t *testing.T) {
	t.Parallel()
	cfg, err := pgx.ParseConfig(pgtest.New(t))
	noError(t, err)
	cfg.Tracer = exitTracer{}
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	noError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Begin(t.Context())
	noError(t, err)
	if _, ok := pgtx.Commit(t.Context(), conn, nil, "commit", time.Minute, never(t)).(*pgtx.CommitError); !ok {
		t.Error("Commit answers as if it had happened")
	}
}

// hold holds back what the server sends while it is on.
type hold struct {
	on      atomic.Bool
	release chan struct{}
}

type heldConn struct {
	net.Conn
	*hold
}

func (c *heldConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.on.Load() {
		<-c.release
	}
	return n, err
}

func TestGuard(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, tx, _ := begun(t, pgx.QueryExecModeExec, nil)
	g := pgtx.NewGuard(tx)

	for name, err := range map[string]error{"Commit": g.Commit(ctx), "Rollback": g.Rollback(ctx)} {
		if !errors.Is(err, pgtx.ErrNotYours) {
			t.Errorf("%s answers %v", name, err)
		}
	}
	sp, err := g.Begin(ctx)
	noError(t, err)
	_, err = sp.Exec(ctx, `INSERT INTO t VALUES (2, 2)`)
	noError(t, err)
	noError(t, sp.Rollback(ctx))
	sp, err = g.Begin(ctx)
	noError(t, err)
	noError(t, sp.Commit(ctx))
	var n int
	noError(t, g.QueryRow(ctx, `SELECT count(*) FROM t`).Scan(&n))
	if n != 1 {
		t.Errorf("%d rows after a savepoint that was rolled back", n)
	}
	los := g.LargeObjects()
	_, err = los.Create(ctx, 0)
	noError(t, err)
	sp, err = g.Begin(ctx)
	noError(t, err)

	g.Close()
	_, execErr := g.Exec(ctx, `INSERT INTO t VALUES (3, 3)`)
	_, queryErr := g.Query(ctx, `SELECT 1`)
	_, prepareErr := g.Prepare(ctx, "p", `SELECT 1`)
	_, copyErr := g.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"id"}, pgx.CopyFromRows(nil))
	_, beginErr := g.Begin(ctx)
	_, spErr := sp.Exec(ctx, `SELECT 1`)
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO t VALUES (4, 4)`)
	los = g.LargeObjects()
	if _, err := los.Create(ctx, 0); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("LargeObjects after Close answers %v", err)
	}
	for name, err := range map[string]error{
		"Exec": execErr, "Query": queryErr, "QueryRow": g.QueryRow(ctx, `SELECT 1`).Scan(&n), "Prepare": prepareErr,
		"CopyFrom": copyErr, "Begin": beginErr, "SendBatch": g.SendBatch(ctx, b).Close(), "Commit": g.Commit(ctx),
		"Rollback": g.Rollback(ctx), "a savepoint's Exec": spErr, "a savepoint's Commit": sp.Commit(ctx),
		"a savepoint's Rollback": sp.Rollback(ctx),
	} {
		if !errors.Is(err, pgx.ErrTxClosed) || !strings.Contains(err.Error(), "after fn returned") {
			t.Errorf("%s after Close answers %v", name, err)
		}
	}
	if g.Conn() != tx.Conn() {
		t.Error("Conn is another connection")
	}
	noError(t, tx.QueryRow(ctx, `SELECT count(*) FROM t`).Scan(&n)) // the owner goes on
	if n != 1 {
		t.Errorf("%d rows", n)
	}
}
