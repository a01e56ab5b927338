package idemhttp_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgidem/pgidem/idem/idemhttp"
)

// Case 70: the first client gets the handler's response as it is; a replay has what may be kept and nothing else.
func TestHandler_case70_whatIsKept(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	never := []string{
		"Set-Cookie", "Authorization", "WWW-Authenticate", "Proxy-Authenticate", "Keep-Alive", "Upgrade",
		idemhttp.HeaderReplayed,
	}
	b.m.KeepHeaders = append([]string{"x-kept", "Date", "Connection", "Transfer-Encoding", "Trailer", "Content-Length", "X-Hop"}, never...)
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for _, name := range never {
			h.Set(name, "canary")
		}
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "canary")
		h.Set("X-Kept", "kept")
		h.Set("X-Other", "canary")
		h.Set("Location", "/charges/1")
		h.Set("ETag", `"v1"`)
		h.Set("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
		h.Set("Link", "</charges/1>; rel=self")
		h.Set("Content-Type", "text/special")
		h.Set("Content-Language", "tlh")
		h.Set("Content-Disposition", "inline")
		w.WriteHeader(http.StatusCreated)
		h.Set("X-Kept", "too late")
	}))
	first := b.post("/charges", "k", "")
	for _, name := range []string{"Set-Cookie", "Authorization", "Www-Authenticate", "X-Other", "X-Hop"} {
		if first.header.Get(name) != "canary" {
			t.Errorf("the first response lacks %s: %v", name, first.header)
		}
	}
	if first.header.Get("X-Kept") != "kept" || first.header.Get(idemhttp.HeaderReplayed) != "" {
		t.Errorf("first header %v", first.header)
	}
	again := b.post("/charges", "k", "")
	if strings.Contains(fmt.Sprint(again.header), "canary") {
		t.Errorf("replayed header %v", again.header)
	}
	for _, name := range []string{"Location", "Etag", "Last-Modified", "Link", "Content-Type", "Content-Language", "Content-Disposition", "X-Kept"} {
		if got, want := again.header[name], first.header[name]; len(want) != 1 || !slices.Equal(got, want) {
			t.Errorf("%s is %q, at first %q", name, got, want)
		}
	}
	if n := b.count("SELECT count(*) FROM idem.keys WHERE position('canary' in encode(response_header, 'escape')) > 0"); n != 0 {
		t.Error("what is never replayed is stored")
	}
}

func TestHandler_case71_gzip(t *testing.T) {
	t.Parallel()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write([]byte(strings.Repeat("hello ", 100)))
	noError(t, err)
	noError(t, z.Close())
	b := newBench(t)
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(zipped.Bytes())
	}))
	req := func() *http.Request {
		return b.request("POST", "/charges", "", idemhttp.HeaderKey, "k", "Accept-Encoding", "gzip")
	}
	first := b.send(req())
	if first.body != zipped.String() || first.header.Get("Content-Encoding") != "gzip" || first.header.Get("Content-Type") != "" {
		t.Errorf("first response is %+v", first)
	}
	same(t, first, b.send(req()))
}

// gzipWrapper compresses like the wrappers in use: it announces the encoding in advance and knows nothing of lengths.
type gzipWrapper struct {
	http.ResponseWriter
	z *gzip.Writer
}

func (w gzipWrapper) Write(p []byte) (int, error) { return w.z.Write(p) }

// A wrapper outside that compresses gets the plain response, and no length that would be wrong on the wire.
func TestHandler_case71_compressedOutside(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "gzip" {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			next.ServeHTTP(gzipWrapper{w, z}, r)
		})
	}
	text := strings.Repeat("plain text ", 500)
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(text))) // of what it writes, not of what is sent
		_, _ = io.WriteString(w, text)
	}))
	for i, encoding := range []string{"gzip", "gzip", "identity"} {
		for _, body := range []string{"", "another request"} {
			got := b.post("/charges", "k", body, "Accept-Encoding", encoding)
			if encoding == "gzip" {
				z, err := gzip.NewReader(strings.NewReader(got.body))
				noError(t, err)
				plain, err := io.ReadAll(z)
				noError(t, err)
				got.body = string(plain)
			}
			if body != "" {
				got.is(t, idemhttp.CodeKeyReused, 422)
				continue
			}
			if got.body != text || got.header.Get("Content-Type") != "text/plain; charset=utf-8" || got.replayed() != (i > 0) {
				t.Errorf("%d: %d %v, %d bytes", i, got.status, got.header, len(got.body))
			}
		}
	}
	b.left(1, 1)
}

