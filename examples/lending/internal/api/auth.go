package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/examples/lending/internal/store"
)

type projectKey struct{}

// projectOf returns the project whose token came with the request.
func projectOf(ctx context.Context) string {
	p, _ := ctx.Value(projectKey{}).(string)
	return p
}

// authenticated lets requests with a known bearer token through.
func (a *api) authenticated(q *store.Queries, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || token == "" {
			unauthorized(w, "send your project's token as Authorization: Bearer …")
			return
		}
		project, err := q.ProjectOfToken(r.Context(), TokenHash(token))
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			unauthorized(w, "the token is unknown or has been revoked")
		case err != nil:
			a.fail(w, r, err)
		default:
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), projectKey{}, project)))
		}
	})
}

func unauthorized(w http.ResponseWriter, detail string) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="partner"`)
	writeProblem(w, problem{
		Title: http.StatusText(http.StatusUnauthorized), Status: http.StatusUnauthorized, Code: "unauthorized", Detail: detail,
	})
}

// TokenHash is what the database keeps of a token.
func TokenHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}
