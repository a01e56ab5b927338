package idem_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

func TestReplay_case1_2_3(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var c counter
		first, err := call(t.Context(), pool, keyFor("k1"), c.order("r1"))
		noError(t, err)
		if first.Replayed || first.CreatedAt.IsZero() {
			t.Fatalf("the first call answers Replayed %v, CreatedAt %v", first.Replayed, first.CreatedAt)
		}
		for range 9 {
			replay, err := call(t.Context(), pool, keyFor("k1"), c.order("r1"))
			noError(t, err)
			if !replay.Replayed {
				t.Fatal("a later call is not marked as a replay")
			}
			same(t, first, replay)
		}
		if n := c.calls.Load(); n != 1 {
			t.Errorf("fn was called %d times", n)
		}
		if n := orders(t, pool, "r1"); n != 1 {
			t.Errorf("%d orders", n)
		}
		if n := records(t, pool, "k1"); n != 1 {
			t.Errorf("%d records", n)
		}
	})
}
