package idemhttp

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/dunglas/httpsfv"
)

// Names of the header fields.
const (
	HeaderKey      = "Idempotency-Key"     // of the request
	HeaderReplayed = "Idempotent-Replayed" // "true" on a replay, absent otherwise
)

const maxKey = 255

// ParseKey returns the key that a header field's value names: a structured-field String ("8e03…", RFC 9651) or the same
// text raw. Both name one key, of 1 to 255 bytes of printable ASCII without space (0x21 to 0x7E). A raw key has no comma,
// quote or backslash, which could be a list, an unclosed String or an escape; inside a String they are allowed.
//
// The error says what is wrong without quoting the value. Answer 400.
func ParseKey(field string) (string, error) {
	field = strings.Trim(field, " \t") // not part of the value (RFC 9110, section 5.5)
	if field == "" {
		return "", errors.New("it is empty")
	}
	if field[0] == '"' {
		return parseQuoted(field)
	}
	if len(field) > maxKey {
		return "", errTooLong(len(field))
	}
	for i := range len(field) {
		switch c := field[i]; {
		case c == ',':
			return "", fmt.Errorf("it has a comma at offset %d: send one key", i)
		case c == '"', c == '\\':
			return "", fmt.Errorf("it has a quote or backslash at offset %d: put the whole key in quotes, as a structured-field String", i)
		case c < 0x21 || c > 0x7e:
			return "", errByte(c, i)
		}
	}
	return field, nil
}

func parseQuoted(field string) (string, error) {
	if len(field) > 2+2*maxKey { // every byte escaped
		return "", errTooLong(len(field))
	}
	item, err := httpsfv.UnmarshalItem([]string{field})
	if err != nil {
		return "", errors.New("it is not a structured-field String (RFC 9651, section 3.3.3)")
	}
	key, ok := item.Value.(string)
	switch {
	case !ok, len(item.Params.Names()) > 0:
		return "", errors.New("something follows the closing quote")
	case key == "":
		return "", errors.New("it is an empty String")
	case len(key) > maxKey:
		return "", errTooLong(len(key))
	}
	for i := range len(key) {
		if c := key[i]; c < 0x21 || c > 0x7e {
			return "", errByte(c, i)
		}
	}
	return key, nil
}

func errTooLong(n int) error {
	return fmt.Errorf("it has %d bytes, at most %d are allowed", n, maxKey)
}

func errByte(c byte, offset int) error {
	return fmt.Errorf("it has byte 0x%02X at offset %d, only printable ASCII without space is allowed", c, offset)
}

// isUUID reports whether s has the form of a UUID (RFC 9562, section 4), of any version.
func isUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	_, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	return err == nil
}
