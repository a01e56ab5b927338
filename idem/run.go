package idem

import (
	"context"
	"errors"
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
// what became of it, so that the next try replays or runs. fn may therefore run more than once; only one run commits. Run
// gives up after 30 transactions that lost against others, after 5 runs of fn that ended with their connection, and when
// a lost connection cannot be replaced for 10 seconds.
//
// COMMIT is not cancelled when ctx ends. When its answer is lost and the key cannot be looked up again in time, the error
// is ErrOutcomeUnknown: retry with the same key. After any other error nothing was written, and an error of fn is
// returned as it is.
func Run(ctx context.Context, pool *pgxpool.Pool, key Key, fn Func, opts ...Option) (resp Response, err error) {
	r := &runner{pool: pool, fn: fn}
	r.owner = true
	err = r.init(ctx, "run", key, pool != nil, fn, defaultRunWait, opts)
	defer func() { r.done(ctx, resp, r.refused, err) }()
	if err != nil {
		return Response{}, err
	}
	return r.loop(ctx)
}

// runner is a Run.
type runner struct {
	call
	pool    *pgxpool.Pool
	fn      Func
	refused bool // fn refused, and now stands for its refusal

	ran       bool      // fn ran in this try
	doubt     error     // the error of a COMMIT that may have happened, until the key has been looked up
	lost      time.Time // when the connection was lost that no look-up has followed yet
	lostRuns  int       // runs of fn that ended with their connection
	conflicts int       // transactions that lost against another one

	first transaction // most runs need no other
}

// errRefused makes the loop go on with fn's refusal in place of fn, now that fn's writes are rolled back.
var errRefused = errors.New("refused")

// loop tries until there is an answer, an error that another try would not change, or no time left.
func (r *runner) loop(ctx context.Context) (Response, error) {
	for w := r.newWait(); ; {
		resp, err := r.try(ctx)
		if r.ran {
			w = r.newWait() // the time that fn took is not time spent waiting
		}
		more := true
		switch lost, retry := err.(again); {
		case err == nil:
			return resp, nil
		case err == errRefused:
		case retry:
			err = lost.error
			more = r.pause(ctx, lost)
		case r.is(err, ErrInProgress):
			if r.doubt != nil { // the lost COMMIT itself may hold the key for a moment
				w.most = max(w.most, defaultRunWait)
			}
			more = w.again(ctx)
			r.event.Waited += w.paused
		default:
			more = false
		}
		if !more {
			return Response{}, r.unknown(ctx, ended(ctx, err))
		}
	}
}

// try is one transaction. Its error is an again where another one is worth it.
func (r *runner) try(ctx context.Context) (Response, error) {
	r.ran = false
	pooled, err := r.pool.Acquire(ctx)
	if err != nil {
		return Response{}, r.connectError(ctx, err)
	}
	t := &r.first
	if t.runner != nil { // it has been used
		t = new(transaction)
	}
	t.runner, t.pooled, t.conn = r, pooled, pooled.Conn()
	defer t.close(ctx) // also when fn panics

	s, err := t.begin(ctx)
	if err != nil {
		return Response{}, r.sort(ctx, t.conn, r.dbError(err))
	}
	v, resp, err := r.judge(s)
	if r.doubt != nil && r.is(err, ErrReadOnly) { // a failover has not ended yet: what is seen there decides nothing
		return Response{}, again{err, true}
	}
	r.lost = time.Time{}
	switch v {
	case verdictInProgress:
		return Response{}, err
	case verdictError:
		r.doubt = nil
		return Response{}, err
	case verdictReplay:
		r.doubt = nil
		// COMMIT and not ROLLBACK: above READ COMMITTED it is what makes the read valid, and it waits for the standby.
		if err := t.endReplay(ctx); err != nil {
			return Response{}, r.sort(ctx, t.conn, r.commitError(err))
		}
		return resp, nil
	}

	// The key is ours and has no record, so a COMMIT in doubt did not happen.
	if doubt := r.doubt; doubt != nil {
		r.doubt = nil
		if !worthAnother(doubt) {
			return Response{}, r.commitError(doubt)
		}
	}
	r.ran = true
	a, err := r.run(ctx, t.tx, r.fn)
	if err == nil {
		err = ctx.Err() // fn may not have looked; pgx.BeginFunc does not commit then either
	}
	if err != nil {
		return Response{}, r.sort(ctx, t.conn, err)
	}
	if a.refused && !r.savepoint {
		// fn's writes go with this transaction. The refusal is recorded by another one: whoever slips in between wins.
		refusal := a.resp
		r.fn = func(context.Context, pgx.Tx) (Response, error) { return refusal, nil }
		r.refused = true
		return Response{}, errRefused
	}
	r.refused = r.refused || a.refused
	return a.resp, t.record(ctx, s, &a)
}

// transaction is one transaction of a runner.
type transaction struct {
	*runner
	pooled *pgxpool.Conn
	conn   *pgx.Conn
	tx     pgx.Tx
	own    wire
	ended  bool // COMMIT was sent
	late   bool // and is not answered yet: the connection is released when it is
}

// begin sends BEGIN, lock and look in one flight.
func (t *transaction) begin(ctx context.Context) (s sight, err error) {
	t.wire = &t.own
	t.wire.first.Begin(t.txOptions)
	br := t.conn.SendBatch(ctx, t.queue())
	t.tx = br.Tx()
	if _, err = br.Exec(); err == nil {
		s, err = t.see(br)
	}
	if closeErr := br.Close(); err == nil {
		err = closeErr
	}
	return s, err
}

// record sends the record and COMMIT in one flight.
func (t *transaction) record(ctx context.Context, s sight, a *answer) error {
	row := t.row(s, a)
	if s.record != nil {
		// A takeover that affects no row raises no error, so it cannot ride with COMMIT.
		tag, err := t.tx.Exec(ctx, sqlRecordOver, row...)
		switch {
		case err != nil:
			return t.sort(ctx, t.conn, t.recordError(err))
		case tag.RowsAffected() != 1:
			return again{t.conflict(), false}
		}
		row = nil
	}
	err := t.commit(ctx, row)
	if e, ok := err.(*pgtx.CommitError); ok {
		t.doubt = e.Err
		return again{t.commitError(e.Err), e.Late || t.conn.IsClosed()}
	}
	if err != nil {
		return t.sort(ctx, t.conn, t.recordError(err))
	}
	return nil
}

// bulky is the size of a body, in bytes, from which the record may not fit into what an idle connection takes at once.
const bulky = 8 << 10

func (t *transaction) commitSQL() string {
	if sql := t.txOptions.CommitQuery; sql != "" {
		return sql
	}
	return "commit"
}

// endReplay commits a transaction that only read. Nothing can be in doubt, so it may be cancelled, unless it has locked
// the row in order to wait for the standby.
func (t *transaction) endReplay(ctx context.Context) error {
	if t.replicated {
		return t.commit(ctx, nil)
	}
	tag, err := t.conn.Exec(ctx, t.commitSQL())
	if err == nil && tag.String() == "ROLLBACK" {
		err = pgx.ErrTxCommitRollback
	}
	t.ended = err == nil
	return err
}

func (t *transaction) commit(ctx context.Context, row []any) error {
	var last *pgtx.Batch
	if row != nil {
		last = &t.wire.last
		last.Queue(sqlRecord, row)
		last.Bulky = len(t.wire.body) > bulky
	}
	err := pgtx.Commit(ctx, t.conn, last, t.commitSQL(), commitLimit, t.pooled)
	if e, ok := err.(*pgtx.CommitError); err == nil || ok {
		t.ended = true
		t.late = ok && e.Late
	}
	return err
}

// close rolls back what has not been committed. A connection that cannot roll back is closed, and so the server does.
func (t *transaction) close(ctx context.Context) {
	if !t.late {
		defer t.pooled.Release()
	}
	if t.tx != nil && !t.ended { // nil: a tracer of the user's panicked before anything was sent
		ctx, cancel := detached(ctx)
		defer cancel()
		_ = t.tx.Rollback(ctx)
	}
}
