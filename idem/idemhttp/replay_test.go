package idemhttp_test

import (
	"bytes"
	"context"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/idem/idemhttp"
)

// Cases 1 to 3 and 69 over HTTP: one run, replays equal byte for byte, the marker on replays only and not stored.
func TestHandler_case1_case2_case3_case69_replays(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", "/charges/1")
		w.Header().Set(idemhttp.HeaderReplayed, "true") // a handler that lies
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte("{\"a\":1, \"a\":1.00}\x00\xff"))
	}))
	first := b.post("/charges", "k-1", "{}")
	if first.status != 201 || first.body != "{\"a\":1, \"a\":1.00}\x00\xff" || first.header.Get("Location") != "/charges/1" {
		t.Fatalf("first response is %+v", first)
	}
	for range 9 {
		same(t, first, b.post("/charges", "k-1", "{}"))
	}
	b.left(1, 1)
	if b.runs.Load() != 1 {
		t.Errorf("%d runs, want 1", b.runs.Load())
	}
	if n := b.count("SELECT count(*) FROM idem.keys WHERE position('Replayed' in encode(response_header, 'escape')) > 0"); n != 0 {
		t.Error("the marker is stored")
	}
}

func TestHandler_case6_emptyResponses(t *testing.T) {
	t.Parallel()
	tests := map[string]http.HandlerFunc{
		"204": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"204 and body": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
			_, _ = w.Write([]byte("dropped"))
		},
		"200":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) },
		"201 no bytes": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated); _, _ = w.Write(nil) },
		"304": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"v"`)
			w.WriteHeader(http.StatusNotModified)
		},
	}
	b := newBench(t)
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			path := "/" + strings.ReplaceAll(name, " ", "-")
			b.protect("POST "+path, h)
			b.mux.HandleFunc("PUT "+path, h)
			bare := b.send(b.request("PUT", path, ""))
			first := b.post(path, "k", "")
			same(t, first, b.post(path, "k", ""))
			if first.body != "" || first.header.Get("Content-Type") != "" {
				t.Errorf("body %q, Content-Type %q", first.body, first.header.Get("Content-Type"))
			}
			bare.header.Del("Date")
			first.header.Del("Date")
			if bare.status != first.status || !equalHeaders(bare.header, first.header) {
				t.Errorf("without the middleware %d %v, with it %d %v", bare.status, bare.header, first.status, first.header)
			}
		})
	}
}

func TestHandler_case7_handlerThatWritesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /charges", b.charge(func(http.ResponseWriter, *http.Request) {}))
	first := b.post("/charges", "k", "")
	if first.status != 200 || first.body != "" {
		t.Errorf("first response is %+v", first)
	}
	same(t, first, b.post("/charges", "k", ""))
	b.left(1, 1)
}

// Cases 9 and 10: project and endpoint scope the key.
func TestHandler_case9_case10_scope(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.Project = func(r *http.Request) string { return r.Header.Get("X-Tenant") }
	b.protect("POST /charges", b.charge(b.status(201)))
	b.protect("POST /refunds", b.charge(b.status(201)))
	var bodies []string
	for range 2 {
		bodies = append(bodies, b.post("/charges", "k", "", "X-Tenant", "a").body,
			b.post("/charges", "k", "", "X-Tenant", "b").body, b.post("/refunds", "k", "", "X-Tenant", "a").body)
	}
	if got, want := strings.Join(bodies, ","), "run 1,run 2,run 3,run 1,run 2,run 3"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	b.left(3, 3)
}

// Case 14, and what passes by its method (case 15).
func TestHandler_case14_case15_passThrough(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.Optional = true
	b.mux.Handle("/charges", b.m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.runs.Add(1)
		if idemhttp.Tx(r.Context()) != nil {
			t.Error("an unprotected request has a transaction")
		}
		if _, ok := w.(http.Flusher); !ok {
			t.Error("an unprotected request has a writer of ours")
		}
		_, _ = io.WriteString(w, "passed")
	})))
	for range 2 {
		if got := b.send(b.request("POST", "/charges", "x")); got.status != 200 || got.body != "passed" || got.replayed() {
			t.Errorf("POST without a key: %+v", got)
		}
	}
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "TRACE"} {
		if got := b.send(b.request(method, "/charges", "", idemhttp.HeaderKey, "k")); got.status != 200 || got.replayed() {
			t.Errorf("%s with a key: %+v", method, got)
		}
	}
	if b.runs.Load() != 6 {
		t.Errorf("%d runs, want 6", b.runs.Load())
	}
	b.left(0, 0)
	b.post("/charges", `"unclosed`, "x").is(t, idemhttp.CodeKeyInvalid, 400)
}

