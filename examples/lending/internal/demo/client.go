package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// answer is what came back, byte for byte.
type answer struct {
	status     int
	kept       string // the header fields that a replay must repeat
	body       []byte
	replayed   bool
	code       string // of a problem
	retryAfter time.Duration
}

// same says whether two answers are one, the marker apart.
func (a *answer) same(b *answer) bool {
	return a.status == b.status && a.kept == b.kept && bytes.Equal(a.body, b.body)
}

// errCut says that the client went away on purpose before it had an answer.
var errCut = errors.New("cut off by the client")

// client sends requests of one project over connections of its own.
type client struct {
	http  *http.Client
	token string
}

func newClient(token string) *client {
	return &client{token: token, http: &http.Client{
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 16,
			DisableCompression:  true,
		},
		Timeout: 30 * time.Second,
	}}
}

// send sends once and returns the answer, errCut, or what went wrong on the way.
func (c *client) send(ctx context.Context, server string, op *operation, s send) (*answer, error) {
	if s.cut == cutReset || s.cut == cutPartial {
		return nil, c.reset(ctx, server, op, s)
	}
	if s.cut == cutCancel {
		timeout, cancel := context.WithTimeout(ctx, s.cutAfter)
		defer cancel()
		a, err := c.roundTrip(timeout, server, op, s)
		if err != nil && timeout.Err() != nil && ctx.Err() == nil {
			return nil, errCut
		}
		return a, err
	}
	return c.roundTrip(ctx, server, op, s)
}

func (c *client) request(ctx context.Context, server string, op *operation, s send) (*http.Request, error) {
	body := op.body
	if s.changed {
		body = op.changed
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, server+op.endpoint.path(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	key := op.key
	if s.quoted {
		key = `"` + key + `"`
	}
	r.Header.Set("Idempotency-Key", key)
	r.Header.Set("Authorization", "Bearer "+c.token)
	r.Header.Set("Content-Type", "application/json")
	if f := s.fault.header(); f != "" {
		r.Header.Set(faultHeader, f)
	}
	return r, nil
}

func (c *client) roundTrip(ctx context.Context, server string, op *operation, s send) (*answer, error) {
	r, err := c.request(ctx, server, op, s)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	h := resp.Header
	a := &answer{
		status:   resp.StatusCode,
		kept:     fmt.Sprintf("Content-Type: %q, Location: %q", h.Values("Content-Type"), h.Values("Location")),
		body:     body,
		replayed: h.Get("Idempotent-Replayed") == "true",
	}
	if a.status >= 400 {
		var p struct{ Code string }
		_ = json.Unmarshal(body, &p) // an answer that is no problem has no code
		a.code = p.Code
		seconds, _ := strconv.Atoi(h.Get("Retry-After"))
		a.retryAfter = time.Duration(seconds) * time.Second
	}
	return a, nil
}

// reset writes the request, or half of it, to a connection of its own, and resets that.
func (c *client) reset(ctx context.Context, server string, op *operation, s send) error {
	r, err := c.request(ctx, server, op, s)
	if err != nil {
		return err
	}
	var raw bytes.Buffer
	if err := r.Write(&raw); err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", r.URL.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil { // Close sends RST
		return err
	}
	b := raw.Bytes()
	if s.cut == cutPartial {
		b = b[:len(b)-len(b)/8] // the header and a part of the body
	}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	if err := pause(ctx, s.cutAfter); err != nil {
		return err
	}
	return errCut
}

// pause sleeps, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
