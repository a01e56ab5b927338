package idem_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

func TestReplay_case1_2_3(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var c counter
		first, err := call(t.Context(), pool, keyFor("k1"), c.order("k1"))
		noError(t, err)
		if first.Replayed || first.CreatedAt.IsZero() {
			t.Fatalf("the first call answers Replayed %v, CreatedAt %v", first.Replayed, first.CreatedAt)
		}
		for range 9 {
			replay, err := call(t.Context(), pool, keyFor("k1"), c.order("k1"))
			noError(t, err)
			if !replay.Replayed {
				t.Fatal("a later call is not marked as a replay")
			}
			same(t, first, replay)
		}
		c.ran(t, 1)
		one(t, pool, "k1")
	})
}

// bodies are such as an encoding on the way would change.
func bodies() map[string][]byte {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	m := map[string][]byte{
		"nil": nil, "empty": {}, "NUL": {0}, "NUL inside": []byte("a\x00b"), "0xFF": {0xff}, "all bytes": all,
		"invalid UTF-8": []byte("\xc3\x28 \xed\xa0\x80 \xe2\x82"), "latin-1": []byte("caf\xe9"), "BOM": []byte("\xef\xbb\xbf{}"),
		"hex like": []byte(`\x41`), "escape like": []byte(`\000\\`), "gzip": {0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0xff},
		"duplicate names": []byte(`{"a":1,"a":2}`), "trailing zeros": []byte(`{"n":1.2300,"e":1e3}`),
		"odd spacing": []byte("  {\t\"a\" :\r\n1 }\n\n"), "NUL escape": []byte(`{"s":"\u0000"}`),
		"at the default limit": bytes.Repeat([]byte{0xab}, 1<<20),
	}
	for _, n := range []int{1995, 1996, 1997, 2000, 2031, 2032, 2033, 2047, 2048, 2049} { // where a value moves out of line
		m[fmt.Sprintf("%d bytes", n)] = bytes.Repeat([]byte{0x00, 0xff, 0x5c}, n)[:n]
	}
	return m
}

func TestReplay_case4_5_29_bodies(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for name, body := range bodies() {
			want := bytes.Clone(body)
			key := keyFor(strings.ReplaceAll(name, " ", "_"))
			first, err := call(t.Context(), pool, key, returns(idem.Response{Status: 200, Body: body}))
			noError(t, err)
			replay, err := call(t.Context(), pool, key, never(t))
			noError(t, err)
			if same(t, first, replay); !bytes.Equal(replay.Body, want) || !replay.Replayed {
				t.Errorf("%s: replayed %d bytes, recorded %d", name, len(replay.Body), len(want))
			}
		}
	})
}

func TestReplay_statusAndHeader(t *testing.T) {
	headers := []map[string][]string{
		nil,
		{},
		{"Content-Type": {"application/json"}},
		{"X": nil},
		{"X": {""}},
		{"": {"no name"}},
		{"Link": {"<b>", "<a>", "<b>"}, "Vary": {"z, y", "x"}},
		{"latin-1": {"caf\xe9"}, "UTF-8": {"café"}, "NUL": {"a\x00b"}, "line\n": {"\r\n"}, "\xff": {"\xfe\xff"}},
		{"a": {"b"}, "ab": {""}, "A": {"c"}},
	}
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for i, status := range []int{0, 100, 200, 201, 204, 304, 402, 404, 599, 999} {
			key, header := keyFor(fmt.Sprint("status-", status)), headers[i%len(headers)]
			first, err := call(t.Context(), pool, key, returns(idem.Response{Status: status, Header: header}))
			noError(t, err)
			replay, err := call(t.Context(), pool, key, never(t))
			noError(t, err)
			if same(t, first, replay); replay.Status != status {
				t.Errorf("status %d replays as %d", status, replay.Status)
			}
		}
	})
}

func TestReplay_case6_emptyBody(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for range 2 {
			r, err := call(t.Context(), pool, keyFor("k"), returns(idem.Response{Status: 204}))
			noError(t, err)
			if r.Status != 204 || len(r.Body) != 0 || len(r.Header) != 0 {
				t.Errorf("answered %d, header %v, body %q", r.Status, r.Header, r.Body)
			}
		}
	})
}

func TestReplay_case8_keysDoNotInteract(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var c counter
		a, err := call(t.Context(), pool, keyFor("a"), c.order("a"))
		noError(t, err)
		failure := errors.New("out of stock")
		_, err = call(t.Context(), pool, keyFor("b"), func(context.Context, pgx.Tx) (idem.Response, error) { return idem.Response{}, failure })
		want(t, err, failure)
		aa, err := call(t.Context(), pool, keyFor("A"), c.order("A")) // nothing is folded
		noError(t, err)
		if aa.Replayed {
			t.Fatal("another key is replayed")
		}
		again, err := call(t.Context(), pool, keyFor("a"), never(t))
		noError(t, err)
		same(t, a, again)
		c.ran(t, 2)
		nothing(t, pool, "b")
	})
}

