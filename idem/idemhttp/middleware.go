package idemhttp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

// Middleware protects HTTP handlers: see the package's documentation. Pool and Project are required, everything else has
// a default. Its fields must not be changed once Handler, Handle or Check has been called; its methods are safe for
// concurrent use then.
//
// A Middleware that is set up wrong runs nothing: Handler logs an error at once, and every protected request gets a 500
// with CodeMisconfigured. Call Validate at start-up to learn of it before the first request does.
type Middleware struct {
	// Pool is where the records and the handler's writes go. Required.
	Pool *pgxpool.Pool

	// Project returns the tenant on whose behalf the request is made, as authentication outside has found it, 1 to 255
	// bytes. Required: a forgotten tenant is how one customer reads another's response. For a single tenant use
	// SingleProject. A request for which it returns "" is refused with CodeMisconfigured.
	Project func(*http.Request) string

	// Endpoint returns the operation, 1 to 512 bytes. A request for which it returns "" is refused with CodeMisconfigured.
	// Defaults to the pattern that matched, r.Pattern, such as "POST /applications/{id}/offers"; it is empty around a mux.
	Endpoint func(*http.Request) string

	// Principal returns the user within the project. It becomes part of what the key is bound to, so that another user of
	// the same project who presents the key gets 422 and not somebody's response. Defaults to none.
	Principal func(*http.Request) string

	// Optional lets a request without a key pass through to the handler unprotected: Tx returns nil, nothing is recorded.
	// A malformed key is refused all the same. Defaults to false: a request without a key gets 400.
	Optional bool

	// HeaderNames are the header fields that may carry the key. A request has exactly one of them, once. Defaults to
	// Idempotency-Key.
	HeaderNames []string

	// RequireUUID refuses keys that do not have the form of a UUID. Defaults to false.
	RequireUUID bool

	// MinLength refuses shorter keys, in bytes. Defaults to 1.
	MinLength int

	// TTL is how long a record is retained. Clients must have stopped retrying by then. Defaults to 24 hours.
	TTL time.Duration

	// Wait is how long a request waits for the first one with its key to end before it gets 409. It holds no connection
	// meanwhile. Negative answers at once. Defaults to 2 seconds.
	Wait time.Duration

	// PoolWait is how long a request waits for the database, Wait apart, before it gets 503: for a connection of the pool,
	// and for a lost one to be replaced. The handler's own time does not count. Negative waits as long as the request's
	// context lives. Defaults to 5 seconds.
	PoolWait time.Duration

	// MaxRequestBody limits the request's body, in bytes: a larger one gets 413 before anything runs. Defaults to 1 MiB.
	MaxRequestBody int64

	// MaxResponseBody limits the handler's response, in bytes, up to 64 MiB. A larger one gets 500 with everything undone.
	// Defaults to 1 MiB.
	MaxResponseBody int

	// CanonicalJSON binds the key to the value of a JSON body and not to its bytes, so that a client may retry with
	// members in another order. A body without such a form gets 400; see the function of that name. Defaults to false.
	CanonicalJSON bool

	// KeepHeaders are header fields of the response to record besides Content-Type, Content-Encoding, Content-Language,
	// Content-Disposition, Location, ETag, Last-Modified and Link. Set-Cookie, Authorization, WWW-Authenticate, Date,
	// hop-by-hop fields and their like are never recorded, even if listed. Defaults to none.
	KeepHeaders []string

	// Remember reports whether a response with a status of 400 or above is recorded, with the handler's writes undone in
	// either case. It is not asked about 2xx and 3xx: their writes commit, and nothing commits without its record.
	// Defaults to 4xx without 401, 403, 408, 425 and 429.
	Remember func(status int) bool

	// StatusFor returns another status for a problem than the code's own, 400 to 599: 409 for CodeKeyReused, say. 0 keeps
	// it. Defaults to none.
	StatusFor func(code string) int

	// ProblemType returns the type URI for a code; "" keeps the default. Defaults to the section of the draft that the rule
	// comes from, and about:blank where it is not the draft's.
	ProblemType func(code string) string

	// ErrorHandler writes a problem to the client in the API's own form. Retry-After, Cache-Control: no-store and the CORS
	// fields are set already. Defaults to p.Write(w).
	ErrorHandler func(w http.ResponseWriter, r *http.Request, p Problem)

	// Logger gets a line for each problem, with its instance and never with a whole key: at level error where the server is
	// to blame, at info else. Defaults to slog.Default().
	Logger *slog.Logger

	// Observer is told of every protected request when it ends. Defaults to none.
	Observer idem.Observer

	// Options are further options for idem.Run, such as WithTxOptions. TTL, Wait, MaxResponseBody and Observer have their
	// fields here, which win. Defaults to none.
	Options []idem.Option
}

