package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/integration_test/internal/ledger"
	"github.com/pgidem/pgidem/integration_test/internal/proc"
	"github.com/pgidem/pgidem/integration_test/internal/provider"
)

// startServer starts a server process on the database and returns the URL of its endpoint.
func startServer(t *testing.T, args serverArgs, stop string) (endpoint string, p *proc.Process) {
	t.Helper()
	if args.Mode == 0 {
		args.Mode = pgx.QueryExecModeCacheStatement
	}
	p = proc.Start(t, "server", stop, args)
	return endpointOf(p), p
}

func endpointOf(p *proc.Process) string {
	var addr string
	p.Wait("listening", &addr)
	return "http://" + addr + "/entries"
}

// client sends each request once: Go's transport sends a request with an
// Idempotency-Key again when a connection that it had kept open dies.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// reply is what a client observes.
type reply struct {
	Status   int
	Header   http.Header
	Body     string
	Replayed bool
}

// post sends the operation ref under key.
func post(ctx context.Context, endpoint, key, ref string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(ref))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Idempotency-Key", key)
	req.Header.Set("Content-Type", "text/plain")
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(body), resp.Header.Get("Idempotent-Replayed") == "true"}, err
}

func mustPost(t *testing.T, endpoint, key, ref string) reply {
	t.Helper()
	r, err := post(t.Context(), endpoint, key, ref)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// same reports whether two clients were told the same.
func (r reply) same(other reply) bool {
	return r.Status == other.Status && r.Body == other.Body &&
		r.Header.Get("Location") == other.Header.Get("Location") && r.Header.Get("Content-Type") == other.Header.Get("Content-Type")
}

func (r reply) answer(t *testing.T) (a answer) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Body), &a); err != nil {
		t.Fatalf("%d %s: %v", r.Status, r.Body, err)
	}
	return a
}

