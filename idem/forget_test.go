package idem_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

func TestForget(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		var c counter
		key := keyFor("k")
		for range 2 {
			_, err := idem.Run(t.Context(), pool, key, c.order("k"))
			noError(t, err)
		}
		if c.calls.Load() != 1 {
			t.Fatalf("%d calls", c.calls.Load())
		}
		bare := key
		bare.RequestHash = idem.Hash{}
		for _, wantFound := range []bool{true, false} {
			found, err := idem.Forget(t.Context(), pool, bare)
			noError(t, err)
			if found != wantFound {
				t.Errorf("found is %v", found)
			}
		}
		_, err := idem.Run(t.Context(), pool, key, c.order("k"))
		noError(t, err)
		if c.calls.Load() != 2 {
			t.Errorf("after Forget: %d calls", c.calls.Load())
		}
	})
}

// Forget names one record and touches no other.
func TestForget_oneOnly(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	keys := []idem.Key{
		{Project: "acme", Endpoint: "e", Value: "k"},
		{Project: "acme", Endpoint: "e", Value: "k2"},
		{Project: "acme", Endpoint: "e2", Value: "k"},
		{Project: "acme2", Endpoint: "e", Value: "k"},
	}
	for _, k := range keys {
		_, err := idem.Run(t.Context(), pool, k, func(context.Context, pgx.Tx) (idem.Response, error) { return idem.Response{}, nil }, idem.WithoutRequestHash())
		noError(t, err)
	}
	_, err := idem.Forget(t.Context(), pool, keys[0])
	noError(t, err)
	if n := count(t, pool, `SELECT count(*) FROM idem.keys`); n != 3 {
		t.Errorf("%d of 3 others left", n)
	}
	if n := count(t, pool, `SELECT count(*) FROM idem.keys WHERE project = 'acme' AND endpoint = 'e' AND key = 'k'`); n != 0 {
		t.Error("the record is still there")
	}
}

func TestForget_inATransaction(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	seed(t, pool, "k", 2, time.Hour)
	tx, err := pool.Begin(t.Context())
	noError(t, err)
	defer undo(t, tx)
	found, err := idem.Forget(t.Context(), tx, keyFor("k0"))
	noError(t, err)
	if n, err := idem.ForgetProject(t.Context(), tx, "acme"); err != nil || n != 1 || !found {
		t.Errorf("%v, %d, %v", found, n, err)
	}
	noError(t, tx.Rollback(t.Context()))
	if like(t, pool, "k") != 2 {
		t.Error("forgotten although the transaction rolled back")
	}
}

func TestForgetProject_case92_thatProjectOnly(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		seed(t, pool, "a", 5, time.Hour)
		seed(t, pool, "b", 5, -time.Hour)
		_, err := pool.Exec(t.Context(), `UPDATE idem.keys SET project = CASE key WHEN 'a2' THEN 'ACME' ELSE 'acme2' END WHERE key IN ('a1', 'a2', 'b1')`)
		noError(t, err)
		for _, want := range []int64{7, 0} {
			n, err := idem.ForgetProject(t.Context(), pool, "acme")
			noError(t, err)
			if n != want {
				t.Errorf("%d forgotten, want %d", n, want)
			}
		}
		if n := count(t, pool, `SELECT count(*) FROM idem.keys`); n != 3 {
			t.Errorf("%d of 3 records of other projects left", n)
		}
	})
}

func TestForget_errors(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	_, err := idem.Forget(t.Context(), pool, idem.Key{Project: "acme", Endpoint: "e"})
	want(t, err, idem.ErrInvalidKey)
	_, err = idem.Forget(t.Context(), pool, idem.Key{Endpoint: "e", Value: "k"})
	want(t, err, idem.ErrInvalidKey)
	for _, project := range []string{"", "a\x00b", "\xff", strings.Repeat("x", 256)} {
		_, err = idem.ForgetProject(t.Context(), pool, project)
		want(t, err, idem.ErrInvalidKey)
	}
	_, err = idem.Forget(t.Context(), nil, keyFor("k"))
	want(t, err, idem.ErrInvalidCall)
	_, err = idem.ForgetProject(t.Context(), nil, "acme")
	want(t, err, idem.ErrInvalidCall)

	empty := connect(t, pgtest.Empty(t))
	_, err = idem.Forget(t.Context(), empty, keyFor("k"))
	want(t, err, idem.ErrNoSchema)
	_, err = idem.ForgetProject(t.Context(), empty, "acme")
	want(t, err, idem.ErrNoSchema)
}
