package idemhttp_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/pgidem/pgidem/idem/idemhttp"
)

func TestParseKey_case65_case66_case67(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 255)
	good := map[string]string{
		"abc":                                  "abc",
		`"abc"`:                                "abc",
		` "abc" `:                              "abc",
		"\tabc ":                               "abc",
		"8e03978e-40d5-43e8-bc93-6894a57f9324": "8e03978e-40d5-43e8-bc93-6894a57f9324",
		`"a,b"`:                                "a,b",
		`"a\"b\\c"`:                            `a"b\c`,
		"a;b=c":                                "a;b=c",
		"'single'":                             "'single'",
		":YWJj:":                               ":YWJj:",
		"?1":                                   "?1",
		"k":                                    "k",
		`"k"`:                                  "k",
		long:                                   long,
		`"` + long + `"`:                       long,
		`"` + strings.Repeat(`\\`, 255) + `"`:  strings.Repeat(`\`, 255),
	}
	for field, want := range good {
		if got, err := idemhttp.ParseKey(field); err != nil || got != want {
			t.Errorf("ParseKey(%q) = %q, %v; want %q", field, got, err, want)
		}
	}
	for _, field := range []string{
		"", " ", "\t", `""`, `" "`, `"`, `"abc`, `abc"`, `"abc""`, `"abc"x`, `"abc" x`, `"abc";a=1`, `"abc";`, `"abc", "def"`, `"a" "b"`,
		"a,b", "a, b", "a b", `a\b`, `a"b`, `"a\b"`, `"a\`, "a\x00b", "a\x1fb", "a\x7fb", "\"a\x7f\"", "ä", `"ä"`, "a\xffb", "\"a\x00\"", "\"a\tb\"", `"a b"`,
		long + "k", `"` + long + `k"`, `"` + strings.Repeat(`\\`, 256) + `"`, `"` + strings.Repeat("k", 1<<20) + `"`,
	} {
		if got, err := idemhttp.ParseKey(field); err == nil {
			t.Errorf("ParseKey(%.40q) = %q, want an error", field, got)
		} else if len(err.Error()) > 120 {
			t.Errorf("ParseKey(%.40q): long error %.200s", field, err)
		}
	}
}

// Cases 65 to 68 over HTTP: one key in both forms, 400 for what is none, and nothing that a text means to somebody else.
func TestHandler_case65_case66_case67_case68_keys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /charges", b.charge(b.status(201)))

	first := b.post("/charges", "abc", "")
	same(t, first, b.post("/charges", `"abc"`, ""))
	b.left(1, 1)

	long := strings.Repeat("k", 255)
	if got := b.post("/charges", long, ""); got.status != 201 {
		t.Errorf("255 bytes: %+v", got)
	}
	b.left(2, 2)
	for _, field := range []string{
		long + "k", `"` + long + `k"`, `""`, `"abc`, `"a\b"`, `"abc"x`, `"abc";a`, "a,b", "a b", "ä", "\"\xff\"", `"a b"`, "", "  ",
	} {
		got := b.post("/charges", field, "")
		got.is(t, idemhttp.CodeKeyInvalid, 400)
		if problemOf(t, got).Retryable {
			t.Errorf("key %q is retryable", field)
		}
	}
	for _, fields := range [][]string{{"a", "b"}, {"a", "a"}, {"", "a"}} {
		req := b.request("POST", "/charges", "")
		req.Header[idemhttp.HeaderKey] = fields
		b.send(req).is(t, idemhttp.CodeKeyInvalid, 400)
	}
	b.left(2, 2)

	metas := []string{
		"';DROP/**/TABLE/**/idem.keys;--", "$1", "%s%n%x", "../../etc/passwd", "{{.}}", "<script>", "%00", "*", "k%", "k_", "null", "0", "-1", "~",
	}
	for i, key := range metas {
		first := b.post("/charges", key, "")
		if first.replayed() {
			t.Errorf("key %q is taken for another one", key)
		}
		same(t, first, b.post("/charges", key, ""))
		b.left(3+i, 3+i)
		var n int
		noError(t, b.pool.QueryRow(t.Context(), "SELECT count(*) FROM idem.keys WHERE key = $1", key).Scan(&n))
		if n != 1 {
			t.Errorf("key %q is not stored literally", key)
		}
	}
}

// Case 66, for bytes that Go's client would not send: net/http itself refuses them, or we do.
func TestHandler_case66_rawBytes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /charges", b.charge(b.status(201)))
	for _, field := range []string{"a\x00b", "a\x01b", "a\x7fb", "a\tb", "\x80", "\"a\x7f\"", "a\r b"} {
		conn, err := net.Dial("tcp", b.server().Listener.Addr().String())
		noError(t, err)
		_, err = fmt.Fprintf(conn, "POST /charges HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\nIdempotency-Key: %s\r\n\r\n", field)
		noError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		noError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		noError(t, err)
		res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("key %q: status %d", field, res.StatusCode)
		}
		conn.Close()
	}
	b.left(0, 0)
}

func TestMiddleware_keyPolicy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.m.HeaderNames = []string{"idempotency-key", "X-Idempotency-Key"}
	b.m.RequireUUID = true
	b.protect("POST /uuid", b.charge(b.status(201)))
	b.m.RequireUUID, b.m.MinLength = false, 16
	b.protect("POST /long", b.charge(b.status(201)))

	const id = "8e03978E-40d5-43e8-bc93-6894a57f9324"
	if got := b.post("/uuid", id, ""); got.status != 201 {
		t.Errorf("a UUID: %+v", got)
	}
	if got := b.send(b.request("POST", "/uuid", "", "X-Idempotency-Key", `"`+id+`"`)); got.status != 201 || !got.replayed() {
		t.Errorf("the same UUID in the other field: %+v", got)
	}
	b.send(b.request("POST", "/uuid", "", "X-Idempotency-Key", id, "Idempotency-Key", id)).is(t, idemhttp.CodeKeyInvalid, 400)
	for _, key := range []string{"abc", id + "0", id[1:], strings.ReplaceAll(id, "-", "0"), "g" + id[1:], strings.ToUpper(id)[:35] + "-"} {
		b.post("/uuid", key, "").is(t, idemhttp.CodeKeyInvalid, 400)
	}
	b.post("/long", "123456789012345", "").is(t, idemhttp.CodeKeyInvalid, 400)
	if got := b.post("/long", "1234567890123456", ""); got.status != 201 {
		t.Errorf("16 bytes: %+v", got)
	}
	b.left(2, 2)
}
