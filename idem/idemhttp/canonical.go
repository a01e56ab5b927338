package idemhttp

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// maxDepth is how deep a JSON text may be nested to have a canonical form.
const maxDepth = 200

// CanonicalJSON returns the one form that JSON texts with equal values share, in the manner of RFC 8785: no white space,
// members sorted, one spelling for every string and number. Two texts have the same form if and only if they hold the same
// value.
//
// A text whose value depends on who reads it is an error: duplicate names, lone surrogates, text that is not UTF-8, and
// numbers that change on their way through a double, such as 9007199254740993. So is one nested deeper than 200 levels. The
// error names the place and quotes nothing.
//
// It differs from RFC 8785 in one point: a number that a double holds exactly keeps all its digits, so that 2^60 written
// out and the rounded 1152921504606847000 stay two numbers.
func CanonicalJSON(text []byte) ([]byte, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("the JSON text is not valid UTF-8")
	}
	if err := checkDepth(text); err != nil {
		return nil, err
	}
	if !json.Valid(text) {
		return nil, errors.New("the body is not one JSON text")
	}
	c := canonicalizer{text: text, out: make([]byte, 0, len(text))}
	if err := c.value(); err != nil {
		return nil, err
	}
	return c.out, nil
}

// checkDepth counts brackets outside strings. It comes before anything that could recurse.
func checkDepth(text []byte) error {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '[', '{':
			if depth++; depth > maxDepth {
				return fmt.Errorf("the JSON text is nested deeper than %d levels", maxDepth)
			}
		case ']', '}':
			depth--
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		}
	}
	return nil
}

// canonicalizer reads a text that is known to be well-formed and writes its canonical form.
type canonicalizer struct {
	text []byte
	pos  int
	out  []byte
	was  []byte // what sort moves; kept, as a nested text is moved once for each level
}

func (c *canonicalizer) value() error {
	c.space()
	switch c.text[c.pos] {
	case '{':
		return c.object()
	case '[':
		return c.array()
	case '"':
		s, err := c.string()
		c.out = appendString(c.out, s)
		return err
	case 't', 'f', 'n':
		c.literal()
		return nil
	default:
		return c.number()
	}
}

// member is a member of an object that has been written to out[start:end], name and colon included.
type member struct {
	name       string
	start, end int
}

func (c *canonicalizer) object() error {
	at := c.pos
	c.pos++
	c.out = append(c.out, '{')
	first := len(c.out)
	var members []member
	sorted := true
	for {
		c.space()
		switch c.text[c.pos] {
		case '}':
			c.pos++
			if !sorted {
				if err := c.sort(members, first, at); err != nil {
					return err
				}
			}
			c.out = append(c.out, '}')
			return nil
		case ',':
			c.pos++
			c.space()
		}
		name, err := c.string()
		if err != nil {
			return err
		}
		if n := len(members); n > 0 {
			c.out = append(c.out, ',')
			switch order := compareUTF16(members[n-1].name, name); {
			case order == 0:
				return errDuplicate(at)
			case order > 0:
				sorted = false
			}
		}
		m := member{name: name, start: len(c.out)}
		c.out = appendString(c.out, name)
		c.out = append(c.out, ':')
		c.space()
		c.pos++ // the colon
		if err := c.value(); err != nil {
			return err
		}
		m.end = len(c.out)
		members = append(members, m)
	}
}

// sort brings the members of the object that began at offset at into order. They were written to out[first:].
func (c *canonicalizer) sort(members []member, first, at int) error {
	slices.SortFunc(members, func(a, b member) int { return compareUTF16(a.name, b.name) })
	c.was = append(c.was[:0], c.out[first:]...)
	written := c.was
	c.out = c.out[:first]
	for i, m := range members {
		if i > 0 {
			if m.name == members[i-1].name {
				return errDuplicate(at)
			}
			c.out = append(c.out, ',')
		}
		c.out = append(c.out, written[m.start-first:m.end-first]...)
	}
	return nil
}

func errDuplicate(at int) error {
	return fmt.Errorf("the JSON object at offset %d has a duplicate name", at)
}

func (c *canonicalizer) array() error {
	c.pos++
	c.out = append(c.out, '[')
	for {
		c.space()
		switch c.text[c.pos] {
		case ']':
			c.pos++
			c.out = append(c.out, ']')
			return nil
		case ',':
			c.pos++
			c.out = append(c.out, ',')
		}
		if err := c.value(); err != nil {
			return err
		}
	}
}

func (c *canonicalizer) literal() {
	start := c.pos
	for c.pos < len(c.text) && 'a' <= c.text[c.pos] && c.text[c.pos] <= 'z' {
		c.pos++
	}
	c.out = append(c.out, c.text[start:c.pos]...)
}

func (c *canonicalizer) space() {
	for c.pos < len(c.text) {
		switch c.text[c.pos] {
		case ' ', '\t', '\n', '\r':
			c.pos++
		default:
			return
		}
	}
}
