package idemhttp_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/idem/idemhttp"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

// Cases 75 to 78: what is recorded, and what becomes of the handler's writes.
func TestHandler_case75_case76_case77_case78_statuses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	type outcome struct{ charges, records int }
	committed, refused, forgotten := outcome{1, 1}, outcome{0, 1}, outcome{0, 0}
	want := map[int]outcome{
		200: committed, 201: committed, 202: committed, 204: committed, 299: committed,
		300: committed, 301: committed, 303: committed, 304: committed, 307: committed,
		400: refused, 402: refused, 404: refused, 405: refused, 409: refused, 410: refused, 422: refused, 451: refused, 499: refused,
		401: forgotten, 403: forgotten, 408: forgotten, 425: forgotten, 429: forgotten,
		500: forgotten, 502: forgotten, 503: forgotten, 599: forgotten, 600: forgotten, 999: forgotten,
	}
	var total outcome
	for status, o := range want {
		path := fmt.Sprint("/", status)
		runs := 0
		b.protect("POST "+path, b.charge(func(w http.ResponseWriter, _ *http.Request) {
			runs++
			w.Header().Set("Location", "/elsewhere")
			w.Header().Set("Retry-After", "9")
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, "run ", runs)
		}))
		first := b.post(path, "k", "")
		total.charges += o.charges
		total.records += o.records
		b.left(total.charges, total.records)
		if first.status != status || first.replayed() || first.header.Get("Retry-After") != "9" {
			t.Errorf("%d: the first client got %+v", status, first)
		}
		again := b.post(path, "k", "")
		if o.records == 0 {
			if again.replayed() || again.status != status || again.body != "run 2" {
				t.Errorf("%d: the second client got %+v", status, again)
			}
			continue
		}
		if runs != 1 {
			t.Errorf("%d: %d runs", status, runs)
		}
		first.header.Del("Retry-After") // not kept
		same(t, first, again)
		if again.header.Get("Location") != "/elsewhere" {
			t.Errorf("%d: replayed without Location", status)
		}
	}
}

// Case 75: after a failure the next call runs and may succeed.
func TestHandler_case75_nextCallRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, r *http.Request) {
		switch b.runs.Load() {
		case 1:
			http.Error(w, "first", http.StatusInternalServerError)
		case 2:
			http.Error(w, "second", http.StatusServiceUnavailable)
		default:
			w.WriteHeader(http.StatusCreated)
		}
	}))
	for i, status := range []int{500, 503, 201, 201} {
		if got := b.post("/charges", "k", ""); got.status != status || got.replayed() != (i == 3) {
			t.Errorf("call %d got %+v", i+1, got)
		}
	}
	b.left(1, 1)
}

// Case 20 over HTTP: a statement fails and the handler does not care.
func TestHandler_case20_failedStatement(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	status := 201
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, r *http.Request) {
		if _, err := idemhttp.Tx(r.Context()).Exec(r.Context(), "SELECT 1/0"); err == nil {
			t.Error("no error")
		}
		w.WriteHeader(status)
	}))
	b.post("/charges", "k", "").is(t, idemhttp.CodeHandlerFailed, 500)
	b.left(0, 0)
	status = 409 // a refusal needs nothing of the failed transaction
	first := b.post("/charges", "k", "")
	same(t, first, b.post("/charges", "k", ""))
	b.left(0, 1)
}

// Case 36 over HTTP: a handler that ends the transaction behind our back. What it committed stays, and nobody says that it
// was undone.
func TestHandler_case36_handlerEndsTheTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, r *http.Request) {
		if _, err := idemhttp.Tx(r.Context()).Conn().Exec(r.Context(), "COMMIT"); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
	}))
	got := b.post("/charges", "k", "")
	got.is(t, idemhttp.CodeHandlerFailed, 500)
	if p := problemOf(t, got); p.Retryable || strings.Contains(p.Detail, "undone") {
		t.Errorf("got %s", got.body)
	}
	b.left(1, 0)
}

