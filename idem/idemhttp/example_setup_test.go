package idemhttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem/idemhttp"
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

// openPool returns a pool on a migrated database with a table charges, and what ends both.
func openPool() (*pgxpool.Pool, func()) {
	e := &exampleDatabase{}
	pool, err := pgxpool.New(context.Background(), pgtest.New(e))
	if err != nil {
		panic(err)
	}
	return pool, func() {
		pool.Close()
		for _, f := range e.cleanups {
			f()
		}
	}
}

// post sends a request with a key to h and prints what came back.
func post(h http.Handler, path, key, body string, fields ...string) {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	if key != "" {
		r.Header.Set(idemhttp.HeaderKey, key)
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	text, _ := io.ReadAll(w.Body)
	if w.Header().Get(idemhttp.HeaderReplayed) != "" {
		text = append(text, " (replayed)"...)
	}
	fmt.Println(strings.TrimSpace(fmt.Sprint(w.Code, " ", string(text))))
}
