package idem

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// jumpFloor is the shortest gap that is ever taken for a jump of the clock: an hour, and a little more so that a line in
	// an hourly crontab never is.
	jumpFloor = 65 * time.Minute

	// backSlack is how far a clock may go back without being worth a note.
	backSlack = time.Second

	// mostBacklog is where counting what is left ends.
	mostBacklog = 100_000
)

// What idem.reaper says of the clock.
const (
	clockOK     = "ok"
	clockJumped = "jumped" // the pass deleted nothing for that
	clockBack   = "went_back"
)

// pass is one pass of a Reaper, which is there with its defaults filled in.
type pass struct {
	Reaper
	window
	start time.Time // by our monotonic clock
	size  int       // of the next batch
	held  int       // one of the next held records is held by another transaction; 0 where nothing is known of that
	clock string
	res   ReapResult
}

func (p *pass) run(ctx context.Context) error {
	ok, err := p.look(ctx)
	if !ok || err != nil {
		return err
	}
	p.size = p.BatchSize
	for more := true; more && err == nil && time.Since(p.start) < p.MaxDuration; {
		if err = ctx.Err(); err == nil {
			more, err = p.batch(ctx)
		}
	}
	p.res.Blocked = p.passed
	if p.res.Skipped != "" { // the reaper that took over reports
		return err
	}
	// Whatever happened, what was done is worth storing.
	if reportErr := p.report(ctx); err == nil {
		err = reportErr
	}
	return err
}

// look reads the clock, compares it with the last pass and stores that this one has begun. It reports whether to go on.
func (p *pass) look(ctx context.Context) (ok bool, err error) {
	err = p.inTx(ctx, func(ctx context.Context, tx pgx.Tx, now time.Time) error {
		p.res.Started = now
		p.cutoff = now.Add(-p.Grace)
		var err error
		if ok, err = p.judge(ctx, tx, now); ok && err == nil {
			err = p.store(ctx, tx, nil)
		}
		return err
	})
	return ok, err
}

// judge compares the clock with what the last pass stored.
func (p *pass) judge(ctx context.Context, tx pgx.Tx, now time.Time) (ok bool, err error) {
	var last time.Time
	var lastClock string
	switch err := tx.QueryRow(ctx, sqlReapLast).Scan(&last, &lastClock); {
	case errors.Is(err, pgx.ErrNoRows): // the first pass ever
		p.clock = clockOK
		return true, nil
	case err != nil:
		return false, err
	}
	gap := now.Sub(last)
	limit := max(2*p.Interval, jumpFloor)
	hold := p.Interval - p.Interval/10 // a little less than the Interval: whatever calls us is not exact either
	p.clock = clockOK
	switch {
	case gap < -backSlack:
		p.clock = clockBack
		p.res.Note = fmt.Sprintf("the database's clock went back by %v or more since the last pass; nothing is deleted too early by that", -gap.Round(time.Second))
	case lastClock == clockJumped && gap < hold:
		p.res.Skipped = SkipClockJumped
		p.res.Note = fmt.Sprintf("the database's clock jumped ahead before %s: nothing is deleted until %s", utc(last), utc(last.Add(hold)))
		return false, p.count(ctx, tx)
	case lastClock != clockJumped && gap > limit:
		p.clock = clockJumped
		p.res.Skipped = SkipClockJumped
		p.res.Note = fmt.Sprintf("the last pass was %v ago by the database's clock, more than %v: the clock jumped, or no reaper ran. "+
			"Nothing is deleted until %s. Set Interval to the time between runs", gap.Round(time.Second), limit, utc(now.Add(hold)))
		if err := p.count(ctx, tx); err != nil {
			return false, err
		}
		return false, p.store(ctx, tx, new(time.Duration))
	}
	return true, nil
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// count counts what is left, from the beginning: what was passed over lies before the window.
func (p *pass) count(ctx context.Context, tx pgx.Tx) error {
	var oldest *time.Time
	err := tx.QueryRow(ctx, sqlReapBacklog, time.Time{}, p.cutoff, mostBacklog).Scan(&p.res.Backlog, &oldest)
	if oldest != nil {
		p.res.OldestExpired = oldest.UTC()
	}
	return err
}

// report counts what is left and stores what the pass did.
func (p *pass) report(ctx context.Context) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	return p.begin(ctx, func(tx pgx.Tx) error {
		if err := p.count(ctx, tx); err != nil {
			return err
		}
		took := time.Since(p.start)
		return p.store(ctx, tx, &took)
	})
}

