package pgtx

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CommitError says that the answer to COMMIT was an error, was lost or did not come in time: the transaction may have
// committed. Every other error of Commit means that COMMIT was not executed.
type CommitError struct {
	Err  error
	Late bool // no answer came in time; the connection is in use until late is called
}

func (e *CommitError) Error() string { return "commit: " + e.Err.Error() }
func (e *CommitError) Unwrap() error { return e.Err }

// ErrLate is the cause of a CommitError with Late set.
var ErrLate = errors.New("no answer in time")

// Commit sends the last statement of a transaction and COMMIT in one flight: when the statement fails, the server skips
// the COMMIT. Where last is nil only COMMIT is sent. commit is the COMMIT statement, usually "commit".
//
// Nothing cancels a COMMIT once it is sent: on a dead context pgx asks the server to cancel, and a COMMIT that is cancelled
// while it waits for a synchronous standby succeeds without that standby. So ctx is used for its values only, and when the
// answer takes longer than limit, Commit returns and the connection waits on; late is called in another goroutine when
// the answer has come or the connection has died, which for a peer that vanished is when TCP keepalive gives up.
func Commit(ctx context.Context, conn *pgx.Conn, last *Batch, commit string, limit time.Duration, late Releaser) error {
	f := flights.Get().(*flight)
	f.conn, f.last, f.commit = conn, last, commit
	if last != nil {
		last.ctx = uncancelled{ctx}
		f.ctx = &last.ctx
	} else {
		f.ctx = context.WithoutCancel(ctx)
	}
	go f.send()
	f.timer.Reset(limit)
	if <-f.ended {
		err, panicked := f.err, f.panicked
		if f.timer.Stop() { // else the timer's answer is still to come
			f.ctx, f.conn, f.last, f.err, f.panicked = nil, nil, nil, nil, nil
			flights.Put(f)
		}
		if panicked != nil {
			panic(panicked)
		}
		return err
	}
	go func() {
		<-f.ended
		late.Release()
	}()
	return &CommitError{Err: ErrLate, Late: true}
}

var errNoReturn = &CommitError{Err: errors.New("the goroutine that waits for the answer was ended")}

// Releaser is what a late COMMIT keeps from being released, such as a *pgxpool.Conn.
type Releaser interface{ Release() }

// flight is a COMMIT under way.
type flight struct {
	ctx      context.Context
	conn     *pgx.Conn
	last     *Batch
	commit   string
	err      error
	panicked any

	ended chan bool // true: with the results above; false: not in time
	timer *time.Timer
	send  func()
}

// flights keeps those that have landed: channel, timer and functions would be five allocations for each COMMIT.
var flights = sync.Pool{New: func() any {
	f := &flight{ended: make(chan bool, 2)}
	f.timer = time.AfterFunc(time.Hour, func() { f.ended <- false })
	f.timer.Stop()
	f.send = func() {
		defer func() {
			f.panicked = recover() // a tracer's: it belongs to the caller
			f.ended <- true
		}()
		f.err = errNoReturn // should a tracer end this goroutine
		f.err = f.commitNow()
	}
	return f
}}

func (f *flight) commitNow() error {
	var tag pgconn.CommandTag
	var err error
	if f.last == nil {
		tag, err = f.conn.Exec(f.ctx, f.commit)
	} else {
		br := f.conn.SendBatch(f.ctx, f.last.Queue(f.commit, nil))
		if _, err = br.Exec(); err != nil {
			_ = br.Close() // it repeats err
			if skipped(err) {
				return err
			}
			return &CommitError{Err: err}
		}
		tag, err = br.Exec()
		if closeErr := br.Close(); err == nil {
			err = closeErr
		}
	}
	switch {
	case err != nil:
		return &CommitError{Err: err}
	case tag.String() == "ROLLBACK":
		return &CommitError{Err: pgx.ErrTxCommitRollback}
	}
	return nil
}

// skipped reports whether an error of the statement before COMMIT proves that COMMIT was not executed: the batch failed
// while it was prepared, before it was sent, or a living server reported the error for that statement.
func skipped(err error) bool {
	if _, ok := errors.AsType[pgx.ErrPreprocessingBatch](err); ok {
		return true
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		severity := pg.SeverityUnlocalized
		if severity == "" {
			severity = pg.Severity
		}
		return severity == "ERROR"
	}
	return false
}
