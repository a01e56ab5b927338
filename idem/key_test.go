package idem_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

func TestHashRequest(t *testing.T) {
	t.Parallel()
	p := func(parts ...string) (b [][]byte) {
		for _, s := range parts {
			b = append(b, []byte(s))
		}
		return b
	}
	seen := map[idem.Hash][][]byte{}
	for _, parts := range [][][]byte{
		p(), p(""), p("", ""), p("a"), p("a", ""), p("", "a"), p("ab", "c"), p("a", "bc"), p("abc"), p("a", "b", "c"),
		p("\x00\x00\x00\x00\x00\x00\x00\x01a"), p("a\x00\x00\x00\x00\x00\x00\x00\x01b"), p("b", "a"),
		p("POST", "/orders", `{"a":1}`), p("POST", "/orders", `{"a":1} `), p("POST", "/orders", `{"a":1.0}`),
	} {
		h := idem.HashRequest(parts...)
		if other, twice := seen[h]; twice {
			t.Errorf("%q and %q have one hash", parts, other)
		}
		if seen[h] = parts; h == (idem.Hash{}) || h != idem.HashRequest(parts...) {
			t.Errorf("%q: %x", parts, h)
		}
	}
	if idem.HashRequest(nil) != idem.HashRequest([]byte{}) {
		t.Error("a nil part and an empty one differ")
	}
}

// Hashes are stored: they must not change, and other languages can make them.
func TestHashRequest_form(t *testing.T) {
	t.Parallel()
	want := sha256.Sum256([]byte("\x00\x00\x00\x00\x00\x00\x00\x04POST\x00\x00\x00\x00\x00\x00\x00\x02{}"))
	if got := idem.HashRequest([]byte("POST"), []byte("{}")); got != want {
		t.Errorf("%x, want %x", got, want)
	}
}

// FuzzHashRequest cuts one text in different ways: two cuts that differ have hashes that differ.
func FuzzHashRequest(f *testing.F) {
	f.Add([]byte("abc"), uint8(1), uint8(2), uint8(2), uint8(1))
	f.Add([]byte(""), uint8(0), uint8(0), uint8(0), uint8(0))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01a"), uint8(8), uint8(0), uint8(0), uint8(8))
	f.Add([]byte("POST/orders{}"), uint8(4), uint8(7), uint8(4), uint8(9))
	f.Fuzz(func(t *testing.T, b []byte, i1, j1, i2, j2 uint8) {
		cut := func(i, j uint8) [][]byte {
			x := min(int(i), len(b))
			y := min(x+int(j), len(b))
			return [][]byte{b[:x], b[x:y], b[y:]}
		}
		one, other := cut(i1, j1), cut(i2, j2)
		equal := len(one[0]) == len(other[0]) && len(one[1]) == len(other[1])
		if (idem.HashRequest(one...) == idem.HashRequest(other...)) != equal {
			t.Errorf("%q and %q: equal parts %v, equal hashes %v", one, other, equal, !equal)
		}
		// Parts cannot be forged inside a part, and their number counts.
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(one[1])))
		if idem.HashRequest(one[0], one[1]) == idem.HashRequest(bytes.Join([][]byte{one[0], n[:], one[1]}, nil)) {
			t.Errorf("a part that holds a length passes for two")
		}
		if idem.HashRequest(one...) == idem.HashRequest(append(one, nil)...) {
			t.Errorf("an empty part more changes nothing")
		}
	})
}

func TestKey_Derive(t *testing.T) {
	t.Parallel()
	key := keyFor("k")
	uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]string{}
	for name, s := range map[string]string{
		"charge": key.Derive("charge"), "refund": key.Derive("refund"), "empty": key.Derive(""),
		"project":  idem.Key{Project: "bolt", Endpoint: key.Endpoint, Value: key.Value}.Derive("charge"),
		"endpoint": idem.Key{Project: key.Project, Endpoint: "POST /bills", Value: key.Value}.Derive("charge"),
		"value":    keyFor("l").Derive("charge"),
		"cut":      idem.Key{Project: key.Project, Endpoint: key.Endpoint, Value: key.Value + "c"}.Derive("harge"),
		"binary":   key.Derive("\x00\xff"),
	} {
		if !uuid.MatchString(s) {
			t.Errorf("%s: %s is no UUID of version 8", name, s)
		}
		if other, twice := seen[s]; twice {
			t.Errorf("%s and %s are the same", name, other)
		}
		seen[s] = name
	}
	other := key
	other.RequestHash[0]++
	if key.Derive("charge") != other.Derive("charge") {
		t.Error("the request hash changes what is derived")
	}
	// What a provider has seen once must come again, from every later version of this package.
	if got, want := key.Derive("charge"), "cfc1b54f-7cbb-8732-903d-0c7240f1c6c0"; got != want {
		t.Errorf("derived %s, want %s", got, want)
	}
}

// FuzzKey: a key that is let through is accepted by PostgreSQL and found again, byte for byte; one that is not is
// ErrInvalidKey, and the transaction never hears of it.
func FuzzKey(f *testing.F) {
	for _, tt := range texts {
		if len(tt.value) < 3000 {
			f.Add("p", "e", tt.value)
			f.Add(tt.value, "e", "k")
			f.Add("p", tt.value, "k")
		}
	}
	conn, err := pgx.Connect(f.Context(), pgtest.New(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = conn.Close(context.Background()) })
	f.Fuzz(func(t *testing.T, project, endpoint, value string) {
		tx, err := conn.Begin(t.Context())
		noError(t, err)
		defer func() { _ = tx.Rollback(t.Context()) }()
		key := idem.Key{Project: project, Endpoint: endpoint, Value: value}
		_, err = idem.Do(t.Context(), tx, key, returns(idem.Response{Status: 200}), idem.WithoutRequestHash())
		if err != nil {
			if !errors.Is(err, idem.ErrInvalidKey) {
				t.Fatalf("%+q: %v", key, err)
			}
			if conn.PgConn().TxStatus() != 'T' {
				t.Fatalf("%+q has reached the database", key)
			}
			return
		}
		r, err := idem.Do(t.Context(), tx, key, never(t), idem.WithoutRequestHash())
		if err != nil || !r.Replayed {
			t.Fatalf("%+q is not found again: %v", key, err)
		}
		var p, e, v []byte
		noError(t, tx.QueryRow(t.Context(), `SELECT convert_to(project, 'UTF8'), convert_to(endpoint, 'UTF8'), convert_to(key, 'UTF8') FROM idem.keys`).Scan(&p, &e, &v))
		if string(p) != project || string(e) != endpoint || string(v) != value {
			t.Fatalf("%+q is stored as %q, %q, %q", key, p, e, v)
		}
	})
}
