package idem

import (
	"context"
	"math/rand/v2"
	"time"
)

// wait paces the tries of a call whose key is in progress: jittered, longer from try to try, with the last one when the
// time is up. Nobody queues inside the server, where a wait holds a connection and cannot be bounded as a whole.
type wait struct {
	begun  time.Time
	most   time.Duration
	next   time.Duration
	paused time.Duration // the last pause
	tries  int
	over   bool
}

const (
	firstPause = 4 * time.Millisecond
	mostPause  = 120 * time.Millisecond
)

func (c *call) newWait() wait { return wait{begun: time.Now(), most: c.wait, next: firstPause} }

// again sleeps and reports whether to try once more.
func (w *wait) again(ctx context.Context) bool {
	w.paused = 0
	left := w.most - time.Since(w.begun)
	if w.over || left <= 0 {
		return false
	}
	pause := w.next/2 + rand.N(w.next)
	w.next = min(w.next*3/2, mostPause)
	w.tries++
	if pause >= left {
		pause, w.over = left, true
	}
	start := time.Now()
	ok := sleep(ctx, pause)
	w.paused = time.Since(start)
	return ok
}

// ended adds the context's error to ErrInProgress when that is what ended the wait.
func ended(ctx context.Context, err error) error {
	if e, ok := err.(*Error); ok && e.Err == ErrInProgress && ctx.Err() != nil {
		e.cause = context.Cause(ctx)
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
