package idem_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

func TestTx_case36_refusesCommitAndRollback(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for _, opts := range [][]idem.Option{nil, {idem.WithSavepoint()}} {
			empty(t, pool)
			_, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				noError(t, insertOrder(ctx, tx, "k"))
				if err := tx.Commit(ctx); err == nil || !strings.Contains(err.Error(), "ended by its owner") {
					t.Errorf("Commit answers %v", err)
				}
				if err := tx.Rollback(ctx); err == nil || !strings.Contains(err.Error(), "ended by its owner") {
					t.Errorf("Rollback answers %v", err)
				}
				nothing(t, pool, "k")
				return idem.Response{}, nil
			}, opts...)
			noError(t, err)
			one(t, pool, "k")
		}
		// pgx.BeginFunc and a deferred Rollback, as functions that know nothing of the loan use them.
		_, err := call(t.Context(), pool, keyFor("deferred"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			defer func() { _ = tx.Rollback(ctx) }()
			return idem.Response{}, pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return insertOrder(ctx, tx, "deferred") })
		})
		noError(t, err)
		one(t, pool, "deferred")
	})
}

// fn can end the transaction behind the package's back: in SQL, through the connection, or in Do through the caller's own
// variable. Nothing is recorded then, and the error says so.
func TestTx_case36_endedByFn(t *testing.T) {
	statements := []string{
		"commit", "rollback", "abort", "commit and chain", "rollback and chain", "commit; begin", "rollback; begin",
		"commit; begin isolation level repeatable read",
	}
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for _, sql := range statements {
			for name, exec := range map[string]func(ctx context.Context, tx pgx.Tx) error{
				"tx": func(ctx context.Context, tx pgx.Tx) error {
					_, err := tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
					return err
				},
				"Conn": func(ctx context.Context, tx pgx.Tx) error {
					_, err := tx.Conn().Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
					return err
				},
			} {
				t.Run(strings.NewReplacer(" ", "_", ";", "").Replace(sql)+"_"+name, func(t *testing.T) {
					empty(t, pool)
					calls := 0
					_, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
						calls++
						return idem.Response{}, errors.Join(insertOrder(ctx, tx, "k"), exec(ctx, tx))
					})
					want(t, err, idem.ErrTxEnded)
					if n := records(t, pool, "k"); n != 0 || calls != 1 {
						t.Errorf("%d records after %d calls", n, calls)
					}
				})
			}
		}
	})
}

func TestTx_case36_endedThroughTheCallersVariable(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for name, end := range map[string]func(context.Context, pgx.Tx) error{
			"Commit":   func(ctx context.Context, outer pgx.Tx) error { return outer.Commit(ctx) },
			"Rollback": func(ctx context.Context, outer pgx.Tx) error { return outer.Rollback(ctx) },
		} {
			for _, opts := range [][]idem.Option{nil, {idem.WithSavepoint()}} {
				outer := begin(t, pool)
				_, err := idem.Do(t.Context(), outer, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
					return idem.Response{}, errors.Join(insertOrder(ctx, tx, name), end(ctx, outer))
				}, opts...)
				want(t, err, idem.ErrTxEnded)
				if n := records(t, pool, "k"); n != 0 {
					t.Errorf("%s: %d records", name, n)
				}
			}
		}
	})
}

func TestTx_savepoints(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		_, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			noError(t, insertOrder(ctx, tx, "k"))
			undone, err := tx.Begin(ctx)
			noError(t, err)
			noError(t, insertOrder(ctx, undone, "undone"))
			noError(t, undone.Rollback(ctx))
			kept, err := tx.Begin(ctx)
			noError(t, err)
			noError(t, insertOrder(ctx, kept, "kept"))
			deeper, err := kept.Begin(ctx)
			noError(t, err)
			_, err = deeper.Exec(ctx, `SELECT 1/0`)
			if err == nil {
				t.Error("1/0 did not fail")
			}
			noError(t, deeper.Rollback(ctx))
			noError(t, kept.Commit(ctx))
			open, err := tx.Begin(ctx) // left open: the transaction's COMMIT takes it along
			noError(t, err)
			return idem.Response{}, insertOrder(ctx, open, "left open")
		})
		noError(t, err)
		one(t, pool, "k")
		for ref, n := range map[string]int{"undone": 0, "kept": 1, "left open": 1} {
			if got := orders(t, pool, ref); got != n {
				t.Errorf("%d orders %q, want %d", got, ref, n)
			}
		}
	})
}

