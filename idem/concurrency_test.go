package idem_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

// crowd calls n times at once and returns the answers in the order in which they came.
func crowd(n int, call func() (idem.Response, error)) (answers []idem.Response, failed []error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range n {
		wg.Go(func() {
			<-start
			r, err := call()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
				return
			}
			answers = append(answers, r)
		})
	}
	close(start)
	wg.Wait()
	return answers, failed
}

// slow is c.order with a pause between the write and the answer.
func (c *counter) slow(ref string, pause time.Duration) idem.Func {
	return func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		r, err := c.order(ref)(ctx, tx)
		time.Sleep(pause)
		return r, err
	}
}

func TestConcurrency_case38_hundredCallersThatWait(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var c counter
		answers, failed := crowd(100, func() (idem.Response, error) {
			return call(t.Context(), pool, keyFor("k"), c.slow("k", 10*time.Millisecond), idem.WithWait(untilDone))
		})
		if len(failed) > 0 {
			t.Fatalf("%d calls failed, such as with %v", len(failed), failed[0])
		}
		first := 0
		for _, r := range answers {
			if same(t, answers[0], r); !r.Replayed {
				first++
			}
		}
		if first != 1 {
			t.Errorf("%d answers are not marked as replays", first)
		}
		c.ran(t, 1)
		one(t, pool, "k")
	})
}

func TestConcurrency_case39_withoutWait(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var c counter
		_, failed := crowd(50, func() (idem.Response, error) {
			return call(t.Context(), pool, keyFor("k"), c.slow("k", 10*time.Millisecond), idem.WithWait(0))
		})
		for _, err := range failed {
			want(t, err, idem.ErrInProgress)
		}
		c.ran(t, 1)
		one(t, pool, "k")
	})
}

// Callers whose fn fails half of the time: every failure is followed by another run, and in the end one has committed.
func TestConcurrency_failingRuns(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var c counter
		answers, failed := crowd(20, func() (idem.Response, error) {
			return call(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				r, err := c.order("k")(ctx, tx)
				if c.calls.Load() <= 5 {
					return r, errOutOfStock
				}
				return r, err
			}, idem.WithWait(untilDone))
		})
		for _, err := range failed {
			want(t, err, errOutOfStock)
		}
		if len(failed) != 5 || len(answers) != 15 {
			t.Errorf("%d failed, %d answered", len(failed), len(answers))
		}
		c.ran(t, 6)
		one(t, pool, "k")
	})
}

func TestConcurrency_case40_firstRollsBackWhileADuplicateWaits(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var c counter
		holder := begin(t, pool)
		_, err := idem.Do(t.Context(), holder, keyFor("k"), c.order("k"))
		noError(t, err)
		waiting, spy := spied(t, pool)
		looks := 0
		spy.on(nil, func(flight string) {
			if isLook(flight) {
				if looks++; looks == 1 { // it has seen that the key is in progress
					noError(t, holder.Rollback(t.Context()))
				}
			}
		})
		r, err := call(t.Context(), waiting, keyFor("k"), c.order("k"), idem.WithWait(untilDone))
		noError(t, err)
		if r.Replayed || looks != 2 {
			t.Errorf("Replayed %v after %d looks", r.Replayed, looks)
		}
		c.ran(t, 2)
		one(t, pool, "k")
	})
}

func isLook(flight string) bool {
	return flight == "begin + idem: lock + idem: look" || flight == "idem: lock + idem: look"
}

func settings(t testing.TB, tx pgx.Tx) map[string]string {
	t.Helper()
	rows, err := tx.Query(t.Context(), `SELECT name, setting FROM pg_catalog.pg_settings`)
	noError(t, err)
	m := map[string]string{}
	var name, setting string
	_, err = pgx.ForEachRow(rows, []any{&name, &setting}, func() error { m[name] = setting; return nil })
	noError(t, err)
	return m
}

func TestDo_case44_waitElapses(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		holder := begin(t, pool)
		_, err := idem.Do(t.Context(), holder, keyFor("k"), returns(idem.Response{}))
		noError(t, err)
		for _, wait := range []time.Duration{0, time.Nanosecond, 50 * time.Millisecond} {
			tx := begin(t, pool)
			before := settings(t, tx)
			began := time.Now()
			_, err = idem.Do(t.Context(), tx, keyFor("k"), never(t), idem.WithWait(wait))
			want(t, err, idem.ErrInProgress)
			if took := time.Since(began); took < wait {
				t.Errorf("it took %v, the wait is %v", took, wait)
			}
			if after := settings(t, tx); !maps.Equal(before, after) {
				t.Error("settings of the transaction have changed")
			}
			usable(t, pool, tx)
		}
	})
}

