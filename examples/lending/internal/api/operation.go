package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/examples/lending/internal/store"
)

// input is a request body that can tell what is wrong with it.
type input interface {
	// check returns one line per field that cannot be accepted. It judges by the request alone: by the time of a retry the
	// clock and the database have moved on, and what was accepted once must not be turned away before its replay.
	check() []fieldError
}

// created is what an operation answers.
type created struct {
	path string // where it can be read
	body any
}

// operation is the way of every POST: validate, then, under the idempotency key, do.
func operation[In input](a *api, do func(ctx context.Context, q *store.Queries, project string, in In) (created, error)) http.Handler {
	return validated[In](a.protect(func(ctx context.Context, tx pgx.Tx, w http.ResponseWriter, r *http.Request) error {
		out, err := do(ctx, store.New(tx), projectOf(ctx), inputOf[In](ctx))
		no, refused := errors.AsType[*refusal](err)
		if err != nil && !refused {
			return fmt.Errorf("%s: %w", r.Pattern, err)
		}
		if a.afterWrites != nil {
			a.afterWrites(r)
		}
		if refused {
			// The status decides: what was written so far is undone, and every retry gets this answer.
			writeProblem(w, no.problem)
			return nil
		}
		w.Header().Set("Location", out.path)
		return writeJSON(w, http.StatusCreated, out.body)
	}))
}

// refusal is a "no" of the business, for an operation to return.
type refusal struct{ problem problem }

func (r *refusal) Error() string { return r.problem.Detail }

func refuse(status int, code, reference, format string, args ...any) error {
	return &refusal{problem{
		Title: http.StatusText(status), Status: status, Code: code, Reference: reference, Detail: fmt.Sprintf(format, args...),
	}}
}
