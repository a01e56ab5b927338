// Package proxy stands between a program and PostgreSQL, reads the protocol
// (version 3, without TLS), counts flights and misbehaves on request.
//
// A flight is what a client sends before it waits for the server: the unit that
// latency is paid for. A [Fault] sees every message of both directions in order,
// and decides whether it goes on.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Proxy listens on a port of 127.0.0.1 and forwards to one server.
type Proxy struct {
	listener net.Listener
	network  string // of the server
	address  string
	url      string

	flights atomic.Int64
	fault   atomic.Pointer[Fault]
	ended   context.Context // over when Close is called: nothing waits any longer
	end     context.CancelFunc

	mu    sync.Mutex
	conns map[*conn]struct{}
	next  int
	wg    sync.WaitGroup
}

// New starts a proxy in front of the server that dsn names. It ends with the test.
func New(t testing.TB, dsn string) *Proxy {
	t.Helper()
	p, err := Start(dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Start is New without a test. The caller must call Close.
func Start(dsn string) (*Proxy, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if config.TLSConfig != nil {
		plain := false
		for _, f := range config.Fallbacks {
			plain = plain || f.TLSConfig == nil
		}
		if !plain {
			return nil, errors.New("proxy: the server is reached by TLS, which cannot be read: say sslmode=disable")
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{listener: listener, conns: map[*conn]struct{}{}}
	p.network, p.address = pgconn.NetworkAddress(config.Host, config.Port)
	user := url.User(config.User)
	if config.Password != "" {
		user = url.UserPassword(config.User, config.Password)
	}
	p.url = (&url.URL{
		Scheme: "postgres", User: user, Host: listener.Addr().String(), Path: "/" + config.Database, RawQuery: "sslmode=disable",
	}).String()
	p.ended, p.end = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	return p, nil
}

// URL is the DSN of the same database through the proxy.
func (p *Proxy) URL() string { return p.url }

// Port is where the proxy listens.
func (p *Proxy) Port() int {
	_, port, _ := net.SplitHostPort(p.listener.Addr().String())
	n, _ := strconv.Atoi(port)
	return n
}

// Flights is the number of flights so far, on all connections, without those
// that opened and closed them.
func (p *Proxy) Flights() int { return int(p.flights.Load()) }

// Set puts f in force for every message from now on; nil ends it.
func (p *Proxy) Set(f Fault) {
	if f == nil {
		p.fault.Store(nil)
		return
	}
	p.fault.Store(&f)
}

// Close cuts all connections and returns when nothing of the proxy runs any more.
func (p *Proxy) Close() {
	p.end()
	_ = p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.cut()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	server, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(p.ended, p.network, p.address)
	if err != nil {
		_ = client.Close()
		return
	}
	c := &conn{proxy: p, client: client, server: server, statements: map[string]string{}, portals: map[string]string{}}
	p.mu.Lock()
	p.next++
	c.number = p.next
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	if p.ended.Err() != nil { // Close may have missed it
		c.cut()
	}
	c.run()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// decide asks the fault in force about a message.
func (p *Proxy) decide(m Message) Action {
	f := p.fault.Load()
	if f == nil {
		return Pass
	}
	return (*f)(m)
}
