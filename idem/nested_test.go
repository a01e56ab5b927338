package idem_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

func TestNested_case31_sameKey(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		_, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			_, err := idem.Do(ctx, tx, keyFor("k"), never(t))
			want(t, err, idem.ErrNested)
			_, err = idem.Run(ctx, pool, keyFor("k"), never(t)) // another connection: it would wait for this one
			want(t, err, idem.ErrNested)
			other := keyFor("k")
			other.RequestHash[0]++ // the hash is not what names an operation
			_, err = idem.Do(ctx, tx, other, never(t))
			want(t, err, idem.ErrNested)
			// Two levels deep, too.
			_, err = idem.Do(ctx, tx, keyFor("inner"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				_, err := idem.Do(ctx, tx, keyFor("k"), never(t))
				want(t, err, idem.ErrNested)
				return idem.Response{}, nil
			})
			noError(t, err)
			return idem.Response{}, insertOrder(ctx, tx, "k")
		})
		noError(t, err)
		one(t, pool, "k")
	})
}

func TestNested_case31_errorOfTheInnerCallFailsTheOuterOne(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		_, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			noError(t, insertOrder(ctx, tx, "k"))
			return idem.Do(ctx, tx, keyFor("k"), never(t))
		})
		want(t, err, idem.ErrNested)
		nothing(t, pool, "k")
	})
}

func TestNested_case32_otherKey(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		nest := func(outer, inner string, fail error) idem.Func {
			return func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				noError(t, insertOrder(ctx, tx, outer))
				r, err := idem.Do(ctx, tx, keyFor(inner), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
					return idem.Response{Body: []byte(inner)}, insertOrder(ctx, tx, inner)
				})
				return idem.Response{Body: append([]byte(outer+" with "), r.Body...)}, errors.Join(err, fail)
			}
		}
		r, err := call(t.Context(), pool, keyFor("outer"), nest("outer", "inner", nil))
		noError(t, err)
		if string(r.Body) != "outer with inner" {
			t.Errorf("body %q", r.Body)
		}
		one(t, pool, "outer")
		one(t, pool, "inner")

		_, err = call(t.Context(), pool, keyFor("outer2"), nest("outer2", "inner2", errOutOfStock)) // neither
		want(t, err, errOutOfStock)
		nothing(t, pool, "outer2")
		nothing(t, pool, "inner2")

		r, err = call(t.Context(), pool, keyFor("outer3"), nest("outer3", "inner", nil)) // the inner one replays
		noError(t, err)
		if string(r.Body) != "outer3 with inner" {
			t.Errorf("body %q", r.Body)
		}
		one(t, pool, "outer3")
		one(t, pool, "inner")
	})
}

// An inner Do that fails leaves the outer call nothing to commit, even when the outer fn ignores the error; with a savepoint
// it may go on.
func TestNested_innerFails(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		nest := func(opts ...idem.Option) idem.Func {
			return func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				noError(t, insertOrder(ctx, tx, "outer"))
				_, err := idem.Do(ctx, tx, keyFor("inner"), thenFail("inner", errOutOfStock), opts...)
				want(t, err, errOutOfStock)
				return idem.Response{}, nil
			}
		}
		_, err := call(t.Context(), pool, keyFor("outer"), nest())
		want(t, err, idem.ErrTxAborted)
		nothing(t, pool, "outer")
		nothing(t, pool, "inner")
		_, err = call(t.Context(), pool, keyFor("outer"), nest(idem.WithSavepoint()))
		noError(t, err)
		one(t, pool, "outer")
		nothing(t, pool, "inner")
	})
}

// An inner call's ErrInProgress or ErrKeyReused is about its key, not about the outer one: Run does not wait and try again
// for it, and an observer of the outer call sees a failure.
func TestNested_errorsOfTheInnerKey(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		holder := begin(t, pool)
		_, err := idem.Do(t.Context(), holder, keyFor("held"), returns(idem.Response{}))
		noError(t, err)
		_, err = idem.Run(t.Context(), pool, keyFor("recorded"), returns(idem.Response{}))
		noError(t, err)
		reused := keyFor("recorded")
		reused.RequestHash[0]++
		for _, tt := range []struct {
			key  idem.Key
			want error
		}{{keyFor("held"), idem.ErrInProgress}, {reused, idem.ErrKeyReused}} {
			var seen []idem.Event
			calls := 0
			_, err := idem.Run(t.Context(), pool, keyFor("outer"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				calls++
				return idem.Do(ctx, tx, tt.key, never(t))
			}, idem.WithWait(untilDone), collect(&seen))
			want(t, err, tt.want)
			if calls != 1 || len(seen) != 1 || seen[0].Outcome != idem.Failed {
				t.Errorf("%d calls of fn, events %+v", calls, seen)
			}
		}
	})
}

// Where fn drops the context that it was given nobody can see that the call is nested. It cannot run then either: the key is
// in progress, and after the wait it says so.
func TestNested_withoutTheContext(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		_, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			_, err := idem.Run(t.Context(), pool, keyFor("k"), never(t), idem.WithWait(0))
			want(t, err, idem.ErrInProgress)
			return idem.Response{}, insertOrder(ctx, tx, "k")
		})
		noError(t, err)
		one(t, pool, "k")
	})
}

// The context of fn is the caller's in everything else.
func TestFunc_context(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		type ctxKey struct{}
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), ctxKey{}, "value"), time.Hour)
		defer cancel()
		deadline, _ := ctx.Deadline()
		var kept context.Context
		_, err := call(ctx, pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			kept = ctx
			if got, ok := ctx.Deadline(); !ok || !got.Equal(deadline) || ctx.Value(ctxKey{}) != "value" || ctx.Err() != nil {
				t.Errorf("fn's context has deadline %v, value %v, error %v", got, ctx.Value(ctxKey{}), ctx.Err())
			}
			return idem.Response{}, nil
		})
		noError(t, err)
		child, stop := context.WithCancel(kept) // it may be kept, such as by what fn has started
		defer stop()
		cancel()
		<-child.Done()
		want(t, kept.Err(), context.Canceled)
	})
}

func TestDo_sameKeyAgainInTheSameTransaction(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		var c counter
		tx := begin(t, pool)
		first, err := idem.Do(t.Context(), tx, keyFor("k"), c.order("k"))
		noError(t, err)
		replay, err := idem.Do(t.Context(), tx, keyFor("k"), never(t))
		noError(t, err)
		if same(t, first, replay); !replay.Replayed {
			t.Error("not marked as a replay")
		}
		other := keyFor("k")
		other.RequestHash[0]++
		_, err = idem.Do(t.Context(), tx, other, never(t))
		want(t, err, idem.ErrKeyReused)
		noError(t, tx.Commit(t.Context()))
		one(t, pool, "k")
	})
}
