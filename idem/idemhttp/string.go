package idemhttp

import (
	"fmt"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// string reads a string. Nothing but a lone surrogate can be wrong with it.
func (c *canonicalizer) string() (string, error) {
	at := c.pos
	c.pos++
	start := c.pos
	for c.text[c.pos] != '"' && c.text[c.pos] != '\\' {
		c.pos++
	}
	if c.text[c.pos] == '"' {
		c.pos++
		return string(c.text[start : c.pos-1]), nil
	}
	b := slices.Clone(c.text[start:c.pos])
	for {
		ch := c.text[c.pos]
		c.pos++
		switch ch {
		case '"':
			return string(b), nil
		case '\\':
			r, ok := c.escape()
			if !ok {
				return "", fmt.Errorf("the JSON string at offset %d has a lone surrogate", at)
			}
			b = utf8.AppendRune(b, r)
		default:
			b = append(b, ch)
		}
	}
}

// escape reads what follows a backslash.
func (c *canonicalizer) escape() (r rune, ok bool) {
	ch := c.text[c.pos]
	c.pos++
	switch ch {
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'u':
		r = c.hex()
		if !utf16.IsSurrogate(r) {
			return r, true
		}
		if c.text[c.pos] != '\\' || c.text[c.pos+1] != 'u' {
			return 0, false
		}
		c.pos += 2
		r = utf16.DecodeRune(r, c.hex())
		return r, r != utf8.RuneError // no pair decodes to U+FFFD
	default:
		return rune(ch), true // quote, backslash, slash
	}
}

func (c *canonicalizer) hex() rune {
	n, _ := strconv.ParseUint(string(c.text[c.pos:c.pos+4]), 16, 16)
	c.pos += 4
	return rune(n)
}

// appendString writes a string with the escapes that it must have and no others (RFC 8785, section 3.2.2.2).
func appendString(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch ch := s[i]; ch {
		case '"', '\\':
			b = append(b, '\\', ch)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			if ch < 0x20 {
				b = append(b, '\\', 'u', '0', '0', digits[ch>>4], digits[ch&15])
			} else {
				b = append(b, ch)
			}
		}
	}
	return append(b, '"')
}

// compareUTF16 compares by UTF-16 code units, the order of RFC 8785. It is the order of code points but for those above
// U+FFFF, whose surrogates come before U+E000.
func compareUTF16(a, b string) int {
	for a != "" && b != "" {
		ra, na := utf8.DecodeRuneInString(a)
		rb, nb := utf8.DecodeRuneInString(b)
		if ra != rb {
			if (ra > 0xffff) != (rb > 0xffff) {
				ra, rb = unit(ra), unit(rb)
			}
			return int(ra) - int(rb)
		}
		a, b = a[na:], b[nb:]
	}
	return len(a) - len(b)
}

// unit returns the first UTF-16 code unit of r.
func unit(r rune) rune {
	if r > 0xffff {
		r, _ = utf16.EncodeRune(r)
	}
	return r
}
