package proxy

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// Message is one protocol message on its way.
type Message struct {
	Conn       int    // which connection, from 1 on in the order of their opening
	FromClient bool   // direction
	Type       byte   // as in the protocol's documentation: 'Q' Query, 'E' Execute, 'Z' ReadyForQuery, …
	Body       []byte // without type and length; not to be kept or changed
	SQL        string // what this message makes the server execute; "" for all that execute nothing, such as Parse
}

// Action is what becomes of a message.
type Action int

// Pass forwards the message, Drop loses it, Cut loses it and resets the
// connection to both sides.
const (
	Pass Action = iota
	Drop
	Cut
)

// Fault decides on each message, those of one direction of one connection in
// order, those of different ones at once. It may wait: then that direction waits.
type Fault func(Message) Action

// Match tells messages that a fault is about from others.
type Match func(Message) bool

// Commit matches the message that makes the server commit. Under the simple
// protocol COMMIT stands behind other statements in one message.
func Commit(m Message) bool {
	sql := strings.ToLower(strings.TrimRight(m.SQL, " \t\r\n;"))
	return sql == "commit" || m.Type == 'Q' && strings.HasSuffix(sql, ";commit")
}

// Statement matches the message that executes a statement with text in it.
func Statement(text string) Match {
	return func(m Message) bool { return m.FromClient && strings.Contains(m.SQL, text) }
}

// Tripwire is a fault that strikes once, at the first message that matches.
type Tripwire struct {
	match   Match
	tripped chan struct{}

	mu   sync.Mutex
	conn int // the connection that it struck, 0 before
}

func newTripwire(match Match) *Tripwire { return &Tripwire{match: match, tripped: make(chan struct{})} }

// Tripped is closed when the fault has done its work.
func (w *Tripwire) Tripped() <-chan struct{} { return w.tripped }

// Done reports whether the fault has done its work.
func (w *Tripwire) Done() bool {
	select {
	case <-w.tripped:
		return true
	default:
		return false
	}
}

// Wait waits until the fault has done its work, at most a minute.
func (w *Tripwire) Wait(t testing.TB) {
	t.Helper()
	select {
	case <-w.tripped:
	case <-time.After(time.Minute):
		t.Fatal("the fault did not strike")
	}
}

// strikes reports whether m is the message to strike at.
func (w *Tripwire) strikes(m Message) bool {
	if !m.FromClient || !w.match(m) {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != 0 {
		return false
	}
	w.conn = m.Conn
	return true
}

// struck reports whether m is on the connection that was struck.
func (w *Tripwire) struck(m Message) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conn == m.Conn
}

// CutBefore cuts the connection in place of forwarding the message: the server
// gets what came before it and never the message.
func CutBefore(match Match) (Fault, *Tripwire) {
	w := newTripwire(match)
	return func(m Message) Action {
		if w.strikes(m) {
			close(w.tripped)
			return Cut
		}
		return Pass
	}, w
}

// CutReply forwards the message and the server's first keep messages after it,
// loses the rest of the reply, and cuts the connection when the reply is complete:
// the server has done what it was asked, and the client does not know.
func CutReply(match Match, keep int) (Fault, *Tripwire) {
	w := newTripwire(match)
	return func(m Message) Action {
		switch {
		case m.FromClient:
			w.strikes(m)
			return Pass
		case !w.struck(m):
			return Pass
		case m.Type == 'Z':
			close(w.tripped)
			return Cut
		case keep > 0:
			keep-- // one direction of one connection: no two at once
			return Pass
		}
		return Drop
	}, w
}

// Hold keeps the message back until release is called, then cuts the connection
// without forwarding it.
func (p *Proxy) Hold(match Match) (Fault, *Tripwire, func()) {
	w := newTripwire(match)
	free, release := gate()
	return func(m Message) Action {
		if !w.strikes(m) {
			return Pass
		}
		close(w.tripped)
		p.await(free)
		return Cut
	}, w, release
}

// HoldReply forwards the message, keeps the whole reply back until release is
// called, then cuts the connection. The client sees a server that says nothing.
func (p *Proxy) HoldReply(match Match) (Fault, *Tripwire, func()) {
	w := newTripwire(match)
	free, release := gate()
	return func(m Message) Action {
		switch {
		case m.FromClient:
			w.strikes(m)
			return Pass
		case !w.struck(m):
			return Pass
		case m.Type == 'Z':
			close(w.tripped)
			p.await(free)
			return Cut
		}
		return Drop
	}, w, release
}

// Delay makes each message that matches wait for d before it goes on.
func (p *Proxy) Delay(match Match, d time.Duration) Fault {
	return func(m Message) Action {
		if match(m) {
			t := time.NewTimer(d)
			defer t.Stop()
			select {
			case <-t.C:
			case <-p.ended.Done():
			}
		}
		return Pass
	}
}

func gate() (free <-chan struct{}, release func()) {
	c := make(chan struct{})
	return c, sync.OnceFunc(func() { close(c) })
}

func (p *Proxy) await(c <-chan struct{}) {
	select {
	case <-c:
	case <-p.ended.Done():
	}
}
