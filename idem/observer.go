package idem

import (
	"context"
	"time"
)

// Observer is told of every call of Do and Run made WithObserver, once, when the call ends, in its goroutine. It must be
// safe for concurrent use. A panic in it is swallowed: an observer changes no result.
type Observer interface {
	Observe(ctx context.Context, e Event)
}

// ObserverFunc is a function as an Observer.
type ObserverFunc func(ctx context.Context, e Event)

// Observe calls f.
func (f ObserverFunc) Observe(ctx context.Context, e Event) { f(ctx, e) }

// Event describes a call that ended. It never holds the key or the project, so that no metric label can.
type Event struct {
	Op       string        // "do" or "run"
	Endpoint string        // Key.Endpoint, a route pattern
	Outcome  Outcome       // how it ended
	Duration time.Duration // the whole call
	Waited   time.Duration // of it, between tries
	Fn       time.Duration // of it, inside fn, over all tries
	Tries    int           // transactions begun by Run, look-ups made by Do
	Body     int           // bytes of the response's body
}

// Outcome is how a call ended. The set is closed: errors, events, metrics, logs and the command line use the same words.
type Outcome string

// The outcomes.
const (
	Executed   Outcome = "executed"    // fn ran and its response was recorded
	Replayed   Outcome = "replayed"    // the response was read back
	Refused    Outcome = "refused"     // fn refused; its writes are undone, the refusal is recorded
	Reused     Outcome = "reused"      // ErrKeyReused
	InProgress Outcome = "in_progress" // ErrInProgress
	Failed     Outcome = "failed"      // any other error; nothing recorded, but see ErrOutcomeUnknown and ErrTxEnded
)