// Keys whose parts give the same text when they are put together are different keys, and so are keys that differ in one
// part only.
func TestReplay_case9_10_13_parts(t *testing.T) {
	keys := []idem.Key{
		{Project: "acme", Endpoint: "POST /a", Value: "k"},
		{Project: "bolt", Endpoint: "POST /a", Value: "k"}, // case 9
		{Project: "acme", Endpoint: "POST /b", Value: "k"}, // case 10
		{Project: "a", Endpoint: "bc", Value: "d"},
		{Project: "ab", Endpoint: "c", Value: "d"}, // case 13
		{Project: "a", Endpoint: "b", Value: "cd"},
		{Project: "abc", Endpoint: "d", Value: "d"},
		{Project: "a|b", Endpoint: "c", Value: "d"},
		{Project: "a", Endpoint: "b|c", Value: "d"},
		{Project: "a:1", Endpoint: "2", Value: "3"},
		{Project: "a", Endpoint: "1:2", Value: "3"},
		{Project: "acme ", Endpoint: "POST /a", Value: "k"},
		{Project: "acme", Endpoint: "POST /a ", Value: "k"},
		{Project: "é", Endpoint: "e", Value: "k"},
		{Project: "e\u0301", Endpoint: "e", Value: "k"}, // two normal forms
	}
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for round := range 2 {
			for i, key := range keys {
				r, err := call(t.Context(), pool, key, returns(idem.Response{Body: fmt.Append(nil, i)}), idem.WithoutRequestHash())
				noError(t, err)
				if r.Replayed != (round == 1) || string(r.Body) != fmt.Sprint(i) {
					t.Fatalf("round %d, %+v: Replayed %v, body %q, want %d", round, key, r.Replayed, r.Body, i)
				}
			}
		}
	})
}

func TestReplay_case16_requestChangedInsideFn(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		request := []byte(`{"amount":1}`)
		key := keyFor("k")
		key.RequestHash = idem.HashRequest(request)
		given := key
		first, err := call(t.Context(), pool, key, func(context.Context, pgx.Tx) (idem.Response, error) {
			key.Value, key.Project, key.RequestHash[0] = "changed", "changed", ^key.RequestHash[0]
			request[0] = 'x'
			return idem.Response{Body: []byte("answer")}, nil
		})
		noError(t, err)
		replay, err := call(t.Context(), pool, given, never(t))
		noError(t, err)
		same(t, first, replay)
		if n := records(t, pool, "changed"); n != 0 {
			t.Error("what fn put into the key was recorded")
		}
	})
}

// What fn puts into the fields that Do and Run set is ignored.
func TestResponse_fieldsOfTheCall(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var old idem.Response
		old.Replayed, old.CreatedAt = true, old.CreatedAt.AddDate(1900, 0, 0)
		r, err := call(t.Context(), pool, keyFor("k"), returns(old))
		noError(t, err)
		if r.Replayed || r.CreatedAt.Equal(old.CreatedAt) {
			t.Errorf("fn's Replayed or CreatedAt came back: %+v", r)
		}
	})
}

func TestBinding_case53_63_64(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		var c counter
		request := []byte(`{"amount":100}`)
		key := idem.Key{Project: "acme", Endpoint: "POST /orders", Value: "first-key", RequestHash: idem.HashRequest(request)}
		first, err := call(t.Context(), pool, key, c.order("first-key"))
		noError(t, err)
		stored := row(t, pool, "first-key")

		for i := range request { // one byte differs, anywhere
			other := bytes.Clone(request)
			other[i] ^= 1
			reused := key
			reused.RequestHash = idem.HashRequest(other)
			r, err := call(t.Context(), pool, reused, never(t))
			want(t, err, idem.ErrKeyReused)
			if r.Status != 0 || r.Body != nil || r.Header != nil {
				t.Fatalf("reuse answers %+v of the first request", r)
			}
			for _, secret := range []string{"first-key", string(first.Body), "/orders/", "201", fmt.Sprintf("%x", key.RequestHash[:4])} {
				if strings.Contains(strings.ReplaceAll(err.Error(), "POST /orders", ""), secret) {
					t.Fatalf("the error tells %q: %v", secret, err)
				}
			}
		}
		for _, bit := range []int{0, 31} { // the whole hash is compared
			reused := key
			reused.RequestHash[bit] ^= 1
			_, err := call(t.Context(), pool, reused, never(t))
			want(t, err, idem.ErrKeyReused)
		}
		if row(t, pool, "first-key") != stored {
			t.Error("the record has changed")
		}

		fresh := key // case 64
		fresh.Value = "new-key"
		r, err := call(t.Context(), pool, fresh, c.order("new-key"))
		noError(t, err)
		if r.Replayed {
			t.Error("the same request with a new key is replayed")
		}
		c.ran(t, 2)
	})
}

func TestWithoutRequestHash(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		key := keyFor("k")
		first, err := call(t.Context(), pool, key, returns(idem.Response{Body: []byte("x")}))
		noError(t, err)
		key.RequestHash = idem.Hash{}
		replay, err := call(t.Context(), pool, key, never(t), idem.WithoutRequestHash())
		noError(t, err)
		same(t, first, replay)

		// A key that was recorded without a hash is bound to no request, which is not any request.
		loose := idem.Key{Project: "acme", Endpoint: "POST /orders", Value: "loose"}
		_, err = call(t.Context(), pool, loose, returns(idem.Response{}), idem.WithoutRequestHash())
		noError(t, err)
		loose.RequestHash = idem.HashRequest([]byte("x"))
		_, err = call(t.Context(), pool, loose, never(t))
		want(t, err, idem.ErrKeyReused)
	})
}
