package idemhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/idem/idemhttp"
)

// handle routes pattern to fn, which finds a business row written already.
func (b *bench) handle(pattern string, fn func(ctx context.Context, tx pgx.Tx, w http.ResponseWriter, r *http.Request) error) {
	b.mux.Handle(pattern, idemhttp.Handle(b.m, func(ctx context.Context, tx pgx.Tx, w http.ResponseWriter, r *http.Request) error {
		b.runs.Add(1)
		if idemhttp.Tx(r.Context()) != tx || idemhttp.Tx(ctx) != tx {
			b.t.Error("Tx returns another transaction than the argument")
		}
		if _, err := tx.Exec(ctx, "INSERT INTO public.charges (note) VALUES ('x')"); err != nil {
			return err
		}
		return fn(ctx, tx, w, r)
	}))
}

func TestHandle(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.handle("POST /charges", func(_ context.Context, _ pgx.Tx, w http.ResponseWriter, r *http.Request) error {
		body, err := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, "run %d: %s", b.runs.Load(), body)
		return err
	})
	first := b.post("/charges", "k", "body")
	if first.status != 201 || first.body != "run 1: body" {
		t.Errorf("got %+v", first)
	}
	same(t, first, b.post("/charges", "k", "body"))
	b.left(1, 1)
}

// An error undoes and forgets. It is shown to nobody but the log.
func TestHandle_error(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i, tt := range []struct {
		wrote  int
		err    error
		status int
		code   string // "" for fn's own response
	}{
		{0, errors.New("secret"), 500, idemhttp.CodeHandlerFailed},
		{201, errors.New("secret"), 500, idemhttp.CodeHandlerFailed},
		{409, errors.New("secret"), 409, ""},
		{502, errors.New("secret"), 502, ""},
		{0, fmt.Errorf("secret: %w", idem.ErrKeyReused), 500, idemhttp.CodeHandlerFailed}, // of some other call
		{0, fmt.Errorf("secret: %w", idem.ErrConflict), 503, idemhttp.CodeUnavailable},
		{0, fmt.Errorf("secret: %w", &pgconn.PgError{Code: "23505", Message: "secret"}), 500, idemhttp.CodeHandlerFailed},
		{0, fmt.Errorf("secret: %w", &pgconn.PgError{Code: "57P03", Message: "secret"}), 503, idemhttp.CodeUnavailable},
	} {
		path := fmt.Sprint("/", i)
		b.handle("POST "+path, func(_ context.Context, _ pgx.Tx, w http.ResponseWriter, _ *http.Request) error {
			if tt.wrote != 0 {
				w.WriteHeader(tt.wrote)
			}
			return tt.err
		})
		got := b.post(path, "k", "")
		if tt.code == "" {
			if got.status != tt.status || got.header.Get("Content-Type") != "" {
				t.Errorf("%d: got %+v", i, got)
			}
		} else {
			got.is(t, tt.code, tt.status)
			if p := problemOf(t, got); !p.Retryable || !strings.Contains(b.logs.line(p.Instance), "secret") {
				t.Errorf("%d: %s, log %s", i, got.body, b.logs.line(p.Instance))
			}
		}
		if strings.Contains(fmt.Sprint(got), "secret") {
			t.Errorf("%d: the answer shows the error: %+v", i, got)
		}
		b.left(0, 0)
	}
}

// A lost race that fn returns makes it run again; when it loses for ever, the client is asked to retry.
func TestHandle_runsAgainAfterSerializationFailure(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.handle("POST /once", func(_ context.Context, _ pgx.Tx, w http.ResponseWriter, r *http.Request) error {
		body, _ := io.ReadAll(r.Body)
		w.Header().Add("X-Runs", "1")
		_, _ = w.Write(body)
		if b.runs.Load() < 3 {
			return fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: "40001"})
		}
		return nil
	})
	got := b.post("/once", "k", "body")
	if got.status != 200 || got.body != "body" || len(got.header["X-Runs"]) != 1 || b.runs.Load() != 3 {
		t.Errorf("got %+v after %d runs", got, b.runs.Load())
	}
	b.left(1, 1)

	b.handle("POST /never", func(context.Context, pgx.Tx, http.ResponseWriter, *http.Request) error {
		return &pgconn.PgError{Code: "40P01"}
	})
	got = b.post("/never", "k", "")
	got.is(t, idemhttp.CodeUnavailable, 503)
	if got.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	b.left(1, 1)
}

