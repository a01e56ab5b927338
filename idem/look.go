package idem

import (
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

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
	verdictError verdict = iota
	verdictReplay
	verdictInProgress
	verdictRun
)

// judge decides on what was seen. A live record decides whatever the lock said.
func (c *call) judge(s sight) (verdict, Response, error) {
	if s.readOnly {
		return verdictError, Response{}, c.fail(ErrReadOnly, "", "use a read-write transaction on the primary")
	}
	if r := s.record; r != nil && r.expires.After(s.now) {
		if !c.noHash && string(r.hash) != string(c.key.RequestHash[:]) {
			return verdictError, Response{}, c.fail(ErrKeyReused, "first used "+r.created.UTC().Format(time.RFC3339), "a new operation needs a new key")
		}
		header, err := parseHeader(r.header)
		if err != nil {
			return verdictError, Response{}, c.fail(err, "", "somebody changed the row by hand: inspect it, then Forget the key")
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
