package idem

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/pgtx"
)

// Func does the business work of one operation, through tx and nothing else, and returns the answer to record. It may be
// called again when a transaction did not commit; only one call's writes commit. tx refuses Commit and Rollback and is
// dead once Func has returned; Begin (a savepoint) works.
type Func func(ctx context.Context, tx pgx.Tx) (Response, error)

// call is one call of Do or Run.
type call struct {
	config
	op    string
	key   Key
	lock  int64
	event Event
	start time.Time
}

// newCall validates everything that can be validated without the database.
func newCall(ctx context.Context, op string, key Key, hasTx bool, fn Func, wait time.Duration, opts []Option) (*call, error) {
	c := &call{op: op, key: key, start: time.Now()}
	cfg, wrong := newConfig(wait, opts)
	c.config = cfg
	switch {
	case wrong != "":
	case fn == nil:
		wrong = "the function is nil"
	case !hasTx:
		wrong = "the transaction or pool is nil"
	case c.noHash && key.RequestHash != Hash{}:
		wrong = "a request hash was given together with WithoutRequestHash"
	}
	if wrong != "" {
		return c, c.fail(ErrInvalidCall, wrong, "")
	}
	if wrong = key.invalid(); wrong != "" {
		return c, &Error{Op: op, Key: key, Err: ErrInvalidKey, detail: wrong,
			Hint: "a key names its project, its endpoint and the client's Idempotency-Key"}
	}
	if key.RequestHash == (Hash{}) && !c.noHash {
		return c, &Error{Op: op, Key: key, Err: ErrInvalidKey, detail: "the request hash is zero",
			Hint: "set it with HashRequest, or say WithoutRequestHash"}
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

// sight is what lock and look saw.
type sight struct {
	locked   bool      // the advisory lock is ours
	now      time.Time // the database's clock
	read     time.Time // when we read now, by our monotonic clock
	begun    time.Time // start of the transaction
	aboveRC  bool      // a snapshot was taken once for the whole transaction
	readOnly bool
	record   *record // nil where there is none, live or expired
}

type record struct {
	created, expires time.Time
	status           int32
	hash             []byte
	header, body     []byte
}

// queue adds lock and look to b: two statements, one flight.
func (c *call) queue(b *pgx.Batch) {
	b.Queue(sqlLock, c.lock)
	look := sqlLook
	if c.replicated {
		look = sqlLookReplicated
	}
	b.Queue(look, c.key.Project, c.key.Endpoint, c.key.Value)
}

// see reads the results that queue asked for.
func (c *call) see(br pgx.BatchResults) (sight, error) {
	var s sight
	var isolation, readOnly string
	var sync *string
	c.event.Tries++
	if err := br.QueryRow().Scan(&s.locked, &s.now, &s.begun, &isolation, &readOnly, &sync); err != nil {
		return s, err
	}
	s.read = time.Now()
	s.aboveRC = isolation != "read committed" && isolation != "read uncommitted"
	s.readOnly = readOnly == "on"
	var r record
	switch err := br.QueryRow().Scan(&r.created, &r.expires, &r.status, &r.hash, &r.header, &r.body); {
	case err == nil:
		s.record = &r
	case !errors.Is(err, pgx.ErrNoRows):
		return s, err
	}
	return s, nil
}

// verdict is what a sight means for a call.
type verdict int

const (
	verdictRun verdict = iota
	verdictReplay
	verdictInProgress
)

// judge decides on what was seen. A live record decides whatever the lock said.
func (c *call) judge(s sight) (verdict, Response, error) {
	if s.readOnly {
		return 0, Response{}, c.fail(ErrReadOnly, "", "use a read-write transaction on the primary")
	}
	if r := s.record; r != nil && r.expires.After(s.now) {
		if !c.noHash && string(r.hash) != string(c.key.RequestHash[:]) {
			return 0, Response{}, c.fail(ErrKeyReused, "first used "+r.created.UTC().Format(time.RFC3339), "a new operation needs a new key")
		}
		header, err := parseHeader(r.header)
		if err != nil {
			return 0, Response{}, c.fail(err, "", "somebody changed the row by hand: inspect it, then Forget the key")
		}
		return verdictReplay, Response{
			Status: int(r.status), Header: header, Body: r.body, Replayed: true, CreatedAt: r.created.UTC(),
		}, nil
	}
	if !s.locked {
		return verdictInProgress, Response{}, c.inProgress()
	}
	return verdictRun, Response{}, nil
}

func (c *call) inProgress() *Error {
	return c.fail(ErrInProgress, "", "another transaction holds it: retry with the same key after a moment")
}

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
		if err == nil && undoErr != nil {
			err = c.dbError(undoErr)
		}
	}()
	a, err = c.runIn(ctx, sp, fn)
	if err == nil && !a.refused {
		if err = sp.Commit(ctx); err != nil {
			return a, c.dbError(err)
		}
		released = true
	}
	return a, err
}

// runIn is run without the savepoint.
func (c *call) runIn(ctx context.Context, tx pgx.Tx, fn Func) (a answer, err error) {
	a.resp, err = c.callFn(ctx, tx, fn)
	if conn := tx.Conn(); conn != nil && !conn.IsClosed() {
		switch conn.PgConn().TxStatus() {
		case 'I':
			return a, c.ended("fn committed or rolled it back")
		case 'E':
			if err == nil {
				return a, c.fail(ErrTxAborted, "a statement of fn failed and fn returned no error", "return the error from fn; roll back and retry with the same key")
			}
		}
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
	guard := pgtx.NewGuard(tx)
	start := time.Now()
	defer func() {
		guard.Close()
		c.event.Fn += time.Since(start)
	}()
	return fn(context.WithValue(ctx, nestingKey{}, &nesting{c.key, nestingOf(ctx)}), guard)
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
	header := appendHeader(make([]byte, 0, 128), r.Header)
	if n := len(header); n > maxHeader {
		return nil, c.fail(ErrResponseTooLarge, fmt.Sprintf("the header takes %d bytes, at most %d are allowed", n, maxHeader), "keep fewer header fields")
	}
	return header, nil
}

// row returns the arguments of sqlRecord, and completes the response with the time of its record. The time is the
// database's when it was seen plus what has passed since, by a clock that nobody sets.
func (c *call) row(s sight, a *answer) []any {
	created := s.now.Add(time.Since(s.read)).UTC().Truncate(time.Microsecond)
	a.resp.Replayed, a.resp.CreatedAt = false, created
	body := a.resp.Body
	if body == nil {
		body = []byte{} // nil would be NULL
	}
	return []any{
		created, created.Add(c.ttl), int32(a.resp.Status), c.key.RequestHash[:],
		c.key.Project, c.key.Endpoint, c.key.Value, a.header, body, s.begun,
	}
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

// done reports the call to its observer.
func (c *call) done(ctx context.Context, r Response, refused bool, err error) {
	if c.observer == nil {
		return
	}
	e := c.event
	e.Op, e.Endpoint, e.Duration, e.Body = c.op, c.key.Endpoint, time.Since(c.start), len(r.Body)
	switch {
	case errors.Is(err, ErrKeyReused):
		e.Outcome = Reused
	case errors.Is(err, ErrInProgress):
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
