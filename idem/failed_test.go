package idem_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

// Whatever a caller does with the error of Do, half-done work does not become durable: it ignores the error here and
// commits.
func TestDo_case37_callerCommitsAfterAFailure(t *testing.T) {
	write := func(ctx context.Context, tx pgx.Tx) {
		if err := insertOrder(ctx, tx, "k"); err != nil {
			panic(err)
		}
	}
	tests := []struct {
		name   string
		fn     idem.Func
		opts   []idem.Option
		want   error // nil: any error
		closed bool  // the connection ends, because nothing can be said on it
	}{
		{name: "fn fails", fn: thenFail("k", errOutOfStock), want: errOutOfStock},
		{name: "response too large", want: idem.ErrResponseTooLarge, opts: []idem.Option{idem.WithMaxBody(1)}, fn: func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			write(ctx, tx)
			return idem.Response{Body: []byte("ab")}, nil
		}},
		{name: "status out of range", want: idem.ErrInvalidCall, fn: func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			write(ctx, tx)
			return idem.Response{Status: 7}, nil
		}},
		{name: "refusal without savepoint", fn: thenFail("k", idem.Refuse(idem.Response{Status: 402})), want: idem.ErrInvalidCall},
		{name: "failed statement hidden", want: idem.ErrTxAborted, fn: func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			write(ctx, tx)
			_, _ = tx.Exec(ctx, `SELECT 1/0`)
			return idem.Response{}, nil
		}},
		{name: "somebody recorded first", want: idem.ErrConflict, fn: func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			write(ctx, tx)
			return idem.Response{}, recordedByAnother(ctx, tx)
		}},
		{name: "rows left open", closed: true, fn: func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			write(ctx, tx)
			_, err := tx.Query(ctx, `SELECT pg_catalog.generate_series(1, 100000)`)
			return idem.Response{}, err
		}},
		{name: "rows left open by fn that fails", closed: true, want: errOutOfStock, fn: func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			write(ctx, tx)
			_, err := tx.Query(ctx, `SELECT pg_catalog.generate_series(1, 100000)`)
			return idem.Response{}, errors.Join(errOutOfStock, err)
		}},
		{name: "rows left open in a savepoint", closed: true, opts: []idem.Option{idem.WithSavepoint()}, fn: func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			write(ctx, tx)
			_, err := tx.Query(ctx, `SELECT pg_catalog.generate_series(1, 100000)`)
			return idem.Response{}, err
		}},
		{name: "savepoint released by fn", opts: []idem.Option{idem.WithSavepoint()}, fn: func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			write(ctx, tx)
			_, err := tx.Exec(ctx, `RELEASE SAVEPOINT sp_1`)
			return idem.Response{}, err
		}},
		{name: "panic", fn: func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			write(ctx, tx)
			panic("surprise")
		}},
		{name: "panic in a savepoint", opts: []idem.Option{idem.WithSavepoint()}, fn: func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			write(ctx, tx)
			panic("surprise")
		}},
		{name: "Goexit", fn: func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			write(ctx, tx)
			goexit()
			return idem.Response{}, nil
		}},
	}
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, tt := range tests {
			t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
				empty(t, pool)
				tx := begin(t, pool)
				var err error
				done := make(chan any)
				go func() { // where Goexit ends nothing else
					defer func() { done <- recover() }()
					// The server may take a moment to see that the connection of the test before is closed.
					_, err = idem.Do(t.Context(), tx, keyFor("k"), tt.fn, append(tt.opts, idem.WithWait(untilDone))...)
					if err == nil {
						t.Error("no error")
					}
				}()
				<-done
				if tt.want != nil {
					want(t, err, tt.want)
				}
				commitErr := tx.Commit(t.Context())
				if !tt.closed {
					want(t, commitErr, pgx.ErrTxCommitRollback)
				} else if commitErr == nil || !tx.Conn().IsClosed() {
					t.Errorf("COMMIT answers %v", commitErr)
				}
				if n := orders(t, pool, "k"); n != 0 {
					t.Errorf("%d orders are durable after a failed Do", n)
				}
			})
		}
	})
}

// A context that is dead does not keep Do from failing the transaction, nor a savepoint from being undone.
func TestDo_case37_deadContext(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, savepoint := range []bool{false, true} {
			var opts []idem.Option
			if savepoint {
				opts = append(opts, idem.WithSavepoint())
			}
			tx := begin(t, pool)
			ctx, cancel := context.WithCancel(t.Context())
			_, err := idem.Do(ctx, tx, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				noError(t, insertOrder(ctx, tx, "k"))
				cancel()
				return idem.Response{}, errOutOfStock
			}, opts...)
			want(t, err, errOutOfStock)
			if savepoint {
				usable(t, pool, tx)
			} else {
				want(t, tx.Commit(t.Context()), pgx.ErrTxCommitRollback)
			}
			nothing(t, pool, "k")
		}
	})
}

// A query that fn has left open can be read to its end after Do has failed. The transaction does not come back to life then.
func TestDo_case37_rowsLeftOpenAreClosedLater(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, opts := range [][]idem.Option{nil, {idem.WithSavepoint()}} {
			for _, returned := range []error{nil, errOutOfStock} {
				tx := begin(t, pool)
				var rows pgx.Rows
				_, err := idem.Do(t.Context(), tx, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (r idem.Response, err error) {
					noError(t, insertOrder(ctx, tx, "k"))
					rows, err = tx.Query(ctx, `SELECT pg_catalog.generate_series(1, 10)`)
					return r, errors.Join(returned, err)
				}, append(opts, idem.WithWait(untilDone))...)
				if err == nil {
					t.Error("no error")
				}
				rows.Close()
				if err := tx.Commit(t.Context()); err == nil {
					t.Error("COMMIT after a failed Do succeeds")
				}
				nothing(t, pool, "k")
			}
		}
	})
}

