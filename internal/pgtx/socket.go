package pgtx

import (
	"bytes"
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// socket waits for an answer without reading it.
type socket struct {
	conn  net.Conn
	raw   syscall.RawConn
	ready func(fd uintptr) bool
	whole bool      // what was seen is a whole answer
	seen  [512]byte // the answer to a record and COMMIT has some 70 bytes
}

const socketName = "github.com/pgidem/pgidem/internal/pgtx.socket"

// socketOf returns the socket of conn, or nil where it cannot be asked: on some systems, or when the connection is
// something that the application made.
func socketOf(conn *pgx.Conn) *socket {
	pg := conn.PgConn()
	data := pg.CustomData()
	if s, ok := data[socketName].(*socket); ok {
		return s
	}
	var s *socket
	// Not through TLS, where nobody can see how an answer ends.
	if sc, ok := pg.Conn().(syscall.Conn); ok && peek != nil {
		if raw, err := sc.SyscallConn(); err == nil {
			s = &socket{conn: pg.Conn(), raw: raw}
			s.ready = func(fd uintptr) bool { // called again when there may be more to see
				n, wait := peek(int(fd), s.seen[:])
				s.whole = n > 0 && ended(s.seen[:n])
				return !wait
			}
		}
	}
	data[socketName] = s
	return s
}

// within bounds what is read from now on.
func (s *socket) within(d time.Duration) { _ = s.conn.SetReadDeadline(time.Now().Add(d)) }

// unbound ends that.
func (s *socket) unbound() { _ = s.conn.SetReadDeadline(time.Time{}) }

// send sends b. What is not prepared yet is prepared first, which is bounded here: a time-out cancels no COMMIT then, since
// none has been sent.
func (s *socket) send(conn *pgx.Conn, last *Batch, b *pgx.Batch, limit time.Duration) pgx.BatchResults {
	s.within(limit)
	defer s.unbound() // also when a tracer panics
	return conn.SendBatch(&last.ctx, b)
}

// answered waits up to d for an answer, and reports whether it is there as a whole, so that reading it takes no time. One
// that comes in parts counts as none: a NOTICE travels ahead, and what follows it may take for ever. No other read may be
// under way; where one is all the same, since pgx reads in the background when a write takes long, nothing is seen.
func (s *socket) answered(d time.Duration) bool {
	s.whole = false
	s.within(d)
	defer s.unbound()
	return s.raw.Read(s.ready) == nil && s.whole
}

// ended reports whether b ends in ReadyForQuery. Nothing that travels ahead of it does: a NOTICE ends in a zero.
func ended(b []byte) bool {
	n := len(b) - 1 // where it says in what state the transaction is
	return n >= 0 && bytes.HasSuffix(b[:n], []byte{'Z', 0, 0, 0, 5}) && bytes.IndexByte([]byte("IET"), b[n]) >= 0
}