// Duplicates that reach two servers at once: case 38 over HTTP and across processes.
func TestHTTP_case38_twoServers(t *testing.T) {
	t.Parallel()
	const keys, duplicates = 10, 20
	url := provider.New(t)
	pool := newPool(t, url, pgx.QueryExecModeCacheStatement, 2)
	first, _ := startServer(t, serverArgs{URL: url, Wait: long}, "")
	second, _ := startServer(t, serverArgs{URL: url, Wait: long}, "")

	replies := make([][]reply, keys)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for k := range keys {
		replies[k] = make([]reply, duplicates)
		for d := range duplicates {
			wg.Go(func() {
				<-start
				var err error
				if replies[k][d], err = post(t.Context(), []string{first, second}[d%2], fmt.Sprint("key-", k), fmt.Sprint("op-", k)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	close(start)
	wg.Wait()
	if t.Failed() {
		return
	}
	servers := map[int]bool{}
	for k := range keys {
		e := ledger.Once(t, pool, fmt.Sprint("op-", k))
		runs := 0
		for _, r := range replies[k] {
			if !r.Replayed {
				runs++
			}
			if r.Status != http.StatusCreated || !r.same(replies[k][0]) {
				t.Errorf("key %d: %+v differs from %+v", k, r, replies[k][0])
			}
		}
		a := replies[k][0].answer(t)
		servers[a.Pid] = true
		if runs != 1 || a.ID != e.ID || e.Who != fmt.Sprint("pid ", a.Pid) || replies[k][0].Header.Get("Location") != fmt.Sprint("/entries/", e.ID) {
			t.Errorf("key %d: %d answers without the marker, want 1; answer %+v, entry %+v", k, runs, a, e)
		}
	}
	t.Logf("%d of 2 servers have run operations", len(servers))
}

// While one server works on a key, the other says so (cases 45 and 46), and replays
// once it is done (2); another request with the key gets 422 (53).
func TestHTTP_case46_inProgressAtTheOtherServer(t *testing.T) {
	t.Parallel()
	url := provider.New(t)
	pool := newPool(t, url, pgx.QueryExecModeCacheStatement, 2)
	first, slow := startServer(t, serverArgs{URL: url}, pointWritten)
	second, _ := startServer(t, serverArgs{URL: url, Wait: -1}, "")

	done := make(chan reply, 1)
	go func() {
		r, err := post(t.Context(), first, "key-1", "op-1")
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	slow.Wait(pointWritten, nil)
	busy := mustPost(t, second, "key-1", "op-1")
	if busy.Status != http.StatusConflict || busy.Header.Get("Retry-After") != "1" || !strings.Contains(busy.Body, "idempotency_key_in_progress") {
		t.Errorf("while in progress: %+v, want 409 with Retry-After: 1", busy)
	}
	ledger.None(t, pool, "op-1")
	slow.Continue()
	original := <-done
	if original.Status != http.StatusCreated || original.Replayed {
		t.Errorf("first request: %+v", original)
	}
	if r := mustPost(t, second, "key-1", "op-1"); !r.Replayed || !r.same(original) {
		t.Errorf("replay at the other server: %+v, want %+v", r, original)
	}
	reused := mustPost(t, second, "key-1", "op-2")
	if reused.Status != http.StatusUnprocessableEntity || !strings.Contains(reused.Body, "idempotency_key_reused") ||
		strings.Contains(reused.Body, original.answer(t).Nonce) {
		t.Errorf("another request with the key: %+v, want 422 that tells nothing of the first", reused)
	}
	ledger.Once(t, pool, "op-1")
	ledger.None(t, pool, "op-2")
}

// A server is killed at each instant, and the client's retry goes to the other one.
func TestHTTP_crash(t *testing.T) {
	needsSIGKILL(t)
	t.Parallel()
	for _, k := range crashes {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			url := provider.New(t)
			pool := newPool(t, url, pgx.QueryExecModeCacheStatement, 2)
			second, survivor := startServer(t, serverArgs{URL: url, Wait: long}, "")

			lost := make(chan error, 1)
			pid := k.die(t, "server", url, func(url string) any {
				return serverArgs{URL: url, Mode: pgx.QueryExecModeCacheStatement}
			}, func(p *proc.Process) {
				endpoint := endpointOf(p)
				go func() {
					_, err := post(t.Context(), endpoint, "key-1", "op-1")
					lost <- err
				}()
			})
			if err := <-lost; err == nil {
				t.Error("the client of the killed server got an answer")
			}
			r := mustPost(t, second, "key-1", "op-1")
			e := ledger.Once(t, pool, "op-1")
			wantPid := survivor.Pid()
			if k.committed {
				wantPid = pid
			}
			if a := r.answer(t); r.Status != http.StatusCreated || r.Replayed != k.committed || a.Pid != wantPid || a.ID != e.ID || e.Who != fmt.Sprint("pid ", wantPid) {
				t.Errorf("retry: %+v, entry %+v; want replayed %t, by process %d", r, e, k.committed, wantPid)
			}
			if again := mustPost(t, second, "key-1", "op-1"); !again.Replayed || !again.same(r) {
				t.Errorf("one more retry: %+v, want %+v", again, r)
			}
			ledger.Once(t, pool, "op-1")
		})
	}
}

// The reply to COMMIT is lost on the server's connection to the database: the
// client does not notice (cases 26 and 27).
func TestHTTP_lostCommit(t *testing.T) {
	t.Parallel()
	for _, lost := range []lostCommit{replyLost, commitLost} {
		t.Run(lost.name, func(t *testing.T) {
			t.Parallel()
			url := provider.New(t)
			pool := newPool(t, url, pgx.QueryExecModeCacheStatement, 2)
			px := newFaultyProxy(t, url, lost)
			endpoint, server := startServer(t, serverArgs{URL: px.URL()}, "")

			r := mustPost(t, endpoint, "key-1", "op-1")
			px.wire.Wait(t)
			e := ledger.Once(t, pool, "op-1")
			if a := r.answer(t); r.Status != http.StatusCreated || a.Pid != server.Pid() || a.ID != e.ID {
				t.Errorf("%+v, entry %+v", r, e)
			}
			if again := mustPost(t, endpoint, "key-1", "op-1"); !again.Replayed || !again.same(r) {
				t.Errorf("retry: %+v, want %+v", again, r)
			}
			ledger.Once(t, pool, "op-1")
		})
	}
}