// Case 72: values keep their order, also those with commas, and are not joined or split.
func TestHandler_case72_multiValueHeaders(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.KeepHeaders = []string{"X-Many"}
	links := []string{"</b>; rel=next, </x>; rel=y", "</a>; rel=prev"}
	many := []string{"3", "1", "2", "1", ""}
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		for _, v := range links {
			w.Header().Add("Link", v)
		}
		w.Header()["X-Many"] = many
		w.WriteHeader(http.StatusOK)
	}))
	first := b.post("/charges", "k", "")
	again := b.post("/charges", "k", "")
	same(t, first, again)
	if !slices.Equal(again.header["Link"], links) || !slices.Equal(again.header["X-Many"], many) {
		t.Errorf("replayed %v", again.header)
	}
}

// Case 74: scripts may read the marker and Retry-After, wherever the CORS fields come from, and find each name once.
func TestHandler_case74_cors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		outer, inner []string // values of Access-Control-Expose-Headers, "-" for no CORS
		want         string
	}{
		"no CORS":        {outer: []string{"-"}, inner: []string{"-"}},
		"outside":        {inner: []string{"-"}, want: "Idempotent-Replayed, Retry-After"},
		"outside, named": {outer: []string{"X-A, idempotent-replayed", "X-B"}, inner: []string{"-"}, want: "X-A, idempotent-replayed, X-B, Retry-After"},
		"inside":         {outer: []string{"-"}, inner: []string{"X-C"}, want: "X-C, Idempotent-Replayed, Retry-After"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			set := func(h http.Header, values []string) {
				if len(values) == 1 && values[0] == "-" {
					return
				}
				h.Set("Access-Control-Allow-Origin", "https://app.example.com")
				for _, v := range values {
					h.Add("Access-Control-Expose-Headers", v)
				}
			}
			b.wrap = func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					set(w.Header(), tt.outer)
					next.ServeHTTP(w, r)
				})
			}
			b.protect("POST /charges", b.charge(func(w http.ResponseWriter, _ *http.Request) { set(w.Header(), tt.inner) }))
			check := func(what string, r reply, want string) {
				t.Helper()
				if got := strings.Join(r.header["Access-Control-Expose-Headers"], "|"); got != want {
					t.Errorf("%s: Access-Control-Expose-Headers is %q, want %q", what, got, want)
				}
			}
			check("first", b.post("/charges", "k", ""), tt.want)
			if name != "inside" { // CORS belongs outside: a replay and a problem have no handler that could say it
				check("replay", b.post("/charges", "k", ""), tt.want)
				check("problem", b.post("/charges", "k", "x"), tt.want)
			}
		})
	}
}

