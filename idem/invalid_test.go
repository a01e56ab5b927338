package idem_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

// text is a value for a part of a key, and whether that part may hold it.
type text struct {
	name                   string
	value                  string
	key, project, endpoint bool
	equalTo                string // by some collation, normal form or folding, but not here
}

var texts = []text{
	// lengths
	{name: "empty", value: ""},
	{name: "1 byte", value: "x", key: true, project: true, endpoint: true},
	{name: "255 bytes", value: strings.Repeat("x", 255), key: true, project: true, endpoint: true}, // case 67
	{name: "256 bytes", value: strings.Repeat("x", 256), endpoint: true},
	{name: "512 bytes", value: strings.Repeat("x", 512), endpoint: true},
	{name: "513 bytes", value: strings.Repeat("x", 513)},
	{name: "2692 bytes", value: strings.Repeat("xyz!", 673)},
	{name: "2693 bytes", value: strings.Repeat("xyz!", 673) + "x"},
	{name: "100 kB", value: strings.Repeat("a", 100_000)},
	{name: "1 MB", value: strings.Repeat("a", 1_000_000)},
	{name: "255 bytes in two-byte characters", value: strings.Repeat("é", 127) + "x", project: true, endpoint: true},
	{name: "256 bytes in two-byte characters", value: strings.Repeat("é", 128), endpoint: true},

	// bytes that PostgreSQL refuses
	{name: "NUL alone", value: "\x00"},
	{name: "NUL at the start", value: "\x00abc"},
	{name: "NUL in the middle", value: "a\x00bc"},
	{name: "NUL at the end", value: "abc\x00"},
	{name: "0xFF", value: "a\xff"},
	{name: "overlong", value: "a\xc0\x80b"},
	{name: "overlong slash", value: "\xc0\xaf"},
	{name: "surrogate", value: "\xed\xa0\x80"},
	{name: "pair of surrogates", value: "\xed\xa0\xbd\xed\xb8\x80"},
	{name: "truncated", value: "a\xe2\x82"},
	{name: "continuation alone", value: "\x80"},
	{name: "above U+10FFFF", value: "\xf4\x90\x80\x80"},
	{name: "five bytes", value: "\xf8\x88\x80\x80\x80"},
	{name: "latin-1", value: "caf\xe9"},

	// what some layer folds, trims or normalises: stored as it is, or refused in a key
	{name: "NFC", value: "caf\u00e9", project: true, endpoint: true},
	{name: "NFD", value: "cafe\u0301", project: true, endpoint: true},
	{name: "sharp s", value: "straße", project: true, endpoint: true, equalTo: "strasse"},
	{name: "capital sharp s", value: "STRAẞE", project: true, endpoint: true},
	{name: "dotted I", value: "İ", project: true, endpoint: true, equalTo: "i"},
	{name: "ZWJ", value: "a\u200db", project: true, endpoint: true, equalTo: "ab"},
	{name: "BOM", value: "\ufeffa", project: true, endpoint: true, equalTo: "a"},
	{name: "right to left", value: "a\u202eb", project: true, endpoint: true},
	{name: "full width digits", value: "１２３", project: true, endpoint: true, equalTo: "123"},
	{name: "highest character", value: "\U0010ffff", project: true, endpoint: true},
	{name: "noncharacter", value: "\uffff", project: true, endpoint: true},
	{name: "upper case", value: "ABC", key: true, project: true, endpoint: true, equalTo: "abc"},
	{name: "UUID", value: "3b1e9c0a-7d52-4f1e-9a53-0d3f5a1c2b77", key: true, project: true, endpoint: true, equalTo: "3B1E9C0A-7D52-4F1E-9A53-0D3F5A1C2B77"},
	{name: "trailing space", value: "a ", project: true, endpoint: true, equalTo: "a"},
	{name: "leading space", value: " a", project: true, endpoint: true},
	{name: "space inside", value: "a b", project: true, endpoint: true},
	{name: "tab", value: "a\t", project: true, endpoint: true},
	{name: "CR", value: "a\r", project: true, endpoint: true},
	{name: "LF", value: "a\n", project: true, endpoint: true},
	{name: "CRLF and a header", value: "a\r\nX: y", project: true, endpoint: true},
	{name: "DEL", value: "a\x7f", project: true, endpoint: true},
	{name: "escape sequence", value: "\x1b[31m", project: true, endpoint: true},
	{name: "C1 control", value: "a\u0085", project: true, endpoint: true},
	{name: "no-break space", value: "a\u00a0b", project: true, endpoint: true},
	{name: "leading zeros", value: "007", key: true, project: true, endpoint: true, equalTo: "7"},

	// what some layer takes for code (case 68)
	{name: "percent escape", value: "%00", key: true, project: true, endpoint: true},
	{name: "format verbs", value: "%s%n%!d(MISSING)", key: true, project: true, endpoint: true},
	{name: "quotes", value: `'"` + "`", key: true, project: true, endpoint: true},
	{name: "backslashes", value: `\\\'\0\x00`, key: true, project: true, endpoint: true},
	{name: "SQL", value: `';DROP/**/TABLE/**/idem.keys;--`, key: true, project: true, endpoint: true},
	{name: "dollar quotes", value: `$$x$$`, key: true, project: true, endpoint: true},
	{name: "placeholder", value: "$1", key: true, project: true, endpoint: true},
	{name: "array literal", value: "{a,b}", key: true, project: true, endpoint: true},
	{name: "empty array literal", value: "{}", key: true, project: true, endpoint: true},
	{name: "LIKE wildcards", value: "%_", key: true, project: true, endpoint: true},
	{name: "path", value: "../../etc/passwd", key: true, project: true, endpoint: true},
	{name: "markup", value: "<script>alert(1)</script>", key: true, project: true, endpoint: true},
	{name: "structured field", value: `"abc";a=1,def`, key: true, project: true, endpoint: true},
	{name: "null", value: "null", key: true, project: true, endpoint: true},
	{name: "NULL", value: "NULL", key: true, project: true, endpoint: true},
	{name: "COPY null", value: `\N`, key: true, project: true, endpoint: true},
	{name: "NaN", value: "NaN", key: true, project: true, endpoint: true},
	{name: "lowest and highest byte of a key", value: "!~", key: true, project: true, endpoint: true},
}

