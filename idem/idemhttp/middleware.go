package idemhttp

import (
	"errors"
	"fmt"
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

	// Observer is told of every request that came as far as the database, when its transaction has ended. Defaults to none.
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
		wrong = errors.New("the Pool is nil: set the *pgxpool.Pool that holds idem.keys and the handler's tables")
	case m.Project == nil:
		wrong = errors.New("the Project function is nil: return the authenticated tenant, or say SingleProject where there is one only")
	case m.TTL < 0:
		wrong = fmt.Errorf("the TTL is %v: it must be above 0, or 0 for 24 hours", m.TTL)
	case m.MinLength < 0 || m.MinLength > maxKey:
		wrong = fmt.Errorf("the MinLength is %d: it must be between 0 and %d", m.MinLength, maxKey)
	case m.MaxRequestBody < 0:
		wrong = fmt.Errorf("the MaxRequestBody is %d: it must be above 0, or 0 for 1 MiB", m.MaxRequestBody)
	case m.MaxResponseBody < 0 || m.MaxResponseBody > mostBody:
		wrong = fmt.Errorf("the MaxResponseBody is %d: it must be between 1 and %d, or 0 for 1 MiB", m.MaxResponseBody, mostBody)
	default:
		for _, name := range m.HeaderNames {
			if name == "" {
				wrong = errors.New("an empty name in HeaderNames")
			}
		}
	}
	if wrong != nil {
		return fmt.Errorf("idemhttp: misconfigured: %w", wrong)
	}
	return nil
}
