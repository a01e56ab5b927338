package proxy

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"
)

// conn is one connection of a client, and the one to the server that belongs to it.
type conn struct {
	proxy  *Proxy
	number int
	client net.Conn
	server net.Conn
	once   sync.Once

	// Used by the goroutine that reads the client.
	statements map[string]string // name of a prepared statement → SQL
	portals    map[string]string // name of a portal → SQL

	mu      sync.Mutex
	ready   bool // logged in
	syncs   int  // ReadyForQuery that the server owes
	flushed bool // the client has asked for what there is so far
	waiting bool // a flight is on its way
}

// run forwards both directions until one ends or the connection is cut.
func (c *conn) run() {
	defer c.cut()
	var wg sync.WaitGroup
	wg.Go(func() {
		if c.login() == nil {
			c.pump(c.client, c.server, true)
		}
		c.hangUp(c.server)
	})
	c.pump(c.server, c.client, false)
	c.hangUp(c.client)
	wg.Wait()
}

// hangUp ends one side in good order; what was forwarded to it still arrives.
func (c *conn) hangUp(side net.Conn) { _ = side.Close() }

// cut resets both sides: neither gets what is not there yet.
func (c *conn) cut() {
	c.once.Do(func() {
		for _, side := range []net.Conn{c.client, c.server} {
			if tcp, ok := side.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = side.Close()
		}
	})
}

// Codes that a client sends in place of a protocol version.
const (
	codeSSL    = 80877103
	codeGSSENC = 80877104
)

// login forwards what comes before the first message that has a type. Encryption is declined.
func (c *conn) login() error {
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(c.client, head); err != nil {
			return err
		}
		if code := binary.BigEndian.Uint32(head[4:]); code == codeSSL || code == codeGSSENC {
			if _, err := c.client.Write([]byte{'N'}); err != nil {
				return err
			}
			continue
		}
		n := int64(binary.BigEndian.Uint32(head))
		if n < 8 || n > maxMessage {
			return fmt.Errorf("proxy: startup message of %d bytes", n)
		}
		if _, err := c.server.Write(head); err != nil {
			return err
		}
		_, err := io.CopyN(c.server, c.client, n-8)
		return err
	}
}

const maxMessage = 1 << 30

// pump forwards messages. What one read brought is looked at as a whole before
// any of it goes on, so that a flight that comes in one piece counts as one.
func (c *conn) pump(from, to net.Conn, fromClient bool) {
	var pending []byte // the beginning of a message whose end has not come
	buf := make([]byte, 256<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		pending = append(pending, buf[:n]...)
		messages, rest, err := split(pending)
		if err != nil {
			c.cut()
			return
		}
		c.count(messages, fromClient)
		var out []byte
		for _, raw := range messages {
			m := c.message(raw, fromClient)
			// A fault may wait. What comes before it must be on its way by then.
			if f := c.proxy.fault.Load(); f != nil && len(out) > 0 {
				if _, err := to.Write(out); err != nil {
					return
				}
				out = out[:0]
			}
			switch c.proxy.decide(m) {
			case Pass:
				out = append(out, raw...)
			case Cut:
				c.cut()
				return
			case Drop:
			}
		}
		pending = append([]byte(nil), rest...)
		if len(out) > 0 {
			if _, err := to.Write(out); err != nil {
				return
			}
		}
	}
}

// split cuts b into messages: a type, a length that includes itself, a body.
func split(b []byte) (messages [][]byte, rest []byte, err error) {
	for len(b) >= 5 {
		n := int64(binary.BigEndian.Uint32(b[1:])) + 1
		if n < 5 || n > maxMessage {
			return nil, nil, fmt.Errorf("proxy: message of %d bytes", n)
		}
		if int64(len(b)) < n {
			break
		}
		messages = append(messages, b[:n:n])
		b = b[n:]
	}
	return messages, b, nil
}

// count finds out where flights begin and end. COPY counts as one: pgx sends the
// data without waiting until the server asks for it.
func (c *conn) count(messages [][]byte, fromClient bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, raw := range messages {
		kind := raw[0]
		if !fromClient {
			switch {
			case kind == 'Z': // ReadyForQuery
				if c.ready {
					c.syncs--
				}
				c.ready = true
				c.waiting = c.syncs > 0
			case c.flushed: // the server has answered a Flush
				c.waiting = false
			}
			continue
		}
		if !c.ready || kind == 'X' { // passwords, and the good-bye
			continue
		}
		if !c.waiting {
			c.proxy.flights.Add(1)
			c.waiting = true
		}
		switch kind {
		case 'S', 'Q', 'F':
			c.syncs++
		}
		c.flushed = kind == 'H'
	}
}

// message describes a message to a fault.
func (c *conn) message(raw []byte, fromClient bool) Message {
	m := Message{Conn: c.number, FromClient: fromClient, Type: raw[0], Body: raw[5:]}
	if !fromClient {
		return m
	}
	switch m.Type {
	case 'Q':
		var q pgproto3.Query
		if q.Decode(m.Body) == nil {
			m.SQL = q.String
		}
	case 'P':
		var p pgproto3.Parse
		if p.Decode(m.Body) == nil {
			c.statements[p.Name] = p.Query
		}
	case 'B':
		var b pgproto3.Bind
		if b.Decode(m.Body) == nil {
			c.portals[b.DestinationPortal] = c.statements[b.PreparedStatement]
		}
	case 'E':
		var e pgproto3.Execute
		if e.Decode(m.Body) == nil {
			m.SQL = c.portals[e.Portal]
		}
	}
	return m
}
