package idem

import (
	"context"
	"time"
)

// call is one call of Do or Run.
type call struct {
	config
	op    string
	key   Key
	lock  int64
	event Event
	start time.Time
	owner bool  // of the transaction: Run
	wire  *wire // of the transaction at hand
	outer *call // whose function makes this call
	inFn  bool  // fn has been called and has not returned: when the call ends all the same, it panicked
}

// init validates everything that can be validated without the database.
func (c *call) init(ctx context.Context, op string, key Key, hasTx bool, fn Func, wait time.Duration, opts []Option) error {
	c.op, c.key, c.start = op, key, time.Now()
	wrong, hint := c.config.init(wait, opts)
	switch {
	case wrong != "":
	case fn == nil:
		wrong, hint = "the function is nil", "pass the function that does the work"
	case !hasTx:
		wrong, hint = "the transaction or pool is nil", "pass Do the caller's transaction, Run a pool"
	case c.noHash && key.RequestHash != Hash{}:
		wrong, hint = "a request hash was given together with WithoutRequestHash", "leave one of them out"
	}
	if wrong != "" {
		return &Error{Op: op, Err: ErrInvalidCall, detail: wrong, Hint: hint}
	}
	if wrong = key.invalid(); wrong != "" {
		return &Error{
			Op: op, Key: key, Err: ErrInvalidKey, detail: wrong,
			Hint: "a key names its project, its endpoint and the client's Idempotency-Key",
		}
	}
	if key.RequestHash == (Hash{}) && !c.noHash {
		return &Error{
			Op: op, Key: key, Err: ErrInvalidKey, detail: "the request hash is zero",
			Hint: "set it with HashRequest, or say WithoutRequestHash",
		}
	}
	c.outer, _ = ctx.Value(callKey{}).(*call)
	for o := c.outer; o != nil; o = o.outer {
		if o.key.same(key) {
			return c.fail(ErrNested, "", "the operation would wait for itself: use another key, or key.Derive")
		}
	}
	c.lock = key.lockID()
	return nil
}

// is reports whether err says this of the call's own key, and not of another one that fn used.
func (c *call) is(err, sentinel error) bool {
	e, ok := err.(*Error)
	return ok && e.Err == sentinel && e.Key.same(c.key)
}

// done reports the call to its observer.
func (c *call) done(ctx context.Context, r Response, refused bool, err error) {
	if c.observer == nil {
		return
	}
	e := c.event
	e.Op, e.Endpoint, e.Duration, e.Body = c.op, c.key.Endpoint, time.Since(c.start), len(r.Body)
	switch {
	case c.inFn:
		e.Outcome = Failed
	case c.is(err, ErrKeyReused):
		e.Outcome = Reused
	case c.is(err, ErrInProgress):
		e.Outcome = InProgress
	case err != nil:
		e.Outcome = Failed
	case r.Replayed:
		e.Outcome = Replayed
	case refused:
		e.Outcome = Refused
	default:
		e.Outcome = Executed
	}
	defer func() { _ = recover() }() // an observer changes no result
	c.observer.Observe(ctx, e)
}

// endTimeout bounds what must be tried even though the caller's context has ended: rolling back, failing a transaction.
const endTimeout = 5 * time.Second

func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
}
