package idem_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

var errOutOfStock = errors.New("out of stock")

// thenFail is an fn that writes an order and fails.
func thenFail(ref string, err error) idem.Func {
	return func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		if err := insertOrder(ctx, tx, ref); err != nil {
			return idem.Response{}, err
		}
		return idem.Response{}, err
	}
}

func TestTransaction_case17_35_writeAndRecordAppearTogether(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		ctx, stop := context.WithCancel(t.Context())
		var watcher sync.WaitGroup
		watcher.Go(func() {
			for ctx.Err() == nil {
				var orders, records int
				err := pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM public.orders), (SELECT count(*) FROM idem.keys)`).Scan(&orders, &records)
				if err != nil || orders != records {
					t.Errorf("another connection sees %d orders and %d records (%v)", orders, records, err)
				}
			}
		})
		var c counter
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			_, err := call(t.Context(), pool, keyFor(name), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				r, err := c.order(name)(ctx, tx)
				nothing(t, pool, name)
				return r, err
			})
			noError(t, err)
			one(t, pool, name)
		}
		stop()
		watcher.Wait()
	})
}

func TestDo_case17_nothingBeforeTheCallersCommit(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		var c counter
		tx := begin(t, pool)
		_, err := idem.Do(t.Context(), tx, keyFor("k"), c.order("k"))
		noError(t, err)
		nothing(t, pool, "k")
		noError(t, tx.Commit(t.Context()))
		one(t, pool, "k")
	})
}

func TestTransaction_case18_fnFails(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var c counter
		_, err := call(t.Context(), pool, keyFor("k"), thenFail("k", errOutOfStock))
		if err != errOutOfStock { // as it is, not wrapped
			t.Fatalf("fn's error came back as %v", err)
		}
		nothing(t, pool, "k")
		_, err = call(t.Context(), pool, keyFor("k"), c.order("k"))
		noError(t, err)
		c.ran(t, 1)
		one(t, pool, "k")
	})
}

// An error of the database in fn is fn's error: it comes back as it is, too.
func TestTransaction_fnFailsOnTheDatabase(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var inside error
		_, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			_, inside = tx.Exec(ctx, `SELECT 1/0`)
			return idem.Response{}, inside
		})
		if err == nil || err != inside {
			t.Errorf("Run or Do answers %v, fn answered %v", err, inside)
		}
		nothing(t, pool, "k")
	})
}

func TestDo_case19_callerRollsBack(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		var c counter
		tx := begin(t, pool)
		_, err := idem.Do(t.Context(), tx, keyFor("k"), c.order("k"))
		noError(t, err)
		noError(t, tx.Rollback(t.Context()))
		nothing(t, pool, "k")
		r, err := do(t.Context(), pool, keyFor("k"), c.order("k"))
		noError(t, err)
		if r.Replayed {
			t.Error("what was rolled back is replayed")
		}
		c.ran(t, 2)
		one(t, pool, "k")
	})
}

func TestTransaction_case20_fnHidesAFailedStatement(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for _, opts := range [][]idem.Option{nil, {idem.WithSavepoint()}} {
			_, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				noError(t, insertOrder(ctx, tx, "k"))
				_, _ = tx.Exec(ctx, `SELECT 1/0`)
				return idem.Response{Status: 201}, nil
			}, opts...)
			want(t, err, idem.ErrTxAborted)
			nothing(t, pool, "k")
		}
	})
}

func TestTransaction_case22_panic(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		pool = alone(t, pool)
		for _, opts := range [][]idem.Option{nil, {idem.WithSavepoint()}} {
			value := &struct{ s string }{"surprise"}
			func() {
				defer func() {
					if got := recover(); got != any(value) {
						t.Errorf("the panic surfaces as %v", got)
					}
				}()
				_, _ = call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
					noError(t, insertOrder(ctx, tx, "k"))
					panic(value)
				}, opts...)
			}()
			nothing(t, pool, "k")
		}
		var c counter
		_, err := call(t.Context(), pool, keyFor("k"), c.order("k")) // on the one connection of the pool
		noError(t, err)
		one(t, pool, "k")
		if n := pool.Stat().NewConnsCount(); n != 1 {
			t.Errorf("the pool made %d connections: the first was not usable again", n)
		}
	})
}

func TestTransaction_case22_goexit(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		pool = alone(t, pool)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, _ = call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				if err := insertOrder(ctx, tx, "k"); err != nil {
					t.Error(err)
				}
				goexit()
				return idem.Response{}, nil
			})
			t.Error("the call returned")
		}()
		<-gone
		nothing(t, pool, "k")
		var c counter
		_, err := call(t.Context(), pool, keyFor("k"), c.order("k"))
		noError(t, err)
		one(t, pool, "k")
	})
}

func TestTransaction_case23_contextEndsInFn(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		cause := errors.New("client went away")
		for _, returned := range []error{nil, errOutOfStock} {
			for _, opts := range [][]idem.Option{nil, {idem.WithSavepoint()}} {
				one := alone(t, pool)
				ctx, cancel := context.WithCancelCause(t.Context())
				_, err := call(ctx, one, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
					noError(t, insertOrder(ctx, tx, "k"))
					cancel(cause)
					return idem.Response{}, returned
				}, opts...)
				if returned == nil {
					want(t, err, context.Canceled)
				} else {
					want(t, err, returned)
				}
				nothing(t, pool, "k")
				noneOpen(t, pool)
			}
		}
		// A context that ends while a statement of fn is under way.
		ctx, cancel := context.WithCancel(t.Context())
		_, err := call(ctx, pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			noError(t, insertOrder(ctx, tx, "k"))
			time.AfterFunc(20*time.Millisecond, cancel)
			_, err := tx.Exec(ctx, `SELECT pg_catalog.pg_sleep(60)`)
			return idem.Response{}, err
		})
		want(t, err, context.Canceled)
		nothing(t, pool, "k")
		var c counter
		_, err = call(t.Context(), pool, keyFor("k"), c.order("k"), idem.WithWait(untilDone)) // the lock is free, or soon will be
		noError(t, err)
		one(t, pool, "k")
	})
}

// The rollback is not skipped because the context is dead: the connection is as good as before.
func TestRun_case23_connectionIsUsedAgain(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		pool = alone(t, pool)
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := idem.Run(ctx, pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				cancel()
				return idem.Response{}, nil
			})
			want(t, err, context.Canceled)
		}
		nothing(t, pool, "k")
		if n := pool.Stat().NewConnsCount(); n != 1 {
			t.Errorf("the pool made %d connections", n)
		}
	})
}

// noneOpen fails the test when a transaction stays open. One on a connection that was closed may take a moment to end.
func noneOpen(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	for range 500 {
		if count(t, pool, `SELECT count(*) FROM pg_catalog.pg_stat_activity
			WHERE datname = current_database() AND state LIKE 'idle in transaction%'`) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a transaction is left open")
}

func TestTransaction_case28_29_30_responseThatCannotBeStored(t *testing.T) {
	over := func(n int) idem.Response { return idem.Response{Status: 200, Body: make([]byte, n)} }
	header := func(n int) idem.Response { // 1 version, 1 length, 1 name, 1 count, 3 length, n value
		return idem.Response{Header: map[string][]string{"X": {strings.Repeat("v", n-7)}}}
	}
	tests := []struct {
		name string
		resp idem.Response
		opts []idem.Option
		want error // nil: stored
	}{
		{"default limit", over(1 << 20), nil, nil},
		{"over the default limit", over(1<<20 + 1), nil, idem.ErrResponseTooLarge},
		{"own limit", over(10), []idem.Option{idem.WithMaxBody(10)}, nil},
		{"over the own limit", over(11), []idem.Option{idem.WithMaxBody(10)}, idem.ErrResponseTooLarge},
		{"limit 0", over(0), []idem.Option{idem.WithMaxBody(0)}, nil},
		{"over limit 0", over(1), []idem.Option{idem.WithMaxBody(0)}, idem.ErrResponseTooLarge},
		{"header limit", header(64 << 10), nil, nil},
		{"over the header limit", header(64<<10 + 1), nil, idem.ErrResponseTooLarge},
		{"status 99", idem.Response{Status: 99}, nil, idem.ErrInvalidCall},
		{"status 1000", idem.Response{Status: 1000}, nil, idem.ErrInvalidCall},
		{"status -1", idem.Response{Status: -1}, nil, idem.ErrInvalidCall},
		{"status 2^32+200", idem.Response{Status: 1<<32 + 200}, nil, idem.ErrInvalidCall},
	}
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for _, tt := range tests {
			name := strings.ReplaceAll(tt.name, " ", "_")
			r, err := call(t.Context(), pool, keyFor(name), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				return tt.resp, insertOrder(ctx, tx, name)
			}, tt.opts...)
			if tt.want != nil {
				if want(t, err, tt.want); r.Body != nil || r.Status != 0 {
					t.Errorf("%s: an answer that is not recorded came back: %d, %d bytes", tt.name, r.Status, len(r.Body))
				}
				nothing(t, pool, name)
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			one(t, pool, name)
			replay, err := call(t.Context(), pool, keyFor(name), never(t))
			noError(t, err)
			same(t, r, replay)
		}

		_, err := call(t.Context(), pool, keyFor("json"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			noError(t, insertOrder(ctx, tx, "json"))
			return idem.JSON(200, map[string]any{"price": math.Inf(1)})
		})
		if err == nil || !strings.Contains(err.Error(), "JSON") {
			t.Errorf("a value without a JSON form: %v", err)
		}
		nothing(t, pool, "json")
	})
}

// The largest limit that there is, once: 64 MiB.
func TestTransaction_case29_hardLimit(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	body := bytes.Repeat([]byte("pgidem\x00\xff"), 8<<20)
	first, err := idem.Run(t.Context(), pool, keyFor("k"), returns(idem.Response{Body: body}), idem.WithMaxBody(64<<20))
	noError(t, err)
	replay, err := idem.Run(t.Context(), pool, keyFor("k"), never(t))
	noError(t, err)
	same(t, first, replay)
}

func TestDo_case33_deadTransaction(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, opts := range [][]idem.Option{nil, {idem.WithSavepoint(), idem.WithWait(untilDone)}} {
			aborted := begin(t, pool)
			_, err := aborted.Exec(t.Context(), `SELECT 1/0`)
			if err == nil {
				t.Fatal("1/0 did not fail")
			}
			_, err = idem.Do(t.Context(), aborted, keyFor("k"), never(t), opts...)
			want(t, err, idem.ErrTxAborted)
			want(t, aborted.Commit(t.Context()), pgx.ErrTxCommitRollback)

			for _, end := range []func(pgx.Tx) error{
				func(tx pgx.Tx) error { return tx.Commit(t.Context()) },
				func(tx pgx.Tx) error { return tx.Rollback(t.Context()) },
				func(tx pgx.Tx) error { _, err := tx.Exec(t.Context(), `commit`); return err },
			} {
				over := begin(t, pool)
				noError(t, end(over))
				_, err = idem.Do(t.Context(), over, keyFor("k"), never(t), opts...)
				want(t, err, idem.ErrTxEnded)
			}
		}
		closed := begin(t, pool)
		noError(t, closed.Conn().Close(t.Context()))
		_, err := idem.Do(t.Context(), closed, keyFor("k"), never(t))
		if err == nil {
			t.Error("Do works on a closed connection")
		}
	})
}

func TestDo_case34_savepointOfTheCaller(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		var c counter
		tx := begin(t, pool)
		noError(t, insertOrder(t.Context(), tx, "outer"))

		inner, err := tx.Begin(t.Context())
		noError(t, err)
		_, err = idem.Do(t.Context(), inner, keyFor("gone"), c.order("gone"))
		noError(t, err)
		noError(t, inner.Rollback(t.Context()))
		// The key is free at once, while the transaction is still open.
		r, err := idem.Run(t.Context(), pool, keyFor("gone"), c.order("gone"), idem.WithWait(0))
		noError(t, err)
		if r.Replayed {
			t.Error("a record that was rolled back is replayed")
		}

		inner, err = tx.Begin(t.Context())
		noError(t, err)
		_, err = idem.Do(t.Context(), inner, keyFor("kept"), c.order("kept"))
		noError(t, err)
		noError(t, inner.Commit(t.Context()))
		_, err = idem.Run(t.Context(), pool, keyFor("kept"), never(t), idem.WithWait(0))
		want(t, err, idem.ErrInProgress)
		noError(t, tx.Commit(t.Context()))
		one(t, pool, "gone")
		one(t, pool, "kept")
		if n := orders(t, pool, "outer"); n != 1 {
			t.Errorf("%d orders of the outer transaction", n)
		}
	})
}

// What the client does after the commit changes nothing: neither when it leaves while COMMIT is under way, nor after.
func TestRun_case80_clientGoneWithTheCommit(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		pool, spy := spied(t, pool)
		var c counter
		ctx, cancel := context.WithCancel(t.Context())
		spy.on(func(flight string) {
			if flight == "idem: record + commit" {
				cancel()
			}
		}, nil)
		first, err := idem.Run(ctx, pool, keyFor("k"), c.order("k"))
		noError(t, err)
		if ctx.Err() == nil {
			t.Fatal("the context did not end: the record does not travel with COMMIT any more")
		}
		one(t, pool, "k")
		replay, err := idem.Run(t.Context(), pool, keyFor("k"), never(t))
		noError(t, err)
		same(t, first, replay)
	})
}

// A job that is enqueued in the same transaction waits in the table for a worker until the record is there.
func TestDo_case35_job(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	listener, err := pool.Acquire(t.Context())
	noError(t, err)
	defer listener.Release()
	_, err = listener.Exec(t.Context(), `LISTEN jobs`)
	noError(t, err)
	got := make(chan int, 1)
	stop := listenFor(t, listener.Conn(), func(*pgconn.Notification) { got <- records(t, pool, "k") })
	_, err = do(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		_, err := tx.Exec(ctx, `NOTIFY jobs`)
		return idem.Response{}, err
	})
	noError(t, err)
	if n := <-got; n != 1 {
		t.Errorf("the worker was told of the job and found %d records", n)
	}
	stop()
}

func listenFor(t *testing.T, conn *pgx.Conn, f func(*pgconn.Notification)) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		n, err := conn.WaitForNotification(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		f(n)
	}()
	return func() { <-done }
}

// The connection of a transaction that has ended may be in the middle of somebody else's.
func TestDo_case33_endedTransactionWhoseConnectionIsInUse(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		one := alone(t, pool)
		over := begin(t, one)
		noError(t, over.Commit(t.Context()))
		other := begin(t, one)
		_, err := idem.Do(t.Context(), over, keyFor("k"), never(t))
		want(t, err, idem.ErrTxEnded)
		usable(t, pool, other)
	})
}
