package idemhttp

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
)

// Handler returns a handler that runs next at most once per key, and answers every later request with its response. next
// finds the transaction with Tx. Requests with safe methods, and those without a key where Optional is set, go to next as
// they came: Tx returns nil for them.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	return m.serve(
		func(_ context.Context, _ pgx.Tx, w http.ResponseWriter, r *http.Request) error {
			next.ServeHTTP(w, r)
			return nil
		},
		func(_ *server, w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, r) },
	)
}

type txKey struct{}

// Tx returns the transaction of a protected request: what is written through it commits with the record of the response,
// or not at all. It refuses Commit and Rollback; Begin (a savepoint) works. It returns nil where there is none: on requests
// that pass through, and outside Handler and Handle.
func Tx(ctx context.Context) pgx.Tx {
	tx, _ := ctx.Value(txKey{}).(pgx.Tx)
	return tx
}

// handlerFunc is a protected handler.
type handlerFunc func(ctx context.Context, tx pgx.Tx, w http.ResponseWriter, r *http.Request) error

// server is a Middleware that is ready to serve.
type server struct {
	Middleware
	fn       handlerFunc
	pass     func(s *server, w http.ResponseWriter, r *http.Request)
	wrong    error // what is misconfigured
	kept     map[string]bool
	options  []idem.Option
	maxBody  int
	patience time.Duration // Wait and PoolWait together; 0 is without end
}

func (m *Middleware) serve(fn handlerFunc, pass func(*server, http.ResponseWriter, *http.Request)) *server {
	s := &server{fn: fn, pass: pass, wrong: m.Validate(), maxBody: defaultBody}
	if m != nil {
		s.Middleware = *m
	}
	if s.wrong != nil {
		s.logger().Error("idemhttp: every protected request will be refused", "error", s.wrong.Error())
	}
	s.kept = keptNames(s.KeepHeaders)
	if s.MaxResponseBody > 0 {
		s.maxBody = s.MaxResponseBody
	}
	wait := defaultWait
	if s.Wait != 0 {
		wait = max(s.Wait, 0)
	}
	switch {
	case s.PoolWait == 0:
		s.patience = wait + defaultPoolWait
	case s.PoolWait > 0:
		s.patience = wait + s.PoolWait
	}
	s.options = append(s.options, s.Options...)
	s.options = append(s.options, idem.WithWait(wait), idem.WithMaxBody(s.maxBody))
	if s.TTL != 0 {
		s.options = append(s.options, idem.WithTTL(s.TTL))
	}
	if s.Observer != nil {
		s.options = append(s.options, idem.WithObserver(s.Observer))
	}
	return s
}

// ServeHTTP is http.Handler's.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if passes(r.Method) {
		s.pass(s, w, r)
		return
	}
	if s.wrong != nil {
		s.answer(w, r, s.problem(r, CodeMisconfigured, "", s.wrong))
		return
	}
	key, body, p := s.check(w, r)
	switch {
	case p != nil:
		s.answer(w, r, *p)
	case key.Value == "":
		s.pass(s, w, r)
	default:
		s.run(w, r, key, body)
	}
}

// Why a handler's transaction must not commit, for idem.Run. errForgotten is no failure: the response is sent and not
// recorded.
var (
	errForgotten = errors.New("idemhttp: response is not to be remembered")
	errPoolWait  = errors.New("no connection to the database within PoolWait: the pool is exhausted, or the database does not answer")
)

// run runs the request under its key and answers.
func (s *server) run(w http.ResponseWriter, r *http.Request, key idem.Key, body []byte) {
	ctx, running, idle := s.bound(r.Context())
	defer idle()
	var last *try
	resp, err := idem.Run(ctx, s.Pool, key, func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		defer running()()
		last = &try{recorder: newRecorder(w, w.Header(), s.maxBody)}
		return s.try(ctx, tx, last, r, body)
	}, s.options...)

	switch {
	case err == nil && resp.Replayed:
		replay(w, resp.Status, resp.Header, resp.Body)
	case err == nil && last.err == nil, errors.Is(err, errForgotten), err != nil && last != nil && last.answers(err):
		last.sendTo(w)
	case err == nil:
		last.refused(resp)
		last.sendTo(w)
	default:
		s.answer(w, r, s.explain(ctx, r, err))
	}
}

// bound returns a context that ends when the database keeps the request waiting for longer than it may. running stops the
// clock while the handler runs; what it returns starts it anew.
func (s *server) bound(ctx context.Context) (_ context.Context, running func() (idle func()), cancel func()) {
	if s.patience == 0 {
		return ctx, func() func() { return func() {} }, func() {}
	}
	ctx, end := context.WithCancelCause(ctx)
	clock := time.AfterFunc(s.patience, func() { end(errPoolWait) })
	running = func() func() {
		clock.Stop()
		return func() { clock.Reset(s.patience) }
	}
	return ctx, running, func() {
		clock.Stop()
		end(nil)
	}
}

