package idem

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/pgtx"
)

// Run is Do in a transaction of its own, which it begins, commits and, where that helps, begins again. It adds no round
// trip to the transaction: BEGIN travels with the look-up, the record with COMMIT.
//
// While another call holds the key Run waits, by default up to 2 seconds, without holding a connection. On a serialization
// failure, a deadlock, ErrConflict or a lost connection it starts over, also when COMMIT was sent already: the key tells
// what became of it, so that the next try replays or runs. fn may therefore run more than once; only one run commits.
//
// COMMIT is not cancelled when ctx ends. When its answer is lost and the key cannot be looked up again in time, the error
// is ErrOutcomeUnknown: retry with the same key. After any other error nothing was written, and an error of fn is
// returned as it is.
func Run(ctx context.Context, pool *pgxpool.Pool, key Key, fn Func, opts ...Option) (resp Response, err error) {
	c, err := newCall(ctx, "run", key, pool != nil, fn, defaultRunWait, opts)
	r := runner{call: c, pool: pool, fn: fn}
	defer func() { c.done(ctx, resp, r.refused, err) }()
	if err != nil {
		return Response{}, err
	}
	return r.loop(ctx)
}

// Limits of what Run does on its own before it gives the caller the error.
const (
	commitLimit    = 10 * time.Second // for an answer to COMMIT
	lostLimit      = 10 * time.Second // for a lost connection to be replaced
	mostLostRuns   = 5                // runs of fn that end with their connection: it may be fn that ends it
	mostConflicts  = 30               // transactions that end in 40001, 40P01 or ErrConflict
	mostRetryPause = 250 * time.Millisecond
)

// runner is a Run.
type runner struct {
	*call
	pool    *pgxpool.Pool
	fn      Func
	refused bool

	doubt     error     // the error of a COMMIT that may have happened, until the key has been looked up
	conflicts int       // transactions that lost against another one
	lost      time.Time // when the connection was lost that no look-up has followed yet
	lostRuns  int       // runs of fn that ended with their connection
	ran       bool      // fn ran in this try
	pauses    int
}

// errRefused makes the loop go on with fn's refusal in place of fn, now that fn's writes are rolled back.
var errRefused = errors.New("refused")

func (r *runner) loop(ctx context.Context) (Response, error) {
	for w := r.newWait(); ; {
		resp, err := r.try(ctx)
		switch {
		case err == nil, r.final(err):
			return resp, err
		case err == errRefused:
		case errors.Is(err, ErrInProgress):
			if r.doubt != nil { // the lost COMMIT itself may hold the key for a moment
				w.most = max(w.most, defaultRunWait)
			}
			if !w.again(ctx) {
				return Response{}, r.unknown(w.explain(ctx, err))
			}
			r.event.Waited = w.waited()
		default:
			if !r.pause(ctx, err) {
				return Response{}, r.unknown(err)
			}
		}
	}
}

// again marks an error of a transaction that is worth another one.
type again struct {
	error
	lost bool // the connection, not the transaction, failed
}

func (a again) Unwrap() error { return a.error }

// final reports whether err ends the loop.
func (r *runner) final(err error) bool {
	_, more := err.(again)
	return !more && err != errRefused && !errors.Is(err, ErrInProgress)
}

// pause waits before the next try, and reports whether there is one.
func (r *runner) pause(ctx context.Context, err error) bool {
	if err.(again).lost {
		if r.lost.IsZero() {
			r.lost = time.Now()
		}
		if r.ran {
			r.lostRuns++
		}
		if r.lostRuns > mostLostRuns || time.Since(r.lost) > lostLimit {
			return false
		}
	} else if r.conflicts++; r.conflicts > mostConflicts {
		return false
	}
	r.pauses++
	start := time.Now()
	ok := sleep(ctx, rand.N(min(mostRetryPause, time.Millisecond<<min(r.pauses, 10))))
	r.event.Waited += time.Since(start)
	return ok
}

// unknown is the error of a Run that gives up: while a COMMIT is in doubt nobody may take it for a failure.
func (r *runner) unknown(err error) error {
	if a, ok := err.(again); ok {
		err = a.error
	}
	if r.doubt == nil {
		return err
	}
	e := r.fail(ErrOutcomeUnknown, "", "retry with the same key: it replays what committed, or runs")
	e.cause = errors.Join(r.doubt, err)
	return e
}

