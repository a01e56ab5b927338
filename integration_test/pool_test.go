package integration

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/integration_test/internal/ledger"
	"github.com/pgidem/pgidem/integration_test/internal/provider"
)

// One slow call, 50 duplicates that wait for it, and everybody else. Waiters hold
// no connection: with a pool of 2, of which the slow call has one, any single waiter
// that kept the other would stop everybody else for good.
func TestRun_case47_waitersHoldNoConnection(t *testing.T) {
	t.Parallel()
	for _, size := range []int32{10, 2} {
		t.Run(fmt.Sprint("pool of ", size), func(t *testing.T) {
			t.Parallel()
			const duplicates, others = 50, 200
			tried := newTries()
			pool, err := openPool(t.Context(), provider.New(t), pgx.QueryExecModeCacheStatement, size, tried)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)

			// The slow call.
			began, finish := make(chan struct{}), make(chan struct{})
			begin := sync.OnceFunc(func() { close(began) }) // a second run is counted below
			runs := 0
			results := make([]idem.Response, duplicates+1)
			errs := make([]error, duplicates+1)
			var wg sync.WaitGroup
			end := sync.OnceFunc(func() { close(finish); wg.Wait() })
			defer end()
			fn := func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				resp, err := entry("slow", &runs)(ctx, tx)
				begin()
				<-finish
				return resp, err
			}
			call := func(i int) {
				ctx := context.WithValue(t.Context(), caller{}, i)
				results[i], errs[i] = idem.Run(ctx, pool, newKey("slow"), fn, idem.WithWait(long))
			}
			wg.Go(func() { call(duplicates) })
			<-began

			for i := range duplicates {
				wg.Go(func() { call(i) })
			}
			tried.wait(t, duplicates+1)

			// All of them wait now. At some instant between their tries the slow call alone has a connection.
			deadline := time.Now().Add(long)
			for pool.Stat().AcquiredConns() > 1 {
				if time.Now().After(deadline) {
					t.Fatalf("%d connections are in use, and only one call does anything", pool.Stat().AcquiredConns())
				}
				runtime.Gosched()
			}

			var unrelated sync.WaitGroup
			for worker := range 4 {
				unrelated.Go(func() {
					n := 0
					for i := range others / 4 {
						ref := fmt.Sprintf("other-%d-%d", worker, i)
						if _, err := idem.Run(t.Context(), pool, newKey(ref), entry(ref, &n)); err != nil {
							t.Errorf("%s: %v", ref, err)
							return
						}
					}
				})
			}
			unrelated.Wait()
			var done int
			if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM ledger`).Scan(&done); err != nil {
				t.Fatal(err)
			}
			if done != others {
				t.Errorf("%d unrelated operations are done beside the slow one, want %d", done, others)
			}
			ledger.None(t, pool, "slow") // it is still being worked on

			end()
			for i, err := range errs {
				if err != nil {
					t.Fatalf("call %d: %v", i, err)
				}
				if results[i].Replayed != (i != duplicates) || string(results[i].Body) != string(results[duplicates].Body) {
					t.Errorf("call %d: %+v, want a replay of %+v", i, results[i], results[duplicates])
				}
			}
			if runs != 1 {
				t.Errorf("fn ran %d times", runs)
			}
			ledger.Once(t, pool, "slow")
		})
	}
}
