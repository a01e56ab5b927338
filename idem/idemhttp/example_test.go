package idemhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/idem/idemhttp"
)

// A charge that is taken once, however often the request arrives.
func ExampleMiddleware() {
	pool, closePool := openPool()
	defer closePool()

	m := &idemhttp.Middleware{Pool: pool, Project: idemhttp.SingleProject("shop"), Logger: slog.New(slog.DiscardHandler)}
	mux := http.NewServeMux()
	mux.Handle("POST /charges", m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "unreadable body", http.StatusBadRequest)
			return
		}
		var id int
		err = idemhttp.Tx(r.Context()).QueryRow(r.Context(),
			"INSERT INTO charges (note) VALUES ($1) RETURNING id", string(note)).Scan(&id)
		if err != nil {
			http.Error(w, "database error", http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "charge %d", id)
	})))

	post(mux, "/charges", "8e03978e-40d5-43e8-bc93-6894a57f9324", "5 EUR")
	post(mux, "/charges", "8e03978e-40d5-43e8-bc93-6894a57f9324", "5 EUR")
	post(mux, "/charges", "1b1d3a5e-2f0a-4d3c-9a39-0c7f6d1c5a11", "5 EUR")
	// Output:
	// 201 charge 1
	// 201 charge 1 (replayed)
	// 201 charge 2
}

// The same with arguments and an error. A 4xx is a refusal: it is remembered, and what was written is undone.
func ExampleHandle() {
	pool, closePool := openPool()
	defer closePool()

	m := &idemhttp.Middleware{Pool: pool, Project: idemhttp.SingleProject("shop"), Logger: slog.New(slog.DiscardHandler)}
	mux := http.NewServeMux()
	mux.Handle("POST /charges", idemhttp.Handle(m,
		func(ctx context.Context, tx pgx.Tx, w http.ResponseWriter, r *http.Request) error {
			var id int
			if err := tx.QueryRow(ctx, "INSERT INTO charges (note) VALUES ('x') RETURNING id").Scan(&id); err != nil {
				return err // undone, 500, and the retry runs
			}
			if r.FormValue("card") == "expired" {
				w.WriteHeader(http.StatusPaymentRequired)
				fmt.Fprintf(w, "charge %d declined", id)
				return nil
			}
			fmt.Fprintf(w, "charge %d", id)
			return nil
		}))

	post(mux, "/charges?card=expired", "key-1", "")
	post(mux, "/charges?card=expired", "key-1", "")
	post(mux, "/charges?card=good", "key-2", "")
	var rows int
	if err := pool.QueryRow(context.Background(), "SELECT count(*) FROM charges").Scan(&rows); err != nil {
		panic(err)
	}
	fmt.Println(rows, "row")
	// Output:
	// 402 charge 1 declined
	// 402 charge 1 declined (replayed)
	// 200 charge 2
	// 1 row
}

// A handler that owns its transaction, which does more than this one operation.
func ExampleMiddleware_Check() {
	pool, closePool := openPool()
	defer closePool()

	m := &idemhttp.Middleware{Project: idemhttp.SingleProject("shop")}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /charges", func(w http.ResponseWriter, r *http.Request) {
		key, err := m.Check(r)
		if p, ok := errors.AsType[idemhttp.Problem](err); ok {
			p.Write(w)
			return
		}
		var resp idem.Response
		err = pgx.BeginFunc(r.Context(), pool, func(tx pgx.Tx) (err error) {
			resp, err = idem.Do(r.Context(), tx, key, func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				if _, err := tx.Exec(ctx, "INSERT INTO charges (note) VALUES ('x')"); err != nil {
					return idem.Response{}, err
				}
				return idem.Response{Status: http.StatusCreated, Body: []byte("charged")}, nil
			})
			return err
		})
		if err != nil {
			http.Error(w, "try again with the same key", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(resp.Status)
		fmt.Fprintf(w, "%s, replayed: %v", resp.Body, resp.Replayed)
	})

	post(mux, "/charges", "key-1", "")
	post(mux, "/charges", "key-1", "")
	// Output:
	// 201 charged, replayed: false
	// 201 charged, replayed: true
}

// Authentication belongs outside: it finds the tenant and the user, and a replay is authorised afresh. Another user who
// presents the key gets no response that is not theirs.
func ExampleMiddleware_authentication() {
	pool, closePool := openPool()
	defer closePool()

	type user struct{ tenant, name string }
	type userKey struct{}
	userOf := func(r *http.Request) user { return r.Context().Value(userKey{}).(user) }
	tokens := map[string]user{"t-ann": {"acme", "ann"}, "t-bob": {"acme", "bob"}}
	authenticate := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u, ok := tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
			if !ok {
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, u)))
		})
	}

	m := &idemhttp.Middleware{
		Pool:      pool,
		Project:   func(r *http.Request) string { return userOf(r).tenant },
		Principal: func(r *http.Request) string { return userOf(r).name },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, p idemhttp.Problem) {
			http.Error(w, p.Code, p.Status)
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	mux := http.NewServeMux()
	mux.Handle("POST /charges", authenticate(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "charged ", userOf(r).name)
	}))))

	post(mux, "/charges", "key-1", "", "Authorization", "Bearer t-ann")
	post(mux, "/charges", "key-1", "", "Authorization", "Bearer t-ann")
	post(mux, "/charges", "key-1", "", "Authorization", "Bearer t-bob")
	post(mux, "/charges", "key-1", "")
	// Output:
	// 200 charged ann
	// 200 charged ann (replayed)
	// 422 idempotency_key_reused
	// 401 who are you?
}

