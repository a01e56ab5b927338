package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/examples/lending/internal/database"
	"github.com/pgidem/pgidem/examples/lending/internal/schema"
)

// Options say what to drive.
type Options struct {
	// DatabaseURL is where to work, and Database says in words what that is. Required.
	DatabaseURL, Database string

	// Operations is how many things the partners want. Required.
	Operations int

	// Seed decides what they are and how they are sent.
	Seed uint64

	// Limit is when to begin no more operations, counted from the first one. 0 means never.
	Limit time.Duration

	// WithoutIdem is the control: the same handlers in plain transactions, without idempotency keys.
	WithoutIdem bool

	// Progress is told from time to time how far it is. Defaults to nobody.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Operations, Of     int
	Requests, Replayed int
	Elapsed            time.Duration
}

// Run migrates the database, starts two servers, drives them and counts. What it finds is in the result; an error says
// that it could not finish.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := schema.Migrate(ctx, o.DatabaseURL); err != nil {
		return nil, err
	}
	plan, slots := makePlan(o.Seed, o.Operations)
	r := &Result{Protected: !o.WithoutIdem, Database: o.Database, Seed: o.Seed, Planned: o.Operations}
	d := &driver{}
	tokens, err := seed(ctx, o.DatabaseURL, slots)
	if err != nil {
		return nil, err
	}
	for i, p := range tokens {
		r.Projects = append(r.Projects, p.Name)
		for j := range d.clients[i] {
			d.clients[i][j] = newClient(p.Token)
		}
	}

	c := newCounters()
	histories, elapsed, err := drive(ctx, o, d, plan, c)
	if err != nil {
		return nil, err
	}
	r.Elapsed = elapsed

	conn, err := pgx.Connect(ctx, o.DatabaseURL)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := verify(ctx, r, &ledger{conn: conn, projects: r.Projects}, histories, c); err != nil {
		return nil, fmt.Errorf("count: %w", err)
	}
	return r, nil
}

// seed creates the projects, under names of this run alone: whatever else is in the database is not counted.
func seed(ctx context.Context, url string, slots int) ([]database.Project, error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	run := rand.Uint32() //nolint:gosec // a name, not a secret
	var all []database.Project
	for _, name := range []string{"north", "harbour", "meadow"} {
		p, err := database.CreateProject(ctx, pool, fmt.Sprintf("%s-%08x", name, run), database.Terms{
			Accounts: accounts, Currency: currency, Opening: opening, ChargeLimit: chargeLimit, Slots: slots,
		})
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// drive starts the servers, sends everything and stops the servers, so that nothing moves when the counting begins.
func drive(ctx context.Context, o Options, d *driver, plan []*operation, c *counters) (_ []*history, _ time.Duration, err error) {
	for range replicas {
		r, err := startReplica(ctx, o.DatabaseURL, c, o)
		if err != nil {
			return nil, 0, err
		}
		defer func() { err = errors.Join(err, r.stop(context.WithoutCancel(ctx))) }()
		d.servers = append(d.servers, r.url)
	}

	stop := make(chan struct{})
	if o.Limit > 0 {
		t := time.AfterFunc(o.Limit, func() { close(stop) })
		defer t.Stop()
	}
	began := time.Now()
	report := func() {
		if o.Progress != nil {
			o.Progress(Progress{
				Operations: int(d.done.Load()), Of: o.Operations,
				Requests: int(d.requests.Load()), Replayed: int(c.replayed.Load()), Elapsed: time.Since(began),
			})
		}
	}
	finished := make(chan struct{})
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				report()
			case <-finished:
				report()
				return
			}
		}
	}()
	histories, err := d.drive(ctx, plan, stop)
	elapsed := time.Since(began)
	close(finished)
	<-reported
	return histories, elapsed, err
}
