package integration

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// caller is the context key under which a call has its number.
type caller struct{}

// tries is a tracer that notes which calls have tried to lock their key, so that
// a test knows when they wait.
type tries struct {
	mu   sync.Mutex
	seen map[any]bool
	news chan struct{}
}

func newTries() *tries { return &tries{seen: map[any]bool{}, news: make(chan struct{}, 1)} }

type isLock struct{}

func (tr *tries) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		if strings.HasPrefix(q.SQL, "-- idem: lock") {
			return context.WithValue(ctx, isLock{}, true)
		}
	}
	return ctx
}

func (tr *tries) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (tr *tries) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	if ctx.Value(isLock{}) == nil || data.Err != nil {
		return
	}
	tr.mu.Lock()
	tr.seen[ctx.Value(caller{})] = true
	tr.mu.Unlock()
	select {
	case tr.news <- struct{}{}:
	default:
	}
}

func (tr *tries) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (tr *tries) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// wait waits until n calls have tried.
func (tr *tries) wait(t testing.TB, n int) {
	t.Helper()
	deadline := time.After(long)
	for {
		tr.mu.Lock()
		seen := len(tr.seen)
		tr.mu.Unlock()
		if seen >= n {
			return
		}
		select {
		case <-tr.news:
		case <-deadline:
			t.Fatalf("%d of %d calls have tried", seen, n)
		}
	}
}
