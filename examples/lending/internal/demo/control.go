package demo

import (
	"bytes"
	"errors"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/examples/lending/internal/api"
)

// unprotected runs handlers in a plain transaction, as one would without this package: an answer below 400 commits, any
// other rolls back, and it is sent after the commit. Idempotency-Key is not looked at.
func unprotected(pool *pgxpool.Pool) func(api.Handler) http.Handler {
	return func(h api.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer := buffer{header: http.Header{}}
			err := pgx.BeginFunc(r.Context(), pool, func(tx pgx.Tx) error {
				if err := h(r.Context(), tx, &answer, r); err != nil {
					return err
				}
				if answer.status >= 400 {
					return errRefused
				}
				return nil
			})
			if err != nil && err != errRefused {
				http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
				return
			}
			for name, values := range answer.header {
				w.Header()[name] = values
			}
			w.WriteHeader(answer.status)
			_, _ = w.Write(answer.body.Bytes()) // the client may have gone
		})
	}
}

// errRefused makes BeginFunc roll back.
var errRefused = errors.New("refused")

// buffer holds an answer back until the commit.
type buffer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (b *buffer) Header() http.Header         { return b.header }
func (b *buffer) WriteHeader(status int)      { b.status = status }
func (b *buffer) Write(p []byte) (int, error) { return b.body.Write(p) }
