package idem

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestHeader_roundTrip(t *testing.T) {
	t.Parallel()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, h := range []map[string][]string{
		{"Content-Type": {"application/json"}},
		{"X": {}},
		{"X": {""}},
		{"": {}},
		{"": {""}},
		{"": {"a"}, "b": {}},
		{"Link": {"<b>", "<a>", "<b>", ""}}, // the order of values is kept
		{"a": {"1"}, "b": {"2"}, "ab": {"3"}, "A": {"4"}},
		{string(all): {string(all), "\x00", "\xff"}},
		{strings.Repeat("n", 127): {strings.Repeat("v", 128)}, strings.Repeat("n", 128): {strings.Repeat("v", 16384)}},
		{"many": slices.Repeat([]string{"v"}, 300)},
	} {
		b := appendHeader(nil, h)
		got, err := parseHeader(b)
		if err != nil || !maps.EqualFunc(got, h, slices.Equal) {
			t.Errorf("%q came back as %q, %v", h, got, err)
		}
		if again := appendHeader(nil, h); !bytes.Equal(again, b) {
			t.Errorf("%q has two stored forms", h)
		}
	}
	for _, h := range []map[string][]string{nil, {}} {
		if b := appendHeader([]byte{}, h); len(b) != 0 {
			t.Errorf("no header is stored as %x", b)
		}
	}
}

// The stored form is what rows in the field have: it must not change.
func TestHeader_storedForm(t *testing.T) {
	t.Parallel()
	got := appendHeader(nil, map[string][]string{"b": {"1", ""}, "Aa": {"\xff"}})
	if want := "\x01" + "\x02Aa\x01\x01\xff" + "\x01b\x02\x011\x00"; string(got) != want {
		t.Errorf("stored as %q, want %q", got, want)
	}
}

func TestHeader_damaged(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]string{
		"version alone":            "\x01",
		"version 0":                "\x00\x01a\x01\x01b",
		"version 2":                "\x02\x01a\x01\x01b",
		"cut in the name":          "\x01\x02a",
		"cut after the name":       "\x01\x01a",
		"cut after the count":      "\x01\x01a\x01",
		"cut in the value":         "\x01\x01a\x01\x02b",
		"bytes left over":          "\x01\x01a\x01\x01b\x00",
		"names in the wrong order": "\x01\x01b\x00\x01a\x00",
		"name twice":               "\x01\x01a\x00\x01a\x00",
		"empty name twice":         "\x01\x00\x00\x00\x00",
		"long form of a length":    "\x01\x81\x00a\x01\x01b",
		"long form of 0":           "\x01\x01a\x80\x00",
		"count over the bytes":     "\x01\x01a\xff\xff\xff\xff\x0f",
		"length over the bytes":    "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a",
		"length over 64 bits":      "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7fa",
		"length without end":       "\x01\xff\xff",
		"JSON":                     `{"a":["b"]}`,
	} {
		if h, err := parseHeader([]byte(b)); err == nil {
			t.Errorf("%s: %q is taken for %q", name, b, h)
		}
	}
}

// Whatever bytes a row holds, reading them ends with an error or with a header that has just those bytes as its stored form.
// And what fn returns comes back.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{}, "Content-Type", "application/json", "")
	f.Add([]byte("\x01\x02Aa\x01\x01\xff\x01b\x02\x011\x00"), "Link", "<a>", "<b>")
	f.Add([]byte("\x01\x81\x00a\x01\x01b"), "", "\x00", "\xff")
	f.Add([]byte("\x01\x01a\xff\xff\xff\xff\x0f"), "a", "b", "c")
	f.Add(appendHeader(nil, map[string][]string{"many": slices.Repeat([]string{"v", ""}, 200)}), "x", strings.Repeat("y", 200), "")
	f.Fuzz(func(t *testing.T, b []byte, name, value1, value2 string) {
		if h, err := parseHeader(b); err == nil {
			if again := appendHeader(nil, h); !bytes.Equal(again, b) {
				t.Errorf("%x is read as %q, which is stored as %x", b, h, again)
			}
		}
		h := map[string][]string{name: {value1, value2}, value1: {name}, value2: {}, name + value1: nil}
		got, err := parseHeader(appendHeader(nil, h))
		if err != nil || !maps.EqualFunc(got, h, slices.Equal) {
			t.Errorf("%q came back as %q, %v", h, got, err)
		}
	})
}
