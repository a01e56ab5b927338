package idem_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

// exampleDatabase is where an example finds a database: it is no test, and has no testing.TB.
type exampleDatabase struct {
	testing.TB // nothing else of it is used
	cleanups   []func()
}

func (e *exampleDatabase) Helper()                  {}
func (e *exampleDatabase) Name() string             { return "example" }
func (e *exampleDatabase) Failed() bool             { return false }
func (e *exampleDatabase) Context() context.Context { return context.Background() }
func (e *exampleDatabase) Cleanup(f func())         { e.cleanups = append(e.cleanups, f) }
func (e *exampleDatabase) Fatal(args ...any)        { panic(fmt.Sprint(args...)) }
func (e *exampleDatabase) Errorf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

// openPool returns a pool on a migrated database with a few tables of a lender's, and what ends both.
func openPool() (pool *pgxpool.Pool, closePool func()) {
	e := &exampleDatabase{}
	pool, err := pgxpool.New(e.Context(), pgtest.New(e))
	if err != nil {
		panic(err)
	}
	for _, sql := range []string{
		`CREATE TABLE cases (id bigint GENERATED ALWAYS AS IDENTITY, amount bigint NOT NULL)`,
		`CREATE TABLE charges (id bigint GENERATED ALWAYS AS IDENTITY, account text NOT NULL, amount bigint NOT NULL)`,
	} {
		if _, err := pool.Exec(e.Context(), sql); err != nil {
			panic(err)
		}
	}
	return pool, func() {
		pool.Close()
		for _, f := range e.cleanups {
			f()
		}
	}
}
