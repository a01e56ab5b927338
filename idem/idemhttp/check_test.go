package idemhttp_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/idem/idemhttp"
)

// Check decides without a database; the key is the one that Handler would use.
func TestMiddleware_check(t *testing.T) {
	t.Parallel()
	m := &idemhttp.Middleware{Project: idemhttp.SingleProject("acme"), MaxRequestBody: 10}
	request := func(method, body string, fields ...string) *http.Request {
		r := httptest.NewRequest(method, "/charges", strings.NewReader(body))
		r.Pattern = "/charges"
		for i := 0; i < len(fields); i += 2 {
			r.Header.Add(fields[i], fields[i+1])
		}
		return r
	}
	r := request("POST", "body", idemhttp.HeaderKey, `"k"`)
	key, err := m.Check(r)
	noError(t, err)
	if key.Project != "acme" || key.Endpoint != "/charges" || key.Value != "k" || key.RequestHash == (idem.Hash{}) {
		t.Errorf("key is %+v", key)
	}
	if body, err := io.ReadAll(r.Body); string(body) != "body" || err != nil {
		t.Errorf("the body left is %q, %v", body, err)
	}
	if key, err := m.Check(request("GET", "", idemhttp.HeaderKey, "k")); key != (idem.Key{}) || err != nil {
		t.Errorf("GET: %+v, %v", key, err)
	}
	for code, r := range map[string]*http.Request{
		idemhttp.CodeKeyMissing:      request("POST", ""),
		idemhttp.CodeKeyInvalid:      request("POST", "", idemhttp.HeaderKey, "a,b"),
		idemhttp.CodeRequestTooLarge: request("POST", "01234567890", idemhttp.HeaderKey, "k"),
	} {
		_, err := m.Check(r)
		if p, ok := errors.AsType[idemhttp.Problem](err); !ok || p.Code != code {
			t.Errorf("%s: got %v", code, err)
		}
	}
	if _, err := (&idemhttp.Middleware{}).Check(request("POST", "", idemhttp.HeaderKey, "k")); err == nil || !strings.Contains(err.Error(), "Project function is nil") {
		t.Errorf("no Project: %v", err)
	}
	m.Optional = true
	r = request("POST", "more than ten bytes")
	if key, err := m.Check(r); key != (idem.Key{}) || err != nil {
		t.Errorf("optional: %+v, %v", key, err)
	}
	if body, _ := io.ReadAll(r.Body); string(body) != "more than ten bytes" {
		t.Errorf("the body of a request that passes through is %q", body)
	}
}

// A handler that owns its transaction and one behind Handler have the same keys.
func TestMiddleware_checkAndDo(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.protect("POST /charges", b.charge(b.status(201)))
	b.m.Endpoint = func(*http.Request) string { return "POST /charges" }
	b.mux.HandleFunc("POST /v2/charges", func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path, r.RequestURI = "/charges", "/charges"
		key, err := b.m.Check(r)
		noError(t, err)
		err = pgx.BeginFunc(r.Context(), b.pool, func(tx pgx.Tx) error {
			resp, err := idem.Do(r.Context(), tx, key, func(context.Context, pgx.Tx) (idem.Response, error) {
				t.Error("Do ran what is recorded")
				return idem.Response{}, nil
			})
			w.WriteHeader(resp.Status)
			_, _ = w.Write(resp.Body)
			return err
		})
		noError(t, err)
	})
	first := b.post("/charges", "k", "body")
	if got := b.post("/v2/charges", "k", "body"); got.status != first.status || got.body != first.body {
		t.Errorf("got %+v, want %+v", got, first)
	}
}
