package pgtx

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CommitError says that the answer to COMMIT was an error, was lost or did not come in time: the transaction may have
// committed. Every other error of Commit means that COMMIT was not executed.
type CommitError struct {
	Err  error
	Late bool // no answer came in time; the connection is in use until late is released
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
// answer takes longer than limit, Commit returns and the connection waits on; late is released by another goroutine when
// the answer has come or the connection has died, which for a peer that vanished is when TCP keepalive gives up.
//
// An answer that comes soon is read right here: a goroutine for each COMMIT costs a sixth of the time of a short
// transaction where the machine is busy.
func Commit(ctx context.Context, conn *pgx.Conn, last *Batch, commit string, limit time.Duration, late Releaser) error {
	if last == nil {
		return wait(limit, late, func() error {
			tag, err := conn.Exec(context.WithoutCancel(ctx), commit)
			return outcome(tag, err)
		})
	}
	last.ctx = uncancelled{ctx}
	batch := last.Queue(commit, nil)
	s := socketOf(conn)
	if s == nil || last.Bulky {
		return wait(limit, late, func() error { return read(conn.SendBatch(&last.ctx, batch)) })
	}
	br := s.send(conn, last, batch, limit)
	if s.answered(soon) {
		return read(br)
	}
	return wait(limit, late, func() error { return read(br) })
}

var errNoReturn = &CommitError{Err: errors.New("the goroutine that waits for the answer was ended")}

// soon is when an answer comes that is not worth a goroutine.
const soon = 50 * time.Millisecond

// Releaser is what a late COMMIT keeps from being released, such as a *pgxpool.Conn.
type Releaser interface{ Release() }

// wait calls commit in another goroutine, and does not wait for it longer than limit.
func wait(limit time.Duration, late Releaser, commit func() error) error {
	type result struct {
		err   error
		panic any
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			r.panic = recover() // a tracer's: it belongs to the caller
			done <- r
		}()
		r.err = errNoReturn // should a tracer end this goroutine
		r.err = commit()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-done:
		if r.panic != nil {
			panic(r.panic)
		}
		return r.err
	case <-timer.C:
		go func() {
			<-done
			late.Release()
		}()
		return &CommitError{Err: ErrLate, Late: true}
	}
}

// read reads the answers to a last statement and COMMIT.
func read(br pgx.BatchResults) error {
	if _, err := br.Exec(); err != nil {
		_ = br.Close() // it repeats err
		if skipped(err) {
			return err
		}
		return &CommitError{Err: err}
	}
	tag, err := br.Exec()
	if closeErr := br.Close(); err == nil {
		err = closeErr
	}
	return outcome(tag, err)
}

// outcome is what the answer to COMMIT says.
func outcome(tag pgconn.CommandTag, err error) error {
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