// A constraint that fails at COMMIT is the handler's failure, not the database's.
func TestHandler_deferredConstraint(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.Optional = true
	_, err := b.pool.Exec(t.Context(), "CREATE TABLE public.slots (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
	noError(t, err)
	b.handle("POST /slots", func(ctx context.Context, tx pgx.Tx, w http.ResponseWriter, _ *http.Request) error {
		_, err := tx.Exec(ctx, "INSERT INTO public.slots VALUES (1), (1)")
		w.WriteHeader(http.StatusCreated)
		return err
	})
	got := b.post("/slots", "k", "")
	got.is(t, idemhttp.CodeHandlerFailed, 500)
	if !problemOf(t, got).Retryable {
		t.Error("with a key: not retryable")
	}
	got = b.send(b.request("POST", "/slots", ""))
	got.is(t, idemhttp.CodeHandlerFailed, 500)
	if p := problemOf(t, got); p.Retryable || strings.Contains(p.Detail, "same key") {
		t.Errorf("without a key: %s", got.body)
	}
	b.left(0, 0)
}

func TestMiddleware_remember(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var asked []int
	b.m.Remember = func(status int) bool {
		asked = append(asked, status)
		return status == 500 || status == 429
	}
	records, charges := 0, 0
	for _, status := range []int{200, 302, 404, 429, 500} {
		path := fmt.Sprint("/", status)
		b.protect("POST "+path, b.charge(b.status(status)))
		b.post(path, "k", "")
		switch {
		case status < 400:
			charges++
			records++
		case status == 500 || status == 429:
			records++
		}
		b.left(charges, records)
	}
	if fmt.Sprint(asked) != "[404 429 500]" {
		t.Errorf("asked about %v", asked)
	}
	if got := b.post("/500", "k", ""); got.status != 500 || !got.replayed() {
		t.Errorf("got %+v", got)
	}
}

func TestMiddleware_ttlAndObserver(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var outcomes []idem.Outcome
	b.m.Observer = idem.ObserverFunc(func(_ context.Context, e idem.Event) { outcomes = append(outcomes, e.Outcome) })
	b.m.TTL = time.Hour
	b.protect("POST /charges", b.charge(b.status(201)))
	b.protect("POST /refused", b.charge(b.status(422)))
	b.post("/charges", "k", "")
	b.post("/charges", "k", "")
	b.post("/charges", "k", "x")
	b.post("/refused", "k", "")
	if got := fmt.Sprint(outcomes); got != "[executed replayed reused refused]" {
		t.Errorf("observed %s", got)
	}
	if n := b.count("SELECT count(*) FROM idem.keys WHERE expires_at - created_at = interval '1 hour'"); n != 2 {
		t.Errorf("%d records with the TTL, want 2", n)
	}
	_, err := b.pool.Exec(t.Context(), "UPDATE idem.keys SET created_at = created_at - interval '2 hours', expires_at = expires_at - interval '2 hours'")
	noError(t, err)
	if got := b.post("/charges", "k", "x"); got.status != 201 || got.replayed() {
		t.Errorf("an expired key got %+v", got)
	}
}

// No database, no run: 503, whatever the reason, with the reason in the log and not in the answer.
func TestHandler_unavailable(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	down := func(t *testing.T) *bench {
		return newBenchOn(t, "postgres://nobody@127.0.0.1:1/none?connect_timeout=5")
	}
	tests := map[string]struct {
		bench  func(t *testing.T) *bench
		reason string
	}{
		"database down":  {down, "connect"},
		"no schema":      {func(t *testing.T) *bench { return newBenchOn(t, pgtest.Empty(t)) }, "idem migrate up"},
		"read-only":      {readOnly(url), "read-write transaction on the primary"},
		"pool exhausted": {exhausted(url), "the pool is exhausted"},
		"pool closed":    {func(t *testing.T) *bench { b := newBenchOn(t, url); b.pool.Close(); return b }, "closed pool"},
	}
	for name, tt := range tests {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			b := tt.bench(t)
			b.protect("POST /charges", b.charge(b.status(201)))
			got := b.post("/charges", "k", "")
			got.is(t, idemhttp.CodeUnavailable, 503)
			p := problemOf(t, got)
			if got.header.Get("Retry-After") == "" || !p.Retryable || b.runs.Load() != 0 {
				t.Errorf("got %+v, %d runs", got, b.runs.Load())
			}
			if line := b.logs.line(p.Instance); !strings.Contains(line, tt.reason) || !strings.Contains(line, "level=ERROR") {
				t.Errorf("the log does not say %q: %s", tt.reason, line)
			}
			for _, leak := range []string{"127.0.0.1", "SQLSTATE", "idem.keys", "pool", "nobody"} {
				if strings.Contains(got.body, leak) {
					t.Errorf("the answer reveals %q: %s", leak, got.body)
				}
			}
		})
	}
}

func readOnly(url string) func(*testing.T) *bench {
	return func(t *testing.T) *bench {
		return newBenchOn(t, url, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on" })
	}
}

func exhausted(url string) func(*testing.T) *bench {
	return func(t *testing.T) *bench {
		b := newBenchOn(t, url, func(c *pgxpool.Config) { c.MaxConns = 1 })
		b.m.Wait, b.m.PoolWait = -1, 50*time.Millisecond
		conn, err := b.pool.Acquire(t.Context())
		noError(t, err)
		t.Cleanup(conn.Release)
		return b
	}
}

// PoolWait does not limit the handler.
func TestMiddleware_poolWaitLeavesTheHandlerItsTime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	noError(t, b.pool.Ping(t.Context())) // connected
	b.m.Wait, b.m.PoolWait = -1, 2*time.Second
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			t.Error("the handler's context has ended")
		case <-time.After(2500 * time.Millisecond):
		}
		w.WriteHeader(http.StatusCreated)
	}))
	if got := b.post("/charges", "k", ""); got.status != 201 {
		t.Errorf("got %+v", got)
	}
	b.left(1, 1)
}

