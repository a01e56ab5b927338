package idemhttp

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"
)

// The codes of a Problem. The set is closed within a major version of this package.
const (
	CodeKeyMissing        = "idempotency_key_missing"        // 400: no key where one is required
	CodeKeyInvalid        = "idempotency_key_invalid"        // 400: not a key, or against RequireUUID or MinLength
	CodeKeyReused         = "idempotency_key_reused"         // 422: the key belongs to a different request
	CodeKeyInProgress     = "idempotency_key_in_progress"    // 409: the first request with the key is still running
	CodeRequestTooLarge   = "idempotency_request_too_large"  // 413: the body is over MaxRequestBody
	CodeRequestInvalid    = "idempotency_request_invalid"    // 400: the body has no canonical JSON form
	CodeRequestUnreadable = "idempotency_request_unreadable" // 400: the body did not arrive whole
	CodeUnavailable       = "idempotency_unavailable"        // 503: the database cannot be asked now
	CodeResponseTooLarge  = "idempotency_response_too_large" // 500: the handler's response is over MaxResponseBody; undone
	CodeResponseStreamed  = "idempotency_response_streamed"  // 500: the handler tried to stream its response; undone
	CodeHandlerFailed     = "idempotency_handler_failed"     // 500: the handler's transaction failed; undone
	CodeMisconfigured     = "idempotency_misconfigured"      // 500: the Middleware is set up wrong; nothing ran
)

// Problem is an answer of this package in place of the handler's, in the form of RFC 9457. It says nothing of the first
// request with the key.
type Problem struct { //nolint:errname // an answer, which is also an error
	Type     string `json:"type"`     // URI of the kind of problem; see Middleware.ProblemType
	Title    string `json:"title"`    // the same for all problems with one Code
	Status   int    `json:"status"`   // HTTP status; see Middleware.StatusFor
	Detail   string `json:"detail"`   // what to do about this occurrence
	Instance string `json:"instance"` // a fresh urn:uuid, which the log line carries too

	// Code is one of the Code constants.
	Code string `json:"code"`

	// Retryable says that the same request with the same key may succeed later.
	Retryable bool `json:"retryable"`

	// IdempotencyKey is the key as the client sent it, cut when it is longer than a key can be.
	IdempotencyKey string `json:"idempotency_key,omitempty"`

	cause error
}

// Error returns the code, the detail and the cause, without the key.
func (p Problem) Error() string {
	if p.cause != nil {
		return fmt.Sprintf("idemhttp: %s: %v", p.Code, p.cause)
	}
	return fmt.Sprintf("idemhttp: %s: %s", p.Code, p.Detail)
}

// Unwrap returns what went wrong inside, for errors.Is with the errors of package idem. It is for logs, not for clients.
func (p Problem) Unwrap() error { return p.cause }

// Write sends p as application/problem+json.
func (p Problem) Write(w http.ResponseWriter) {
	body, err := json.Marshal(p)
	if err != nil { // a struct of strings always marshals
		panic(err)
	}
	h := w.Header()
	for _, name := range [...]string{"Content-Language", "Content-Disposition", "Etag", "Last-Modified", "Location", HeaderReplayed} {
		delete(h, name) // said of another body by a wrapper outside
	}
	h.Set("Content-Type", "application/problem+json")
	send(w, p.Status, append(body, '\n'), lengthIsOurs(h))
}

// kind is what all problems with one code share.
type kind struct {
	status    int
	section   string // of the draft, "" where the rule is not the draft's
	retryable bool
	title     string
	detail    string
}

var kinds = map[string]kind{
	CodeKeyMissing: {
		400, "2.7", false, "Idempotency-Key is missing",
		"This operation needs an idempotency key. Send a new one with each new operation, and the same one with each retry.",
	},
	CodeKeyInvalid: {400, "2.1", false, "Idempotency-Key is invalid", ""},
	CodeKeyReused: {
		422, "2.7", false, "Idempotency-Key is already used",
		"This key was used for a different request. Send a new key with a new operation, and the unchanged request with a retry.",
	},
	CodeKeyInProgress: {
		409, "2.7", true, "A request is outstanding for this Idempotency-Key",
		"A request with this key is still running. Retry with the same key after a moment.",
	},
	CodeRequestTooLarge:   {413, "", false, "Request body is too large", ""},
	CodeRequestInvalid:    {400, "2.4", false, "Request body has no canonical form", ""},
	CodeRequestUnreadable: {400, "", true, "Request body is incomplete", "The body did not arrive whole. Nothing was done; retry with the same key."},
	CodeUnavailable: {
		503, "", true, "Idempotency is unavailable",
		"The request cannot be protected against being done twice at the moment. Retry with the same key.",
	},
	CodeResponseTooLarge: {500, "", false, "Response is too large", "The response cannot be recorded, so the operation was undone."},
	CodeResponseStreamed: {500, "", false, "Response cannot be streamed", "The response cannot be recorded, so the operation was undone."},
	CodeHandlerFailed:    {500, "", true, "Internal Server Error", "The operation failed and was undone. Retry with the same key."},
	CodeMisconfigured:    {500, "", false, "Idempotency is misconfigured", "The server cannot protect this operation. Nothing was done."},
}

const draft = "https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07#section-"

// problem makes the Problem with a code. detail replaces the code's own when it is not empty.
func (m *Middleware) problem(r *http.Request, code, detail string, cause error) Problem {
	k := kinds[code]
	p := Problem{
		Type: "about:blank", Title: k.title, Status: k.status, Detail: k.detail, Instance: newInstance(),
		Code: code, Retryable: k.retryable, IdempotencyKey: m.sentKey(r), cause: cause,
	}
	if k.section != "" {
		p.Type = draft + k.section
	}
	if detail != "" {
		p.Detail = detail
	}
	if m.ProblemType != nil {
		if uri := m.ProblemType(code); uri != "" {
			p.Type = uri
		}
	}
	if m.StatusFor != nil {
		if status := m.StatusFor(code); status >= 400 && status <= 599 {
			p.Status = status
		}
	}
	return p
}

// sentKey returns what the client sent as its key, so that it finds its own request.
func (m *Middleware) sentKey(r *http.Request) string {
	const most = 2 * maxKey
	s := strings.Join(m.keyFields(r), ", ")
	if len(s) <= most {
		return s
	}
	i := most
	for i > 0 && !utf8.RuneStart(s[i]) {
		i--
	}
	return s[:i] + "…"
}

// newInstance returns a UUID of version 4 as a URN.
func newInstance() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
