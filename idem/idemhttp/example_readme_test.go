package idemhttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem/idemhttp"
)

// A service in a few lines: openCase writes through the request's transaction, and the case opens once.
func Example() {
	pool, closePool := openPool()
	defer closePool()
	mux := http.NewServeMux()

	m := &idemhttp.Middleware{Pool: pool, Project: tenant} // tenant returns whom authentication has found
	mux.Handle("POST /applications", m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := openCase(r.Context(), idemhttp.Tx(r.Context()), r.Body)
		if err != nil {
			http.Error(w, "not now", http.StatusInternalServerError) // 5xx: undone and not remembered
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"case": %d}`, id)
	})))

	post(mux, "/applications", "8e03978e-40d5-43dd-bc93-6894a57f9324", `{"amount": 25000}`)
	post(mux, "/applications", "8e03978e-40d5-43dd-bc93-6894a57f9324", `{"amount": 25000}`)
	// Output:
	// 201 {"case": 1}
	// 201 {"case": 1} (replayed)
}

func tenant(*http.Request) string { return "acme" }

func openCase(ctx context.Context, tx pgx.Tx, body io.Reader) (id int64, err error) {
	application, err := io.ReadAll(body)
	if err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, "INSERT INTO charges (note) VALUES ($1) RETURNING id", string(application)).Scan(&id)
	return id, err
}
