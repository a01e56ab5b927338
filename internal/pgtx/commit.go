package pgtx

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Statement is SQL with its arguments.
type Statement struct {
	SQL  string
	Args []any
}

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
// the answer has come or the connection has died.
func Commit(ctx context.Context, conn *pgx.Conn, last *Statement, commit string, limit time.Duration, late func()) error {
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
		r.err = commitNow(context.WithoutCancel(ctx), conn, last, commit)
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
			late()
		}()
		return &CommitError{Err: ErrLate, Late: true}
	}
}

func commitNow(ctx context.Context, conn *pgx.Conn, last *Statement, commit string) error {
	var tag pgconn.CommandTag
	var err error
	if last == nil {
		tag, err = conn.Exec(ctx, commit)
	} else {
		b := &pgx.Batch{}
		b.Queue(last.SQL, last.Args...)
		b.Queue(commit)
		br := conn.SendBatch(ctx, b)
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