func TestHandler_methodsThatAreProtected(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mux.Handle("/charges", b.m.Handler(b.charge(b.status(200))))
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "QUERY", "post"} {
		b.send(b.request(method, "/charges", "")).is(t, idemhttp.CodeKeyMissing, 400)
		first := b.send(b.request(method, "/charges", "", idemhttp.HeaderKey, "k-"+method))
		same(t, first, b.send(b.request(method, "/charges", "", idemhttp.HeaderKey, "k-"+method)))
	}
	b.left(6, 6)
}

// Cases 16 and 62: the handler reads the whole body and may do with its request what it likes.
func TestHandler_case16_case62_requestBelongsToHandler(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	big := strings.Repeat("0123456789abcdef", 4096) // 64 KiB, over several reads
	var outerSaw http.Header
	b.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r)
			outerSaw = r.Header.Clone()
		})
	}
	b.protect("POST /charges/{id}", b.charge(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != big {
			t.Errorf("the handler read %d bytes, error %v", len(body), err)
		}
		if r.ContentLength != int64(len(big)) || r.PathValue("id") != "7" || r.Pattern != "POST /charges/{id}" {
			t.Errorf("length %d, id %q, pattern %q", r.ContentLength, r.PathValue("id"), r.Pattern)
		}
		r.Method, r.URL.Path, r.Pattern = "PUT", "/other", "other"
		r.Header.Set("Content-Type", "changed/type")
		r.Header.Set(idemhttp.HeaderKey, "changed")
		clear(body)
		w.WriteHeader(http.StatusCreated)
	}))
	first := b.post("/charges/7", "k", big)
	if outerSaw.Get(idemhttp.HeaderKey) != "k" {
		t.Error("the handler's changes reach the request outside")
	}
	same(t, first, b.post("/charges/7", "k", big))

	req := b.request("POST", "/charges/7", "", idemhttp.HeaderKey, "k") // the same without a declared length
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader(big)), -1
	same(t, first, b.send(req))
	b.left(1, 1)
	if n := b.count("SELECT count(*) FROM idem.keys WHERE key = 'k' AND endpoint = 'POST /charges/{id}'"); n != 1 {
		t.Error("the record is not under the request's own key and pattern")
	}
}

// Case 22 over HTTP, for any value and for the one with a meaning of its own.
func TestHandler_case22_panicSurfaces(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	values := make(chan any, 1)
	b.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if v := recover(); v != nil {
					values <- v
					panic(http.ErrAbortHandler)
				}
			}()
			next.ServeHTTP(w, r)
		})
	}
	var value any
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		if value != nil {
			panic(value)
		}
	}))
	for _, value = range []any{"a string", http.ErrAbortHandler, &struct{}{}} {
		if got, err := b.try(b.request("POST", "/charges", "", idemhttp.HeaderKey, "k")); err == nil {
			t.Errorf("panic %v was answered: %+v", value, got)
		}
		if got := <-values; got != value {
			t.Errorf("panic %v surfaced as %v", value, got)
		}
		b.left(0, 0)
	}
	value = nil
	if got := b.post("/charges", "k", ""); got.status != 201 || got.replayed() {
		t.Errorf("the call after the panics: %+v", got)
	}
	b.left(1, 1)
}

