package idem

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Limits of a Key, in bytes. The table has CHECKs with the same numbers; together they stay far below the size at which
// a PostgreSQL index entry fails.
const (
	maxProject  = 255
	maxEndpoint = 512
	maxValue    = 255
)

// Key names one logical operation of one tenant. Two calls are the same operation when Project, Endpoint and Value are
// equal byte for byte: nothing is trimmed, folded or normalised.
type Key struct {
	// Project is the tenant that owns the key, 1 to 255 bytes of UTF-8. It is required: a forgotten tenant is how one
	// customer gets another's response. Use a constant where there is only one.
	Project string

	// Endpoint is the operation, as a route pattern such as "POST /applications", 1 to 512 bytes of UTF-8. It is required.
	// One Value sent to two endpoints names two operations.
	Endpoint string

	// Value is what the client sent as Idempotency-Key: 1 to 255 bytes of printable ASCII without space (0x21 to 0x7E).
	Value string

	// RequestHash is what the key is bound to: a later call with another hash gets ErrKeyReused instead of a response that
	// belongs to a different request. It is required unless the call says WithoutRequestHash. See HashRequest.
	RequestHash Hash
}

// Hash is a SHA-256.
type Hash [sha256.Size]byte

// HashRequest hashes the parts of a request that make it the request it is: typically method, path and body. Parts are
// length-delimited, so that ("ab", "c") and ("a", "bc") differ, and so do a part that is empty and one that is absent.
func HashRequest(parts ...[]byte) Hash {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	var sum Hash
	h.Sum(sum[:0])
	return sum
}

// Derive returns a key for a downstream call that fn makes, such as a charge at a payment provider: the same Key and step
// always give the same value, so that a second run of fn repeats the call with the same key. It depends on Project,
// Endpoint, Value and step, not on RequestHash. The form is a UUID of version 8 (RFC 9562, section 5.8).
func (k Key) Derive(step string) string {
	sum := k.digest("idem derive", step)
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x80 // version 8: the contents are ours
	u[8] = u[8]&0x3f | 0x80 // the variant of RFC 9562
	var s [36]byte
	hex.Encode(s[0:8], u[0:4])
	hex.Encode(s[9:13], u[4:6])
	hex.Encode(s[14:18], u[6:8])
	hex.Encode(s[19:23], u[8:10])
	hex.Encode(s[24:36], u[10:16])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}

// lockID returns the advisory lock of k: computed here rather than in SQL, so that a tool can find the lock of a key in
// pg_locks. Two keys with one id only wait for each other; the unique constraint tells them apart.
func (k Key) lockID() int64 {
	sum := k.digest("idem lock", "")
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// digest hashes the identity of k, length-delimited, under a purpose of its own.
func (k Key) digest(purpose, extra string) Hash {
	b := make([]byte, 0, 256)
	for _, s := range [...]string{purpose, k.Project, k.Endpoint, k.Value, extra} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return sha256.Sum256(b)
}

// same reports whether k and other name the same operation.
func (k Key) same(other Key) bool {
	return k.Value == other.Value && k.Endpoint == other.Endpoint && k.Project == other.Project
}

// short returns the first characters of the value, for error texts and logs: a whole key in a log is a key that somebody
// who reads logs can send.
func (k Key) short() string {
	n := min(4, len(k.Value)/2)
	s := strconv.QuoteToASCII(k.Value[:n]) // a key that is not valid may hold anything
	return s[1:len(s)-1] + "…"
}

// invalid says in words what is wrong with k, or returns "". Nothing that it lets through makes PostgreSQL refuse the
// statement, which would abort the caller's transaction.
func (k Key) invalid() string {
	if s := invalidText("project", k.Project, maxProject); s != "" {
		return s
	}
	if s := invalidText("endpoint", k.Endpoint, maxEndpoint); s != "" {
		return s
	}
	switch {
	case k.Value == "":
		return "the key is empty"
	case len(k.Value) > maxValue:
		return fmt.Sprintf("the key has %d bytes, at most %d are allowed", len(k.Value), maxValue)
	}
	for i := range len(k.Value) {
		if c := k.Value[i]; c < 0x21 || c > 0x7e {
			return fmt.Sprintf("the key has byte 0x%02X at offset %d, only printable ASCII (0x21 to 0x7E) is allowed", c, i)
		}
	}
	return ""
}

func invalidText(what, s string, most int) string {
	switch {
	case s == "":
		return "the " + what + " is empty"
	case len(s) > most:
		return fmt.Sprintf("the %s has %d bytes, at most %d are allowed", what, len(s), most)
	case !utf8.ValidString(s):
		return "the " + what + " is not valid UTF-8"
	}
	for i := range len(s) {
		if s[i] == 0 {
			return "the " + what + " holds a NUL byte"
		}
	}
	return ""
}
