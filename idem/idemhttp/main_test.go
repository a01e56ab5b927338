package idemhttp_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/pgidem/pgidem/idem/idemhttp"
	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
	"github.com/pgidem/pgidem/migrations"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(pgtest.EnvSkip) == "1" { // an Example cannot skip itself
		if err := flag.Set("test.skip", "^ExampleMiddleware|^ExampleHandle"); err != nil {
			panic(err)
		}
	}
	code := pgtest.Main(m, localpg.Options{}, migrate)
	if left := leftGoroutines(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left running:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leftGoroutines returns the stacks of goroutines that requests left behind, after giving them time to end.
func leftGoroutines() string {
	var left []string
	for range 100 {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = left[:0]
		for stack := range strings.SplitSeq(string(buf), "\n\n") {
			if !strings.Contains(stack, "leftGoroutines") && (strings.Contains(stack, "pgidem/idem") || strings.Contains(stack, "jackc/")) {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			return ""
		}
		time.Sleep(50 * time.Millisecond)
	}
	return strings.Join(left, "\n\n")
}

// migrate also makes the table that the handlers of these tests write to. It has no unique constraint that could hide a
// second run.
func migrate(ctx context.Context, url string) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithTableName(migrations.VersionTable))
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "CREATE TABLE public.charges (id bigint GENERATED ALWAYS AS IDENTITY, note text NOT NULL)")
	return err
}

// bench is what a test of a protected handler works with: a database of its own and a server in front of it.
type bench struct {
	t    testing.TB
	pool *pgxpool.Pool
	m    *idemhttp.Middleware
	mux  *http.ServeMux
	logs *logs
	runs atomic.Int64 // calls of handlers made with charge

	wrap func(http.Handler) http.Handler // middleware outside, around the mux
	once sync.Once
	srv  *httptest.Server
}

// newBench returns a bench whose Middleware has what is required and a logger.
func newBench(t testing.TB, change ...func(*pgxpool.Config)) *bench {
	t.Helper()
	return newBenchOn(t, pgtest.New(t), change...)
}

func newBenchOn(t testing.TB, url string, change ...func(*pgxpool.Config)) *bench {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	noError(t, err)
	config.ConnConfig.RuntimeParams["search_path"] = ""
	for _, f := range change {
		f(config)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	noError(t, err)
	t.Cleanup(pool.Close)
	b := &bench{t: t, pool: pool, mux: http.NewServeMux(), logs: &logs{}}
	b.m = &idemhttp.Middleware{
		Pool: pool, Project: idemhttp.SingleProject("acme"),
		PoolWait: -1, // however slow the machine is
		Logger:   newLogger(b.logs),
	}
	return b
}

// protect routes pattern to h behind the Middleware as it is now.
func (b *bench) protect(pattern string, h http.HandlerFunc) {
	b.mux.Handle(pattern, b.m.Handler(h))
}

// charge is a handler that writes a business row and answers with then.
func (b *bench) charge(then http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b.runs.Add(1)
		if _, err := idemhttp.Tx(r.Context()).Exec(r.Context(), "INSERT INTO public.charges (note) VALUES ('x')"); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		then(w, r)
	}
}

// status is a handler that answers with a status and a short body that tells its runs apart.
func (b *bench) status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "run "+string(rune('0'+b.runs.Load())))
	}
}

// reply is a response that has been read.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) replayed() bool { return r.header.Get(idemhttp.HeaderReplayed) == "true" }

// server starts the server at the first use.
func (b *bench) server() *httptest.Server {
	b.once.Do(func() {
		var h http.Handler = b.mux
		if b.wrap != nil {
			h = b.wrap(h)
		}
		b.srv = httptest.NewUnstartedServer(h)
		b.srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // panics are expected
		b.srv.Start()
		b.t.Cleanup(b.srv.Close)
	})
	return b.srv
}

// request makes a request; fields are name, value, name, value, …
func (b *bench) request(method, path, body string, fields ...string) *http.Request {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.server().URL+path, strings.NewReader(body))
	noError(b.t, err)
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	return req
}

func (b *bench) send(req *http.Request) reply {
	b.t.Helper()
	r, err := b.try(req)
	noError(b.t, err)
	return r
}

func (b *bench) try(req *http.Request) (reply, error) {
	res, err := b.server().Client().Transport.RoundTrip(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(body)}, err
}

// post sends a body with a key.
func (b *bench) post(path, key, body string, fields ...string) reply {
	b.t.Helper()
	return b.send(b.request("POST", path, body, append([]string{idemhttp.HeaderKey, key}, fields...)...))
}

// charges counts the committed business rows, on a connection of the pool.
func (b *bench) charges() int { return b.count("SELECT count(*) FROM public.charges") }

// records counts the records.
func (b *bench) records() int { return b.count("SELECT count(*) FROM idem.keys") }

func (b *bench) count(sql string) (n int) {
	b.t.Helper()
	noError(b.t, b.pool.QueryRow(context.WithoutCancel(b.t.Context()), sql).Scan(&n))
	return n
}

// left fails the test unless the database holds that many business rows and records.
func (b *bench) left(charges, records int) {
	b.t.Helper()
	if c, r := b.charges(), b.records(); c != charges || r != records {
		b.t.Errorf("the database holds %d charges and %d records, want %d and %d", c, r, charges, records)
	}
}

// is fails the test unless r is a problem with the code and status, in the form that every problem has.
func (r reply) is(t testing.TB, code string, status int) {
	t.Helper()
	p := problemOf(t, r)
	if p.Code != code || r.status != status {
		t.Errorf("got %d %s, want %d %s; body %s", r.status, p.Code, status, code, r.body)
	}
}

// logs is what a logger has written.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func newLogger(l *logs) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same fails the test unless two replies agree in status, body and all fields but those that differ by nature.
func same(t testing.TB, first, again reply) {
	t.Helper()
	if !again.replayed() {
		t.Errorf("no marker on the replay: %v", again.header)
	}
	if first.replayed() {
		t.Error("marker on the first response")
	}
	a, b := first.header.Clone(), again.header.Clone()
	for _, h := range []http.Header{a, b} {
		h.Del("Date")
		h.Del(idemhttp.HeaderReplayed)
	}
	if first.status != again.status || first.body != again.body || !equalHeaders(a, b) {
		t.Errorf("the replay differs:\nfirst %d %v %q\nagain %d %v %q", first.status, a, first.body, again.status, b, again.body)
	}
}

func equalHeaders(a, b http.Header) bool {
	if len(a) != len(b) {
		return false
	}
	for name := range a {
		if strings.Join(a[name], "\x00") != strings.Join(b[name], "\x00") {
			return false
		}
	}
	return true
}
