package pgtx

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Batch is a pgx.Batch of up to three statements that holds its queries itself: one allocation, and none where it is part
// of something else. It must only be sent once.
type Batch struct {
	batch   pgx.Batch
	queries [3]*pgx.QueuedQuery
	own     [2]pgx.QueuedQuery
	n       int

	Bulky bool // too much to write at once for sure: sending it may wait for the server

	ctx uncancelled // of a last batch
}

// uncancelled is what context.WithoutCancel returns, as a value.
type uncancelled struct{ parent context.Context }

// Deadline implements context.Context.
func (*uncancelled) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (*uncancelled) Done() <-chan struct{} { return nil }

// Err implements context.Context.
func (*uncancelled) Err() error { return nil }

// Value implements context.Context.
func (u *uncancelled) Value(key any) any { return u.parent.Value(key) }

// Begin queues BEGIN, before anything else.
func (b *Batch) Begin(o pgx.TxOptions) {
	b.batch.QueuedQueries = b.queries[:0]
	b.batch.BeginTx(o)
}

// Queue queues a statement, the first or the second behind BEGIN, and returns the batch to send.
func (b *Batch) Queue(sql string, args []any) *pgx.Batch {
	if b.batch.QueuedQueries == nil {
		b.batch.QueuedQueries = b.queries[:0]
	}
	q := &b.own[b.n]
	b.n++
	q.SQL, q.Arguments = sql, args
	b.batch.QueuedQueries = append(b.batch.QueuedQueries, q)
	return &b.batch
}
