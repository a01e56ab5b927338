package idemhttp_test

import (
	"bufio"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pgidem/pgidem/idem/idemhttp"
)

// Cases 11, 12 and 53 to 59: what a key is bound to. Every pair of requests is sent with one key; the second one is
// replayed, or refused with 422 and without a run.
func TestHandler_binding(t *testing.T) {
	t.Parallel()
	type message struct {
		path, body, contentType string
		header                  []string
	}
	const typeJSON = "application/json"
	multi := func(boundary, second string) message {
		var sb strings.Builder
		w := multipart.NewWriter(&sb)
		noError(t, w.SetBoundary(boundary))
		noError(t, w.WriteField("amount", "100"))
		noError(t, w.WriteField("note", second))
		noError(t, w.Close())
		return message{body: sb.String(), contentType: w.FormDataContentType()}
	}
	tests := []struct {
		name          string
		first, second message
		canonical     bool
		reused        bool
	}{
		{name: "case11 other resource", first: message{path: "/1/pay", body: "x"}, second: message{path: "/2/pay", body: "x"}, reused: true},
		{name: "case11 encoded slash", first: message{path: "/a%2Fb/pay"}, second: message{path: "/a%2fb/pay"}, reused: true},
		{name: "case12 other principal", first: message{header: []string{"X-User", "ann"}}, second: message{header: []string{"X-User", "bob"}}, reused: true},
		{name: "case53 one byte", first: message{body: `{"a":1}`}, second: message{body: `{"a":2}`}, reused: true},
		{name: "case53 one byte more", first: message{body: `{"a":1}`}, second: message{body: `{"a":1} `}, reused: true},
		{name: "case53 empty", first: message{body: ""}, second: message{body: "\n"}, reused: true},
		{name: "case54 reordered, raw", first: message{body: `{"a":1,"b":2}`, contentType: typeJSON}, second: message{body: `{"b":2,"a":1}`, contentType: typeJSON}, reused: true},
		{name: "case54 reordered, canonical", canonical: true, first: message{body: `{"a":1,"b":2}`, contentType: typeJSON}, second: message{body: "{ \"b\": 2.0, \"\\u0061\": 1e0 }\n", contentType: typeJSON + "; charset=utf-8"}},
		{name: "case54 canonical, no JSON", canonical: true, first: message{body: `{"a":1,"b":2}`, contentType: "text/plain"}, second: message{body: `{"b":2,"a":1}`, contentType: "text/plain"}, reused: true},
		{name: "case54 canonical, +json", canonical: true, first: message{body: `{"a":1,"b":2}`, contentType: "application/vnd.api+json"}, second: message{body: `{"b":2,"a":1}`, contentType: "application/vnd.api+json"}},
		{name: "case54 canonical, other value", canonical: true, first: message{body: `{"a":1}`, contentType: typeJSON}, second: message{body: `{"a":"1"}`, contentType: typeJSON}, reused: true},
		{name: "case55 array order, raw", first: message{body: `[1,2]`, contentType: typeJSON}, second: message{body: `[2,1]`, contentType: typeJSON}, reused: true},
		{name: "case55 array order, canonical", canonical: true, first: message{body: `[1,2]`, contentType: typeJSON}, second: message{body: `[2,1]`, contentType: typeJSON}, reused: true},
		{name: "case56 query value", first: message{path: "/1/pay?a=1"}, second: message{path: "/1/pay?a=2"}, reused: true},
		{name: "case56 query added", first: message{path: "/1/pay"}, second: message{path: "/1/pay?a=2"}, reused: true},
		{name: "case56 query reordered", first: message{path: "/1/pay?a=1&b=2&a=3"}, second: message{path: "/1/pay?b=2&a=1&a=3"}},
		{name: "case56 equal names reordered", first: message{path: "/1/pay?a=1&a=3"}, second: message{path: "/1/pay?a=3&a=1"}, reused: true},
		{name: "case56 query that cannot be read", first: message{path: "/1/pay?a=1&b=%zz"}, second: message{path: "/1/pay?a=1"}, reused: true},
		{name: "case57 charset", first: message{body: "x", contentType: typeJSON}, second: message{body: "x", contentType: "Application/JSON; charset=utf-8"}},
		{name: "case57 text", first: message{body: "x", contentType: typeJSON}, second: message{body: "x", contentType: "text/plain"}, reused: true},
		{name: "case57 none", first: message{body: "x", contentType: typeJSON}, second: message{body: "x"}, reused: true},
		{name: "case58 multipart, fresh boundary", first: multi("one", "n"), second: multi("two", "n")},
		{name: "case58 multipart, other part", first: multi("one", "n"), second: multi("two", "m"), reused: true},
		{name: "case59 token refreshed", first: message{header: []string{"Authorization", "Bearer 1", "X-User", "ann"}}, second: message{header: []string{"Authorization", "Bearer 2", "X-User", "ann", "Traceparent", "00-1", "Cookie", "s=1"}}},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.m.CanonicalJSON = tt.canonical
			b.m.Principal = func(r *http.Request) string { return r.Header.Get("X-User") }
			b.protect("POST /{id}/pay", b.charge(b.status(201)))
			send := func(m message) reply {
				path := m.path
				if path == "" {
					path = "/1/pay"
				}
				fields := m.header
				if m.contentType != "" {
					fields = append(fields, "Content-Type", m.contentType)
				}
				return b.post(path, "k", m.body, fields...)
			}
			first := send(tt.first)
			if first.status != 201 || first.body != "run 1" {
				t.Fatalf("first got %+v", first)
			}
			second := send(tt.second)
			if tt.reused {
				second.is(t, idemhttp.CodeKeyReused, 422)
				second = send(tt.first) // the record is as it was
			}
			same(t, first, second)
			b.left(1, 1)
		})
	}
}

