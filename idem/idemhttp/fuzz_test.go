package idemhttp_test

import (
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/dunglas/httpsfv"

	"github.com/pgidem/pgidem/idem/idemhttp"
)

// The grammar of a key, as http servers write it down: RFC 9651, section 3.3.3, without space, or the text itself.
var (
	quotedKey = regexp.MustCompile(`^"((?:[!#-\[\]-~]|\\["\\])+)"$`)
	rawKey    = regexp.MustCompile(`^[!#-+\--\[\]-~]{1,255}$`)
)

func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{
		"abc", `"abc"`, `""`, `"`, `"a\"b"`, `"a\\"`, `"a\b"`, `"a";p=1`, `"a", "b"`, "a,b", `a\b`, " a ", "\t\"a\"\t", "a b", "ä", "\x00", "\x7f", ":YQ==:", "?1", "a;b",
		strings.Repeat("k", 255), strings.Repeat("k", 256), `"` + strings.Repeat(`\"`, 255) + `"`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, field string) {
		got, err := idemhttp.ParseKey(field)

		trimmed := strings.Trim(field, " \t")
		want, ok := trimmed, rawKey.MatchString(trimmed)
		if m := quotedKey.FindStringSubmatch(trimmed); m != nil {
			want = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(m[1])
			ok = len(want) <= 255
		}
		if (err == nil) != ok || ok && got != want {
			t.Fatalf("ParseKey(%q) = %q, %v; by the grammar %q, %v", field, got, err, want, ok)
		}
		if err != nil {
			if len(trimmed) > 8 && strings.Contains(err.Error(), trimmed) {
				t.Fatalf("the error quotes the key: %v", err)
			}
			return
		}
		quoted, err := httpsfv.Marshal(httpsfv.NewItem(got))
		noError(t, err)
		if again, err := idemhttp.ParseKey(quoted); err != nil || again != got {
			t.Fatalf("ParseKey(%s) = %q, %v; want %q", quoted, again, err, got)
		}
	})
}

// call is one request for FuzzRequestHash, in the parts that a key is bound to.
type call struct {
	method, path, query, media, principal string
	body                                  []byte
}

func (c call) key(t *testing.T, m *idemhttp.Middleware) (hash [32]byte, ok bool) {
	t.Helper()
	r := &http.Request{
		Method: c.method, URL: &url.URL{Path: c.path, RawQuery: c.query},
		Header: http.Header{idemhttp.HeaderKey: {"k"}, "X-User": {c.principal}},
		Body:   io.NopCloser(strings.NewReader(string(c.body))), ContentLength: int64(len(c.body)),
	}
	if c.media != "" {
		r.Header["Content-Type"] = []string{c.media}
	}
	key, err := m.Check(r)
	if err != nil {
		t.Fatal(err)
	}
	return key.RequestHash, key.Value != ""
}

// equal says by other means than the hash whether two calls are one request.
func (c call) equal(d call) bool {
	qc, errC := url.ParseQuery(c.query)
	qd, errD := url.ParseQuery(d.query)
	sameQuery := maps.EqualFunc(qc, qd, func(a, b []string) bool { return reflect.DeepEqual(a, b) })
	if errC != nil || errD != nil {
		sameQuery = c.query == d.query
	}
	return c.method == d.method && c.path == d.path && sameQuery && mediaOf(c.media) == mediaOf(d.media) && c.principal == d.principal && string(c.body) == string(d.body)
}

func mediaOf(s string) string {
	if media, _, err := mime.ParseMediaType(s); err == nil {
		return media
	}
	media, _, _ := strings.Cut(s, ";")
	return strings.ToLower(strings.Trim(media, " \t"))
}

func hasher() *idemhttp.Middleware {
	return &idemhttp.Middleware{
		Project: idemhttp.SingleProject("acme"), Endpoint: func(*http.Request) string { return "POST /" },
		Principal: func(r *http.Request) string { return r.Header.Get("X-User") },
	}
}

