package idem

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is what *pgxpool.Pool, *pgx.Conn and pgx.Tx have in common.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Reaper deletes expired records. Nothing depends on it but the size of the table: an expired record counts as absent
// whether it is there or not.
//
// Any number of processes may have a Reaper on one database: one works at a time, the others find that out and stop. Its
// role needs SELECT and DELETE on idem.keys, and SELECT, INSERT and UPDATE on idem.reaper. A Reaper is safe for concurrent
// use while its fields are not changed.
type Reaper struct {
	// DB is where to reap: a *pgxpool.Pool, or a *pgx.Conn that nothing else uses meanwhile. Not a transaction, since each
	// batch must commit on its own. Required.
	DB DB

	// Interval is the time between two passes. When a pass finds that much more time has gone by since the last one (twice
	// the Interval, and more than 65 minutes), it takes the database's clock to have jumped and deletes nothing, see
	// ReaperSkip. So set it to the time between runs also where something else, such as cron, makes them. Defaults to 1 minute.
	Interval time.Duration

	// BatchSize is how many records one transaction deletes at most. Defaults to 1000.
	BatchSize int

	// MaxDuration is how long a pass may take: it starts no further batch then. Defaults to 4 minutes.
	MaxDuration time.Duration

	// Grace is how long a record is kept after it has expired. It changes nothing for callers; it leaves an operator
	// something to look at. Defaults to 0.
	Grace time.Duration

	// Logger gets what Run has to say: passes that deleted something, at level info; clocks that jumped and records that
	// could not be deleted, warn; errors. Reap does not log. Defaults to slog.Default().
	Logger *slog.Logger
}

// ReaperSkip is why a pass deleted nothing, or went no further.
type ReaperSkip string

const (
	// SkipBusy means that another reaper works on this database.
	SkipBusy ReaperSkip = "busy"

	// SkipClockJumped means that the database's clock is far ahead of the last pass. A clock that was set wrong would have
	// live records deleted, so that requests run a second time; a reaper that did not run for long looks the same. For one
	// Interval nothing is deleted, which is the time to put a clock right; then passes go on whatever the gap.
	SkipClockJumped ReaperSkip = "clock_jumped"
)

// ReapResult is what one pass did.
type ReapResult struct {
	// Deleted is the number of records that were deleted, in that many Batches, each a transaction.
	Deleted int64
	Batches int

	// Blocked is the number of expired records that were passed over because another transaction holds them.
	Blocked int

	// Backlog is the number of expired records that were left, counted up to 100,000, and OldestExpired when the oldest of
	// them expired; zero where there is none. With SkipClockJumped they are what the clock says is expired.
	Backlog       int64
	OldestExpired time.Time

	// Skipped is why nothing, or nothing more, was deleted. Empty in a pass that went through.
	Skipped ReaperSkip

	// Note says in words what is unusual: why the pass was skipped and who else reaps, or that the clock went back. Empty
	// where nothing is.
	Note string

	// Started is when the pass began by the database's clock; Duration how long it took.
	Started  time.Time
	Duration time.Duration
}

// Behind returns how long ago the oldest record expired that was left, or 0.
func (r ReapResult) Behind() time.Duration {
	if r.OldestExpired.IsZero() {
		return 0
	}
	return r.Started.Sub(r.OldestExpired)
}

// withDefaults checks r and fills in what is not set.
func (r *Reaper) withDefaults() (Reaper, error) {
	wrong, hint := "", ""
	switch _, isTx := r.DB.(pgx.Tx); {
	case r.DB == nil:
		wrong, hint = "DB is nil", "give it a pool or a connection"
	case isTx:
		wrong, hint = "DB is a transaction", "each batch must commit on its own: give it a pool or a connection"
	case r.Interval < 0, r.BatchSize < 0, r.MaxDuration < 0, r.Grace < 0:
		wrong = fmt.Sprintf("a negative setting: Interval %v, BatchSize %d, MaxDuration %v, Grace %v", r.Interval, r.BatchSize, r.MaxDuration, r.Grace)
	}
	if wrong != "" {
		return Reaper{}, &Error{Op: "reap", Err: ErrInvalidCall, detail: wrong, Hint: hint}
	}
	c := *r
	if c.Interval == 0 {
		c.Interval = time.Minute
	}
	if c.BatchSize == 0 {
		c.BatchSize = 1000
	}
	if c.MaxDuration == 0 {
		c.MaxDuration = 4 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

// Reap makes one pass: it deletes what has expired, oldest first, in batches that each commit, until nothing is due or
// MaxDuration has passed. That another reaper works, or that the clock jumped, is no error: see ReapResult.Skipped.
//
// When ctx ends, the running batch gets a few seconds to finish, and Reap returns ctx's error with what it did until then.
// After any error what was deleted stays deleted, and the next pass goes on from there.
func (r *Reaper) Reap(ctx context.Context) (ReapResult, error) {
	cfg, err := r.withDefaults()
	if err != nil {
		return ReapResult{}, err
	}
	p := pass{Reaper: cfg, start: time.Now()}
	err = p.run(ctx)
	p.res.Duration = time.Since(p.start)
	return p.res, err
}

// Run calls Reap now and then every Interval, a little later each time so that many processes do not come at once, until
// ctx is done. It starts no goroutine of its own: give it one. An error of a pass is logged, and the next pass tries
// again. Run returns nil when ctx is done, and ErrInvalidCall at once where the Reaper cannot work at all.
func (r *Reaper) Run(ctx context.Context) error {
	cfg, err := r.withDefaults()
	if err != nil {
		return err
	}
	for {
		res, err := cfg.Reap(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // whatever the last pass says, this is how Run ends
		}
		cfg.log(ctx, res, err)
		sleep(ctx, cfg.Interval+rand.N(cfg.Interval/10+1))
	}
}

func (r *Reaper) log(ctx context.Context, res ReapResult, err error) {
	attrs := []slog.Attr{
		slog.Int64("deleted", res.Deleted), slog.Int("batches", res.Batches), slog.Int64("backlog", res.Backlog),
		slog.Duration("behind", res.Behind()), slog.Duration("duration", res.Duration),
	}
	level, msg := slog.LevelDebug, "idem: nothing to reap"
	switch {
	case err != nil:
		level, msg = slog.LevelError, "idem: reaper failed, the next pass tries again"
		attrs = append(attrs, slog.Any("error", err))
	case res.Skipped == SkipBusy:
		msg = "idem: reaper stopped: " + res.Note
	case res.Note != "":
		level, msg = slog.LevelWarn, "idem: reaper: "+res.Note
	case res.Blocked > 0:
		level, msg = slog.LevelWarn, "idem: reaper passed over expired records that other transactions hold"
		attrs = append(attrs, slog.Int("blocked", res.Blocked))
	case res.Backlog > 0:
		level, msg = slog.LevelWarn, "idem: reaper is behind"
	case res.Deleted > 0:
		level, msg = slog.LevelInfo, "idem: reaped"
	}
	r.Logger.LogAttrs(ctx, level, msg, attrs...)
}
