package idem

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgidem/pgidem/internal/pgtx"
)

// wire is what one transaction sends and reads, in one piece of memory. pgx takes arguments and scan targets as
// interfaces: a value costs an allocation or two there, a pointer into this struct none.
//
// Each transaction has its own. Nothing of it may be used again: a COMMIT that nobody waits for any more, a tracer, or what
// fn left behind may still be reading it.
type wire struct {
	first  pgtx.Batch // lock and look, behind BEGIN in Run
	last   pgtx.Batch // record and COMMIT
	guard  pgtx.Guard
	ctx    fnContext
	header [128]byte // for the stored form of the response's header

	lockArgs [1]any
	rowArgs  [10]any // those of look are among them
	lockRow  [6]any
	lookRow  [6]any

	lockID                              pgtype.Int8
	created, expires, begun, now        pgtype.Timestamptz
	status                              pgtype.Int4
	hash, storedHeader, body            bytea
	project, endpoint, key              pgtype.Text
	locked, aboveRC, readOnly, synchron bool

	recordCreated, recordExpires pgtype.Timestamptz
	record                       record
}

// bytea makes a pointer to bytes an argument.
type bytea []byte

// BytesValue implements pgtype.BytesValuer.
func (b *bytea) BytesValue() ([]byte, error) { return *b, nil }

// fnContext is the context that fn gets: it knows the call that runs fn.
type fnContext struct {
	context.Context
	call *call
}

type callKey struct{}

// Value implements context.Context.
func (c *fnContext) Value(key any) any {
	if key == (callKey{}) {
		return c.call
	}
	return c.Context.Value(key)
}

// where look's arguments are in rowArgs.
const keyArgs, afterKeyArgs = 4, 7

// queue adds lock and look to the first batch: two statements, one flight.
func (c *call) queue() *pgx.Batch {
	w := c.wire
	w.lockID = pgtype.Int8{Int64: c.lock, Valid: true}
	w.project = pgtype.Text{String: c.key.Project, Valid: true}
	w.endpoint = pgtype.Text{String: c.key.Endpoint, Valid: true}
	w.key = pgtype.Text{String: c.key.Value, Valid: true}
	w.lockArgs = [...]any{&w.lockID}
	w.rowArgs = [...]any{keyArgs: &w.project, &w.endpoint, &w.key, 9: nil}
	w.first.Queue(sqlLock, w.lockArgs[:])
	look := sqlLook
	if c.replicated {
		look = sqlLookReplicated
	}
	return w.first.Queue(look, w.rowArgs[keyArgs:afterKeyArgs:afterKeyArgs])
}

// see reads the results that queue asked for.
func (c *call) see(br pgx.BatchResults) (sight, error) {
	w := c.wire
	c.event.Tries++
	w.lockRow = [...]any{&w.locked, &w.now, &w.begun, &w.aboveRC, &w.readOnly, &w.synchron}
	if err := br.QueryRow().Scan(w.lockRow[:]...); err != nil {
		return sight{}, err
	}
	s := sight{
		locked: w.locked, now: w.now.Time, read: time.Now(), begun: w.begun.Time, aboveRC: w.aboveRC, readOnly: w.readOnly,
	}
	r := &w.record
	w.lookRow = [...]any{&w.recordCreated, &w.recordExpires, &r.status, &r.hash, &r.header, &r.body}
	switch err := br.QueryRow().Scan(w.lookRow[:]...); {
	case err == nil:
		r.created, r.expires = w.recordCreated.Time, w.recordExpires.Time
		s.record = r
	case !errors.Is(err, pgx.ErrNoRows):
		return s, err
	}
	return s, nil
}

// row returns the arguments of sqlRecord, and completes the response with the time of its record. The time is the
// database's when it was seen plus what has passed since, by a clock that nobody sets.
func (c *call) row(s sight, a *answer) []any {
	created := s.now.Add(time.Since(s.read)).UTC().Truncate(time.Microsecond)
	a.resp.Replayed, a.resp.CreatedAt = false, created
	w := c.wire
	w.created = pgtype.Timestamptz{Time: created, Valid: true}
	w.expires = pgtype.Timestamptz{Time: created.Add(c.ttl), Valid: true}
	w.begun = pgtype.Timestamptz{Time: s.begun, Valid: true}
	w.status = pgtype.Int4{Int32: int32(a.resp.Status), Valid: true}
	w.hash, w.storedHeader, w.body = c.key.RequestHash[:], a.header, a.resp.Body
	if w.body == nil {
		w.body = bytea{} // nil would be NULL
	}
	w.rowArgs = [...]any{
		&w.created, &w.expires, &w.status, &w.hash,
		&w.project, &w.endpoint, &w.key, &w.storedHeader, &w.body, &w.begun,
	}
	return w.rowArgs[:]
}
