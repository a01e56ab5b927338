package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/examples/lending/internal/store"
)

const pageSize = 100

// get answers one object by its id. Another project's object is as absent as one that never was.
func get[T any](a *api, query func(ctx context.Context, project string, id store.UUID) (T, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var id store.UUID
		if err := id.Scan(r.PathValue("id")); err != nil {
			notFound(w)
			return
		}
		v, err := query(r.Context(), projectOf(r.Context()), id)
		a.answer(w, r, v, err)
	})
}

// page is a list in an answer.
type page[T any] struct {
	Data []T `json:"data"`
}

// list answers the latest objects, or with ?reference=… those that the partner named so.
func list[T any](a *api, query func(ctx context.Context, project, reference string, limit int32) ([]T, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reference := r.URL.Query().Get("reference")
		if !storable(reference) {
			invalid(w, http.StatusBadRequest, "the reference is not text")
			return
		}
		rows, err := query(r.Context(), projectOf(r.Context()), reference, pageSize)
		a.answer(w, r, page[T]{rows}, err)
	})
}

func (a *api) freeSlots(q *store.Queries) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rows, err := q.ListFreeSlots(r.Context(), projectOf(r.Context()), pageSize)
		a.answer(w, r, page[store.Slot]{rows}, err)
	})
}

func (a *api) account(q *store.Queries) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		account := r.PathValue("account")
		if !storable(account) {
			notFound(w)
			return
		}
		v, err := q.GetAccount(r.Context(), projectOf(r.Context()), account)
		a.answer(w, r, v, err)
	})
}

// storable says whether PostgreSQL takes s as text.
func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

func (a *api) answer(w http.ResponseWriter, r *http.Request, v any, err error) {
	if err == nil {
		err = writeJSON(w, http.StatusOK, v)
	}
	switch {
	case err == nil:
	case errors.Is(err, pgx.ErrNoRows):
		notFound(w)
	default:
		a.fail(w, r, err)
	}
}

func notFound(w http.ResponseWriter) {
	writeProblem(w, problem{
		Title: http.StatusText(http.StatusNotFound), Status: http.StatusNotFound, Code: "not_found",
		Detail: "your project has no such object",
	})
}