// What wrappers outside set reaches every response and no record; what the handler changes of it does.
func TestHandler_headersFromOutside(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	n := 0
	b.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n++
			w.Header().Set("X-Request-Id", fmt.Sprint("request ", n))
			w.Header().Set("Set-Cookie", fmt.Sprint("session=", n))
			w.Header().Set("Content-Language", "en")
			w.Header().Set("Link", "</outer>; rel=outer")
			w.Header().Set("Content-Disposition", "outer")
			next.ServeHTTP(w, r)
		})
	}
	b.m.KeepHeaders = []string{"X-Request-Id"}
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		if w.Header().Get("X-Request-Id") != "request 1" {
			t.Error("the handler does not see what is set outside")
		}
		w.Header().Add("Link", "</inner>; rel=inner")
		w.Header().Del("Content-Disposition")
		w.WriteHeader(http.StatusCreated)
	}))
	for i, r := range []reply{b.post("/charges", "k", ""), b.post("/charges", "k", ""), b.post("/charges", "k", "x")} {
		id, cookie := fmt.Sprint("request ", i+1), fmt.Sprint("session=", i+1)
		if r.header.Get("X-Request-Id") != id || r.header.Get("Set-Cookie") != cookie || len(r.header["Set-Cookie"]) != 1 {
			t.Errorf("response %d has %v", i+1, r.header)
		}
		if i == 2 { // fields that speak of another body are gone
			if r.header.Get("Link") == "" || r.header.Get("Content-Language") != "" || r.header.Get("Content-Disposition") != "" {
				t.Errorf("the problem has %v", r.header)
			}
			continue
		}
		if got := strings.Join(r.header["Link"], "|"); got != "</outer>; rel=outer|</inner>; rel=inner" || r.header.Get("Content-Disposition") != "" || r.header.Get("Content-Language") != "en" {
			t.Errorf("response %d has %v", i+1, r.header)
		}
	}
	if n := b.count("SELECT count(*) FROM idem.keys WHERE encode(response_header, 'escape') ~ 'request 1|session|Language'"); n != 0 {
		t.Error("a field that was set outside is stored")
	}
}