func TestTx_everyMethod(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var oid uint32
		_, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			n, err := tx.CopyFrom(ctx, pgx.Identifier{"public", "orders"}, []string{"ref"}, pgx.CopyFromRows([][]any{{"k"}, {"k"}}))
			if err != nil || n != 2 {
				t.Errorf("CopyFrom: %d, %v", n, err)
			}
			b := &pgx.Batch{}
			b.Queue(`INSERT INTO public.orders (ref) VALUES ('batch')`)
			noError(t, tx.SendBatch(ctx, b).Close())
			_, err = tx.Prepare(ctx, "of_fn", `SELECT 7`)
			noError(t, err)
			noError(t, tx.QueryRow(ctx, "of_fn").Scan(&n))
			noError(t, tx.Conn().Deallocate(ctx, "of_fn"))
			rows, err := tx.Query(ctx, `SELECT id FROM public.orders WHERE ref = $1`, "k")
			noError(t, err)
			ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			if err != nil || len(ids) != 2 || n != 7 {
				t.Errorf("rows %v, error %v, prepared statement %d", ids, err, n)
			}
			if tx.Conn() == nil {
				t.Error("no Conn")
			}
			lo := tx.LargeObjects()
			oid, err = lo.Create(ctx, 0)
			noError(t, err)
			object, err := lo.Open(ctx, oid, pgx.LargeObjectModeWrite)
			noError(t, err)
			_, err = io.WriteString(object, "a scanned contract")
			return idem.Response{}, err
		})
		noError(t, err)
		if orders(t, pool, "k") != 2 || orders(t, pool, "batch") != 1 {
			t.Error("writes are missing")
		}
		if n := count(t, pool, `SELECT pg_catalog.length(pg_catalog.lo_get($1))`, oid); n != 18 {
			t.Errorf("the large object has %d bytes", n)
		}
		exec(t, pool, `SELECT pg_catalog.lo_unlink($1)`, oid)
	})
}

func TestTx_deadAfterFn(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var tx, savepoint pgx.Tx
		keep := func(ctx context.Context, given pgx.Tx) (r idem.Response, err error) {
			tx = given
			savepoint, err = given.Begin(ctx)
			return r, err
		}
		dead := func() {
			t.Helper()
			for name, tx := range map[string]pgx.Tx{"transaction": tx, "savepoint": savepoint} {
				for method, err := range eachMethod(t.Context(), tx) {
					if !errors.Is(err, pgx.ErrTxClosed) {
						t.Errorf("%s of the %s after fn: %v", method, name, err)
					}
				}
			}
		}
		_, err := call(t.Context(), pool, keyFor("ok"), keep)
		noError(t, err)
		dead()
		_, err = call(t.Context(), pool, keyFor("error"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			_, err := keep(ctx, tx)
			return idem.Response{}, errors.Join(errOutOfStock, err)
		})
		want(t, err, errOutOfStock)
		dead()
		func() {
			defer func() { _ = recover() }()
			_, _ = call(t.Context(), pool, keyFor("panic"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				_, _ = keep(ctx, tx)
				panic("surprise")
			})
		}()
		dead()
	})
}

func TestDo_deadAfterFnWhileTheCallersTransactionIsOpen(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		outer := begin(t, pool)
		var lent pgx.Tx
		_, err := idem.Do(t.Context(), outer, keyFor("open"), func(_ context.Context, tx pgx.Tx) (idem.Response, error) {
			lent = tx
			return idem.Response{}, nil
		})
		noError(t, err)
		if err := insertOrder(t.Context(), lent, "late"); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("a write after fn: %v", err)
		}
		usable(t, pool, outer)
		if n := orders(t, pool, "late"); n != 0 {
			t.Errorf("%d orders were written after fn", n)
		}
	})
}