// recordedByAnother stands for a call on an engine where advisory locks exclude nobody: it commits a record of the key
// "k" from another connection.
func recordedByAnother(ctx context.Context, tx pgx.Tx) error {
	conn, err := pgx.ConnectConfig(ctx, tx.Conn().Config())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	key := keyFor("k")
	_, err = conn.Exec(ctx, `INSERT INTO idem.keys (project, endpoint, key, request_hash, response_status, response_header, response_body, created_at, expires_at)
		VALUES ($1, $2, $3, $4, 200, '', 'theirs', pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp() + '1 hour')
		ON CONFLICT (project, endpoint, key) DO UPDATE
		SET request_hash = excluded.request_hash, response_body = excluded.response_body, created_at = excluded.created_at, expires_at = excluded.expires_at`,
		key.Project, key.Endpoint, key.Value, key.RequestHash[:])
	return err
}

// After the errors that say so the transaction is as usable as before.
func TestDo_usableAfter(t *testing.T) {
	recorded, held := keyFor("recorded"), keyFor("held")
	reused := recorded
	reused.RequestHash[0]++
	noValue := keyFor("")
	tests := []struct {
		name string
		key  idem.Key
		fn   idem.Func
		opts []idem.Option
		want error
	}{
		{"invalid key", noValue, never(t), nil, idem.ErrInvalidKey},
		{"zero hash", idem.Key{Project: "p", Endpoint: "e", Value: "v"}, never(t), nil, idem.ErrInvalidKey},
		{"nil fn", keyFor("k"), nil, nil, idem.ErrInvalidCall},
		{"TTL 0", keyFor("k"), never(t), []idem.Option{idem.WithTTL(0)}, idem.ErrInvalidCall},
		{"reused", reused, never(t), nil, idem.ErrKeyReused},
		{"in progress", held, never(t), nil, idem.ErrInProgress},
		{"in progress after a wait", held, never(t), []idem.Option{idem.WithWait(1)}, idem.ErrInProgress},
		{"fn failed in a savepoint", keyFor("k"), thenFail("undone", errOutOfStock), []idem.Option{idem.WithSavepoint()}, errOutOfStock},
		{"too large in a savepoint", keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			return idem.Response{Body: []byte("ab")}, insertOrder(ctx, tx, "undone")
		}, []idem.Option{idem.WithSavepoint(), idem.WithMaxBody(1)}, idem.ErrResponseTooLarge},
		{"statement failed in a savepoint", keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			noError(t, insertOrder(ctx, tx, "undone"))
			_, _ = tx.Exec(ctx, `SELECT 1/0`)
			return idem.Response{}, nil
		}, []idem.Option{idem.WithSavepoint()}, idem.ErrTxAborted},
		{"context ended in a savepoint", keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			noError(t, insertOrder(ctx, tx, "undone"))
			return idem.Response{}, context.DeadlineExceeded
		}, []idem.Option{idem.WithSavepoint()}, context.DeadlineExceeded},
	}
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		_, err := idem.Run(t.Context(), pool, recorded, returns(idem.Response{}))
		noError(t, err)
		holder := begin(t, pool)
		_, err = idem.Do(t.Context(), holder, held, returns(idem.Response{}))
		noError(t, err)
		for _, tt := range tests {
			t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
				tx := begin(t, pool)
				_, err := idem.Do(t.Context(), tx, tt.key, tt.fn, tt.opts...)
				want(t, err, tt.want)
				usable(t, pool, tx)
				if n := orders(t, pool, "undone"); n != 0 {
					t.Errorf("%d orders of the failed fn are durable", n)
				}
			})
		}
		t.Run("nested", func(t *testing.T) {
			tx := begin(t, pool)
			_, err := idem.Do(t.Context(), tx, keyFor("outer"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				_, err := idem.Do(ctx, tx, keyFor("outer"), never(t))
				want(t, err, idem.ErrNested)
				return idem.Response{}, nil
			})
			noError(t, err)
			usable(t, pool, tx)
		})
	})
}

// What the caller wrote before and after a Do that failed in its savepoint commits, and the same key may run again in the
// same transaction.
func TestDo_savepoint(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		var c counter
		tx := begin(t, pool)
		noError(t, insertOrder(t.Context(), tx, "before"))
		_, err := idem.Do(t.Context(), tx, keyFor("k"), thenFail("k", errOutOfStock), idem.WithSavepoint())
		want(t, err, errOutOfStock)
		noError(t, insertOrder(t.Context(), tx, "after"))
		first, err := idem.Do(t.Context(), tx, keyFor("k"), c.order("k"), idem.WithSavepoint())
		noError(t, err)
		replay, err := idem.Do(t.Context(), tx, keyFor("k"), never(t)) // again after its Do, in the same transaction
		noError(t, err)
		if same(t, first, replay); !replay.Replayed {
			t.Error("the same key after its Do, in the same transaction, is not a replay")
		}
		noError(t, tx.Commit(t.Context()))
		one(t, pool, "k")
		if orders(t, pool, "before") != 1 || orders(t, pool, "after") != 1 {
			t.Error("the caller's own writes are gone")
		}
	})
}