// Every text in every part of a key: what is accepted is stored as it is, byte for byte, and is a key of its own; what is
// not is ErrInvalidKey, and nothing was sent.
func TestInvalid_case67_68_keys(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		pool, spy := spied(t, pool)
		tx := begin(t, pool)
		spy.taken()
		valid := 0
		for _, part := range []string{"key", "project", "endpoint"} {
			for _, tt := range texts {
				key := idem.Key{Project: "p", Endpoint: "e", Value: "k" + part}
				ok := false
				switch part {
				case "key":
					key.Value, ok = tt.value, tt.key
				case "project":
					key.Project, ok = tt.value, tt.project
				case "endpoint":
					key.Endpoint, ok = tt.value, tt.endpoint
				}
				fn := returns(idem.Response{Body: []byte(tt.name)})
				if !ok {
					fn = never(t)
				}
				r, err := idem.Do(t.Context(), tx, key, fn, idem.WithoutRequestHash())
				sent := len(spy.taken())
				if !ok {
					want(t, err, idem.ErrInvalidKey)
					if sent != 0 {
						t.Errorf("%s as %s was sent", tt.name, part)
					}
					continue
				}
				if err != nil || r.Replayed {
					t.Fatalf("%s as %s: Replayed %v, error %v", tt.name, part, r.Replayed, err)
				}
				valid++
				var n int
				noError(t, tx.QueryRow(t.Context(), `SELECT count(*) FROM idem.keys
					WHERE convert_to(project, 'UTF8') = $1 AND convert_to(endpoint, 'UTF8') = $2 AND convert_to(key, 'UTF8') = $3`,
					[]byte(key.Project), []byte(key.Endpoint), []byte(key.Value)).Scan(&n))
				if n != 1 {
					t.Errorf("%s as %s is stored %d times", tt.name, part, n)
				}
				if tt.equalTo != "" && part != "key" || part == "key" && tt.equalTo != "" && tt.key {
					other := key
					switch part {
					case "key":
						other.Value = tt.equalTo
					case "project":
						other.Project = tt.equalTo
					case "endpoint":
						other.Endpoint = tt.equalTo
					}
					r, err := idem.Do(t.Context(), tx, other, returns(idem.Response{Body: []byte(tt.equalTo)}), idem.WithoutRequestHash())
					noError(t, err)
					if r.Replayed && string(r.Body) == tt.name {
						t.Errorf("%q as %s gets the answer of %q", tt.equalTo, part, tt.value)
					}
					valid += map[bool]int{true: 0, false: 1}[r.Replayed]
				}
				spy.taken()
			}
		}
		noError(t, tx.Commit(t.Context())) // after all those errors
		if n := count(t, pool, `SELECT count(*) FROM idem.keys`); n != valid {
			t.Errorf("%d records, want %d", n, valid)
		}
	})
}

