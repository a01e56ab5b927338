package idemhttp

import (
	"context"
	"errors"
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

// run runs the request under its key and answers.
func (s *server) run(w http.ResponseWriter, r *http.Request, key idem.Key, body []byte) {
	ctx, running, idle := s.bound(r.Context())
	defer idle()
	var last *try
	resp, err := idem.Run(ctx, s.Pool, key, func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		defer running()()
		last = &try{recorder: newRecorder(w, w.Header(), s.maxBody)}
		return s.try(ctx, tx, key, last, r, body)
	}, s.options...)

	switch {
	case ended(err): // whatever the handler answered: what it committed has no record
		s.answer(w, r, s.explain(ctx, r, err))
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
func (s *server) try(ctx context.Context, tx pgx.Tx, key idem.Key, t *try, r *http.Request, body []byte) (idem.Response, error) {
	ctx = withOperation(ctx, tx, key)
	req := r.Clone(ctx) // nothing that it changes is there on the next try
	setBody(req, body)
	defer func() {
		if f := req.MultipartForm; f != nil && f != r.MultipartForm {
			_ = f.RemoveAll() // net/http does that for its own request only
		}
	}()
	t.err = s.fn(ctx, tx, t.recorder, req)
	t.recorder = t.seal()
	if t.err != nil {
		return idem.Response{}, &handlerError{t.err}
	}
	return s.outcome(t.recorder)
}
