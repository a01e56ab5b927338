package idem

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Do runs fn in tx and records its response under key, or returns the response that is recorded already. fn's writes and
// the record commit together when the caller commits tx, or not at all. Do costs two round trips.
//
// The caller owns tx: it commits after Do returned without an error, and rolls back after an error. Once fn has been
// called, an error leaves tx in the failed state, so that a Commit that follows by mistake rolls back and says so
// (pgx.ErrTxCommitRollback); with WithSavepoint only fn's writes are undone and tx stays usable. After an error from before
// that, such as ErrInvalidKey, ErrNested, ErrKeyReused and ErrInProgress, tx is as usable as it was.
//
// An error of fn is returned as it is. On a serialization failure (SQLSTATE 40001), a deadlock (40P01), ErrConflict or an
// error from the caller's COMMIT, retry the whole transaction with the same key: it replays or runs. Run does all that by
// itself.
func Do(ctx context.Context, tx pgx.Tx, key Key, fn Func, opts ...Option) (resp Response, err error) {
	c := &call{}
	err = c.init(ctx, "do", key, tx != nil, fn, 0, opts)
	var a answer
	defer func() { c.done(ctx, resp, a.refused, err) }()
	if err != nil {
		return Response{}, err
	}
	s, v, resp, err := c.look(ctx, tx)
	if err != nil || v == verdictReplay {
		return resp, err
	}

	finished := false
	defer func() { // also when fn panics
		if !finished {
			c.failTx(ctx, tx)
		}
	}()
	a, err = c.run(ctx, tx, fn)
	if err != nil {
		finished = a.undone
		return Response{}, err
	}
	if a.refused && !c.savepoint {
		a.refused = false
		return Response{}, c.fail(ErrInvalidCall, "fn refused, and Do cannot undo its writes in the caller's transaction",
			"use WithSavepoint or Run, or return the response where fn has written nothing")
	}
	tag, err := tx.Exec(ctx, sqlRecordOver, c.row(s, &a)...)
	switch {
	case err != nil:
		return Response{}, c.recordError(err)
	case tag.RowsAffected() != 1:
		return Response{}, c.conflict()
	}
	finished = true
	return a.resp, nil
}

// look locks and looks in the caller's transaction, again and again while the key is in progress and there is time.
func (c *call) look(ctx context.Context, tx pgx.Tx) (s sight, v verdict, resp Response, err error) {
	switch statusOf(tx) {
	case txAborted:
		return s, verdictError, resp, c.fail(ErrTxAborted, "", "an earlier statement failed in it: roll back and retry with the same key")
	case txEnded:
		return s, verdictError, resp, c.fail(ErrTxEnded, "", "begin a new one and pass it to Do")
	case txBusy:
		return s, verdictError, resp, c.fail(ErrInvalidCall, "a query is open on its connection", "close its rows, or the batch's results, before Do")
	}
	for w := c.newWait(); ; { // one round trip
		c.wire = &wire{}
		br := tx.SendBatch(ctx, c.queue())
		s, err = c.see(br)
		if closeErr := br.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return s, verdictError, resp, c.dbError(err)
		}
		v, resp, err = c.judge(s)
		switch {
		case v == verdictInProgress && w.again(ctx):
			c.event.Waited += w.paused
			continue
		case v == verdictRun && s.aboveRC && w.tries > 0:
			// The snapshot is older than the end of the call that we waited for, so its record cannot be seen.
			return s, v, resp, c.conflict()
		}
		return s, v, resp, ended(ctx, err)
	}
}

// failTx puts tx into the failed state. When even that cannot be done, because fn left a query open, say, the connection
// is closed: nothing of a half-done operation may become durable.
func (c *call) failTx(ctx context.Context, tx pgx.Tx) {
	if s := statusOf(tx); s == txEnded || s == txAborted {
		return
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	if _, err := tx.Exec(ctx, sqlFail); sqlState(err) == "" && tx.Conn() != nil {
		_ = tx.Conn().Close(ctx)
	}
}