// Two requests have one hash if and only if they are equal in what a key is bound to.
func FuzzRequestHash(f *testing.F) {
	f.Add("POST", "/a", "b=1", "text/plain", "ann", []byte("x"), "POST", "/a", "b=1", "Text/Plain; charset=utf-8", "ann", []byte("x"))
	f.Add("POST", "/a", "", "", "", []byte("bc"), "POST", "/ab", "", "", "", []byte("c"))
	f.Add("POST", "/a", "a=1&b=2", "", "", []byte(""), "POST", "/a", "b=2&a=1", "", "", []byte(""))
	f.Add("POST", "/a", "a=1&a=2", "", "", []byte(""), "POST", "/a", "a=2&a=1", "", "", []byte(""))
	f.Add("POST", "/a", "a=%zz", "", "", []byte(""), "POST", "/a", "a=%zz&a=%zz", "", "", []byte(""))
	f.Add("POST", "/a", "a", "", "", []byte(""), "POST", "/a", "a=", "", "", []byte(""))
	f.Add("PUT", "/a", "", "a", "bc", []byte("d"), "PUT", "/a", "", "ab", "c", []byte("d"))
	f.Add("PUT", "/a%2Fb", "", "", "\x00", []byte("\x00"), "PUT", "/a/b", "", "", "", []byte("\x00\x00"))
	f.Fuzz(func(t *testing.T, m1, p1, q1, c1, u1 string, b1 []byte, m2, p2, q2, c2, u2 string, b2 []byte) {
		c, d := call{m1, p1, q1, c1, u1, b1}, call{m2, p2, q2, c2, u2, b2}
		if strings.HasPrefix(mediaOf(c1), "multipart/") || strings.HasPrefix(mediaOf(c2), "multipart/") {
			return // FuzzRequestHash_multipart
		}
		m := hasher()
		hc, okC := c.key(t, m)
		hd, okD := d.key(t, m)
		if !okC || !okD { // a method that passes through
			return
		}
		if (hc == hd) != c.equal(d) {
			t.Fatalf("hashes equal: %v, requests equal: %v\n%+v\n%+v", hc == hd, c.equal(d), c, d)
		}
		if again, _ := c.key(t, m); again != hc {
			t.Fatalf("two hashes for %+v", c)
		}
	})
}

// Multipart bodies have one hash if and only if their parts are equal, in order, whatever the boundary.
func FuzzRequestHash_multipart(f *testing.F) {
	f.Add("amount", "1", "note", "x", "amount", "1", "note", "x")
	f.Add("a", "1", "b", "2", "b", "2", "a", "1")
	f.Add("a", "1\r\n", "b", "", "a", "1", "b", "\r\n")
	f.Add("a", "--one", "b", "--two--", "a", "--one", "b", "--two--")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2, m1, w1, m2, w2 string) {
		form := func(boundary string, fields ...string) call {
			var sb strings.Builder
			w := multipart.NewWriter(&sb)
			noError(t, w.SetBoundary(boundary))
			for i := 0; i < len(fields); i += 2 {
				noError(t, w.WriteField(fields[i], fields[i+1]))
			}
			noError(t, w.Close())
			return call{method: "POST", path: "/", media: w.FormDataContentType(), body: []byte(sb.String())}
		}
		const one, two = "3f1a9d0c-boundary-one", "77e2b6aa-boundary-two-and-longer"
		all := fmt.Sprint(n1, v1, n2, v2, m1, w1, m2, w2)
		if strings.Contains(all, one) || strings.Contains(all, two) || strings.ContainsFunc(n1+n2+m1+m2, unicode.IsControl) {
			return // not what a writer may choose, and not a header that can be read
		}
		m := hasher()
		a, _ := form(one, n1, v1, n2, v2).key(t, m)
		b, _ := form(two, n1, v1, n2, v2).key(t, m)
		c, _ := form(two, m1, w1, m2, w2).key(t, m)
		if a != b {
			t.Fatal("the boundary counts")
		}
		if same := n1 == m1 && v1 == w1 && n2 == m2 && v2 == w2; same != (a == c) {
			t.Fatalf("hashes equal: %v, parts equal: %v", a == c, same)
		}
	})
}
