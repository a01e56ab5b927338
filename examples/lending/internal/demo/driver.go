package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	atOnce   = 24               // operations
	patience = 15 * time.Second // of a client that retries
)

// driver sends the operations and keeps what came back.
type driver struct {
	servers []string
	clients [projects][clients]*client

	done, requests atomic.Int64
}

// history is what the clients saw of one operation.
type history struct {
	op    *operation
	mu    sync.Mutex
	sent  int // requests, retries included
	cuts  int // of them, cut off by the client
	seen  [2]*answer
	first int // answers without the marker of a replay
	again int // answers with it

	reused  [2]int    // answers 422, by variant
	differs []*answer // that are not the first one's bytes
	lost    error     // why there was no answer
}

// The two requests that are sent under one key.
const (
	original = 0
	changed  = 1
)

func variant(s send) int {
	if s.changed {
		return changed
	}
	return original
}

// answered returns the answer that the operation got, whichever request won.
func (h *history) answered() (a *answer, variant int) {
	if h.seen[changed] != nil && h.seen[original] == nil {
		return h.seen[changed], changed
	}
	return h.seen[original], original
}

// drive sends the operations until they are all answered, or begins no more when stop is done.
func (d *driver) drive(ctx context.Context, plan []*operation, stop <-chan struct{}) ([]*history, error) {
	var all []*history
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
loop:
	for _, op := range plan {
		select {
		case <-stop:
			break loop
		case <-ctx.Done():
			break loop
		default:
		}
		h := &history{op: op}
		all = append(all, h)
		g.Go(func() error {
			defer d.done.Add(1)
			return d.operate(ctx, h)
		})
	}
	err := g.Wait()
	for _, perProject := range d.clients {
		for _, c := range perProject {
			c.http.CloseIdleConnections()
		}
	}
	return all, err
}

// operate sends one operation: what belongs together at once, then the late ones at once.
func (d *driver) operate(ctx context.Context, h *history) error {
	for _, late := range []bool{false, true} {
		g, ctx := errgroup.WithContext(ctx)
		for _, s := range h.op.sends {
			if s.late == late {
				g.Go(func() error { return d.deliver(ctx, h, s) })
			}
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// deliver sends one request until it has an answer, as a client does that must know: the same key, the same bytes.
func (d *driver) deliver(ctx context.Context, h *history, s send) error {
	if err := pause(ctx, s.after); err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := d.clients[h.op.project][s.client]
	last := "none came"
	for try := 0; ; try++ {
		d.requests.Add(1)
		a, err := c.send(patient, d.servers[s.replica], h.op, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait := time.Duration(try) * time.Millisecond
		switch {
		case errors.Is(err, errCut):
		case err != nil:
			wait += 20 * time.Millisecond
			if patient.Err() == nil {
				last = err.Error()
			}
		case a.status >= 500 || a.status == http.StatusTooManyRequests || a.code == "idempotency_key_in_progress":
			last = fmt.Sprintf("%d %s", a.status, a.body)
			wait += a.retryAfter
		default:
			h.note(s, a, nil)
			return nil
		}
		h.note(s, nil, err)
		// The next try is an ordinary one, at the other server.
		s.cut, s.fault.panic = cutNone, false
		s.replica = (s.replica + 1) % len(d.servers)
		if pause(patient, min(wait, time.Second)) != nil {
			break
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost = fmt.Errorf("no answer in %v; the last: %s", patience, last)
	return ctx.Err()
}

// note keeps what became of one request.
func (h *history) note(s send, a *answer, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent++
	if errors.Is(err, errCut) {
		h.cuts++
	}
	if a == nil {
		return
	}
	v := variant(s)
	if a.code == "idempotency_key_reused" {
		h.reused[v]++
		return
	}
	if a.replayed {
		h.again++
	} else {
		h.first++
	}
	switch {
	case h.seen[v] == nil:
		h.seen[v] = a
	case !h.seen[v].same(a):
		h.differs = append(h.differs, a)
	}
}
