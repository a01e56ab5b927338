package idem

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Func does the business work of one operation, through tx and nothing else, and returns the answer to record. It may be
// called again when a transaction did not commit; only one call's writes commit. tx refuses Commit and Rollback and is
// dead once Func has returned; Begin (a savepoint) works.
type Func func(ctx context.Context, tx pgx.Tx) (Response, error)

// answer is what fn came to.
type answer struct {
	resp    Response
	header  []byte // its stored form
	refused bool
	undone  bool // fn's writes are rolled back to the savepoint
}

// run calls fn, in a savepoint when asked for, and checks that its answer can be recorded. Unless a.undone is set, fn's
// writes are still there when it returns an error or panics: the transaction must not commit.
func (c *call) run(ctx context.Context, tx pgx.Tx, fn Func) (a answer, err error) {
	if !c.savepoint {
		return c.runIn(ctx, tx, fn)
	}
	sp, err := tx.Begin(ctx)
	if err != nil {
		return a, c.dbError(err)
	}
	released := false
	defer func() {
		if released {
			return
		}
		undoCtx, cancel := detached(ctx)
		defer cancel()
		undoErr := sp.Rollback(undoCtx)
		a.undone = undoErr == nil
		switch {
		case sqlState(undoErr) == stateNoSavepoint:
			e := c.ended("fn ended it and began another")
			e.cause = err
			err = e
		case err == nil && undoErr != nil:
			err = c.dbError(undoErr)
		}
	}()
	a, err = c.runIn(ctx, sp, fn)
	if err == nil && !a.refused {
		switch err = sp.Commit(ctx); {
		case sqlState(err) == stateNoSavepoint:
			return a, c.ended("fn ended it and began another")
		case err != nil:
			return a, c.dbError(err)
		}
		released = true
	}
	return a, err
}

// runIn is run without the savepoint.
func (c *call) runIn(ctx context.Context, tx pgx.Tx, fn Func) (a answer, err error) {
	a.resp, err = c.callFn(ctx, tx, fn)
	var status txStatus
	if c.owner {
		status = statusOn(tx.Conn())
	} else {
		status = statusOf(tx)
	}
	switch {
	case status == txEnded:
		e := c.ended("fn committed or rolled it back")
		e.cause = err
		return a, e
	case err != nil: // fn says best what went wrong
	case status == txAborted:
		return a, c.fail(ErrTxAborted, "a statement of fn failed and fn returned no error", "return the error from fn; roll back and retry with the same key")
	case status == txBusy:
		return a, c.fail(ErrInvalidCall, "fn left a query open", "close its rows, or the batch's results, before fn returns")
	}
	if err != nil {
		resp, ok := asRefusal(err)
		if !ok {
			return a, err
		}
		a.resp, a.refused = resp, true
	}
	a.header, err = c.check(a.resp)
	return a, err
}

func (c *call) ended(detail string) *Error {
	return c.fail(ErrTxEnded, detail, "only the owner of the transaction ends it; what fn committed has no record")
}

// callFn calls fn and nothing else, so that whatever way fn ends, a panic included, its transaction is dead after it.
func (c *call) callFn(ctx context.Context, tx pgx.Tx, fn Func) (Response, error) {
	guard := &c.wire.guard
	guard.Lend(tx)
	c.wire.ctx = fnContext{ctx, c}
	start := time.Now()
	defer func() {
		guard.Close()
		c.event.Fn += time.Since(start)
	}()
	c.inFn = true
	r, err := fn(&c.wire.ctx, guard)
	c.inFn = false
	return r, err
}

// check returns the stored form of the header when the response can be stored.
func (c *call) check(r Response) ([]byte, error) {
	if r.Status != 0 && (r.Status < 100 || r.Status > 999) {
		return nil, c.fail(ErrInvalidCall, fmt.Sprintf("the response has status %d", r.Status), "a status is 100 to 999, or 0 for none")
	}
	if n := len(r.Body); n > c.maxBody {
		return nil, c.fail(ErrResponseTooLarge, fmt.Sprintf("the body has %d bytes, at most %d are allowed", n, c.maxBody),
			"return less, such as a reference to the result, or raise the limit with WithMaxBody")
	}
	header := appendHeader(c.wire.header[:0], r.Header)
	if n := len(header); n > maxHeader {
		return nil, c.fail(ErrResponseTooLarge, fmt.Sprintf("the header takes %d bytes, at most %d are allowed", n, maxHeader), "keep fewer header fields")
	}
	return header, nil
}

// recordError explains an error of sqlRecord or sqlRecordOver.
func (c *call) recordError(err error) error {
	if sqlState(err) == stateDivisionByZero {
		return c.ended("fn ended it and began another")
	}
	return c.dbError(err)
}

func (c *call) conflict() *Error {
	return c.fail(ErrConflict, "", "roll back and retry with the same key")
}