// store writes the one row of idem.reaper; took is nil for a pass that has only begun.
func (p *pass) store(ctx context.Context, tx pgx.Tx, took *time.Duration) error {
	var oldest *time.Time
	if !p.res.OldestExpired.IsZero() {
		oldest = &p.res.OldestExpired
	}
	_, err := tx.Exec(ctx, sqlReapReport, p.res.Started, p.clock, took, p.res.Deleted, p.res.Batches, p.passed, p.res.Backlog, oldest)
	return err
}

// inTx runs fn in a transaction of its own that holds the reaper's lock, with the database's clock. When another reaper
// holds it, fn is not called and the result says so. Once begun, the transaction has a few seconds to end after ctx has.
func (p *pass) inTx(ctx context.Context, fn func(context.Context, pgx.Tx, time.Time) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := outlive(ctx, endTimeout)
	defer cancel()
	return p.begin(ctx, func(tx pgx.Tx) error {
		var locked bool
		var now time.Time
		if err := tx.QueryRow(ctx, sqlReapLock, reaperLock).Scan(&locked, &now); err != nil {
			return err
		}
		if !locked {
			return p.busy(ctx, tx)
		}
		return fn(ctx, tx, now)
	})
}

// reapSettings are for the transaction only.
var reapSettings = [...]string{sqlReapPropagate, sqlReapLockTimeout, sqlReapPlan, sqlReapNoScan, sqlReapNoBitmap}

// begin runs fn in a transaction of its own that never waits long for a row.
func (p *pass) begin(ctx context.Context, fn func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, p.DB, func(tx pgx.Tx) error {
		// Alone and without arguments: a query that is parsed in front of it would take a snapshot already.
		if _, err := tx.Exec(ctx, sqlReapBegin); err != nil {
			return err
		}
		b := &pgx.Batch{}
		for _, set := range reapSettings {
			b.Queue(set)
		}
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		return fn(tx)
	})
	switch {
	case err == nil:
		return nil
	case sqlState(err) == stateNoTable && strings.Contains(err.Error(), "idem.reaper"):
		return &Error{
			Op: "reap", Err: schemaError("idem: table idem.reaper does not exist"), cause: err,
			Hint: `run "idem migrate up", or goose with the files in migrations/`,
		}
	case sqlState(err) == stateLockTimeout:
		return &Error{Op: "reap", Err: err, Hint: "something holds a lock on the whole table; the next pass tries again"}
	}
	return explain("reap", Key{}, err)
}

// busy finds out who else reaps.
func (p *pass) busy(ctx context.Context, tx pgx.Tx) error {
	p.res.Skipped, p.res.Note = SkipBusy, "another reaper is running"
	var pid int32
	var name string
	switch err := tx.QueryRow(ctx, sqlReapHolder, reaperLock).Scan(&pid, &name); {
	case errors.Is(err, pgx.ErrNoRows): // its batch has just ended
	case err != nil:
		return err
	case name == "":
		p.res.Note += fmt.Sprintf(" (pid %d)", pid)
	default:
		p.res.Note += fmt.Sprintf(" (pid %d, application %q)", pid, name)
	}
	return nil
}

// outlive returns a context that ends d after ctx does.
func outlive(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel(context.Cause(ctx))
		case <-out.Done():
		}
	})
	return out, func() { stop(); cancel(nil) }
}