// What a prefix cut off outside tells apart stays apart.
func TestHandler_case11_prefixCutOffOutside(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	inner := http.NewServeMux()
	inner.Handle("POST /charges", b.m.Handler(b.charge(b.status(201))))
	b.mux.Handle("/v1/", http.StripPrefix("/v1", inner))
	b.mux.Handle("/v2/", http.StripPrefix("/v2", inner))
	b.post("/v1/charges", "k", "")
	b.post("/v2/charges", "k", "").is(t, idemhttp.CodeKeyReused, 422)
}

// And so does what a wrapper outside tells apart by something else than the path.
func TestHandler_case11_pathRewrittenOutside(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /{tenant}/charges", b.charge(b.status(201)))
	b.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = "/" + r.Header.Get("X-Tenant") + r.URL.Path
			next.ServeHTTP(w, r)
		})
	}
	b.post("/charges", "k", "", "X-Tenant", "a")
	b.post("/charges", "k", "", "X-Tenant", "b").is(t, idemhttp.CodeKeyReused, 422)
}

// One part that holds the bytes of two is not two parts.
func TestHandler_case58_partsDoNotRunIntoEachOther(t *testing.T) {
	t.Parallel()
	m := &idemhttp.Middleware{Project: idemhttp.SingleProject("acme"), Endpoint: func(*http.Request) string { return "e" }}
	hash := func(fields ...string) any {
		var sb strings.Builder
		w := multipart.NewWriter(&sb)
		for i := 0; i < len(fields); i += 2 {
			noError(t, w.WriteField(fields[i], fields[i+1]))
		}
		noError(t, w.Close())
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(sb.String()))
		r.Header.Set("Content-Type", w.FormDataContentType())
		r.Header.Set(idemhttp.HeaderKey, "k")
		key, err := m.Check(r)
		noError(t, err)
		return key.RequestHash
	}
	const encoded = "\x01\x13Content-Disposition\x01\x13form-data; name=\"b\""
	for _, one := range []string{"1" + encoded + "2", "1" + encoded + "\x012", "\x011" + encoded + "\x012"} {
		if hash("a", one) == hash("a", "1", "b", "2") {
			t.Errorf("one part and two parts have one hash: %q", one)
		}
	}
	if hash("a", "1", "b", "2") != hash("a", "1", "b", "2") {
		t.Error("two boundaries, two hashes")
	}
}

func TestHandler_case64_newKeyRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /charges", b.charge(b.status(201)))
	for i, key := range []string{"k1", "k2"} {
		if got, want := b.post("/charges", key, "same").body, fmt.Sprint("run ", i+1); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	b.left(2, 2)
}

