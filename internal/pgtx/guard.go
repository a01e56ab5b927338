// Package pgtx has the two parts of a transaction that package idem adds to pgx: a Tx that its user cannot end, and a
// COMMIT that rides with another statement and is never cancelled.
package pgtx

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNotYours is what Commit and Rollback of a Guard answer.
var ErrNotYours = errors.New("idem: this transaction is ended by its owner, not by fn: return an error to undo, a response to commit")

// ErrDead is what every method of a Guard answers after Close. It wraps pgx.ErrTxClosed.
var ErrDead error = deadError{}

type deadError struct{}

func (deadError) Error() string { return "idem: transaction used after fn returned: tx is closed" }
func (deadError) Unwrap() error { return pgx.ErrTxClosed }

// Guard is a pgx.Tx on loan: Commit and Rollback refuse, and after Close everything does. Savepoints begun with Begin are
// ended as usual, and die with the Guard. Conn still gives the connection: a Guard stops mistakes, not intent.
type Guard struct {
	tx   pgx.Tx
	dead *atomic.Bool
	own  bool // a savepoint, which its user may end
	flag atomic.Bool
}

// NewGuard lends tx.
func NewGuard(tx pgx.Tx) *Guard {
	g := &Guard{}
	g.Lend(tx)
	return g
}

// Lend lends tx through a new Guard.
func (g *Guard) Lend(tx pgx.Tx) { g.tx, g.dead = tx, &g.flag }

// Close ends the loan. It may be called in another goroutine than the methods.
func (g *Guard) Close() { g.dead.Store(true) }

// Begin begins a savepoint.
func (g *Guard) Begin(ctx context.Context) (pgx.Tx, error) {
	if g.dead.Load() {
		return nil, ErrDead
	}
	tx, err := g.tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &Guard{tx: tx, dead: g.dead, own: true}, nil
}

// Commit releases a savepoint and refuses to end the transaction.
func (g *Guard) Commit(ctx context.Context) error {
	if err := g.mayEnd(); err != nil {
		return err
	}
	return g.tx.Commit(ctx)
}

// Rollback undoes a savepoint and refuses to end the transaction.
func (g *Guard) Rollback(ctx context.Context) error {
	if err := g.mayEnd(); err != nil {
		return err
	}
	return g.tx.Rollback(ctx)
}

func (g *Guard) mayEnd() error {
	switch {
	case g.dead.Load():
		return ErrDead
	case !g.own:
		return ErrNotYours
	}
	return nil
}

// CopyFrom is pgx.Tx's.
func (g *Guard) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if g.dead.Load() {
		return 0, ErrDead
	}
	return g.tx.CopyFrom(ctx, table, columns, src)
}

// SendBatch is pgx.Tx's.
func (g *Guard) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if g.dead.Load() {
		return pgx.FailedBatchResults(b, ErrDead)
	}
	return g.tx.SendBatch(ctx, b)
}

// LargeObjects is pgx.Tx's. Its methods go to the transaction itself: what was got before Close outlives it.
func (g *Guard) LargeObjects() pgx.LargeObjects {
	if g.dead.Load() {
		b := &pgx.Batch{}
		b.BeginTx(pgx.TxOptions{})
		return pgx.FailedBatchResults(b, ErrDead).Tx().LargeObjects() // a closed transaction's
	}
	return g.tx.LargeObjects()
}

// Prepare is pgx.Tx's.
func (g *Guard) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if g.dead.Load() {
		return nil, ErrDead
	}
	return g.tx.Prepare(ctx, name, sql)
}

// Exec is pgx.Tx's.
func (g *Guard) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if g.dead.Load() {
		return pgconn.CommandTag{}, ErrDead
	}
	return g.tx.Exec(ctx, sql, args...)
}

// Query is pgx.Tx's.
func (g *Guard) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if g.dead.Load() {
		return pgx.FailedBatchResults(&pgx.Batch{}, ErrDead).Query()
	}
	return g.tx.Query(ctx, sql, args...)
}

// QueryRow is pgx.Tx's.
func (g *Guard) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if g.dead.Load() {
		return pgx.FailedBatchResults(&pgx.Batch{}, ErrDead).QueryRow()
	}
	return g.tx.QueryRow(ctx, sql, args...)
}

// Conn is pgx.Tx's.
func (g *Guard) Conn() *pgx.Conn { return g.tx.Conn() }