// try is one transaction.
func (r *runner) try(ctx context.Context) (resp Response, err error) {
	r.ran = false
	pooled, err := r.pool.Acquire(ctx)
	if err != nil {
		return resp, r.connectError(ctx, err)
	}
	conn := pooled.Conn()
	late := false // the connection waits for the answer to COMMIT and is released after that
	defer func() {
		if !late {
			pooled.Release()
		}
	}()

	b := &pgx.Batch{}
	b.BeginTx(r.txOptions)
	r.queue(b)
	br := conn.SendBatch(ctx, b)
	tx := br.Tx()
	open := true
	defer func() { // also when fn panics
		if open {
			undoCtx, cancel := detached(ctx)
			defer cancel()
			_ = tx.Rollback(undoCtx) // a connection that cannot roll back is closed by Release, and the server rolls back
		}
	}()
	var s sight
	if _, err = br.Exec(); err == nil {
		s, err = r.see(br)
	}
	if closeErr := br.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return resp, r.sort(ctx, conn, r.dbError(err))
	}
	r.lost = time.Time{}

	commit := func(last *pgtx.Statement) error {
		sql := r.txOptions.CommitQuery
		if sql == "" {
			sql = "commit"
		}
		err := pgtx.Commit(ctx, conn, last, sql, commitLimit, pooled.Release)
		if e, ok := err.(*pgtx.CommitError); err == nil || ok {
			open = false
			late = ok && e.Late
		}
		return err
	}

	v, resp, err := r.judge(s)
	switch {
	case err != nil && v == verdictInProgress:
		return resp, err
	case err != nil:
		r.doubt = nil // what was seen decides: COMMIT did not happen, or belongs to somebody else
		return Response{}, err
	case v == verdictReplay:
		// COMMIT and not ROLLBACK: above READ COMMITTED it is what makes the read valid, and it waits for the standby.
		if err := commit(nil); err != nil {
			return Response{}, r.sort(ctx, conn, r.dbError(err))
		}
		r.doubt = nil
		return resp, nil
	}

	// The key is ours and has no record, so a COMMIT in doubt did not happen.
	if doubt := r.doubt; doubt != nil {
		r.doubt = nil
		if !worthAnother(doubt) {
			return Response{}, r.dbError(doubt)
		}
	}
	r.ran = true
	a, err := r.run(ctx, tx, r.fn)
	if err == nil {
		err = ctx.Err() // fn may not have looked; pgx.BeginFunc does not commit then either
	}
	if err != nil {
		return Response{}, r.sort(ctx, conn, err)
	}
	if a.refused && !r.savepoint {
		// fn's writes go with this transaction. The refusal is recorded by another one: whoever slips in between wins.
		r.fn = func(context.Context, pgx.Tx) (Response, error) { return a.resp, nil }
		r.refused = true
		return Response{}, errRefused
	}
	r.refused = r.refused || a.refused
	row := r.row(s, &a)
	if s.record != nil {
		// A takeover that affects no row raises no error, so it cannot ride with COMMIT.
		tag, err := tx.Exec(ctx, sqlRecordOver, row...)
		switch {
		case err != nil:
			return Response{}, r.sort(ctx, conn, r.recordError(err))
		case tag.RowsAffected() != 1:
			return Response{}, again{r.conflict(), false}
		}
		err = commit(nil)
	} else {
		err = commit(&pgtx.Statement{SQL: sqlRecord, Args: row})
	}
	if e, ok := err.(*pgtx.CommitError); ok {
		r.doubt = e.Err
		return Response{}, again{r.dbError(e.Err), conn.IsClosed() || e.Late}
	}
	if err != nil {
		return Response{}, r.sort(ctx, conn, r.recordError(err))
	}
	return a.resp, nil
}

// sort tells an error that is worth another transaction from one that is not. Before COMMIT was sent, a lost connection
// is known to have left nothing.
func (r *runner) sort(ctx context.Context, conn *pgx.Conn, err error) error {
	switch {
	case ctx.Err() != nil:
		return err
	case lostRace(err) && !conn.IsClosed():
		return again{err, false}
	case conn.IsClosed() && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		return again{err, true}
	}
	return err
}

// connectError sorts an error of the pool. A database that cannot be reached at all is the caller's to know at once; one
// that was there a moment ago gets the time of a restart.
func (r *runner) connectError(ctx context.Context, err error) error {
	if ctx.Err() == nil && (r.doubt != nil || !r.lost.IsZero()) {
		return again{err, true}
	}
	return r.unknown(r.dbError(err))
}

// lostRace reports whether a transaction failed because of another one.
func lostRace(err error) bool {
	switch sqlState(err) {
	case stateSerialization, stateDeadlock:
		return true
	}
	return errors.Is(err, ErrConflict)
}

// worthAnother reports whether a transaction may succeed next time that failed at COMMIT with err. What the server says
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