// A call to another service gets a key of its own, the same one if the handler has to run again.
func ExampleKey() {
	pool, closePool := openPool()
	defer closePool()

	m := &idemhttp.Middleware{Pool: pool, Project: idemhttp.SingleProject("shop")}
	mux := http.NewServeMux()
	mux.Handle("POST /charges", m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "charging the card with key ", idemhttp.Key(r.Context()).Derive("card"))
	})))

	post(mux, "/charges", "key-1", "")
	// Output:
	// 200 charging the card with key 9c15016d-3f3c-8d1d-9a99-3739e2d31111
}

// A client that sends the same JSON in another spelling means the same request.
func ExampleMiddleware_canonicalJSON() {
	pool, closePool := openPool()
	defer closePool()

	m := &idemhttp.Middleware{
		Pool: pool, Project: idemhttp.SingleProject("shop"), CanonicalJSON: true,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, p idemhttp.Problem) {
			http.Error(w, p.Detail, p.Status)
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	mux := http.NewServeMux()
	mux.Handle("POST /charges", m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "charged")
	})))

	post(mux, "/charges", "key-1", `{"amount": 5, "currency": "EUR"}`, "Content-Type", "application/json")
	post(mux, "/charges", "key-1", `{"currency":"EUR","amount":5.0}`, "Content-Type", "application/json")
	post(mux, "/charges", "key-2", `{"amount": 5, "amount": 500}`, "Content-Type", "application/json")
	// Output:
	// 200 charged
	// 200 charged (replayed)
	// 400 The request cannot be bound to its key: the JSON object at offset 0 has a duplicate name.
}

// An API that promises 409 for a reused key, and answers to "out of stock" afresh each time.
func ExampleMiddleware_policy() {
	pool, closePool := openPool()
	defer closePool()

	m := &idemhttp.Middleware{
		Pool: pool, Project: idemhttp.SingleProject("shop"),
		StatusFor: func(code string) int {
			if code == idemhttp.CodeKeyReused {
				return http.StatusConflict
			}
			return 0
		},
		Remember: func(status int) bool { return status == http.StatusPaymentRequired },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, p idemhttp.Problem) {
			http.Error(w, p.Title, p.Status)
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	stock := 0
	mux := http.NewServeMux()
	mux.Handle("POST /orders", m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if stock == 0 {
			http.Error(w, "out of stock", http.StatusUnprocessableEntity)
			return
		}
		fmt.Fprint(w, "ordered")
	})))

	post(mux, "/orders", "key-1", "one")
	stock = 1
	post(mux, "/orders", "key-1", "one")
	post(mux, "/orders", "key-1", "two")
	// Output:
	// 422 out of stock
	// 200 ordered
	// 409 Idempotency-Key is already used
}

// A set-up that cannot protect anything is found before the first request.
func ExampleMiddleware_Validate() {
	pool, closePool := openPool()
	defer closePool()

	m := &idemhttp.Middleware{Pool: pool}
	fmt.Println(m.Validate())
	// Output:
	// idemhttp: misconfigured: the Project function is nil: return the authenticated tenant, or say SingleProject where there is one only
}

// A problem tells the client what to do, in a form that it can decide by.
func ExampleProblem() {
	m := &idemhttp.Middleware{Project: idemhttp.SingleProject("shop")}
	_, err := m.Check(httptest.NewRequest(http.MethodPost, "/charges", nil))
	p, _ := errors.AsType[idemhttp.Problem](err)
	fmt.Println(p.Status, p.Code, "retryable:", p.Retryable)
	fmt.Println(p.Detail)
	// Output:
	// 400 idempotency_key_missing retryable: false
	// This operation needs an idempotency key. Send a new one with each new operation, and the same one with each retry.
}

// Both forms name one key.
func ExampleParseKey() {
	for _, field := range []string{`abc-1`, `"abc-1"`, `"abc-1`, `abc-1, abc-2`, `""`} {
		key, err := idemhttp.ParseKey(field)
		if err != nil {
			fmt.Printf("%s: %v\n", field, err)
			continue
		}
		fmt.Printf("%s names %s\n", field, key)
	}
	// Output:
	// abc-1 names abc-1
	// "abc-1" names abc-1
	// "abc-1: it is not a structured-field String (RFC 9651, section 3.3.3)
	// abc-1, abc-2: it has a comma at offset 5: send one key
	// "": it is an empty String
}

// Equal values have one form, and what is not one value has none.
func ExampleCanonicalJSON() {
	for _, text := range []string{
		`{ "b": 1.0, "a": "\u20ac" }`,
		`{"a":"€","b":1}`,
		`{"a":1,"a":2}`,
		`9007199254740993`,
	} {
		canonical, err := idemhttp.CanonicalJSON([]byte(text))
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(string(canonical))
	}
	// Output:
	// {"a":"€","b":1}
	// {"a":"€","b":1}
	// the JSON object at offset 0 has a duplicate name
	// the number at offset 0 of the JSON text does not fit a double-precision number: send it as a string
}
