package integration

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/integration_test/internal/ledger"
	"github.com/pgidem/pgidem/integration_test/internal/provider"
	"github.com/pgidem/pgidem/integration_test/internal/proxy"
)

// The proxy does what its faults say, with a plain transaction, where no retry can
// make up for it: what is proved with it stands on this.
func TestProxy_faults(t *testing.T) {
	t.Parallel()
	insert := proxy.Statement("INSERT INTO ledger")
	for _, test := range []struct {
		name      string
		fault     func(*proxy.Proxy) (proxy.Fault, *proxy.Tripwire)
		committed bool
	}{
		{"cut before the statement", func(*proxy.Proxy) (proxy.Fault, *proxy.Tripwire) { return proxy.CutBefore(insert) }, false},
		{"cut the reply to the statement", func(*proxy.Proxy) (proxy.Fault, *proxy.Tripwire) { return proxy.CutReply(insert, 0) }, false},
		{"cut before COMMIT", func(*proxy.Proxy) (proxy.Fault, *proxy.Tripwire) { return proxy.CutBefore(proxy.Commit) }, false},
		{"cut the reply to COMMIT", func(*proxy.Proxy) (proxy.Fault, *proxy.Tripwire) { return proxy.CutReply(proxy.Commit, 0) }, true},
	} {
		for _, mode := range execModes {
			t.Run(test.name+", "+mode.String(), func(t *testing.T) {
				t.Parallel()
				url := provider.New(t)
				px := proxy.New(t, url)
				fault, wire := test.fault(px)
				px.Set(fault)
				pool := newPool(t, px.URL(), mode, 1)
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					_, err := ledger.Insert(t.Context(), tx, "op-1", "me")
					return err
				})
				if err == nil {
					t.Fatal("the client has noticed nothing")
				}
				wire.Wait(t)
				direct := newPool(t, url, mode, 1)
				if test.committed {
					ledger.Once(t, direct, "op-1")
				} else {
					ledger.None(t, direct, "op-1")
				}
				// It strikes once.
				if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					_, err := ledger.Insert(t.Context(), tx, "op-2", "me")
					return err
				}); err != nil {
					t.Fatalf("second transaction: %v", err)
				}
				ledger.Once(t, direct, "op-2")
			})
		}
	}
}

func TestProxy_delay(t *testing.T) {
	t.Parallel()
	px := proxy.New(t, provider.New(t))
	conn, err := pgx.Connect(t.Context(), px.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	const d = 50 * time.Millisecond
	px.Set(px.Delay(proxy.Statement("SELECT 1"), d))
	start := time.Now()
	if _, err := conn.Exec(t.Context(), `SELECT 1`); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < d {
		t.Errorf("took %v, want at least %v", took, d)
	}
}