// idem.Refuse works too: its response is sent and recorded.
func TestHandle_refuse(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Outer", "outer")
			next.ServeHTTP(w, r)
		})
	}
	b.handle("POST /charges", func(_ context.Context, _ pgx.Tx, w http.ResponseWriter, _ *http.Request) error {
		_, _ = io.WriteString(w, "not this")
		resp, err := idem.JSON(402, "declined")
		if err != nil {
			return err
		}
		return fmt.Errorf("wrapped: %w", idem.Refuse(resp))
	})
	first := b.post("/charges", "k", "")
	if first.status != 402 || first.body != `"declined"` || first.header.Get("X-Outer") != "outer" {
		t.Errorf("got %+v", first)
	}
	same(t, first, b.post("/charges", "k", ""))
	b.left(0, 1)
}

// On a request that passes through, fn has a transaction all the same, which ends by the same rules; nothing is recorded.
func TestHandle_passThrough(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.Optional = true
	charges := 0
	for i, tt := range []struct {
		status, charges int
		err             error
		want            int
	}{
		{200, 1, nil, 200},
		{303, 1, nil, 303},
		{404, 0, nil, 404},
		{500, 0, nil, 500},
		{200, 0, errors.New("failed"), 500},
		{422, 0, errors.New("failed"), 422},
	} {
		path := fmt.Sprint("/", i)
		b.handle(path, func(ctx context.Context, tx pgx.Tx, w http.ResponseWriter, r *http.Request) error {
			body, _ := io.ReadAll(r.Body)
			if err := tx.Commit(ctx); err == nil {
				t.Error("fn may commit")
			}
			w.WriteHeader(tt.status)
			_, _ = fmt.Fprintf(w, "%s %s", r.Method, body)
			return tt.err
		})
		for _, method := range []string{"GET", "POST"} {
			got := b.send(b.request(method, path, "body"))
			charges += tt.charges
			if got.status != tt.want || tt.err == nil && got.body != method+" body" {
				t.Errorf("%d %s: got %+v", i, method, got)
			}
			b.left(charges, 0)
		}
	}

	b.handle("/flush", func(_ context.Context, _ pgx.Tx, w http.ResponseWriter, _ *http.Request) error {
		_ = http.NewResponseController(w).Flush()
		return nil
	})
	b.send(b.request("GET", "/flush", "")).is(t, idemhttp.CodeResponseStreamed, 500)
	b.left(charges, 0)

	b.handle("/panic", func(context.Context, pgx.Tx, http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) })
	if _, err := b.try(b.request("GET", "/panic", "")); err == nil {
		t.Error("a panic was answered")
	}
	b.left(charges, 0)

	b.m.Pool = nil
	b.handle("/misconfigured", nil)
	b.send(b.request("GET", "/misconfigured", "")).is(t, idemhttp.CodeMisconfigured, 500)
}

// Case 22 with Handle.
func TestHandle_case22_panic(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.handle("POST /charges", func(_ context.Context, _ pgx.Tx, w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusCreated)
		if b.runs.Load() == 1 {
			panic(http.ErrAbortHandler)
		}
		return nil
	})
	if _, err := b.try(b.request("POST", "/charges", "", idemhttp.HeaderKey, "k")); err == nil {
		t.Error("a panic was answered")
	}
	b.left(0, 0)
	if got := b.post("/charges", "k", ""); got.status != 201 || got.replayed() {
		t.Errorf("got %+v", got)
	}
	b.left(1, 1)
}
