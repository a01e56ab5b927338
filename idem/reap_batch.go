package idem

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// SQLSTATE codes for which a smaller batch may do.
const (
	stateLockTimeout = "55P03"
	stateCanceled    = "57014" // statement_timeout
)

// batch deletes once, and reports whether there may be more to delete.
func (p *pass) batch(ctx context.Context) (more bool, err error) {
	limit := p.size
	if p.held > 0 {
		limit = min(limit, max(1, p.held/2))
	}
	var deleted []time.Time
	next := p.window
	err = p.inTx(ctx, func(ctx context.Context, tx pgx.Tx, _ time.Time) error {
		rows, err := tx.Query(ctx, sqlReapDelete, p.floor, p.cutoff, limit, p.offset)
		if err != nil {
			return err
		}
		deleted, err = pgx.CollectRows(rows, pgx.RowTo[time.Time])
		if err != nil {
			return err
		}
		for _, expired := range deleted {
			next.raise(expired)
		}
		if len(deleted) == limit {
			more = true
			return nil
		}
		// Nothing left, or records that were due a moment ago and are not any more.
		expired, found, err := next.peek(ctx, tx)
		if more = found; found && len(deleted) == 0 { // seen, and yet not deleted: it must not keep us busy
			next.step(expired)
		}
		return err
	})
	switch {
	case heldByOther(err) && limit == 1:
		return p.passOver(ctx)
	case heldByOther(err):
		p.held = limit
		return true, nil
	case err != nil || p.res.Skipped != "":
		return false, err
	}
	p.window = next
	if len(deleted) > 0 {
		p.res.Deleted += int64(len(deleted))
		p.res.Batches++
	}
	if p.held > 0 {
		p.held -= limit
	} else {
		p.size = min(2*p.size, p.BatchSize)
	}
	return more, nil
}

// heldByOther reports whether a batch failed for a record that another transaction holds, or for taking too long.
func heldByOther(err error) bool {
	switch sqlState(err) {
	case stateLockTimeout, stateDeadlock, stateSerialization, stateCanceled:
		return true
	}
	return false
}

// passOver leaves the next record to a later pass.
func (p *pass) passOver(ctx context.Context) (more bool, err error) {
	p.held, p.size = 0, 1 // the ones behind it may be held as well: feel the way
	err = p.inTx(ctx, func(ctx context.Context, tx pgx.Tx, _ time.Time) error {
		expired, found, err := p.peek(ctx, tx)
		if more = found; found {
			p.step(expired)
		}
		return err
	})
	return more && p.res.Skipped == "", err
}

// window is what is left to look at: the records that expired from floor to cutoff, oldest first, but for the first
// offset of them, which were passed over. The floor follows what was deleted, so that no batch has to step over the index
// entries that the batches before have left dead.
type window struct {
	floor, cutoff time.Time
	offset        int
	passed        int // how many were passed over in all
}

// raise moves the floor to a record that was deleted.
func (w *window) raise(expired time.Time) {
	if expired.After(w.floor) {
		w.floor, w.offset = expired, 0
	}
}

// step passes over the first record, which expired at that time.
func (w *window) step(expired time.Time) {
	w.raise(expired)
	w.offset++
	w.passed++
}

// peek returns when the first record expired.
func (w *window) peek(ctx context.Context, tx pgx.Tx) (expired time.Time, found bool, err error) {
	err = tx.QueryRow(ctx, sqlReapPeek, w.floor, w.cutoff, w.offset).Scan(&expired)
	if errors.Is(err, pgx.ErrNoRows) {
		return expired, false, nil
	}
	return expired, err == nil, err
}
