package idemhttp_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/pgidem/pgidem/idem/idemhttp"
)

var urn = regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// problemOf reads a problem and checks what all of them have in common (case 73).
func problemOf(t testing.TB, r reply) idemhttp.Problem {
	t.Helper()
	var p idemhttp.Problem
	d := json.NewDecoder(strings.NewReader(r.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		t.Fatalf("status %d is no problem: %v; body %q", r.status, err, r.body)
	}
	if ct := r.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type is %q", ct)
	}
	if cc := r.header.Get("Cache-Control"); cc != "no-store" {
		t.Errorf("Cache-Control is %q", cc)
	}
	if p.Status != r.status || p.Title == "" || p.Detail == "" || p.Type == "" || !urn.MatchString(p.Instance) || r.replayed() {
		t.Errorf("incomplete problem: %d %s", r.status, r.body)
	}
	return p
}

// Case 73, and the log line that belongs to each problem; case 104: no line has a whole key.
func TestProblem_case73_case104_instanceAndLog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.Wait = -1
	b.m.MaxRequestBody = 10
	const key = "a-key-that-must-not-be-in-a-log"
	release := b.held("/slow", key, "")
	b.protect("POST /charges", b.charge(b.status(201)))
	b.protect("POST /stream", func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() })
	b.post("/charges", key, "one")
	replies := map[string]reply{
		idemhttp.CodeKeyMissing:       b.send(b.request("POST", "/charges", "")),
		idemhttp.CodeKeyInvalid:       b.post("/charges", key+",", ""),
		idemhttp.CodeKeyReused:        b.post("/charges", key, "two"),
		idemhttp.CodeKeyInProgress:    b.post("/slow", key, ""),
		idemhttp.CodeRequestTooLarge:  b.post("/charges", key, "12345678901"),
		idemhttp.CodeResponseStreamed: b.post("/stream", key, ""),
	}
	release()
	instances := map[string]bool{}
	for code, r := range replies {
		p := problemOf(t, r)
		if p.Code != code {
			t.Errorf("got %s, want %s", p.Code, code)
		}
		instances[p.Instance] = true
		if line := b.logs.line(p.Instance); !strings.Contains(line, "code="+code) {
			t.Errorf("no log line with instance %s and code %s: %q", p.Instance, code, line)
		}
		switch sent := p.IdempotencyKey; code {
		case idemhttp.CodeKeyMissing:
			if strings.Contains(r.body, "idempotency_key\"") {
				t.Errorf("a key in %s", r.body)
			}
		case idemhttp.CodeKeyInvalid:
			if sent != key+"," {
				t.Errorf("idempotency_key is %q", sent)
			}
		default:
			if sent != key {
				t.Errorf("%s has idempotency_key %q", code, sent)
			}
		}
	}
	if len(instances) != len(replies) {
		t.Error("instances are not fresh")
	}
	if strings.Contains(b.logs.String(), key) {
		t.Errorf("a whole key in the log:\n%s", b.logs)
	}
}

func (l *logs) line(part string) string {
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// The key comes back as it was sent: quoted, or what there is of it.
func TestProblem_keyAsSent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /charges", b.charge(b.status(201)))
	b.post("/charges", `"quoted"`, "one")
	if p := problemOf(t, b.post("/charges", `"quoted"`, "two")); p.IdempotencyKey != `"quoted"` {
		t.Errorf("idempotency_key is %q", p.IdempotencyKey)
	}
	long := strings.Repeat("ä", 1000)
	if p := problemOf(t, b.post("/charges", long, "")); len(p.IdempotencyKey) > 600 || !strings.HasPrefix(long, strings.TrimSuffix(p.IdempotencyKey, "…")) {
		t.Errorf("idempotency_key has %d bytes: %q", len(p.IdempotencyKey), p.IdempotencyKey)
	}
}

func TestMiddleware_statusTypeAndErrorHandler(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.StatusFor = func(code string) int {
		switch code {
		case idemhttp.CodeKeyReused:
			return 409
		case idemhttp.CodeKeyInvalid:
			return 200 // not a status for a problem
		}
		return 0
	}
	b.m.ProblemType = func(code string) string {
		if code == idemhttp.CodeKeyReused {
			return "https://api.example.com/problems/reused"
		}
		return ""
	}
	b.protect("POST /charges", b.charge(b.status(201)))
	b.post("/charges", "k", "one")
	got := b.post("/charges", "k", "two")
	got.is(t, idemhttp.CodeKeyReused, 409)
	if p := problemOf(t, got); p.Type != "https://api.example.com/problems/reused" {
		t.Errorf("type is %s", p.Type)
	}
	got = b.send(b.request("POST", "/charges", ""))
	got.is(t, idemhttp.CodeKeyMissing, 400)
	if p := problemOf(t, got); !strings.Contains(p.Type, "draft-ietf-httpapi-idempotency-key-header-07#section-2.7") {
		t.Errorf("type is %s", p.Type)
	}
	b.post("/charges", `""`, "").is(t, idemhttp.CodeKeyInvalid, 400)

	b.m.ErrorHandler = func(w http.ResponseWriter, r *http.Request, p idemhttp.Problem) {
		w.Header().Set("X-Code", p.Code)
		w.WriteHeader(p.Status)
	}
	b.protect("POST /own", b.charge(b.status(201)))
	b.post("/own", "k", "one")
	got = b.post("/own", "k", "two")
	if got.status != 409 || got.body != "" || got.header.Get("X-Code") != idemhttp.CodeKeyReused || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %+v", got)
	}
}

// Case 63: a problem for a reused key is the same whatever the first request and its response were.
func TestHandler_case63_reuseRevealsNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /charges/{id}", b.charge(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/secret-location")
		w.Header().Set("Content-Type", "text/secret")
		if r.PathValue("id") == "declined" {
			w.WriteHeader(http.StatusConflict)
		}
		_, _ = w.Write([]byte("secret response"))
	}))
	b.post("/charges/1", "k1", "secret request")
	b.post("/charges/declined", "k2", "another request")
	var texts []string
	for _, key := range []string{"k1", "k2"} {
		got := b.post("/charges/2", key, "mine")
		got.is(t, idemhttp.CodeKeyReused, 422)
		p := problemOf(t, got)
		got.header.Del("Date")
		text := fmt.Sprintln(got.status, got.header, strings.NewReplacer(p.Instance, "", key, "").Replace(got.body))
		if strings.Contains(text, "secret") || strings.Contains(text, "first used") {
			t.Errorf("the problem reveals the first request: %s", text)
		}
		texts = append(texts, text)
	}
	if texts[0] != texts[1] {
		t.Errorf("problems differ: %q", texts)
	}
}