// The last look comes when the time is up, so that a key which becomes free within the wait is found free.
func TestRun_case44_lastLookAtTheEndOfTheWait(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	holder := begin(t, pool)
	_, err := idem.Do(t.Context(), holder, keyFor("k"), returns(idem.Response{}))
	noError(t, err)
	waiting, spy := spied(t, pool)
	const wait, late = 300 * time.Millisecond, 30 * time.Millisecond // between the answer and the decision that it was the last
	var last time.Time
	spy.on(nil, func(flight string) {
		if isLook(flight) {
			last = time.Now()
		}
	})
	began := time.Now()
	_, err = idem.Run(t.Context(), waiting, keyFor("k"), never(t), idem.WithWait(wait))
	want(t, err, idem.ErrInProgress)
	if last.Sub(began) < wait-late {
		t.Errorf("the last look was over after %v, the wait is %v", last.Sub(began), wait)
	}
}

// A wait ends with its context, at once, and the error tells both.
func TestConcurrency_contextEndsWhileWaiting(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		holder := begin(t, pool)
		_, err := idem.Do(t.Context(), holder, keyFor("k"), returns(idem.Response{}))
		noError(t, err)
		waiting, spy := spied(t, pool)
		cause := errors.New("client went away")
		ctx, cancel := context.WithCancelCause(t.Context())
		spy.on(nil, func(flight string) {
			if isLook(flight) {
				time.AfterFunc(time.Millisecond, func() { cancel(cause) })
			}
		})
		_, err = call(ctx, waiting, keyFor("k"), never(t), idem.WithWait(untilDone))
		if !errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
			t.Errorf("error %v", err)
		}
	})
}

func TestConcurrency_case45_otherRequestOnAKeyInProgress(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		holder := begin(t, pool)
		_, err := idem.Do(t.Context(), holder, keyFor("k"), returns(idem.Response{}))
		noError(t, err)
		other := keyFor("k")
		other.RequestHash[0]++
		_, err = call(t.Context(), pool, other, never(t), idem.WithWait(0))
		want(t, err, idem.ErrInProgress)
		waiting, spy := spied(t, pool)
		var once sync.Once
		spy.on(nil, func(flight string) {
			if isLook(flight) {
				once.Do(func() { noError(t, holder.Commit(t.Context())) })
			}
		})
		_, err = call(t.Context(), waiting, other, never(t), idem.WithWait(untilDone))
		want(t, err, idem.ErrKeyReused)
	})
}

func TestConcurrency_case48_twoTakeovers(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		store(t, pool, keyFor("k"), "old", "now() - interval '2 days'", "now() - interval '1 day'")
		var c counter
		answers, failed := crowd(20, func() (idem.Response, error) {
			return call(t.Context(), pool, keyFor("k"), c.slow("k", time.Millisecond), idem.WithWait(untilDone))
		})
		if len(failed) > 0 {
			t.Fatal(failed[0])
		}
		for _, r := range answers {
			same(t, answers[0], r)
		}
		c.ran(t, 1)
		one(t, pool, "k")
	})
}

func TestDo_case50_twoKeysInOppositeOrder(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, wait := range []time.Duration{0, 30 * time.Millisecond} {
			empty(t, pool)
			one, other := begin(t, pool), begin(t, pool)
			_, err := idem.Do(t.Context(), one, keyFor("a"), returns(idem.Response{}))
			noError(t, err)
			_, err = idem.Do(t.Context(), other, keyFor("b"), returns(idem.Response{}))
			noError(t, err)
			var wg sync.WaitGroup
			wg.Go(func() {
				_, err := idem.Do(t.Context(), one, keyFor("b"), never(t), idem.WithWait(wait))
				if !errors.Is(err, idem.ErrInProgress) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				_, err := idem.Do(t.Context(), other, keyFor("a"), never(t), idem.WithWait(wait))
				if !errors.Is(err, idem.ErrInProgress) {
					t.Error(err)
				}
			})
			wg.Wait()
			usable(t, pool, one)
			noError(t, other.Commit(t.Context()))
			if records(t, pool, "a") != 1 || records(t, pool, "b") != 1 {
				t.Error("a record is missing")
			}
		}
	})
}

// Many transactions, each with the same keys in an order of its own: nobody deadlocks, and each key runs once.
func TestRun_case50_manyOrders(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		var c counter
		var order sync.Mutex
		next := 0
		_, failed := crowd(8, func() (idem.Response, error) {
			order.Lock()
			start, outer := next%4, fmt.Sprint("outer-", next)
			next++
			order.Unlock()
			for {
				r, err := idem.Run(t.Context(), pool, keyFor(outer), func(ctx context.Context, tx pgx.Tx) (r idem.Response, err error) {
					for i := range 4 {
						name := fmt.Sprint("inner-", (start+i)%4)
						if r, err = idem.Do(ctx, tx, keyFor(name), c.order(name)); err != nil {
							return r, err
						}
					}
					return r, nil
				})
				if !errors.Is(err, idem.ErrInProgress) {
					return r, err
				}
				time.Sleep(rand.N(10 * time.Millisecond))
			}
		})
		if len(failed) > 0 {
			t.Fatal(failed[0])
		}
		for i := range 4 {
			one(t, pool, fmt.Sprint("inner-", i))
		}
		for i := range 8 {
			if n := records(t, pool, fmt.Sprint("outer-", i)); n != 1 {
				t.Errorf("%d records of outer-%d", n, i)
			}
		}
	})
}