const (
	defaultWait     = 2 * time.Second
	defaultPoolWait = 5 * time.Second
	defaultBody     = 1 << 20
	mostBody        = 64 << 20
)

// SingleProject is for Middleware.Project where there is one tenant only.
func SingleProject(name string) func(*http.Request) string {
	return func(*http.Request) string { return name }
}

// Validate returns what is wrong with the configuration, or nil. Nothing is sent to the database; see idem.Check for that.
func (m *Middleware) Validate() error {
	var wrong error
	switch {
	case m == nil:
		wrong = errors.New("the Middleware is nil")
	case m.Pool == nil:
		wrong = errors.New("Pool is nil: set the *pgxpool.Pool that holds idem.keys and the handler's tables")
	case m.Project == nil:
		wrong = errors.New("Project is nil: return the authenticated tenant, or say SingleProject where there is one only")
	case m.TTL < 0:
		wrong = fmt.Errorf("TTL is %v: it must be above 0, or 0 for 24 hours", m.TTL)
	case m.MinLength < 0 || m.MinLength > maxKey:
		wrong = fmt.Errorf("MinLength is %d: it must be between 0 and %d", m.MinLength, maxKey)
	case m.MaxRequestBody < 0:
		wrong = fmt.Errorf("MaxRequestBody is %d: it must be above 0, or 0 for 1 MiB", m.MaxRequestBody)
	case m.MaxResponseBody < 0 || m.MaxResponseBody > mostBody:
		wrong = fmt.Errorf("MaxResponseBody is %d: it must be between 1 and %d, or 0 for 1 MiB", m.MaxResponseBody, mostBody)
	default:
		for _, name := range m.HeaderNames {
			if name == "" {
				wrong = errors.New("HeaderNames has an empty name")
			}
		}
	}
	if wrong != nil {
		return fmt.Errorf("idemhttp: misconfigured: %w", wrong)
	}
	return nil
}

// Check decides on a request without running anything: it returns the key that Handler would run it under. It is for
// handlers that own their transaction and call idem.Do. r.Body is read whole, within MaxRequestBody, and can be read again.
// Pool may be nil.
//
// The zero Key and no error mean that the request passes through unprotected: a safe method, or no key with Optional. An
// error is a Problem, ready to be written.
func (m *Middleware) Check(r *http.Request) (idem.Key, error) {
	if passes(r.Method) {
		return idem.Key{}, nil
	}
	key, body, p := m.check(nil, r)
	if p != nil {
		return idem.Key{}, *p
	}
	if key.Value != "" {
		setBody(r, body)
	}
	return key, nil
}

// passes reports whether requests with a method pass through: the safe ones (RFC 9110, section 9.2.1).
func passes(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, "":
		return true
	}
	return false
}

