package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/integration_test/internal/ledger"
	"github.com/pgidem/pgidem/integration_test/internal/provider"
	"github.com/pgidem/pgidem/integration_test/internal/proxy"
)

// long is a wait that no test is meant to see the end of.
const long = time.Minute

// newKey is a key for the operation ref.
func newKey(ref string) idem.Key {
	return idem.Key{Project: "acme", Endpoint: "POST /entries", Value: ref, RequestHash: idem.HashRequest([]byte(ref))}
}

// entry returns the function that writes an entry for ref and answers with its id
// and with the number of the run, so that no two runs give one answer.
func entry(ref string, runs *int) idem.Func {
	return func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		*runs++
		id, err := ledger.Insert(ctx, tx, ref, "run "+fmt.Sprint(*runs))
		if err != nil {
			return idem.Response{}, err
		}
		return idem.JSON(201, map[string]any{"id": id, "run": *runs})
	}
}

// lostCommit is a way to lose the connection around COMMIT.
type lostCommit struct {
	name      string
	fault     func(*proxy.Proxy) (f proxy.Fault, w *proxy.Tripwire, release func())
	committed bool // what becomes of the transaction
}

func cutReply(keep int) func(*proxy.Proxy) (proxy.Fault, *proxy.Tripwire, func()) {
	return func(*proxy.Proxy) (proxy.Fault, *proxy.Tripwire, func()) {
		f, w := proxy.CutReply(proxy.Commit, keep)
		return f, w, func() {}
	}
}

func cutBefore(match proxy.Match) func(*proxy.Proxy) (proxy.Fault, *proxy.Tripwire, func()) {
	return func(*proxy.Proxy) (proxy.Fault, *proxy.Tripwire, func()) {
		f, w := proxy.CutBefore(match)
		return f, w, func() {}
	}
}

var (
	replyLost       = lostCommit{"case26 reply to COMMIT lost", cutReply(0), true}
	replyTruncated  = lostCommit{"case26 reply to COMMIT truncated", cutReply(2), true}
	commitLost      = lostCommit{"case27 COMMIT lost", cutBefore(proxy.Commit), false}
	recordLost      = lostCommit{"case27 record and COMMIT lost", cutBefore(proxy.Statement("-- idem: record")), false}
	replyNeverComes = lostCommit{"case26 reply to COMMIT never comes", func(p *proxy.Proxy) (proxy.Fault, *proxy.Tripwire, func()) {
		return p.HoldReply(proxy.Commit)
	}, true}
)

// faultyProxy loses one COMMIT.
type faultyProxy struct {
	*proxy.Proxy
	wire    *proxy.Tripwire
	release func()
}

func newFaultyProxy(t *testing.T, url string, lost lostCommit) *faultyProxy {
	t.Helper()
	px := &faultyProxy{Proxy: proxy.New(t, url)}
	var fault proxy.Fault
	fault, px.wire, px.release = lost.fault(px.Proxy)
	px.Set(fault)
	return px
}

// Run answers as if nothing had happened: it looks the key up on another
// connection, and replays or runs.
func TestRun_lostCommit(t *testing.T) {
	eachMode(t, execModes, func(t *testing.T, mode pgx.QueryExecMode) {
		for _, lost := range []lostCommit{replyLost, replyTruncated, commitLost, recordLost, replyNeverComes} {
			t.Run(lost.name, func(t *testing.T) {
				t.Parallel()
				url := provider.New(t)
				px := newFaultyProxy(t, url, lost)
				pool := newPool(t, px.URL(), mode, 2)
				defer px.release() // the pool cannot close before

				runs := 0
				resp, err := idem.Run(t.Context(), pool, newKey("op-1"), entry("op-1", &runs), idem.WithWait(long))
				if err != nil {
					t.Fatalf("Run: %v", err)
				}
				if !px.wire.Done() {
					t.Fatal("the fault did not strike: nothing is proved")
				}
				px.Set(nil)
				wantRuns := 2
				if lost.committed {
					wantRuns = 1
				}
				if runs != wantRuns || resp.Replayed != lost.committed {
					t.Errorf("fn ran %d times, replayed %t; want %d, %t", runs, resp.Replayed, wantRuns, lost.committed)
				}
				checkEntry(t, newPool(t, url, mode, 2), "op-1", runs, resp)
			})
		}
	})
}

// Do leaves COMMIT to its caller, who gets the error and calls again.
func TestDo_lostCommit(t *testing.T) {
	eachMode(t, execModes, func(t *testing.T, mode pgx.QueryExecMode) {
		for _, lost := range []lostCommit{replyLost, commitLost} {
			t.Run(lost.name, func(t *testing.T) {
				t.Parallel()
				url := provider.New(t)
				px := newFaultyProxy(t, url, lost)
				pool := newPool(t, px.URL(), mode, 2)
				defer px.release() // the pool cannot close before

				runs := 0
				if resp, err := doAndCommit(t.Context(), pool, newKey("op-1"), entry("op-1", &runs)); err == nil {
					t.Fatalf("COMMIT succeeded with %+v, though its reply never came", resp)
				} else if errors.Is(err, pgx.ErrTxCommitRollback) {
					t.Fatalf("COMMIT: %v: nobody can know that", err)
				}
				if !px.wire.Done() {
					t.Fatal("the fault did not strike: nothing is proved")
				}
				px.Set(nil)

				resp, err := doAndCommit(t.Context(), pool, newKey("op-1"), entry("op-1", &runs))
				if err != nil {
					t.Fatalf("retry: %v", err)
				}
				wantRuns := 2
				if lost.committed {
					wantRuns = 1
				}
				if runs != wantRuns || resp.Replayed != lost.committed {
					t.Errorf("fn ran %d times, replayed %t; want %d, %t", runs, resp.Replayed, wantRuns, lost.committed)
				}
				checkEntry(t, newPool(t, url, mode, 2), "op-1", runs, resp)
			})
		}
	})
}

// doAndCommit is what a caller of Do writes.
func doAndCommit(ctx context.Context, pool *pgxpool.Pool, key idem.Key, fn idem.Func, opts ...idem.Option) (resp idem.Response, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		resp, err = idem.Do(ctx, tx, key, fn, append([]idem.Option{idem.WithWait(long)}, opts...)...)
		return err
	})
	return resp, err
}

// checkEntry checks that ref was written once, by the given run, whose answer resp
// is, and that another call gets the same bytes.
func checkEntry(t *testing.T, pool *pgxpool.Pool, ref string, run int, resp idem.Response) {
	t.Helper()
	e := ledger.Once(t, pool, ref)
	want := fmt.Sprintf(`{"id":%d,"run":%d}`, e.ID, run)
	if e.Who != "run "+fmt.Sprint(run) || string(resp.Body) != want || resp.Status != 201 {
		t.Errorf("entry %+v, answer %d %s; want run %d and 201 %s", e, resp.Status, resp.Body, run, want)
	}
	again, err := idem.Run(t.Context(), pool, newKey(ref), func(context.Context, pgx.Tx) (idem.Response, error) {
		t.Error("fn ran once more")
		return idem.Response{}, nil
	})
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	if !again.Replayed || string(again.Body) != string(resp.Body) || again.Status != resp.Status || !again.CreatedAt.Equal(resp.CreatedAt) {
		t.Errorf("replay %+v, want what the first call got: %+v", again, resp)
	}
	ledger.Once(t, pool, ref)
}