// Two keys with one lock id wait for each other and for nothing else. A collision in 64 bits cannot be made, so the test
// takes the lock of the key by hand.
func TestConcurrency_case51_lockCollision(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		recorded := keyFor("recorded")
		_, err := call(t.Context(), pool, recorded, returns(idem.Response{}))
		noError(t, err)
		holder := begin(t, pool)
		for _, key := range []idem.Key{recorded, keyFor("k")} {
			_, err := holder.Exec(t.Context(), `SELECT pg_catalog.pg_advisory_xact_lock($1)`, idem.LockID(key))
			noError(t, err)
		}
		r, err := call(t.Context(), pool, recorded, never(t), idem.WithWait(0))
		noError(t, err)
		if !r.Replayed {
			t.Error("a live record is not replayed while its lock is taken")
		}
		_, err = call(t.Context(), pool, keyFor("k"), never(t), idem.WithWait(0))
		want(t, err, idem.ErrInProgress)
		waiting, spy := spied(t, pool)
		var once sync.Once
		spy.on(nil, func(flight string) {
			if isLook(flight) {
				once.Do(func() { noError(t, holder.Rollback(t.Context())) })
			}
		})
		var c counter
		_, err = call(t.Context(), waiting, keyFor("k"), c.order("k"), idem.WithWait(untilDone))
		noError(t, err)
		one(t, pool, "k")
	})
}

// The id of a key's lock is part of what tools and other versions rely on: it must not change.
func TestKey_lockID(t *testing.T) {
	t.Parallel()
	for key, id := range map[idem.Key]int64{
		{Project: "acme", Endpoint: "POST /orders", Value: "k"}:                                             910840803855880215,
		{Project: "acme", Endpoint: "POST /orders", Value: "k", RequestHash: idem.HashRequest([]byte("x"))}: 910840803855880215,
		{Project: "acme", Endpoint: "POST /order", Value: "sk"}:                                             7295663256364269507,
	} {
		if got := idem.LockID(key); got != id {
			t.Errorf("%v: %d, want %d", key, got, id)
		}
	}
}

func TestConcurrency_case52_replaysDoNotBlockEachOther(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		first, err := idem.Run(t.Context(), pool, keyFor("k"), returns(idem.Response{Body: []byte("x")}))
		noError(t, err)
		for _, opts := range [][]idem.Option{{idem.WithWait(0)}, {idem.WithWait(0), idem.WithReplicatedReplay()}} {
			for range 3 { // each in a transaction that stays open
				replay, err := idem.Do(t.Context(), begin(t, pool), keyFor("k"), never(t), opts...)
				noError(t, err)
				same(t, first, replay)
			}
			replay, err := idem.Run(t.Context(), pool, keyFor("k"), never(t), opts...)
			noError(t, err)
			same(t, first, replay)
		}
	})
}

// Somebody records the key although the lock is ours, as on an engine whose advisory locks exclude nobody: fn's writes go,
// the record stays as it is.
func TestConcurrency_recordedByAnother(t *testing.T) {
	options := map[string][]idem.Option{
		"READ_COMMITTED":  nil,
		"REPEATABLE_READ": {idem.WithTxOptions(pgx.TxOptions{IsoLevel: pgx.RepeatableRead})},
		"SERIALIZABLE":    {idem.WithTxOptions(pgx.TxOptions{IsoLevel: pgx.Serializable})},
	}
	fn := func(c *counter) idem.Func {
		return func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			r, err := c.order("k")(ctx, tx)
			return r, errors.Join(err, recordedByAnother(ctx, tx))
		}
	}
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for level, opts := range options {
			for _, expired := range []bool{false, true} { // the other one may take over, too
				t.Run(fmt.Sprintf("%s_expired_%v", level, expired), func(t *testing.T) {
					prepare := func() {
						empty(t, pool)
						if expired {
							store(t, pool, keyFor("k"), "old", "now() - interval '2 days'", "now() - interval '1 day'")
						}
					}
					prepare()
					var c counter
					r, err := idem.Run(t.Context(), pool, keyFor("k"), fn(&c), opts...)
					noError(t, err)
					if !r.Replayed || string(r.Body) != "theirs" {
						t.Errorf("Run answers %+v", r)
					}
					c.ran(t, 1)
					if n := orders(t, pool, "k"); n != 0 {
						t.Errorf("%d orders", n)
					}

					prepare()
					var tx pgx.Tx
					switch level {
					case "READ_COMMITTED":
						tx = begin(t, pool)
					case "REPEATABLE_READ":
						tx = begin(t, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
					default:
						tx = begin(t, pool, pgx.TxOptions{IsoLevel: pgx.Serializable})
					}
					_, err = idem.Do(t.Context(), tx, keyFor("k"), fn(&c))
					if level == "READ_COMMITTED" {
						want(t, err, idem.ErrConflict)
					} else if !hasState(err, "40001") {
						t.Errorf("Do answers %v", err)
					}
					want(t, tx.Commit(t.Context()), pgx.ErrTxCommitRollback)
					if n := orders(t, pool, "k"); n != 0 {
						t.Errorf("%d orders", n)
					}
				})
			}
		}
	})
}