// check is Check with the body, for a method that does not pass. w may be nil.
func (m *Middleware) check(w http.ResponseWriter, r *http.Request) (key idem.Key, body []byte, p *Problem) {
	refuse := func(code, detail string, cause error) (idem.Key, []byte, *Problem) {
		p := m.problem(r, code, detail, cause)
		return idem.Key{}, nil, &p
	}
	fields := m.keyFields(r)
	switch {
	case len(fields) == 0 && m.Optional:
		return key, nil, nil
	case len(fields) == 0:
		return refuse(CodeKeyMissing, "", nil)
	case len(fields) > 1:
		return refuse(CodeKeyInvalid, "The request has more than one idempotency key. Send one.", nil)
	}
	value, err := ParseKey(fields[0])
	if err == nil {
		err = m.policy(value)
	}
	if err != nil {
		return refuse(CodeKeyInvalid, fmt.Sprintf("The idempotency key cannot be used: %v.", err), nil)
	}

	if m.Project == nil {
		return refuse(CodeMisconfigured, "", errors.New("Project is nil: return the authenticated tenant, or say SingleProject where there is one only"))
	}
	key = idem.Key{Project: m.Project(r), Endpoint: m.endpoint(r), Value: value}
	switch {
	case key.Project == "":
		return refuse(CodeMisconfigured, "", errors.New("Project returned \"\": every request needs its tenant; authentication belongs outside this middleware"))
	case key.Endpoint == "" && m.Endpoint != nil:
		return refuse(CodeMisconfigured, "", errors.New("Endpoint returned \"\": every operation needs a name"))
	case key.Endpoint == "":
		return refuse(CodeMisconfigured, "", errors.New("the request matched no pattern yet (r.Pattern is empty), as around a mux: wrap each route's handler, or set Endpoint"))
	}

	body, code, err := m.readBody(w, r)
	switch {
	case code == CodeRequestTooLarge:
		return refuse(code, fmt.Sprintf("The request's body has more than %d bytes.", m.maxRequestBody()), err)
	case err != nil:
		return refuse(code, "", err)
	}
	var principal *string
	if m.Principal != nil {
		who := m.Principal(r)
		principal = &who
	}
	key.RequestHash, err = requestHash(r, body, m.CanonicalJSON, principal)
	if err != nil {
		return refuse(CodeRequestInvalid, fmt.Sprintf("The request cannot be bound to its key: %v.", err), nil)
	}
	return key, body, nil
}

// keyFields returns the values of all fields that may carry the key.
func (m *Middleware) keyFields(r *http.Request) []string {
	if len(m.HeaderNames) == 0 {
		return r.Header[HeaderKey]
	}
	var fields []string
	seen := make(map[string]bool, len(m.HeaderNames))
	for _, name := range m.HeaderNames {
		name = http.CanonicalHeaderKey(name)
		if !seen[name] {
			seen[name] = true
			fields = append(fields, r.Header[name]...)
		}
	}
	return fields
}

// policy is what this API asks of a key beyond the syntax.
func (m *Middleware) policy(key string) error {
	switch {
	case m.RequireUUID && !isUUID(key):
		return errors.New("it must be a UUID")
	case len(key) < m.MinLength:
		return fmt.Errorf("it has %d bytes, at least %d are required", len(key), m.MinLength)
	}
	return nil
}

func (m *Middleware) endpoint(r *http.Request) string {
	if m.Endpoint != nil {
		return m.Endpoint(r)
	}
	return r.Pattern
}

func (m *Middleware) maxRequestBody() int64 {
	if m.MaxRequestBody > 0 {
		return m.MaxRequestBody
	}
	return defaultBody
}

// readBody reads the whole body, whatever its declared length, and nothing of one that is declared too large.
func (m *Middleware) readBody(w http.ResponseWriter, r *http.Request) (body []byte, code string, err error) {
	limit := m.maxRequestBody()
	if r.ContentLength > limit {
		return nil, CodeRequestTooLarge, fmt.Errorf("Content-Length is %d", r.ContentLength)
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil, "", nil
	}
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), 64<<10)) + bytes.MinRead) // what is declared may never come
	_, err = b.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, CodeRequestTooLarge, err
	}
	if err != nil {
		return nil, CodeRequestUnreadable, err
	}
	// A body that somebody outside has read must not count as an empty one: all requests would be the same then.
	if n := int64(b.Len()); n < r.ContentLength || n == 0 && (len(r.PostForm) > 0 || r.MultipartForm != nil) {
		return nil, CodeMisconfigured, fmt.Errorf("the body has %d bytes left of %d: something outside this middleware has read it; let it put the body back, or move it inside", n, r.ContentLength)
	}
	return b.Bytes(), "", nil
}

// setBody gives r a body that can be read from its beginning.
func setBody(r *http.Request, body []byte) {
	r.ContentLength, r.TransferEncoding = int64(len(body)), nil
	r.Body = http.NoBody
	if len(body) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
}