// A Middleware that is set up wrong says so at once, runs nothing, and lets through what it would not have protected.
func TestMiddleware_misconfigured(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	good := *b.m
	tests := map[string]struct {
		change func(*idemhttp.Middleware)
		valid  bool // as far as Validate can see
		hint   string
	}{
		"no pool":          {func(m *idemhttp.Middleware) { m.Pool = nil }, false, "Pool is nil"},
		"no project":       {func(m *idemhttp.Middleware) { m.Project = nil }, false, "SingleProject"},
		"TTL":              {func(m *idemhttp.Middleware) { m.TTL = -1 }, false, "TTL is -1ns"},
		"MaxResponseBody":  {func(m *idemhttp.Middleware) { m.MaxResponseBody = 65 << 20 }, false, "MaxResponseBody is"},
		"MaxRequestBody":   {func(m *idemhttp.Middleware) { m.MaxRequestBody = -1 }, false, "MaxRequestBody is -1"},
		"MinLength":        {func(m *idemhttp.Middleware) { m.MinLength = 256 }, false, "MinLength is 256"},
		"header name":      {func(m *idemhttp.Middleware) { m.HeaderNames = []string{""} }, false, "empty name"},
		"empty project":    {func(m *idemhttp.Middleware) { m.Project = idemhttp.SingleProject("") }, true, "Project function returned"},
		"project with NUL": {func(m *idemhttp.Middleware) { m.Project = idemhttp.SingleProject("a\x00") }, true, "NUL"},
		"empty endpoint":   {func(m *idemhttp.Middleware) { m.Endpoint = func(*http.Request) string { return "" } }, true, "Endpoint function returned"},
		"endpoint too long": {func(m *idemhttp.Middleware) {
			m.Endpoint = func(*http.Request) string { return strings.Repeat("x", 513) }
		}, true, "513 bytes"},
		"option against hash": {func(m *idemhttp.Middleware) { m.Options = []idem.Option{idem.WithoutRequestHash()} }, true, "WithoutRequestHash"},
	}
	for name, tt := range tests {
		m := good
		l := &logs{}
		m.Logger = newLogger(l)
		tt.change(&m)
		if err := m.Validate(); (err == nil) != tt.valid || err != nil && !strings.Contains(err.Error(), tt.hint) {
			t.Errorf("%s: Validate returns %v", name, err)
		}
		path := "/" + strings.ReplaceAll(name, " ", "-")
		b.mux.Handle(path, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				t.Errorf("%s: the handler ran", name)
			}
		})))
		if loud := strings.Contains(l.String(), tt.hint); loud == tt.valid {
			t.Errorf("%s: Handler logs %q", name, l)
		}
		got := b.post(path, "k", "")
		got.is(t, idemhttp.CodeMisconfigured, 500)
		p := problemOf(t, got)
		if line := l.line(p.Instance); !strings.Contains(line, tt.hint) || strings.Contains(got.body, tt.hint) || p.Retryable {
			t.Errorf("%s: answer %s, log %q", name, got.body, line)
		}
		if got := b.send(b.request("GET", path, "")); got.status != 200 {
			t.Errorf("%s: GET got %d", name, got.status)
		}
	}
	b.left(0, 0)
	if (*idemhttp.Middleware)(nil).Validate() == nil {
		t.Error("a nil Middleware is valid")
	}
}

// Around a mux there is no pattern yet: an error, and not the raw path.
func TestHandler_aroundAMux(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mux.HandleFunc("POST /charges/{id}", b.charge(b.status(201)))
	b.wrap = b.m.Handler
	b.post("/charges/1", "k", "").is(t, idemhttp.CodeMisconfigured, 500)
	if !strings.Contains(b.logs.String(), "wrap each route") {
		t.Errorf("no hint in the log: %s", b.logs)
	}
	b.left(0, 0)

	named := newBench(t)
	named.m.Endpoint = func(r *http.Request) string {
		_, pattern := named.mux.Handler(r)
		return pattern
	}
	named.mux.HandleFunc("POST /charges/{id}", named.charge(named.status(201)))
	named.wrap = named.m.Handler
	first := named.post("/charges/1", "k", "")
	same(t, first, named.post("/charges/1", "k", ""))
	if n := named.count("SELECT count(*) FROM idem.keys WHERE endpoint = 'POST /charges/{id}'"); n != 1 {
		t.Error("the record has another endpoint")
	}
}

// The same key around itself is a mistake in the set-up, and neither hangs nor runs.
func TestHandler_wrappedTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mux.Handle("POST /charges", b.m.Handler(b.m.Handler(b.charge(b.status(201)))))
	b.post("/charges", "k", "").is(t, idemhttp.CodeMisconfigured, 500)
	b.left(0, 0)
}