// Case 38 over HTTP.
func TestHandler_case38_oneRunForAllAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *pgxpool.Config) { c.MaxConns = 5 })
	b.m.Wait, b.m.PoolWait = time.Minute, -1
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, r *http.Request) {
		_, err := idemhttp.Tx(r.Context()).Exec(r.Context(), "SELECT pg_catalog.pg_sleep(0.2)")
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, "run "+strconv.FormatInt(b.runs.Load(), 10))
	}))
	replies := make([]reply, 30)
	b.server()
	var wg sync.WaitGroup
	for i := range replies {
		req := b.request("POST", "/charges", "body", idemhttp.HeaderKey, "k")
		wg.Go(func() {
			var err error
			if replies[i], err = b.try(req); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	firsts := 0
	for _, r := range replies {
		if r.status != 201 || r.body != "run 1" {
			t.Errorf("got %d %q", r.status, r.body)
		}
		if !r.replayed() {
			firsts++
		}
	}
	if firsts != 1 {
		t.Errorf("%d replies without the marker, want 1", firsts)
	}
	b.left(1, 1)
}

// held starts a request that holds its key until the returned function lets it end.
func (b *bench) held(path, key, body string) (release func() reply) {
	b.t.Helper()
	started, end, done := make(chan struct{}), make(chan struct{}), make(chan reply, 1)
	b.protect("POST "+path, b.charge(func(w http.ResponseWriter, _ *http.Request) {
		close(started)
		<-end
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, "held")
	}))
	req := b.request("POST", path, body, idemhttp.HeaderKey, key)
	go func() {
		r, err := b.try(req)
		if err != nil {
			b.t.Error(err)
		}
		done <- r
	}()
	<-started
	return func() reply {
		close(end)
		return <-done
	}
}

// Cases 45 and 46: who does not wait gets 409, whatever the request; who waits learns that the key is reused.
func TestHandler_case45_case46_inProgress(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.Wait = -1
	release := b.held("/charges", "k", "body")
	for _, body := range []string{"body", "other"} {
		got := b.post("/charges", "k", body)
		got.is(t, idemhttp.CodeKeyInProgress, 409)
		if n, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || n < 1 {
			t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
		}
		if !problemOf(t, got).Retryable {
			t.Error("in progress is not retryable")
		}
	}
	same(t, release(), b.post("/charges", "k", "body"))
	b.post("/charges", "k", "other").is(t, idemhttp.CodeKeyReused, 422)
	b.left(1, 1)
}

func TestHandler_case45_waitsAndReplaysOrRefuses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	waiting := make(chan struct{}, 2)
	b.m.Wait = time.Minute
	b.m.Principal = func(*http.Request) string { waiting <- struct{}{}; return "" } // called last before the database
	release := b.held("/charges", "k", "body")
	<-waiting
	replies := make(chan reply, 2)
	for _, body := range []string{"body", "other"} {
		req := b.request("POST", "/charges", body, idemhttp.HeaderKey, "k")
		go func() {
			r, err := b.try(req)
			if err != nil {
				t.Error(err)
			}
			replies <- r
		}()
		<-waiting
	}
	first := release()
	for range 2 {
		if got := <-replies; got.status == 201 {
			same(t, first, got)
		} else {
			got.is(t, idemhttp.CodeKeyReused, 422)
		}
	}
	b.left(1, 1)
}

// The handler runs again, with the request and the header as they were, when its connection is lost.
func TestHandler_runsAgainWithTheSameRequest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Outer", "outer")
			next.ServeHTTP(w, r)
		})
	}
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) != "body" || r.ContentLength != 4 || r.Header.Get("X-Seen") != "" || r.URL.Path != "/charges" {
			t.Errorf("run %d got body %q, length %d, header %v", b.runs.Load(), body, r.ContentLength, r.Header)
		}
		if len(w.Header()) != 1 || w.Header().Get("X-Outer") != "outer" {
			t.Errorf("run %d begins with header %v", b.runs.Load(), w.Header())
		}
		r.Header.Set("X-Seen", "1")
		r.URL.Path = "/seen"
		w.Header().Set("X-Outer", "changed")
		w.Header().Set("X-Run", strconv.FormatInt(b.runs.Load(), 10))
		if b.runs.Load() == 1 {
			var gone bool
			err := idemhttp.Tx(r.Context()).QueryRow(r.Context(), "SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())").Scan(&gone)
			if err == nil {
				t.Error("the connection is still there")
			}
			http.Error(w, "database error", http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}))
	got := b.post("/charges", "k", "body")
	if got.status != 201 || got.header.Get("X-Run") != "2" || got.header.Get("X-Outer") != "changed" || got.body != "" {
		t.Errorf("got %+v", got)
	}
	b.left(1, 1)
}

