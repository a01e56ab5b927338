package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/examples/lending/internal/api"
	"github.com/pgidem/pgidem/examples/lending/internal/database"
	"github.com/pgidem/pgidem/examples/lending/internal/schema"
	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, localpg.Options{}, schema.Migrate))
}

// service is the API on a database of its own, with two projects.
type service struct {
	t            *testing.T
	url          string
	pool         *pgxpool.Pool
	north, south database.Project
}

func newService(t *testing.T, change ...func(*api.Config)) *service {
	t.Helper()
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), pgtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	c := api.Config{Pool: pool}
	for _, f := range change {
		f(&c)
	}
	handler, err := api.New(c)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	s := &service{t: t, url: server.URL, pool: pool}
	for name, p := range map[string]*database.Project{"north": &s.north, "south": &s.south} {
		*p, err = database.CreateProject(t.Context(), pool, name, database.Terms{
			Accounts: 2, Currency: "EUR", Opening: 100_000, ChargeLimit: 50_000, Slots: 3,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) replayed() bool { return a.header.Get("Idempotent-Replayed") == "true" }

func (a answer) field(t *testing.T, name string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("answer %d %q: %v", a.status, a.body, err)
	}
	s, _ := v[name].(string)
	return s
}

// do sends a request. header holds names and values in turn.
func (s *service) do(method, path, token, body string, header ...string) answer {
	s.t.Helper()
	a, err := s.try(s.t.Context(), method, path, token, body, header...)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *service) try(ctx context.Context, method, path, token, body string, header ...string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, s.url+"/partner/v1/"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

// post sends a request of project north under a key.
func (s *service) post(path, key, body string) answer {
	s.t.Helper()
	return s.do("POST", path, s.north.Token, body, "Idempotency-Key", key)
}

func (s *service) get(path string) answer {
	s.t.Helper()
	return s.do("GET", path, s.north.Token, "")
}

func (s *service) count(sql string, args ...any) (n int) {
	s.t.Helper()
	if err := s.pool.QueryRow(s.t.Context(), sql, args...).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *service) want(a answer, status int) {
	s.t.Helper()
	if a.status != status {
		s.t.Fatalf("got %d %s, want %d", a.status, a.body, status)
	}
}
