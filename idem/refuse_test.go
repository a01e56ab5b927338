package idem_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

var declined = idem.Response{
	Status: 402, Header: map[string][]string{"Content-Type": {"application/json"}}, Body: []byte(`{"error":"declined"}`),
}

func TestRefuse_case21(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for i, refuse := range []func() error{
			func() error { return idem.Refuse(declined) },
			func() error { return fmt.Errorf("charge: %w", idem.Refuse(declined)) },
			func() error { return errors.Join(errOutOfStock, idem.Refuse(declined)) },
		} {
			name := fmt.Sprint("refused-", i)
			r, err := call(t.Context(), pool, keyFor(name), thenFail(name, refuse()), idem.WithSavepoint())
			noError(t, err)
			if r.Replayed || r.CreatedAt.IsZero() || r.Status != 402 || string(r.Body) != string(declined.Body) {
				t.Errorf("the refusal comes back as %+v", r)
			}
			if o, n := orders(t, pool, name), records(t, pool, name); o != 0 || n != 1 {
				t.Errorf("%d orders and %d records", o, n)
			}
			replay, err := call(t.Context(), pool, keyFor(name), never(t))
			noError(t, err)
			if same(t, r, replay); !replay.Replayed {
				t.Error("not marked as a replay")
			}
		}
	})
}

func TestRun_case21_refuseWithoutSavepoint(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		calls := 0
		r, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			calls++
			return thenFail("k", idem.Refuse(declined))(ctx, tx)
		})
		noError(t, err)
		if calls != 1 || r.Replayed || r.Status != 402 {
			t.Errorf("%d calls, answer %+v", calls, r)
		}
		if o, n := orders(t, pool, "k"), records(t, pool, "k"); o != 0 || n != 1 {
			t.Errorf("%d orders and %d records", o, n)
		}
		replay, err := idem.Run(t.Context(), pool, keyFor("k"), never(t))
		noError(t, err)
		same(t, r, replay)
	})
}

// A refusal of a failed transaction is remembered all the same: its writes go anyway. fn has to say so, though.
func TestRefuse_afterAFailedStatement(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		r, err := call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			noError(t, insertOrder(ctx, tx, "k"))
			_, err := tx.Exec(ctx, `SELECT 1/0`)
			return idem.Response{}, errors.Join(err, idem.Refuse(declined))
		}, idem.WithSavepoint())
		noError(t, err)
		if r.Status != 402 || orders(t, pool, "k") != 0 || records(t, pool, "k") != 1 {
			t.Errorf("answer %+v, %d orders, %d records", r, orders(t, pool, "k"), records(t, pool, "k"))
		}
	})
	t.Run("Run_without_savepoint", func(t *testing.T) {
		t.Parallel()
		pool := newPool(t)
		r, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			_, err := tx.Exec(ctx, `SELECT 1/0`)
			return idem.Response{}, errors.Join(err, idem.Refuse(declined))
		})
		noError(t, err)
		if r.Status != 402 || records(t, pool, "k") != 1 {
			t.Errorf("answer %+v, %d records", r, records(t, pool, "k"))
		}
	})
}

// A refusal that cannot be stored is an error, and nothing is written.
func TestRefuse_thatCannotBeStored(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		_, err := call(t.Context(), pool, keyFor("k"), thenFail("k", idem.Refuse(idem.Response{Body: []byte("ab")})), idem.WithSavepoint(), idem.WithMaxBody(1))
		want(t, err, idem.ErrResponseTooLarge)
		nothing(t, pool, "k")
		_, err = call(t.Context(), pool, keyFor("k"), thenFail("k", idem.Refuse(idem.Response{Status: 1})), idem.WithSavepoint())
		want(t, err, idem.ErrInvalidCall)
		nothing(t, pool, "k")
	})
}

// Between the rollback of a refusing fn and the transaction that records its refusal the key is free. Whoever takes it then
// wins, and the refusing call replays that answer.
func TestRun_refusalRace(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		refusing, spy := spied(t, pool)
		var winner idem.Response
		lookedUp := 0
		spy.on(func(flight string) {
			if flight != "begin + idem: lock + idem: look" {
				return
			}
			if lookedUp++; lookedUp == 2 { // fn has refused, its transaction is rolled back
				var err error
				var c counter
				winner, err = idem.Run(t.Context(), pool, keyFor("k"), c.order("k"), idem.WithWait(0))
				noError(t, err)
			}
		}, nil)
		var seen []idem.Event
		r, err := idem.Run(t.Context(), refusing, keyFor("k"), thenFail("k", idem.Refuse(declined)), collect(&seen))
		noError(t, err)
		if lookedUp != 2 {
			t.Fatalf("%d look-ups", lookedUp)
		}
		if same(t, winner, r); !r.Replayed || seen[0].Outcome != idem.Replayed {
			t.Errorf("the winner's answer comes back with Replayed %v, outcome %v", r.Replayed, seen[0].Outcome)
		}
		one(t, pool, "k")
	})
}

func TestDo_refuseWithoutSavepoint(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		var seen []idem.Event
		_, err := do(t.Context(), pool, keyFor("k"), thenFail("k", idem.Refuse(declined)), collect(&seen))
		want(t, err, idem.ErrInvalidCall)
		if seen[0].Outcome != idem.Failed {
			t.Errorf("outcome %v", seen[0].Outcome)
		}
		nothing(t, pool, "k")
	})
}