// Where the handler says no Content-Type, ours is the one that net/http would have guessed, on every response.
func TestHandler_contentTypeAsNetHTTPGuesses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i, h := range []http.HandlerFunc{
		func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html><p>x") },
		func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "<ht")
			_, _ = io.WriteString(w, "ml><p>x")
		},
		func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"a":1}`) },
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("\x89PNG\x0d\x0a\x1a\x0a")) },
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil // do not guess
			_, _ = io.WriteString(w, "<html>")
		},
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "3") // wrong, and not the handler's to say
			_, _ = io.WriteString(w, strings.Repeat("long ", 1000))
		},
		func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "gone", http.StatusGone) },
		func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusSeeOther) },
	} {
		path := fmt.Sprint("/", i)
		b.protect("POST "+path, h)
		b.mux.HandleFunc("PUT "+path, h)
		first := b.post(path, "k", "")
		kept := reply{first.status, first.header.Clone(), first.body}
		kept.header.Del("X-Content-Type-Options") // http.Error sets it, and it is not kept
		same(t, kept, b.post(path, "k", ""))
		if i == 5 {
			if len(first.body) != 5000 || first.header.Get("Content-Length") != "5000" {
				t.Errorf("Content-Length %s for %d bytes", first.header.Get("Content-Length"), len(first.body))
			}
			continue
		}
		bare := b.send(b.request("PUT", path, ""))
		bare.header.Del("Date")
		first.header.Del("Date")
		if bare.status != first.status || bare.body != first.body || !equalHeaders(bare.header, first.header) {
			t.Errorf("%d: without the middleware %+v, with it %+v", i, bare, first)
		}
	}
}

// Trailers reach the first client and are not recorded.
func TestHandler_trailers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	h := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-More", "2")
	}
	b.protect("POST /charges", b.charge(h))
	for i := range 2 {
		res, err := b.server().Client().Do(b.request("POST", "/charges", "", idemhttp.HeaderKey, "k"))
		noError(t, err)
		body, err := io.ReadAll(res.Body)
		noError(t, err)
		res.Body.Close()
		if string(body) != "body" || res.Header.Get("X-Sum") != "" {
			t.Errorf("body %q, header %v", body, res.Header)
		}
		if i == 0 && (res.Trailer.Get("X-Sum") != "1" || res.Trailer.Get("X-More") != "2") || i == 1 && len(res.Trailer) > 0 {
			t.Errorf("response %d has trailers %v", i+1, res.Trailer)
		}
	}
}

// The writer keeps net/http's rules.
func TestRecorder_rules(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /twice", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints) // informational: nothing leaves before COMMIT
		w.WriteHeader(http.StatusCreated)
		w.WriteHeader(http.StatusInternalServerError)
		n, err := io.WriteString(w, "body")
		if n != 4 || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	})
	b.protect("POST /nobody", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		if _, err := w.Write([]byte("x")); !errors.Is(err, http.ErrBodyNotAllowed) {
			t.Errorf("writing a body to 204: %v", err)
		}
	})
	b.protect("POST /deadline", func(w http.ResponseWriter, _ *http.Request) {
		c := http.NewResponseController(w)
		if err := errors.Join(c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{})); err != nil {
			t.Error(err)
		}
	})
	if got := b.post("/twice", "k", ""); got.status != 201 || got.body != "body" {
		t.Errorf("got %+v", got)
	}
	same(t, b.post("/nobody", "k", ""), b.post("/nobody", "k", ""))
	b.post("/deadline", "k", "")

	for _, code := range []int{0, 99, 1000, -1} {
		var bare, ours any
		b.mux.HandleFunc(fmt.Sprint("PUT /bare", code), func(w http.ResponseWriter, _ *http.Request) {
			defer func() { bare = recover() }()
			w.WriteHeader(code)
		})
		b.protect(fmt.Sprint("POST /ours", code), func(w http.ResponseWriter, _ *http.Request) {
			defer func() { ours = recover(); panic(ours) }()
			w.WriteHeader(code)
		})
		b.send(b.request("PUT", fmt.Sprint("/bare", code), ""))
		if _, err := b.try(b.request("POST", fmt.Sprint("/ours", code), "", idemhttp.HeaderKey, "k")); err == nil {
			t.Errorf("status %d was answered", code)
		}
		if ours == nil || ours != bare {
			t.Errorf("status %d: net/http panics with %v, we with %v", code, bare, ours)
		}
	}
}

// Case 79: what would stream fails as a whole, and says so in the log.
func TestHandler_case79_streaming(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /flush", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Flush: %v", err)
		}
		if _, err := io.WriteString(w, "more"); err == nil {
			t.Error("a writer that has refused to flush goes on")
		}
	}))
	b.protect("POST /switch", b.charge(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusSwitchingProtocols) }))
	for _, path := range []string{"/flush", "/switch"} {
		for range 2 { // not recorded: the second one runs as well
			b.post(path, "k", "").is(t, idemhttp.CodeResponseStreamed, 500)
		}
	}
	if b.runs.Load() != 4 {
		t.Errorf("%d runs, want 4", b.runs.Load())
	}
	b.left(0, 0)
	if !strings.Contains(b.logs.String(), "without Flush") {
		t.Errorf("no hint in the log: %s", b.logs)
	}

	// A handler that asks first learns that there is no streaming, and says so itself.
	b.protect("POST /hijack", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		if _, ok := w.(http.Hijacker); ok {
			t.Error("the writer is a Hijacker")
		}
		if _, ok := w.(http.Flusher); ok {
			t.Error("the writer is a Flusher")
		}
		if _, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
			t.Error("the writer can be unwrapped")
		}
		if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Hijack: %v", err)
		} else {
			http.Error(w, "cannot hijack", http.StatusInternalServerError)
		}
	}))
	if got := b.post("/hijack", "k", ""); got.status != 500 || got.body != "cannot hijack\n" {
		t.Errorf("got %+v", got)
	}
	b.left(0, 0)
}

// Cases 28 and 29 over HTTP.
func TestHandler_case28_case29_responseLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.MaxResponseBody = 1000
	size := 1001
	var err error
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(make([]byte, 500))
		_, err = w.Write(make([]byte, size-500))
	}))
	b.post("/charges", "k", "").is(t, idemhttp.CodeResponseTooLarge, 500)
	if err == nil {
		t.Error("the handler was not told")
	}
	b.left(0, 0)
	if !strings.Contains(b.logs.String(), "raise MaxResponseBody") {
		t.Errorf("no hint in the log: %s", b.logs)
	}
	size = 1000
	first := b.post("/charges", "k", "")
	if first.status != 201 || len(first.body) != 1000 {
		t.Errorf("at the limit: %d, %d bytes", first.status, len(first.body))
	}
	same(t, first, b.post("/charges", "k", ""))

	b.m.KeepHeaders = []string{"X-Large"} // the header has a limit of its own
	b.protect("POST /header", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Large", strings.Repeat("x", 70_000))
	}))
	b.post("/header", "k", "").is(t, idemhttp.CodeResponseTooLarge, 500)
	b.left(1, 1)
}
