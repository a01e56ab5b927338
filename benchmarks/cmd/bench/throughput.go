package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/localpg"
)

// scene is under what conditions throughput is measured.
type scene struct {
	clients int
	latency time.Duration // added to each round trip
}

// slice is what one variant did in one slice of time.
type slice struct {
	rate           float64 // operations per second
	client, server float64 // seconds of CPU per operation; 0 where that cannot be measured
}

// series is the throughput in one scene.
type series struct {
	scene
	ping   time.Duration      // the median round trip of an empty statement
	slices map[string][]slice // by variant, one per round
}

// neighbours are compared with each other and therefore measured one right after the other, in an order that changes
// from round to round: what else the machine does changes over seconds.
var neighbours = [][]string{{"a", "f", "b"}, {"c", "e"}, {"g", "h"}, {"d"}}

// replayKeys is how many records there are to replay.
const replayKeys = 1000

// throughput measures all variants in one scene, on a database of its own.
func throughput(ctx context.Context, s *localpg.Server, sc scene, rounds int, length time.Duration) (series, error) {
	res := series{scene: sc, slices: map[string][]slice{}}
	err := withPool(ctx, s, fmt.Sprintf("throughput_%d_%v", sc.clients, sc.latency), sc.clients, sc.latency, false, func(pool *pgxpool.Pool, _ *proxy) error {
		replay, err := fillRecords(ctx, pool, replayKeys)
		if err != nil {
			return err
		}
		if res.ping, err = pingOf(ctx, pool); err != nil {
			return err
		}
		done := map[string]int64{}
		run := func(id string) (slice, error) {
			sl, n, err := measure(ctx, pool, variantByID(id), sc.clients, length, replay)
			done[id] += n
			return sl, err
		}
		// The first round warms up connections, prepared statements and caches, and counts for nothing.
		for _, v := range variants {
			if _, err := run(v.id); err != nil {
				return err
			}
		}
		if _, err := pool.Exec(ctx, `CHECKPOINT`); err != nil {
			return err
		}
		for range rounds {
			groups := slices.Clone(neighbours)
			rand.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] })
			for _, ids := range groups {
				ids = slices.Clone(ids)
				rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
				for _, id := range ids {
					sl, err := run(id)
					if err != nil {
						return err
					}
					res.slices[id] = append(res.slices[id], sl)
				}
			}
		}
		return checkRows(ctx, pool, done)
	})
	return res, err
}

// fillRecords records n operations and returns them.
func fillRecords(ctx context.Context, pool *pgxpool.Pool, n int) ([]operation, error) {
	ops := make([]operation, n)
	r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	for i := range ops {
		ops[i] = newOperation(r)
		if _, err := pool.Exec(ctx, sqlInsertRecord, recordOf(&ops[i])...); err != nil {
			return nil, err
		}
	}
	return ops, nil
}

func pingOf(ctx context.Context, pool *pgxpool.Pool) (time.Duration, error) {
	var times []time.Duration
	for range 51 {
		start := time.Now()
		if err := pool.Ping(ctx); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

// measure lets all clients do v for one slice of time, and returns how many operations that were.
func measure(ctx context.Context, pool *pgxpool.Pool, v variant, clients int, length time.Duration, replay []operation) (slice, int64, error) {
	var wg sync.WaitGroup
	var total atomic.Int64
	errs := make([]error, clients)
	meter, err := startCPU(ctx, pool)
	if err != nil {
		return slice{}, 0, err
	}
	start := time.Now()
	for i := range clients {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
			n := int64(0)
			for time.Since(start) < length && errs[i] == nil {
				var op operation
				if v.replays {
					op = replay[r.IntN(len(replay))]
				} else {
					op = newOperation(r)
				}
				err := v.run(ctx, pool, &op)
				if err != nil {
					errs[i] = fmt.Errorf("variant %s: %w", v.id, err)
				}
				n++
			}
			total.Add(n)
		})
	}
	wg.Wait()
	took := time.Since(start)
	client, server := meter.stop()
	n := total.Load()
	return slice{
		rate: float64(n) / took.Seconds(), client: client.Seconds() / float64(n), server: server.Seconds() / float64(n),
	}, n, errors.Join(errs...)
}

// checkRows proves that every operation that was counted did its work.
func checkRows(ctx context.Context, pool *pgxpool.Pool, done map[string]int64) error {
	var want, got struct{ payments, records, claims int64 }
	want.records = replayKeys
	for id, n := range done {
		v := variantByID(id)
		want.payments += n * int64(v.payments)
		want.records += n * int64(v.records)
		want.claims += n * int64(v.claims)
	}
	err := pool.QueryRow(ctx, `SELECT (SELECT count(*) FROM payments), (SELECT count(*) FROM idem.keys), (SELECT count(*) FROM claims)`).
		Scan(&got.payments, &got.records, &got.claims)
	if err == nil && got != want {
		err = fmt.Errorf("rows (payments, records, claims): got %v, want %v", got, want)
	}
	return err
}
