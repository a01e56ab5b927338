package idemhttp

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgidem/pgidem/idem"
)

// explain turns an error of idem.Run into a problem.
func (s *server) explain(ctx context.Context, r *http.Request, err error) Problem {
	code := CodeUnavailable
	failure, failed := errors.AsType[*handlerError](err)
	switch {
	case ended(err), failed && !failure.transient():
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
	case errors.Is(err, idem.ErrTxAborted), violated(err):
		code = CodeHandlerFailed
	case errors.Is(err, idem.ErrInvalidKey), errors.Is(err, idem.ErrInvalidCall), errors.Is(err, idem.ErrNested):
		code = CodeMisconfigured
	}
	if cause := context.Cause(ctx); cause == errPoolWait && code == CodeUnavailable {
		err = errors.Join(cause, err)
	}
	p := s.problem(r, code, "", err)
	if ended(err) {
		p.Retryable, p.Detail = false, "The operation failed. Find out what became of it before you send it again."
	}
	return p
}

// ended reports whether the handler ended the transaction, one way or the other. An error of that kind that it got from
// somewhere else and returned is not meant.
func ended(err error) bool {
	e, ok := err.(*idem.Error)
	return ok && e.Err == idem.ErrTxEnded
}

// violated reports whether COMMIT failed on what the handler wrote: a deferred constraint, or a trigger that raised an
// exception (SQLSTATE classes 23 and P0).
func violated(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.SchemaName != "idem" && (strings.HasPrefix(pg.Code, "23") || strings.HasPrefix(pg.Code, "P0"))
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