// Everything else that a caller can get wrong, in Run and in Do. Nothing is sent, and the transaction is as usable as before.
func TestInvalid_calls(t *testing.T) {
	noop := returns(idem.Response{})
	tests := []struct {
		name string
		key  idem.Key
		fn   idem.Func
		opts []idem.Option
		want error
	}{
		{"zero key", idem.Key{}, noop, nil, idem.ErrInvalidKey},
		{"zero key without hash", idem.Key{}, noop, []idem.Option{idem.WithoutRequestHash()}, idem.ErrInvalidKey},
		{"no hash", idem.Key{Project: "p", Endpoint: "e", Value: "v"}, noop, nil, idem.ErrInvalidKey},
		{"hash that is not wanted", keyFor("k"), noop, []idem.Option{idem.WithoutRequestHash()}, idem.ErrInvalidCall},
		{"nil fn", keyFor("k"), nil, nil, idem.ErrInvalidCall},
		{"nil option", keyFor("k"), noop, []idem.Option{nil}, idem.ErrInvalidCall},
		{"nil option among others", keyFor("k"), noop, []idem.Option{idem.WithTTL(1), nil, idem.WithWait(1)}, idem.ErrInvalidCall},
		{"TTL 0", keyFor("k"), noop, []idem.Option{idem.WithTTL(0)}, idem.ErrInvalidCall}, // case 91
		{"TTL -1ns", keyFor("k"), noop, []idem.Option{idem.WithTTL(-1)}, idem.ErrInvalidCall},
		{"TTL -24h", keyFor("k"), noop, []idem.Option{idem.WithTTL(-24 * time.Hour)}, idem.ErrInvalidCall},
		{"lowest TTL", keyFor("k"), noop, []idem.Option{idem.WithTTL(-1 << 63)}, idem.ErrInvalidCall},
		{"wait -1ns", keyFor("k"), noop, []idem.Option{idem.WithWait(-1)}, idem.ErrInvalidCall},
		{"lowest wait", keyFor("k"), noop, []idem.Option{idem.WithWait(-1 << 63)}, idem.ErrInvalidCall},
		{"limit -1", keyFor("k"), noop, []idem.Option{idem.WithMaxBody(-1)}, idem.ErrInvalidCall},
		{"limit over 64 MiB", keyFor("k"), noop, []idem.Option{idem.WithMaxBody(64<<20 + 1)}, idem.ErrInvalidCall},
		{"highest limit", keyFor("k"), noop, []idem.Option{idem.WithMaxBody(1<<63 - 1)}, idem.ErrInvalidCall},
		{"invalid key and nil fn", idem.Key{}, nil, nil, idem.ErrInvalidCall},
	}
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		pool, spy := spied(t, pool)
		tx := begin(t, pool)
		spy.taken()
		for _, tt := range tests {
			_, err := idem.Do(t.Context(), tx, tt.key, tt.fn, tt.opts...)
			want(t, err, tt.want)
			_, err = idem.Run(t.Context(), pool, tt.key, tt.fn, tt.opts...)
			want(t, err, tt.want)
			if sent := spy.taken(); sent != nil {
				t.Errorf("%s sent %q", tt.name, sent)
			}
		}
		_, err := idem.Do(t.Context(), nil, keyFor("k"), noop)
		want(t, err, idem.ErrInvalidCall)
		_, err = idem.Run(t.Context(), nil, keyFor("k"), noop)
		want(t, err, idem.ErrInvalidCall)
		_, err = idem.RunValue(t.Context(), nil, keyFor("k"), func(context.Context, pgx.Tx) (int, error) { return 0, nil })
		want(t, err, idem.ErrInvalidCall)
		usable(t, pool, tx)
		if n := count(t, pool, `SELECT count(*) FROM idem.keys`); n != 0 {
			t.Errorf("%d records", n)
		}
	})
}

// Limits at which a call is right.
func TestInvalid_butNotQuite(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for i, o := range []idem.Option{
			idem.WithTTL(1), idem.WithTTL(1<<63 - 1), idem.WithWait(0), idem.WithWait(1<<63 - 1), idem.WithMaxBody(0), idem.WithMaxBody(64 << 20),
			idem.WithTxOptions(pgx.TxOptions{}), idem.WithObserver(nil),
		} {
			_, err := call(t.Context(), pool, keyFor(fmt.Sprint("option-", i)), returns(idem.Response{}), o)
			if err != nil {
				t.Errorf("option %d: %v", i, err)
			}
		}
		largest := idem.Key{Project: strings.Repeat("p", 255), Endpoint: strings.Repeat("e", 512), Value: strings.Repeat("v", 255)}
		largest.RequestHash = idem.HashRequest(nil)
		first, err := call(t.Context(), pool, largest, returns(idem.Response{Status: 999}))
		noError(t, err)
		replay, err := call(t.Context(), pool, largest, never(t))
		noError(t, err)
		same(t, first, replay)
	})
}
