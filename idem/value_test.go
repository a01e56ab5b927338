package idem_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

type booking struct {
	ID     string   `json:"id"`
	Seats  []int    `json:"seats"`
	Amount *int64   `json:"amount,omitempty"`
	Hidden string   `json:"-"`
	Nested *booking `json:"nested,omitempty"`
}

type valueCaller func(ctx context.Context, pool *pgxpool.Pool, key idem.Key, fn func(context.Context, pgx.Tx) (booking, error), opts ...idem.Option) (idem.Result[booking], error)

func bothValues(t *testing.T, test func(t *testing.T, pool *pgxpool.Pool, call valueCaller)) {
	t.Helper()
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		t.Run("RunValue", func(t *testing.T) { test(t, pool, idem.RunValue[booking]) })
		empty(t, pool)
		t.Run("DoValue", func(t *testing.T) {
			test(t, pool, func(ctx context.Context, pool *pgxpool.Pool, key idem.Key, fn func(context.Context, pgx.Tx) (booking, error), opts ...idem.Option) (r idem.Result[booking], err error) {
				err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
					r, err = idem.DoValue(ctx, tx, key, fn, opts...)
					return err
				})
				return r, err
			})
		})
	})
}

func TestValue(t *testing.T) {
	bothValues(t, func(t *testing.T, pool *pgxpool.Pool, call valueCaller) {
		amount := int64(1) << 53
		amount++
		v := booking{ID: "b\x00<é>", Seats: []int{3, 1}, Amount: &amount, Hidden: "secret", Nested: &booking{ID: "n"}}
		first, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (booking, error) {
			return v, insertOrder(ctx, tx, "k")
		})
		noError(t, err)
		v.Hidden = "" // missing at once, not only on the replay
		if !reflect.DeepEqual(first.Value, v) || first.Replayed || first.CreatedAt.IsZero() {
			t.Errorf("first call: %+v", first)
		}
		replay, err := call(t.Context(), pool, keyFor("k"), func(context.Context, pgx.Tx) (booking, error) {
			t.Error("fn was called")
			return booking{}, nil
		})
		noError(t, err)
		if !reflect.DeepEqual(replay.Value, v) || !replay.Replayed || !replay.CreatedAt.Equal(first.CreatedAt) {
			t.Errorf("replay: %+v", replay)
		}
		one(t, pool, "k")

		_, err = call(t.Context(), pool, keyFor("fails"), func(ctx context.Context, tx pgx.Tx) (booking, error) {
			noError(t, insertOrder(ctx, tx, "fails"))
			return v, errOutOfStock
		})
		if err != errOutOfStock {
			t.Errorf("fn's error came back as %v", err)
		}
		nothing(t, pool, "fails")

		_, err = call(t.Context(), pool, keyFor("nil"), nil)
		want(t, err, idem.ErrInvalidCall)
	})
}

func TestValue_case21_refuse(t *testing.T) {
	bothValues(t, func(t *testing.T, pool *pgxpool.Pool, call valueCaller) {
		refuse := func(ctx context.Context, tx pgx.Tx) (booking, error) {
			noError(t, insertOrder(ctx, tx, "k"))
			r, err := idem.JSON(0, booking{ID: "sold out"})
			return booking{ID: "ignored"}, errors.Join(err, idem.Refuse(r))
		}
		for i := range 2 {
			r, err := call(t.Context(), pool, keyFor("k"), refuse, idem.WithSavepoint())
			noError(t, err)
			if r.Value.ID != "sold out" || r.Replayed != (i == 1) {
				t.Errorf("call %d: %+v", i, r)
			}
		}
		if o, n := orders(t, pool, "k"), records(t, pool, "k"); o != 0 || n != 1 {
			t.Errorf("%d orders and %d records", o, n)
		}
	})
}

// halfJSON has a JSON form that it cannot be read back from.
type halfJSON struct{ F func() }

func (halfJSON) MarshalJSON() ([]byte, error) { return []byte(`{"F":1}`), nil }

func TestValue_case30_notJSON(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		_, err := idem.RunValue(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (chan int, error) {
			return make(chan int), insertOrder(ctx, tx, "k")
		})
		if err == nil {
			t.Error("a channel was recorded")
		}
		nothing(t, pool, "k")
		_, err = idem.RunValue(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (halfJSON, error) {
			return halfJSON{}, insertOrder(ctx, tx, "k")
		})
		if err == nil {
			t.Error("a value that cannot be read back was recorded")
		}
		nothing(t, pool, "k")
		tx := begin(t, pool)
		_, err = idem.DoValue(t.Context(), tx, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (chan int, error) {
			return nil, insertOrder(ctx, tx, "k")
		})
		if err == nil {
			t.Error("a channel was recorded")
		}
		want(t, tx.Commit(t.Context()), pgx.ErrTxCommitRollback)
		nothing(t, pool, "k")
	})
}

// A record of another type is an error with a hint, not a half-filled value.
func TestValue_otherType(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		_, err := idem.RunValue(t.Context(), pool, keyFor("k"), func(context.Context, pgx.Tx) (string, error) { return "text", nil })
		noError(t, err)
		r, err := idem.RunValue(t.Context(), pool, keyFor("k"), func(context.Context, pgx.Tx) (booking, error) { return booking{}, nil })
		e, ok := errors.AsType[*idem.Error](err)
		if !ok || e.Hint == "" || !reflect.DeepEqual(r, idem.Result[booking]{}) {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func TestValue_noValue(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	for range 2 {
		r, err := idem.RunValue(t.Context(), pool, keyFor("k"), func(context.Context, pgx.Tx) (*booking, error) { return nil, nil })
		noError(t, err)
		if r.Value != nil {
			t.Errorf("nil came back as %+v", r.Value)
		}
	}
}

// A refusal that is not a T would be recorded and then be an error for ever. It is one at once, and nothing is written.
func TestValue_refusalOfAnotherType(t *testing.T) {
	bothValues(t, func(t *testing.T, pool *pgxpool.Pool, call valueCaller) {
		for _, body := range []string{"", "no", `"text"`} {
			_, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (booking, error) {
				noError(t, insertOrder(ctx, tx, "k"))
				return booking{}, idem.Refuse(idem.Response{Body: []byte(body)})
			}, idem.WithSavepoint())
			if err == nil {
				t.Errorf("a refusal with the body %q was recorded", body)
			}
			nothing(t, pool, "k")
		}
	})
}
