package main

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// proxy stands between clients and server. It delays what passes, each direction by half of the latency, without holding
// back what follows: any amount may be under way. And it counts flights.
type proxy struct {
	listener        net.Listener
	network, server string
	delay           time.Duration // one way

	flights    atomic.Int64
	fromClient atomic.Bool // who spoke last

	mu    sync.Mutex
	conns []net.Conn
	done  sync.WaitGroup
}

func newProxy(host string, port uint16, latency time.Duration) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, delay: latency / 2}
	p.network, p.server = pgconn.NetworkAddress(host, port)
	p.done.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// close ends the proxy and the connections through it.
func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.done.Wait()
}

// startCount starts to count flights; it is for one client that is not in the middle of something.
func (p *proxy) startCount() {
	p.flights.Store(0)
	p.fromClient.Store(false)
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial(p.network, p.server)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.done.Go(func() {
			// A flight is what a client sends until the server speaks again.
			p.pass(server, client, func() {
				if !p.fromClient.Swap(true) {
					p.flights.Add(1)
				}
			})
		})
		p.done.Go(func() { p.pass(client, server, func() { p.fromClient.Store(false) }) })
	}
}

type chunk struct {
	buf *[]byte
	n   int
	due time.Time
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}

// pass passes on what from sends, each chunk when its time has come.
func (p *proxy) pass(to, from net.Conn, seen func()) {
	chunks := make(chan chunk, 256)
	p.done.Go(func() {
		defer close(chunks)
		for {
			buf := buffers.Get().(*[]byte)
			n, err := from.Read(*buf)
			if n > 0 {
				seen()
				chunks <- chunk{buf, n, time.Now().Add(p.delay)}
			}
			if err != nil {
				return
			}
		}
	})
	timer, err := newTimer()
	if err == nil {
		defer timer.close()
	}
	for c := range chunks {
		if err == nil && p.delay > 0 {
			err = timer.sleepUntil(c.due)
		}
		if err == nil {
			_, err = to.Write((*c.buf)[:c.n])
		}
		buffers.Put(c.buf)
	}
	// Either end is gone, or the timer failed: the client sees a lost connection.
	to.Close()
	from.Close()
}