// eachMethod calls every method of tx that talks to the server.
func eachMethod(ctx context.Context, tx pgx.Tx) map[string]error {
	errs := map[string]error{}
	_, errs["Begin"] = tx.Begin(ctx)
	errs["Commit"] = tx.Commit(ctx)
	errs["Rollback"] = tx.Rollback(ctx)
	_, errs["Exec"] = tx.Exec(ctx, `SELECT 1`)
	rows, err := tx.Query(ctx, `SELECT 1`)
	errs["Query"] = err
	if rows != nil {
		rows.Close()
		errs["Rows"] = rows.Err()
	}
	var n int
	errs["QueryRow"] = tx.QueryRow(ctx, `SELECT 1`).Scan(&n)
	_, errs["Prepare"] = tx.Prepare(ctx, "p", `SELECT 1`)
	_, errs["CopyFrom"] = tx.CopyFrom(ctx, pgx.Identifier{"public", "orders"}, []string{"ref"}, pgx.CopyFromRows([][]any{{"late"}}))
	b := &pgx.Batch{}
	b.Queue(`SELECT 1`)
	br := tx.SendBatch(ctx, b)
	_, errs["SendBatch"] = br.Exec()
	errs["BatchResults.Close"] = br.Close()
	return errs
}

// When fn ends the caller's transaction through the caller's own variable, the connection goes back to the pool, and may
// serve somebody else when fn returns. Do must not touch it then.
func TestDo_case36_leavesOtherTransactionsAlone(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, opts := range [][]idem.Option{nil, {idem.WithSavepoint()}} {
			for _, returned := range []error{nil, errOutOfStock} {
				one := alone(t, pool)
				outer, err := one.Begin(t.Context())
				noError(t, err)
				var other pgx.Tx
				_, err = idem.Do(t.Context(), outer, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
					noError(t, outer.Commit(ctx))
					other = begin(t, one) // another user of the pool, on the connection that is free now
					return idem.Response{}, returned
				}, opts...)
				want(t, err, idem.ErrTxEnded)
				usable(t, pool, other)
			}
		}
	})
}

// An fn that ends the transaction and then fails. Its error tells less than that its writes may be durable. Only where it
// began another transaction and there is no savepoint to miss, Do and Run cannot know (see ErrTxEnded).
func TestTx_case36_endedByFnThatFails(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for _, sql := range []string{"commit", "commit and chain", "commit; begin", "rollback; begin"} {
			for _, opts := range [][]idem.Option{nil, {idem.WithSavepoint()}} {
				for _, returned := range []error{nil, errOutOfStock} {
					empty(t, pool)
					_, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
						_, err := tx.Conn().Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
						return idem.Response{}, errors.Join(returned, err)
					}, opts...)
					if unknowable := opts == nil && returned != nil && sql != "commit"; unknowable {
						want(t, err, returned)
					} else if !errors.Is(err, idem.ErrTxEnded) || !errors.Is(err, returned) && returned != nil {
						t.Errorf("%s, fn returns %v, savepoint %v: %v", sql, returned, opts != nil, err)
					}
					if n := records(t, pool, "k"); n != 0 {
						t.Errorf("%s: %d records", sql, n)
					}
				}
			}
		}
	})
}

func TestTx_largeObjectsDeadAfterFn(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var tx pgx.Tx
		_, err := call(t.Context(), pool, keyFor("k"), func(_ context.Context, given pgx.Tx) (idem.Response, error) {
			tx = given
			return idem.Response{}, nil
		})
		noError(t, err)
		lo := tx.LargeObjects()
		if oid, err := lo.Create(t.Context(), 0); err == nil {
			t.Errorf("large object %d was created after fn", oid)
		}
	})
}
