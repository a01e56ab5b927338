package idem

import "time"

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