// try is one run of the handler.
type try struct {
	*recorder
	err error // what a function given to Handle returned
}

// try runs the handler once and decides what becomes of its response.
func (s *server) try(ctx context.Context, tx pgx.Tx, t *try, r *http.Request, body []byte) (idem.Response, error) {
	req := r.Clone(context.WithValue(ctx, txKey{}, tx)) // nothing that it changes is there on the next try
	setBody(req, body)
	defer func() {
		if f := req.MultipartForm; f != nil && f != r.MultipartForm {
			_ = f.RemoveAll() // net/http does that for its own request only
		}
	}()
	if t.err = s.fn(req.Context(), tx, t.recorder, req); t.err != nil {
		return idem.Response{}, &handlerError{t.err}
	}
	return s.outcome(t.recorder)
}

// outcome turns a handler's response into what idem.Run is told.
func (s *server) outcome(rec *recorder) (idem.Response, error) {
	switch {
	case rec.streamed:
		return idem.Response{}, errStreamed
	case rec.tooLarge:
		return idem.Response{}, errTooLarge
	}
	rec.finish()
	resp := idem.Response{Status: rec.status, Header: keep(rec.sent, rec.outer.Header(), s.kept), Body: rec.body}
	switch {
	case rec.status < 400:
		return resp, nil
	case s.remembers(rec.status):
		return idem.Response{}, idem.Refuse(resp)
	default:
		return idem.Response{}, errForgotten
	}
}

// remembers reports whether a response with a status of 400 or above is recorded.
func (s *server) remembers(status int) bool {
	if s.Remember != nil {
		return s.Remember(status)
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false // true of this attempt, not of the operation
	}
	return status < 500
}

// explain turns an error of idem.Run into a problem.
func (s *server) explain(ctx context.Context, r *http.Request, err error) Problem {
	code := CodeUnavailable
	failure, failed := errors.AsType[*handlerError](err)
	switch {
	case failed && !failure.transient():
		code = CodeHandlerFailed
	case failed:
	case errors.Is(err, idem.ErrKeyReused):
		code = CodeKeyReused
	case errors.Is(err, idem.ErrInProgress):
		code = CodeKeyInProgress
	case errors.Is(err, errStreamed):
		code = CodeResponseStreamed
	case errors.Is(err, errTooLarge), errors.Is(err, idem.ErrResponseTooLarge):
		code = CodeResponseTooLarge
	case errors.Is(err, idem.ErrTxAborted), errors.Is(err, idem.ErrTxEnded):
		code = CodeHandlerFailed
	case errors.Is(err, idem.ErrInvalidKey), errors.Is(err, idem.ErrInvalidCall), errors.Is(err, idem.ErrNested):
		code = CodeMisconfigured
	}
	if cause := context.Cause(ctx); cause == errPoolWait && code == CodeUnavailable {
		err = errors.Join(cause, err)
	}
	return s.problem(r, code, "", err)
}

// retryAfter is the Retry-After of every problem that passes by itself, in seconds.
const retryAfter = "1"

// answer logs p and sends it.
func (s *server) answer(w http.ResponseWriter, r *http.Request, p Problem) {
	s.log(r, p)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if p.Code == CodeKeyInProgress || p.Code == CodeUnavailable {
		h.Set("Retry-After", retryAfter)
	}
	expose(h)
	if s.ErrorHandler != nil {
		s.ErrorHandler(w, r, p)
		return
	}
	p.Write(w)
}

func (s *server) logger() *slog.Logger {
	if s.Logger != nil {
		return s.Logger
	}
	return slog.Default()
}

// log writes one line per problem. Neither the path nor the key is in it, and errors of package idem have the key cut.
func (s *server) log(r *http.Request, p Problem) {
	level := slog.LevelInfo
	gone := errors.Is(r.Context().Err(), context.Canceled)
	if kinds[p.Code].status >= 500 && !gone {
		level = slog.LevelError
	}
	reason := p.Detail
	if p.cause != nil {
		reason = p.cause.Error()
	}
	attrs := []slog.Attr{
		slog.String("code", p.Code), slog.Int("status", p.Status), slog.String("instance", p.Instance),
		slog.String("method", r.Method), slog.String("endpoint", s.endpoint(r)), slog.String("error", reason),
	}
	if hint := hints[p.Code]; hint != "" {
		attrs = append(attrs, slog.String("hint", hint))
	}
	if gone {
		attrs = append(attrs, slog.Bool("client_gone", true))
	}
	s.logger().LogAttrs(r.Context(), level, "idemhttp: problem", attrs...)
}

// hints say what the owner of the server can do.
var hints = map[string]string{
	CodeResponseTooLarge: "everything was rolled back: answer with a reference to the result, or raise MaxResponseBody",
	CodeResponseStreamed: "everything was rolled back: write the whole response without Flush, or leave this route unprotected",
	CodeUnavailable:      "nothing ran unprotected; clients retry with the same key, which replays or runs",
}
