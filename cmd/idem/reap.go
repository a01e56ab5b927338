package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgidem/pgidem/idem"
)

func (a *app) reap() *cobra.Command {
	var r idem.Reaper
	c := &cobra.Command{
		Use:   "reap",
		Short: "Delete expired records, one pass",
		Long: `Delete expired records: one pass, made for a line in a crontab.

Records go oldest first, in batches that each commit, so that nothing is locked for long
and a pass that is stopped (SIGTERM, SIGINT: after the running batch) loses nothing.
Records that another transaction holds are passed over. Two passes may overlap: the second
says who is at work and ends with exit code 0.

When the database's clock is much further than one would expect since the last pass, it
may have jumped, and live records would look expired: that pass deletes nothing and says
so, and so does every other one for the next --interval. Therefore say with --interval how
far apart your runs are, when that is more than an hour.

The role needs SELECT and DELETE on idem.keys, and SELECT, INSERT and UPDATE on idem.reaper.`,
		Example: `  # crontab: every minute
  * * * * *  idem reap --database-url postgres://reaper@db.example/app

  # crontab: once a night, for up to an hour
  0 3 * * *  idem reap --interval 24h --max-duration 1h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case r.BatchSize < 1:
				return usageError{fmt.Errorf("--batch is %d, it must be at least 1", r.BatchSize)}
			case r.MaxDuration <= 0, r.Interval <= 0:
				return usageError{errors.New("--max-duration and --interval must be above 0")}
			case r.Grace < 0:
				return usageError{fmt.Errorf("--grace is %v, it must not be negative", r.Grace)}
			}
			ctx := cmd.Context()
			conn, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer disconnect(ctx, conn)
			r.DB = conn
			res, err := r.Reap(ctx)
			stopped := ctx.Err() != nil && errors.Is(err, context.Canceled)
			if err == nil || stopped || res.Deleted > 0 {
				fmt.Fprintln(a.stdout, summary(res, stopped))
			}
			if stopped {
				return nil
			}
			return err
		},
	}
	f := c.Flags()
	f.IntVar(&r.BatchSize, "batch", 1000, "most `records` that one transaction deletes")
	f.DurationVar(&r.MaxDuration, "max-duration", 4*time.Minute, "start no further batch after this `time`")
	f.DurationVar(&r.Grace, "grace", 0, "keep records for this `time` after they have expired")
	f.DurationVar(&r.Interval, "interval", time.Minute, "`time` between two runs, to tell a clock that jumped")
	return c
}

// summary says in one line what a pass did, or why it did nothing.
func summary(r idem.ReapResult, stopped bool) string {
	var s strings.Builder
	switch {
	case r.Deleted > 0:
		fmt.Fprintf(&s, "deleted %s in %s (%v)", plural(r.Deleted, "expired record"), plural(int64(r.Batches), "batch"), short(r.Duration))
	default:
		fmt.Fprintf(&s, "nothing deleted (%v)", short(r.Duration))
	}
	if r.Note != "" {
		s.WriteString(": " + r.Note)
	}
	if stopped {
		s.WriteString("; stopped by a signal")
	}
	if r.Skipped == idem.SkipBusy {
		return s.String()
	}
	if r.Blocked > 0 {
		fmt.Fprintf(&s, "; passed over %s that other transactions hold", plural(int64(r.Blocked), "record"))
	}
	if r.Backlog == 0 {
		s.WriteString("; no expired record left")
		return s.String()
	}
	fmt.Fprintf(&s, "; %s left, the oldest for %v", expired(r.Backlog), short(r.Behind()))
	return s.String()
}

// expired counts expired records, as far as they are counted.
func expired(n int64) string {
	if n >= 100_000 {
		return "100000 or more expired records"
	}
	return plural(n, "expired record")
}

func plural(n int64, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "ch"):
		what += "es"
	default:
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// short rounds a duration to what one wants to read.
func short(d time.Duration) time.Duration {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond)
	case d < time.Second:
		return d.Round(time.Millisecond)
	case d < time.Minute:
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}
