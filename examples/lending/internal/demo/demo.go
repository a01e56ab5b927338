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
	"github.com/pgidem/pgidem/idem"
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
	d, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := d.drive(ctx); err != nil {
		return nil, err
	}
	return d.count(ctx)
}

// run is one run of the demo.
type run struct {
	Options
	plan     []*operation
	driver   driver
	counters *counters
	projects []string

	histories []*history
	elapsed   time.Duration
}

// begin prepares the database and the plan.
func begin(ctx context.Context, o Options) (*run, error) {
	if err := schema.Migrate(ctx, o.DatabaseURL); err != nil {
		return nil, err
	}
	d := &run{Options: o, counters: newCounters()}
	var slots int
	d.plan, slots = makePlan(o.Seed, o.Operations)
	partners, err := partners(ctx, o.DatabaseURL, slots)
	if err != nil {
		return nil, err
	}
	for i, p := range partners {
		d.projects = append(d.projects, p.Name)
		for j := range d.driver.clients[i] {
			d.driver.clients[i][j] = newClient(p.Token)
		}
	}
	return d, nil
}

// partners creates the projects, under names of this run alone: whatever else is in the database is not counted.
func partners(ctx context.Context, url string, slots int) ([]database.Project, error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	if err := idem.Check(ctx, pool); err != nil {
		return nil, err
	}
	suffix := rand.Uint32()
	var all []database.Project
	for _, name := range []string{"north", "harbour", "meadow"} {
		p, err := database.CreateProject(ctx, pool, fmt.Sprintf("%s-%08x", name, suffix), database.Terms{
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
func (d *run) drive(ctx context.Context) (err error) {
	for range replicas {
		r, err := startReplica(ctx, d.DatabaseURL, d.counters, d.Options)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.stop(context.WithoutCancel(ctx))) }()
		d.driver.servers = append(d.driver.servers, r.url)
	}

	stop := make(chan struct{})
	if d.Limit > 0 {
		t := time.AfterFunc(d.Limit, func() { close(stop) })
		defer t.Stop()
	}
	began := time.Now()
	quiet := d.report(began)
	d.histories, err = d.driver.drive(ctx, d.plan, stop)
	d.elapsed = time.Since(began)
	quiet()
	return err
}

// report tells Progress how far it is, until the function that it returns is called.
func (d *run) report(began time.Time) (stop func()) {
	if d.Progress == nil {
		return func() {}
	}
	show := func() {
		d.Progress(Progress{
			Operations: int(d.driver.done.Load()), Of: d.Operations, Requests: int(d.driver.requests.Load()),
			Replayed: int(d.counters.replayed.Load()), Elapsed: time.Since(began),
		})
	}
	finish, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			show()
			select {
			case <-tick.C:
			case <-finish:
				return
			}
		}
	}()
	return func() { close(finish); <-finished }
}

// count finds out what became of it all.
func (d *run) count(ctx context.Context) (*Result, error) {
	conn, err := pgx.Connect(ctx, d.DatabaseURL)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return d.countOn(ctx, conn)
}

func (d *run) countOn(ctx context.Context, conn *pgx.Conn) (*Result, error) {
	r := &Result{
		Protected: !d.WithoutIdem, Database: d.Database, Seed: d.Seed, Planned: d.Operations, Projects: d.projects, Elapsed: d.elapsed,
	}
	if err := verify(ctx, r, &ledger{conn: conn, projects: d.projects}, d.histories, d.counters); err != nil {
		return nil, fmt.Errorf("count: %w", err)
	}
	return r, nil
}
