package idemhttp_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/idem/idemhttp"
)

// discard is a client that reads nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

const benchBody = `{"amount":500,"currency":"EUR","account":"8e03978e-40d5-43e8-bc93-6894a57f9324"}`

func benchRequest(b *testing.B, key string) *http.Request {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "/charges", bytes.NewReader([]byte(benchBody)))
	noError(b, err)
	r.RequestURI, r.Pattern = "/charges", "POST /charges"
	r.Header = http.Header{idemhttp.HeaderKey: {key}, "Content-Type": {"application/json"}, "Accept": {"*/*"}, "User-Agent": {"benchmark"}}
	return r
}

func answer(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Location", "/charges/1")
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, `{"id":"1"}`)
}

const benchInsert = "INSERT INTO public.charges (note) VALUES ('x')"

// BenchmarkHandler compares allocations: the handler in a plain transaction, the same in idem.Run, and behind Handler, for
// first requests and for replays. What Handler costs above Run is the middleware itself.
func BenchmarkHandler(b *testing.B) {
	bench := newBench(b)
	pool := bench.pool
	serve := func(name string, key func(i int) string, h http.Handler) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				h.ServeHTTP(&discard{make(http.Header)}, benchRequest(b, key(i)))
			}
		})
	}
	fresh := func(prefix string) func(int) string {
		runs := 0
		return func(i int) string {
			if i == 0 {
				runs++
			}
			return prefix + "-" + strconv.Itoa(runs) + "-" + strconv.Itoa(i)
		}
	}
	serve("bare", fresh("b"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := pgx.BeginFunc(r.Context(), pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(r.Context(), benchInsert)
			answer(w, r)
			return err
		})
		noError(b, err)
	}))
	serve("run", fresh("r"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := idem.Key{Project: "acme", Endpoint: r.Pattern, Value: r.Header.Get(idemhttp.HeaderKey), RequestHash: idem.HashRequest([]byte(benchBody))}
		_, err := idem.Run(r.Context(), pool, key, func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			_, err := tx.Exec(ctx, benchInsert)
			answer(w, r)
			return idem.Response{Status: 201, Header: map[string][]string{"Content-Type": {"application/json"}, "Location": {"/charges/1"}}, Body: []byte(`{"id":"1"}`)}, err
		})
		noError(b, err)
	}))
	protected := bench.m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := idemhttp.Tx(r.Context()).Exec(r.Context(), benchInsert)
		noError(b, err)
		answer(w, r)
	}))
	serve("handler", fresh("h"), protected)
	serve("replay", func(int) string { return "replay" }, protected)
}

func BenchmarkCanonicalJSON(b *testing.B) {
	text := []byte(benchBody)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := idemhttp.CanonicalJSON(text); err != nil {
			b.Fatal(err)
		}
	}
}
