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
	inFn  bool // fn has been called and has not returned: when the call ends all the same, it panicked
}

// newCall validates everything that can be validated without the database.
func newCall(ctx context.Context, op string, key Key, hasTx bool, fn Func, wait time.Duration, opts []Option) (*call, error) {
	c := &call{op: op, key: key, start: time.Now()}
	cfg, wrong, hint := newConfig(wait, opts)
	c.config = cfg
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
		return c, &Error{Op: op, Err: ErrInvalidCall, detail: wrong, Hint: hint}
	}
	if wrong = key.invalid(); wrong != "" {
		return c, &Error{
			Op: op, Key: key, Err: ErrInvalidKey, detail: wrong,
			Hint: "a key names its project, its endpoint and the client's Idempotency-Key",
		}
	}
	if key.RequestHash == (Hash{}) && !c.noHash {
		return c, &Error{
			Op: op, Key: key, Err: ErrInvalidKey, detail: "the request hash is zero",
			Hint: "set it with HashRequest, or say WithoutRequestHash",
		}
	}
	for n := nestingOf(ctx); n != nil; n = n.outer {
		if n.key.same(key) {
			return c, c.fail(ErrNested, "", "the operation would wait for itself: use another key, or key.Derive")
		}
	}
	c.lock = key.lockID()
	return c, nil
}

// nesting is the chain of keys whose functions are running, carried by the context that they get.
type nesting struct {
	key   Key
	outer *nesting
}

type nestingKey struct{}

func nestingOf(ctx context.Context) *nesting {
	n, _ := ctx.Value(nestingKey{}).(*nesting)
	return n
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
