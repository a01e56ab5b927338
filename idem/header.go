package idem

import (
	"encoding/binary"
	"errors"
	"slices"
)

// A header is stored as a version byte and then, for each name in sorted order, the name, the number of values and the
// values, each text behind its length as a uvarint. JSON would not do: a header value may hold bytes that are not UTF-8.
// An empty header is stored as no bytes at all.

const headerVersion = 1

var errHeaderFormat = errors.New("stored header is damaged")

// appendHeader appends the stored form of h to b.
func appendHeader(b []byte, h map[string][]string) []byte {
	if len(h) == 0 {
		return b
	}
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	b = append(b, headerVersion)
	for _, name := range names {
		b = appendText(b, name)
		b = binary.AppendUvarint(b, uint64(len(h[name])))
		for _, v := range h[name] {
			b = appendText(b, v)
		}
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// parseHeader is the inverse of appendHeader. It accepts what appendHeader writes and nothing else, so that a row that
// somebody changed by hand is an error and not another answer.
func parseHeader(b []byte) (map[string][]string, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if b[0] != headerVersion || len(b) == 1 {
		return nil, errHeaderFormat
	}
	h := make(map[string][]string)
	last := ""
	for b = b[1:]; len(b) > 0; {
		var name string
		var n uint64
		var ok bool
		if name, b, ok = cutText(b); !ok || len(h) > 0 && name <= last {
			return nil, errHeaderFormat
		}
		if n, b, ok = cutUvarint(b); !ok || n > uint64(len(b)) { // a value takes at least its length byte
			return nil, errHeaderFormat
		}
		values := make([]string, n)
		for i := range values {
			if values[i], b, ok = cutText(b); !ok {
				return nil, errHeaderFormat
			}
		}
		h[name], last = values, name
	}
	return h, nil
}

func cutText(b []byte) (string, []byte, bool) {
	n, b, ok := cutUvarint(b)
	if !ok || n > uint64(len(b)) {
		return "", nil, false
	}
	return string(b[:n]), b[n:], true
}

// cutUvarint refuses longer forms of a number than the shortest: one header has one stored form.
func cutUvarint(b []byte) (uint64, []byte, bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || size > 1 && b[size-1] == 0 {
		return 0, nil, false
	}
	return n, b[size:], true
}
