package integration

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/integration_test/internal/ledger"
	"github.com/pgidem/pgidem/integration_test/internal/provider"
	"github.com/pgidem/pgidem/integration_test/internal/proxy"
)

// A flight is what latency is paid for. Run makes as many as the transaction that
// it replaces, Do two more, counted on the wire.
func TestFlights(t *testing.T) {
	type flights struct{ plain, run, do, replay int }
	want := map[pgx.QueryExecMode]flights{
		// BEGIN, the business statement, COMMIT.
		pgx.QueryExecModeCacheStatement: {plain: 3, run: 3, do: 5, replay: 2},
		pgx.QueryExecModeCacheDescribe:  {plain: 3, run: 3, do: 5, replay: 2},
		pgx.QueryExecModeExec:           {plain: 3, run: 3, do: 5, replay: 2},
		pgx.QueryExecModeSimpleProtocol: {plain: 3, run: 3, do: 5, replay: 2},
		// Here pgx asks for a description before each statement, and once before each
		// batch: one flight more for the business statement in all three; for Run also one
		// for lock and look and one for the record, for Do the same.
		pgx.QueryExecModeDescribeExec: {plain: 4, run: 6, do: 8, replay: 3},
	}
	eachMode(t, execModes, func(t *testing.T, mode pgx.QueryExecMode) {
		px := proxy.New(t, provider.New(t))
		pool := newPool(t, px.URL(), mode, 1)
		var got flights
		count := func(call func() error) int {
			t.Helper()
			before := px.Flights()
			if err := call(); err != nil {
				t.Fatal(err)
			}
			return px.Flights() - before
		}
		runs := 0
		run := func(ref string) func() error {
			return func() error {
				_, err := idem.Run(t.Context(), pool, newKey(ref), entry(ref, &runs))
				return err
			}
		}
		// Twice: the first round fills the caches of statements.
		for round := range 2 {
			ref := func(name string) string { return fmt.Sprintf("%s-%d", name, round) }
			got.plain = count(func() error { return plain(t.Context(), pool, entry(ref("plain"), &runs)) })
			got.run = count(run(ref("run")))
			got.replay = count(run(ref("run")))
			got.do = count(func() error {
				_, err := doAndCommit(t.Context(), pool, newKey(ref("do")), entry(ref("do"), &runs))
				return err
			})
		}
		if got != want[mode] {
			t.Errorf("flights %+v, want %+v", got, want[mode])
		}
		if mode != pgx.QueryExecModeDescribeExec && (got.run != got.plain || got.do != got.plain+2) {
			t.Errorf("flights %+v: want Run to make as many as the plain transaction, and Do two more", got)
		}
		if runs != 6 {
			t.Errorf("fn ran %d times, want 6", runs)
		}
	})
}

// plain is the transaction without package idem.
func plain(ctx context.Context, pool *pgxpool.Pool, fn idem.Func) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		_, err := fn(ctx, tx)
		return err
	})
}

// A counter that counts nothing would agree with everything.
func TestFlights_areCounted(t *testing.T) {
	t.Parallel()
	px := proxy.New(t, provider.New(t))
	conn, err := pgx.Connect(t.Context(), px.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if n := px.Flights(); n != 0 {
		t.Fatalf("%d flights for the log-in, want 0", n)
	}
	for i := range 5 {
		if _, err := conn.Exec(t.Context(), `SELECT 1`); err != nil {
			t.Fatal(err)
		}
		if n := px.Flights(); n != i+1 {
			t.Fatalf("%d flights after %d statements", n, i+1)
		}
	}
	if _, err := conn.CopyFrom(t.Context(), pgx.Identifier{"ledger"}, []string{"ref", "who"}, pgx.CopyFromRows([][]any{{"a", "b"}})); err != nil {
		t.Fatal(err)
	}
	// pgx asks for the types of the columns, then sends COPY and the data in one go.
	if n := px.Flights(); n != 5+2 {
		t.Errorf("%d flights after COPY, want 7", n)
	}
	ledger.Once(t, conn, "a")
}
