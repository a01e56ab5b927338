package idem

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Limits of what Run does on its own before it gives its caller the error.
const (
	commitLimit    = 10 * time.Second // for an answer to COMMIT
	lostLimit      = 10 * time.Second // for a lost connection to be replaced
	mostLostRuns   = 5                // runs of fn that end with their connection: it may be fn that ends it
	mostConflicts  = 30               // transactions that end in 40001, 40P01 or ErrConflict
	mostRetryPause = 250 * time.Millisecond
)

// again marks an error of a transaction that is worth another one.
type again struct {
	error
	lost bool // the connection failed, not the transaction
}

// pause waits before the next try, and reports whether there is one.
func (r *runner) pause(ctx context.Context, err again) bool {
	var n int
	if err.lost {
		if r.lost.IsZero() {
			r.lost = time.Now()
		}
		if r.ran {
			r.lostRuns++
		}
		if r.lostRuns > mostLostRuns || time.Since(r.lost) > lostLimit {
			return false
		}
		n = 10
	} else {
		if r.conflicts++; r.conflicts > mostConflicts {
			return false
		}
		n = min(r.conflicts, 10)
	}
	start := time.Now()
	ok := sleep(ctx, rand.N(min(mostRetryPause, time.Millisecond<<n)))
	r.event.Waited += time.Since(start)
	return ok
}

// unknown is the error of a Run that gives up: while a COMMIT is in doubt nobody may take it for a failure.
func (r *runner) unknown(ctx context.Context, err error) error {
	if r.doubt == nil {
		return err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	e := r.fail(ErrOutcomeUnknown, "", "retry with the same key: it replays what committed, or runs")
	e.cause = fmt.Errorf("at COMMIT: %w; at the look-up: %w", r.doubt, err)
	return e
}

// sort tells an error that is worth another transaction from one that is not. COMMIT has not been sent, so that a lost
// connection is known to have left nothing.
func (r *runner) sort(ctx context.Context, conn *pgx.Conn, err error) error {
	timeout := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) // pgx closes the connection then
	switch {
	case ctx.Err() != nil:
		return err
	case conn.IsClosed() && !timeout:
		return again{err, true}
	case lostRace(err):
		return again{err, false}
	}
	return err
}

// connectError sorts an error of the pool. That a database cannot be reached at all is the caller's to know at once; one
// that was there a moment ago gets the time of a restart.
func (r *runner) connectError(ctx context.Context, err error) error {
	if ctx.Err() == nil && (r.doubt != nil || !r.lost.IsZero()) {
		return again{r.dbError(err), true}
	}
	return r.dbError(err)
}

// lostRace reports whether a transaction failed because of another one.
func lostRace(err error) bool {
	switch sqlState(err) {
	case stateSerialization, stateDeadlock:
		return true
	}
	return errors.Is(err, ErrConflict)
}

// worthAnother reports whether a transaction that failed at COMMIT with err may succeed next time. What the server said
// of the transaction itself, such as a deferred constraint, it would say again.
func worthAnother(err error) bool {
	state := sqlState(err)
	switch {
	case state == "":
		return !errors.Is(err, pgx.ErrTxCommitRollback) // a lost connection
	case lostRace(err), strings.HasPrefix(state, "08"), strings.HasPrefix(state, "57P"), state == "XX000":
		return true // or a server or, on Citus, a node that went away
	}
	return false
}
