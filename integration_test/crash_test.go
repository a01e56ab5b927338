package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/integration_test/internal/ledger"
	"github.com/pgidem/pgidem/integration_test/internal/proc"
	"github.com/pgidem/pgidem/integration_test/internal/provider"
	"github.com/pgidem/pgidem/integration_test/internal/proxy"
)

// crash is an instant at which a process is killed.
type crash struct {
	name      string
	point     string // of the process; "" where the wire decides
	wire      func(*proxy.Proxy) (proxy.Fault, *proxy.Tripwire, func())
	committed bool // by then
}

func holdCommit(p *proxy.Proxy) (proxy.Fault, *proxy.Tripwire, func()) { return p.Hold(proxy.Commit) }

func holdReply(p *proxy.Proxy) (proxy.Fault, *proxy.Tripwire, func()) {
	return p.HoldReply(proxy.Commit)
}

var crashes = []crash{
	{name: "case24 before the write", point: pointBegun},
	{name: "case24 between write and record", point: pointWritten},
	{name: "case24 before record and COMMIT are sent", point: pointRecording},
	{name: "case24 COMMIT sent, not arrived", wire: holdCommit},
	{name: "case25 COMMIT done, its reply not arrived", wire: holdReply, committed: true},
	{name: "case25 after COMMIT, before the reply", point: pointCommitted, committed: true},
}

// die starts a child, has it killed at the instant, and returns its pid. begin
// starts the work, if the child does not begin by itself; it must not block.
func (k crash) die(t *testing.T, role, url string, args func(url string) any, begin func(*proc.Process)) (pid int) {
	t.Helper()
	release := func() {}
	var wire *proxy.Tripwire
	if k.wire != nil {
		px := proxy.New(t, url)
		var fault proxy.Fault
		fault, wire, release = k.wire(px)
		px.Set(fault)
		url = px.URL()
	}
	child := proc.Start(t, role, k.point, args(url))
	begin(child)
	if wire != nil {
		wire.Wait(t)
	} else {
		child.Wait(k.point, nil)
	}
	child.Kill()
	release()
	return child.Pid()
}

// A process that dies takes its unfinished transaction along and leaves nothing to
// unstick: the next call, here by another process, runs or replays.
func TestCrash_callers(t *testing.T) {
	needsSIGKILL(t)
	eachMode(t, []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol}, func(t *testing.T, mode pgx.QueryExecMode) {
		for _, run := range []bool{true, false} {
			for _, k := range crashes {
				name := "Do "
				if run {
					name = "Run "
				} else if k.point == pointRecording {
					k.name, k.point = "case24 between record and COMMIT", pointDone // in Do these are two
				}
				t.Run(name+k.name, func(t *testing.T) {
					t.Parallel()
					url := provider.New(t)
					pid := k.die(t, "caller", url, func(url string) any {
						return callerArgs{URL: url, Mode: mode, Run: run, Ref: "op-1"}
					}, func(*proc.Process) {})

					pool := newPool(t, url, mode, 2)
					runs := 0
					var resp idem.Response
					var err error
					if run {
						resp, err = idem.Run(t.Context(), pool, newKey("op-1"), entry("op-1", &runs), idem.WithWait(long))
					} else {
						resp, err = doAndCommit(t.Context(), pool, newKey("op-1"), entry("op-1", &runs))
					}
					if err != nil {
						t.Fatalf("retry: %v", err)
					}
					if !k.committed {
						if runs != 1 || resp.Replayed {
							t.Errorf("fn ran %d times, replayed %t: nothing had committed", runs, resp.Replayed)
						}
						checkEntry(t, pool, "op-1", 1, resp)
						return
					}
					var a answer
					if err := json.Unmarshal(resp.Body, &a); err != nil {
						t.Fatal(err)
					}
					e := ledger.Once(t, pool, "op-1")
					if runs != 0 || !resp.Replayed || a.Pid != pid || a.ID != e.ID || e.Who != fmt.Sprint("pid ", pid) {
						t.Errorf("fn ran %d times, answer %+v, entry %+v; want a replay of what process %d has done", runs, resp, e, pid)
					}
				})
			}
		}
	})
}

// A call that waits for one whose process dies gets the key, and runs (case 40 across processes).
func TestCrash_case40_whileADuplicateWaits(t *testing.T) {
	needsSIGKILL(t)
	t.Parallel()
	url := provider.New(t)
	child := proc.Start(t, "caller", pointWritten, callerArgs{URL: url, Mode: pgx.QueryExecModeCacheStatement, Run: true, Ref: "op-1"})
	child.Wait(pointWritten, nil)

	tried := newTries()
	pool, err := openPool(t.Context(), url, pgx.QueryExecModeCacheStatement, 2, tried)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	runs := 0
	type result struct {
		resp idem.Response
		err  error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := idem.Run(context.WithValue(t.Context(), caller{}, 0), pool, newKey("op-1"), entry("op-1", &runs), idem.WithWait(long))
		done <- result{resp, err}
	}()
	tried.wait(t, 1)
	child.Kill()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	if runs != 1 || r.resp.Replayed {
		t.Errorf("fn ran %d times, replayed %t; want one run", runs, r.resp.Replayed)
	}
	checkEntry(t, pool, "op-1", 1, r.resp)
}