// Case 23 over HTTP: who goes away while the handler runs leaves nothing behind.
func TestHandler_case23_clientGoneInHandler(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	started, served := make(chan struct{}), make(chan struct{})
	b.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(served)
			next.ServeHTTP(w, r)
		})
	}
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
		w.WriteHeader(http.StatusCreated) // it did not look
	}))
	ctx, cancel := context.WithCancel(t.Context())
	req := b.request("POST", "/charges", "body", idemhttp.HeaderKey, "k").WithContext(ctx)
	go func() { <-started; cancel() }()
	if _, err := b.try(req); err == nil {
		t.Error("a cancelled request got an answer")
	}
	<-served
	b.left(0, 0)
}

// Case 80: who goes away after the commit finds the response on the next try.
func TestHandler_case80_clientGoneAfterCommit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	committed, served := make(chan struct{}), make(chan struct{}, 2)
	b.m.Observer = idem.ObserverFunc(func(ctx context.Context, e idem.Event) {
		if e.Outcome == idem.Executed { // committed, and not answered yet
			close(committed)
			<-ctx.Done()
		}
	})
	b.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r)
			served <- struct{}{}
		})
	}
	b.protect("POST /charges", b.charge(b.status(201)))
	ctx, cancel := context.WithCancel(t.Context())
	req := b.request("POST", "/charges", "body", idemhttp.HeaderKey, "k").WithContext(ctx)
	go func() { <-committed; cancel() }()
	if _, err := b.try(req); err == nil {
		t.Error("a cancelled request got an answer")
	}
	<-served
	b.left(1, 1)
	if got := b.post("/charges", "k", "body"); got.status != 201 || got.body != "run 1" || !got.replayed() {
		t.Errorf("the next try got %+v", got)
	}
	b.left(1, 1)
}

// The transaction is the Middleware's to end, and the context is the request's.
func TestTx(t *testing.T) {
	t.Parallel()
	if tx, key := idemhttp.Tx(t.Context()), idemhttp.Key(t.Context()); tx != nil || key != (idem.Key{}) {
		t.Errorf("a context without a transaction has %v and %+v", tx, key)
	}
	b := newBench(t)
	var kept pgx.Tx
	type contextKey struct{}
	b.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, "outer")))
		})
	}
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, r *http.Request) {
		kept = idemhttp.Tx(r.Context())
		if key := idemhttp.Key(r.Context()); key.Project != "acme" || key.Endpoint != "POST /charges" || key.Value != "k" {
			t.Errorf("Key returns %+v", key)
		}
		if err := kept.Commit(r.Context()); err == nil {
			t.Error("the handler may commit")
		}
		if r.Context().Value(contextKey{}) != "outer" {
			t.Error("the context has lost a value from outside")
		}
		w.WriteHeader(http.StatusCreated)
	}))
	if got := b.post("/charges", "k", ""); got.status != 201 {
		t.Errorf("got %+v", got)
	}
	if _, err := kept.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the transaction works after the handler has returned")
	}
	b.left(1, 1)
}

// A request larger than one read and with bytes of every kind arrives as it was sent.
func TestHandler_bodyOfAnyBytes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	all := make([]byte, 0, 256*40)
	for i := range 256 * 40 {
		all = append(all, byte(i))
	}
	b.protect("POST /echo", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	first := b.post("/echo", "k", string(all))
	if !bytes.Equal([]byte(first.body), all) {
		t.Error("the echo differs")
	}
	same(t, first, b.post("/echo", "k", string(all)))
}

// The files of a form that the handler has parsed are removed with its request.
func TestHandler_multipartFilesAreRemoved(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var name string
	b.protect("POST /upload", func(_ http.ResponseWriter, r *http.Request) {
		noError(t, r.ParseMultipartForm(1))
		f, err := r.MultipartForm.File["file"][0].Open()
		noError(t, err)
		defer f.Close()
		name = f.(*os.File).Name()
	})
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", "a.txt")
	noError(t, err)
	_, err = part.Write(bytes.Repeat([]byte("x"), 100_000))
	noError(t, err)
	noError(t, form.Close())
	if got := b.post("/upload", "k", body.String(), "Content-Type", form.FormDataContentType()); got.status != 200 {
		t.Fatalf("got %+v", got)
	}
	if _, err := os.Stat(name); name == "" || !os.IsNotExist(err) {
		t.Errorf("file %q: %v", name, err)
	}
}
