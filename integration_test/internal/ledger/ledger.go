// Package ledger is the business of the tests: a table that takes every entry
// that is written to it, the same one twice as well. Nothing in it prevents a
// duplicate, so that what prevents it is package idem.
package ledger

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const sqlTable = `CREATE TABLE ledger (
	id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	ref text NOT NULL, -- which operation
	who text NOT NULL  -- who has written it
)`

const sqlInsert = `INSERT INTO ledger (ref, who) VALUES ($1::text, $2::text) RETURNING id`

// Create makes the table.
func Create(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sqlTable)
	return err
}

// Insert writes an entry and returns its id.
func Insert(ctx context.Context, tx pgx.Tx, ref, who string) (id int64, err error) {
	err = tx.QueryRow(ctx, sqlInsert, ref, who).Scan(&id)
	return id, err
}

// Entry is a committed entry.
type Entry struct {
	ID       int64
	Ref, Who string
}

// Entries returns the committed entries of an operation, in the order of their writing.
func Entries(t testing.TB, db Querier, ref string) []Entry {
	t.Helper()
	rows, _ := db.Query(t.Context(), `SELECT id, ref, who FROM ledger WHERE ref = $1::text ORDER BY id`, ref)
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Entry])
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// Once fails the test unless the operation has been written exactly once, and returns its entry.
func Once(t testing.TB, db Querier, ref string) Entry {
	t.Helper()
	entries := Entries(t, db, ref)
	if len(entries) != 1 {
		t.Fatalf("%d entries for %s, want exactly 1: %+v", len(entries), ref, entries)
	}
	return entries[0]
}

// None fails the test unless nothing has been written for the operation.
func None(t testing.TB, db Querier, ref string) {
	t.Helper()
	if entries := Entries(t, db, ref); len(entries) > 0 {
		t.Fatalf("%d entries for %s, want none: %+v", len(entries), ref, entries)
	}
}

// Querier is a pool or a connection.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

var _ Querier = (*pgxpool.Pool)(nil)
