package idem_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

var aboveReadCommitted = []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable}

// A duplicate whose snapshot is older than the winner's commit cannot see the record: it runs in vain and fails when it
// records, with the SQLSTATE on which every caller of such a transaction retries.
func TestIsolation_case41_42_doDuplicateWithAnOldSnapshot(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, level := range aboveReadCommitted {
			empty(t, pool)
			tx := begin(t, pool, pgx.TxOptions{IsoLevel: level})
			_, err := tx.Exec(t.Context(), `SELECT count(*) FROM public.orders`) // takes the snapshot
			noError(t, err)
			var c counter
			winner, err := idem.Run(t.Context(), pool, keyFor("k"), c.order("k"))
			noError(t, err)
			_, err = idem.Do(t.Context(), tx, keyFor("k"), c.order("k"))
			if !hasState(err, "40001") {
				t.Errorf("%s: %v", level, err)
			}
			want(t, tx.Commit(t.Context()), pgx.ErrTxCommitRollback)
			one(t, pool, "k")

			retry := begin(t, pool, pgx.TxOptions{IsoLevel: level})
			replay, err := idem.Do(t.Context(), retry, keyFor("k"), never(t))
			noError(t, err)
			same(t, winner, replay)
			noError(t, retry.Commit(t.Context()))
		}
	})
}

// A duplicate that had to wait knows that its snapshot is older, and does not run at all.
func TestIsolation_case41_42_doThatHadToWait(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, level := range aboveReadCommitted {
			for _, commits := range []bool{true, false} {
				empty(t, pool)
				holder := begin(t, pool)
				_, err := idem.Do(t.Context(), holder, keyFor("k"), returns(idem.Response{}))
				noError(t, err)
				waiting, spy := spied(t, pool)
				var once sync.Once
				spy.on(nil, func(flight string) {
					if isLook(flight) {
						once.Do(func() {
							if commits {
								noError(t, holder.Commit(t.Context()))
							} else {
								noError(t, holder.Rollback(t.Context()))
							}
						})
					}
				})
				tx := begin(t, waiting, pgx.TxOptions{IsoLevel: level})
				_, err = idem.Do(t.Context(), tx, keyFor("k"), never(t), idem.WithWait(untilDone))
				want(t, err, idem.ErrConflict)
				noError(t, tx.Rollback(t.Context()))
			}
		}
	})
}

func TestIsolation_case41_42_runRetriesAndReplays(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, level := range aboveReadCommitted {
			empty(t, pool)
			var c counter
			answers, failed := crowd(12, func() (idem.Response, error) {
				return idem.Run(t.Context(), pool, keyFor("k"), c.slow("k", 0), idem.WithWait(untilDone), idem.WithTxOptions(pgx.TxOptions{IsoLevel: level}))
			})
			if len(failed) > 0 {
				t.Fatalf("%s: %d calls failed, such as with %v", level, len(failed), failed[0])
			}
			for _, r := range answers {
				same(t, answers[0], r)
			}
			one(t, pool, "k")
		}
	})
}

func TestIsolation_case43_committedBeforeTheSnapshot(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, level := range aboveReadCommitted {
			empty(t, pool)
			first, err := idem.Run(t.Context(), pool, keyFor("k"), returns(idem.Response{Body: []byte("x")}))
			noError(t, err)
			tx := begin(t, pool, pgx.TxOptions{IsoLevel: level})
			replay, err := idem.Do(t.Context(), tx, keyFor("k"), never(t))
			noError(t, err)
			if same(t, first, replay); !replay.Replayed {
				t.Error("not marked as a replay")
			}
			usable(t, pool, tx)
		}
	})
}

// Distinct keys may abort each other under SERIALIZABLE, on a small table in particular. Run sees to that by itself.
func TestIsolation_case42_distinctKeys(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	var mu sync.Mutex
	next := 0
	_, failed := crowd(40, func() (idem.Response, error) {
		mu.Lock()
		next++
		name := fmt.Sprint("k", next)
		mu.Unlock()
		var c counter
		return idem.Run(t.Context(), pool, keyFor(name), c.order(name), idem.WithTxOptions(pgx.TxOptions{IsoLevel: pgx.Serializable}))
	})
	if len(failed) > 0 {
		t.Fatalf("%d calls failed, such as with %v", len(failed), failed[0])
	}
	for i := range next {
		one(t, pool, fmt.Sprint("k", i+1))
	}
}

// Run leaves the isolation level to the session's default, and takes the one that it is given.
func TestRun_txOptions(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		pool, spy := spied(t, pool)
		for _, tt := range []struct {
			options pgx.TxOptions
			begin   string
		}{
			{pgx.TxOptions{}, "begin"},
			{pgx.TxOptions{IsoLevel: pgx.Serializable}, "begin isolation level serializable"},
			{pgx.TxOptions{BeginQuery: "start transaction", CommitQuery: "end work"}, "start transaction"},
		} {
			spy.taken()
			var c counter
			name := tt.begin[:5] + fmt.Sprint(len(tt.begin))
			_, err := idem.Run(t.Context(), pool, keyFor(name), c.order(name), idem.WithTxOptions(tt.options))
			noError(t, err)
			one(t, pool, name)
			sent := spy.taken()
			commit := "commit"
			if tt.options.CommitQuery != "" {
				commit = tt.options.CommitQuery
			}
			if sent[0] != tt.begin+" + idem: lock + idem: look" || sent[2] != "idem: record + "+commit {
				t.Errorf("sent %q", sent)
			}
		}
	})
}