// Case 60: what has no canonical form is refused before anything runs.
func TestHandler_case60_noCanonicalForm(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.CanonicalJSON = true
	b.protect("POST /charges", b.charge(b.status(201)))
	for name, body := range map[string]string{
		"duplicate names": `{"a":1,"\u0061":2}`,
		"lone surrogate":  `["\ud800"]`,
		"depth 10000":     strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000),
		"2^53+1":          `{"n":9007199254740993}`,
		"no JSON":         `{"a":`,
	} {
		got := b.post("/charges", "k", body, "Content-Type", "application/json")
		got.is(t, idemhttp.CodeRequestInvalid, 400)
		if p := problemOf(t, got); p.Retryable {
			t.Errorf("%s: retryable", name)
		}
	}
	b.left(0, 0)
	if b.runs.Load() != 0 {
		t.Error("the handler ran")
	}
	if got := b.post("/charges", "k", "", "Content-Type", "application/json"); got.status != 201 { // no body is the handler's affair
		t.Errorf("empty body: %+v", got)
	}
}

// Case 61, over a connection.
func TestHandler_case61_bodyOverLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.MaxRequestBody = 100
	b.protect("POST /charges", b.charge(b.status(201)))
	over := strings.Repeat("x", 101)

	b.post("/charges", "k", over).is(t, idemhttp.CodeRequestTooLarge, 413)
	req := b.request("POST", "/charges", "", idemhttp.HeaderKey, "k")
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader(over)), -1
	b.send(req).is(t, idemhttp.CodeRequestTooLarge, 413)
	b.left(0, 0)
	if b.runs.Load() != 0 {
		t.Error("the handler ran")
	}
	if got := b.post("/charges", "k", over[:100]); got.status != 201 {
		t.Errorf("100 bytes: %+v", got)
	}
}

// Case 61, with lengths that a server in front of us would not let through.
func TestHandler_case61_lyingLength(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.MaxRequestBody = 100
	b.m.Endpoint = func(*http.Request) string { return "POST /charges" }
	h := b.m.Handler(b.charge(b.status(201)))
	for name, tt := range map[string]struct {
		body   int
		length int64
		code   string
		status int
	}{
		"small and over":     {101, 3, idemhttp.CodeRequestTooLarge, 413},
		"absent and over":    {101, -1, idemhttp.CodeRequestTooLarge, 413},
		"huge and small":     {3, 1 << 40, idemhttp.CodeRequestTooLarge, 413},
		"larger than it is":  {3, 50, idemhttp.CodeMisconfigured, 500},
		"read away outside":  {0, 50, idemhttp.CodeMisconfigured, 500},
		"smaller than it is": {50, 3, "", 201}, // harmless: what was read is what counts
	} {
		r := httptest.NewRequest(http.MethodPost, "/charges", strings.NewReader(strings.Repeat("x", tt.body)))
		r.ContentLength = tt.length
		r.Header.Set(idemhttp.HeaderKey, "k")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		got := reply{w.Code, w.Header(), w.Body.String()}
		if tt.code == "" {
			if got.status != tt.status {
				t.Errorf("%s: %+v", name, got)
			}
			continue
		}
		got.is(t, tt.code, tt.status)
	}
	b.left(1, 1)
}

// A body that stops in the middle does nothing.
func TestHandler_case61_bodyCutOff(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /charges", b.charge(b.status(201)))
	conn, err := net.Dial("tcp", b.server().Listener.Addr().String())
	noError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /charges HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 50\r\n\r\nonly this")
	noError(t, err)
	noError(t, conn.(*net.TCPConn).CloseWrite())
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	noError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	noError(t, err)
	reply{res.StatusCode, res.Header, string(body)}.is(t, idemhttp.CodeRequestUnreadable, 400)
	b.left(0, 0)
}

// A form that a wrapper outside has parsed is an error and not an empty body: all requests would be the same one then.
func TestHandler_bodyReadOutside(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			noError(t, r.ParseForm())
			next.ServeHTTP(w, r)
		})
	}
	b.protect("POST /charges", b.charge(b.status(201)))
	const form = "application/x-www-form-urlencoded"
	b.post("/charges", "k", "amount=1", "Content-Type", form).is(t, idemhttp.CodeMisconfigured, 500)
	req := b.request("POST", "/charges", "", idemhttp.HeaderKey, "k", "Content-Type", form)
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader("amount=1")), -1
	b.send(req).is(t, idemhttp.CodeMisconfigured, 500)
	b.left(0, 0)
	if !strings.Contains(b.logs.String(), "something outside this middleware has read it") {
		t.Errorf("no hint in the log: %s", b.logs)
	}
}
