package idemhttp

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/pgtx"
)

// Handle is m.Handler for those who prefer arguments to context values, and errors to half-written responses. fn's tx is
// never nil: on a request that passes through (a safe method, or no key where Optional is set) it is an ordinary
// transaction, committed or undone by the same rules, with nothing recorded.
//
// When fn returns nil, the response that it wrote to w counts, as with Handler. An error undoes fn's writes and nothing is
// recorded. The client then gets what fn wrote to w if that has a status of 400 or above, and else a Problem with
// CodeHandlerFailed, which shows nothing of the error. A serialization failure or a deadlock, returned as it is or wrapped,
// makes fn run again in a new transaction.
//
// To refuse for good, write a 4xx to w and return nil. That is what idem.Refuse is to idem.Run, and it needs no Refuse here.
func Handle(m *Middleware, fn func(ctx context.Context, tx pgx.Tx, w http.ResponseWriter, r *http.Request) error) http.Handler {
	return m.serve(fn, (*server).plain)
}

// handlerError is an error of a function given to Handle, told apart from those of the database.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return "handler: " + e.err.Error() }
func (e *handlerError) Unwrap() error { return e.err }

// transient reports whether the error says that the database lost a race, or was lost.
func (e *handlerError) transient() bool {
	if pg, ok := errors.AsType[*pgconn.PgError](e.err); ok {
		return pg.Code == "40001" || pg.Code == "40P01" || strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "57P")
	}
	if _, ok := errors.AsType[net.Error](e.err); ok {
		return true
	}
	for _, passing := range [...]error{io.ErrUnexpectedEOF, idem.ErrInProgress, idem.ErrConflict, idem.ErrOutcomeUnknown} {
		if errors.Is(e.err, passing) { // those of package idem: of another key, in fn
			return true
		}
	}
	return false
}

// answers reports whether the response that the handler wrote beside its error is what the client gets.
func (t *try) answers(err error) bool {
	_, own := errors.AsType[*handlerError](err)
	if !own || t.err == nil || t.status < 400 || t.streamed || t.tooLarge {
		return false
	}
	t.finish()
	return true
}

// refused makes the response of idem.Refuse, returned by a function given to Handle, the one that is sent.
func (t *try) refused(resp idem.Response) {
	t.status, t.body = resp.Status, resp.Body
	if t.status < 200 {
		t.status = http.StatusOK
	}
	t.sent = t.outer.Header().Clone()
	if t.sent == nil {
		t.sent = make(http.Header)
	}
	maps.Copy(t.sent, resp.Header)
}

// plain runs a function given to Handle on a request that passes through.
func (s *server) plain(w http.ResponseWriter, r *http.Request) {
	if s.wrong != nil {
		s.answer(w, r, s.problem(r, CodeMisconfigured, "", s.wrong))
		return
	}
	ctx, running, idle := s.bound(r.Context())
	defer idle()
	t := &try{recorder: newRecorder(w, w.Header(), s.maxBody)}
	err := pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		defer running()()
		guard := pgtx.NewGuard(tx)
		defer guard.Close()
		ctx := withOperation(ctx, guard, idem.Key{})
		if t.err = s.fn(ctx, guard, t.recorder, r.WithContext(ctx)); t.err != nil {
			return &handlerError{t.err}
		}
		switch {
		case t.streamed:
			return errStreamed
		case t.tooLarge:
			return errTooLarge
		}
		if t.finish(); t.status >= 400 {
			return errForgotten
		}
		return nil
	})
	if err == nil || errors.Is(err, errForgotten) || t.answers(err) {
		t.sendTo(w)
		return
	}
	p := s.explain(ctx, r, err)
	if !passes(r.Method) { // there is no key to retry with
		p.Retryable, p.Detail = false, "The operation failed, and it came without an idempotency key. Find out what became of it before you send it again."
	}
	s.answer(w, r, p)
}
