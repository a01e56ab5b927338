package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/localpg"
)

// cost is what one operation of a variant takes, whatever the speed of the machine.
type cost struct {
	flights int64   // what the client sends, and waits for the answer
	allocs  float64 // Go allocations
	bytes   float64 // bytes of them
	wal     float64 // bytes
	heap    float64 // bytes of tables, TOAST included
	index   float64 // bytes of indexes
}

// costs measures each variant with one client: bytes on tables of its own, on a quiet server with warm connections.
func costs(ctx context.Context, s *localpg.Server, n int) (map[string]cost, error) {
	res := map[string]cost{}
	err := withPool(ctx, s, "flights", 1, 0, true, func(pool *pgxpool.Pool, p *proxy) error {
		for _, v := range variants {
			flights, err := flightsOf(ctx, pool, p, v)
			if err != nil {
				return fmt.Errorf("variant %s: %w", v.id, err)
			}
			res[v.id] = cost{flights: flights}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = withoutPageImages(ctx, s, func() error {
		for _, v := range variants {
			err := withPool(ctx, s, "cost_"+v.id, 1, 0, false, func(pool *pgxpool.Pool, _ *proxy) error {
				c := res[v.id]
				if err := c.storage(ctx, pool, v, n); err != nil {
					return err
				}
				defer func() { res[v.id] = c }()
				return c.allocations(ctx, pool, v, n/4)
			})
			if err != nil {
				return fmt.Errorf("variant %s: %w", v.id, err)
			}
		}
		return nil
	})
	return res, err
}

// operations returns n operations for v that can be run one after the other.
func operations(ctx context.Context, pool *pgxpool.Pool, v variant, n int) ([]operation, error) {
	if v.replays {
		return fillRecords(ctx, pool, n)
	}
	ops := make([]operation, n)
	r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	for i := range ops {
		ops[i] = newOperation(r)
	}
	return ops, nil
}

func runAll(ctx context.Context, pool *pgxpool.Pool, v variant, ops []operation) error {
	for i := range ops {
		if err := v.run(ctx, pool, &ops[i]); err != nil {
			return err
		}
	}
	return nil
}

// warm is how many operations go before a measurement: prepared statements, plans (PostgreSQL settles on one at the sixth
// execution), first pages.
const warm = 50

// flightsOf counts the flights of one warm operation.
func flightsOf(ctx context.Context, pool *pgxpool.Pool, p *proxy, v variant) (int64, error) {
	ops, err := operations(ctx, pool, v, warm+1)
	if err != nil {
		return 0, err
	}
	if err := runAll(ctx, pool, v, ops[:warm]); err != nil {
		return 0, err
	}
	p.startCount()
	err = runAll(ctx, pool, v, ops[warm:])
	return p.flights.Load(), err
}

// withoutPageImages calls f with full_page_writes off. After a checkpoint the first change of each page writes the whole
// page to the WAL: how much of that falls on one operation depends on the size of the tables and on the time between
// checkpoints, and is no property of the variant.
func withoutPageImages(ctx context.Context, s *localpg.Server, f func() error) error {
	conn, err := pgx.Connect(ctx, s.URL(""))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	set := func(ctx context.Context, value string) error {
		// The checkpointer applies the setting, before the checkpoint.
		for _, sql := range []string{`ALTER SYSTEM SET full_page_writes = ` + value, `SELECT pg_reload_conf()`, `SELECT pg_sleep(0.05)`, `CHECKPOINT`} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	}
	if err := set(ctx, "off"); err != nil {
		return err
	}
	err = f()
	if setErr := set(context.WithoutCancel(ctx), "on"); err == nil {
		err = setErr
	}
	return err
}

const (
	sqlWAL  = `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint`
	sqlSize = `SELECT sum(pg_table_size(c))::bigint, sum(pg_indexes_size(c))::bigint
FROM (VALUES ('public.payments'::regclass), ('public.claims'), ('idem.keys')) AS t (c)`
)

// storage measures what n operations write.
func (c *cost) storage(ctx context.Context, pool *pgxpool.Pool, v variant, n int) error {
	ops, err := operations(ctx, pool, v, warm+n)
	if err != nil {
		return err
	}
	if err := runAll(ctx, pool, v, ops[:warm]); err != nil {
		return err
	}
	look := func() (wal, heap, index int64, err error) {
		if err = pool.QueryRow(ctx, sqlWAL).Scan(&wal); err == nil {
			err = pool.QueryRow(ctx, sqlSize).Scan(&heap, &index)
		}
		return wal, heap, index, err
	}
	wal, heap, index, err := look()
	if err != nil {
		return err
	}
	if err := runAll(ctx, pool, v, ops[warm:]); err != nil {
		return err
	}
	wal2, heap2, index2, err := look()
	if err != nil {
		return err
	}
	per := float64(n)
	c.wal, c.heap, c.index = float64(wal2-wal)/per, float64(heap2-heap)/per, float64(index2-index)/per
	return nil
}

// allocations measures what this program allocates for one operation, in the best of some runs: what runs beside it only
// adds.
func (c *cost) allocations(ctx context.Context, pool *pgxpool.Pool, v variant, n int) error {
	for i := range 4 {
		ops, err := operations(ctx, pool, v, warm+n)
		if err != nil {
			return err
		}
		if err := runAll(ctx, pool, v, ops[:warm]); err != nil {
			return err
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		if err := runAll(ctx, pool, v, ops[warm:]); err != nil {
			return err
		}
		runtime.ReadMemStats(&after)
		allocs := float64(after.Mallocs-before.Mallocs) / float64(n)
		bytes := float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
		if i == 0 || allocs < c.allocs {
			c.allocs, c.bytes = allocs, bytes
		}
	}
	return nil
}
