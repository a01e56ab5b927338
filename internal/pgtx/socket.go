package pgtx

import (
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// socket waits for the first byte of an answer without reading it.
type socket struct {
	conn  net.Conn
	raw   syscall.RawConn
	ready func(fd uintptr) bool
	asked bool
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
	nc := pg.Conn()
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // TLS
		nc = t.NetConn()
	}
	if sc, ok := nc.(syscall.Conn); ok && peek != nil {
		if raw, err := sc.SyscallConn(); err == nil {
			s = &socket{conn: nc, raw: raw}
			s.ready = func(fd uintptr) bool { // called, and called again when there may be something to read
				if s.asked {
					return true
				}
				s.asked = true
				return peek(int(fd))
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

// readable waits up to d for something to read: data, the end or an error. No other read may be under way; where one is all
// the same, since pgx reads in the background when a write takes long, it may miss the answer and return false.
func (s *socket) readable(d time.Duration) bool {
	s.asked = false
	s.within(d)
	defer s.unbound()
	return s.raw.Read(s.ready) == nil
}
