package idemhttp

import (
	"bytes"
	"fmt"
	"strconv"
)

// decimal is a number without redundant digits: 0.d1d2d3… times ten to the power of point. Zero has no digits.
type decimal struct {
	negative bool
	digits   []byte
	point    int
}

// exactDigits is more than the digits that any double has when it is written out (767).
const exactDigits = 770

// number writes a number as ECMAScript does (RFC 8785, section 3.2.2.3), if a double can carry it: the double nearest to
// it is written as this number, in its shortest form or in full.
func (c *canonicalizer) number() error {
	at := c.pos
	for c.pos < len(c.text) && bytes.IndexByte([]byte("+-.0123456789Ee"), c.text[c.pos]) >= 0 {
		c.pos++
	}
	text := string(c.text[at:c.pos])
	f, err := strconv.ParseFloat(text, 64)
	if err != nil { // too large
		return errNumber(at)
	}
	d, ok := parseDecimal(text, f == 0)
	if !ok {
		return errNumber(at)
	}
	if len(d.digits) > 0 && !d.equal(strconv.FormatFloat(f, 'e', -1, 64)) && !d.equal(strconv.FormatFloat(f, 'e', exactDigits, 64)) {
		return errNumber(at)
	}
	c.out = d.append(c.out)
	return nil
}

func errNumber(at int) error {
	return fmt.Errorf("the number at offset %d of the JSON text does not fit a double-precision number: send it as a string", at)
}

func (d decimal) equal(text string) bool {
	e, ok := parseDecimal(text, false)
	return ok && d.negative == e.negative && d.point == e.point && bytes.Equal(d.digits, e.digits)
}

// parseDecimal reads a number in JSON's syntax. zero says that the double nearest to it is zero; ok is false when the
// number itself is not.
func parseDecimal(text string, zero bool) (d decimal, ok bool) {
	i := 0
	if text[0] == '-' {
		d.negative, i = true, 1
	}
	d.digits = make([]byte, 0, len(text))
	fraction := false
	for ; i < len(text); i++ {
		ch := text[i]
		if ch == 'e' || ch == 'E' {
			break
		}
		switch {
		case ch == '.':
			fraction = true
			continue
		case ch == '0' && len(d.digits) == 0:
			if fraction {
				d.point--
			}
			continue
		case !fraction:
			d.point++
		}
		d.digits = append(d.digits, ch)
	}
	d.digits = bytes.TrimRight(d.digits, "0")
	if zero || len(d.digits) == 0 {
		return decimal{}, len(d.digits) == 0
	}
	if i < len(text) {
		// The number is a finite double other than zero, so the exponent is no longer than the text allows.
		exponent, err := strconv.Atoi(text[i+1:])
		if err != nil {
			return decimal{}, false
		}
		d.point += exponent
	}
	return d, true
}

// append writes the number as Number::toString of ECMAScript does.
func (d decimal) append(b []byte) []byte {
	k := len(d.digits)
	if k == 0 {
		return append(b, '0')
	}
	if d.negative {
		b = append(b, '-')
	}
	switch {
	case k <= d.point && d.point <= 21:
		b = append(b, d.digits...)
		return append(b, bytes.Repeat([]byte{'0'}, d.point-k)...)
	case 0 < d.point && d.point <= 21:
		b = append(b, d.digits[:d.point]...)
		b = append(b, '.')
		return append(b, d.digits[d.point:]...)
	case -6 < d.point && d.point <= 0:
		b = append(b, "0."...)
		b = append(b, bytes.Repeat([]byte{'0'}, -d.point)...)
		return append(b, d.digits...)
	}
	b = append(b, d.digits[0])
	if k > 1 {
		b = append(b, '.')
		b = append(b, d.digits[1:]...)
	}
	b = append(b, 'e')
	exponent := d.point - 1
	if exponent > 0 {
		b = append(b, '+')
	}
	return strconv.AppendInt(b, int64(exponent), 10)
}
