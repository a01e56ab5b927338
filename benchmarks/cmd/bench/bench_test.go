package main

import (
	"context"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, localpg.Options{}, prepare)) }

var modes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

// Flights of a warm operation in every exec mode but the one in which pgx asks the server to describe every statement, or
// batch, each time: that is a flight more for BEGIN and for COMMIT where they ride in a batch.
func TestFlights(t *testing.T) {
	t.Parallel()
	want := map[string]int64{"a": 3, "b": 3, "c": 5, "d": 6, "e": 5, "f": 3, "g": 2, "h": 3}
	for _, mode := range modes {
		t.Run(strings.ReplaceAll(mode.String(), " ", "_"), func(t *testing.T) {
			t.Parallel()
			got := map[string]int64{}
			err := withURL(t.Context(), pgtest.New(t), 1, 0, true, func(pool *pgxpool.Pool, p *proxy) error {
				for _, v := range variants {
					n, err := flightsOf(t.Context(), pool, p, v)
					if err != nil {
						return err
					}
					got[v.id] = n
				}
				return nil
			}, func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = mode })
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range variants {
				if mode != pgx.QueryExecModeDescribeExec && got[v.id] != want[v.id] {
					t.Errorf("%s %s: %d flights, want %d", v.id, v.name, got[v.id], want[v.id])
				}
			}
			t.Logf("flights: %v", got)
		})
	}
}

// statements records what is sent, statement by statement.
type statements struct {
	mu   sync.Mutex
	sent []string
}

func (s *statements) add(sql string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	word, rest, _ := strings.Cut(strings.TrimSpace(sql), "\n")
	if strings.HasPrefix(word, "-- ") {
		word, _, _ = strings.Cut(rest, "\n")
	}
	word, _, _ = strings.Cut(word, " ")
	s.sent = append(s.sent, strings.ToUpper(word))
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	s.add(d.SQL)
	return ctx
}
func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (s *statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}
func (s *statements) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}
func (s *statements) TraceBatchQuery(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	s.add(d.SQL)
}

// Every variant sends the statements that its name says, and leaves the rows that it should.
func TestVariants(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"a": "BEGIN INSERT COMMIT",
		"b": "BEGIN INSERT INSERT COMMIT",
		"c": "BEGIN SELECT INSERT INSERT COMMIT",
		"d": "BEGIN SELECT INSERT INSERT UPDATE COMMIT",
		"e": "BEGIN SELECT SELECT INSERT INSERT COMMIT",
		"f": "BEGIN SELECT SELECT INSERT INSERT COMMIT",
		"g": "BEGIN SELECT SELECT COMMIT",
		"h": "BEGIN SELECT COMMIT",
	}
	for _, v := range variants {
		t.Run(v.id, func(t *testing.T) {
			t.Parallel()
			log := &statements{}
			pool, err := connect(t.Context(), pgtest.New(t), "", 1, func(c *pgx.ConnConfig) { c.Tracer = log })
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			replay, err := fillRecords(t.Context(), pool, replayKeys)
			if err != nil {
				t.Fatal(err)
			}
			ops := replay[:3]
			if !v.replays {
				if ops, err = operations(t.Context(), pool, v, 3); err != nil {
					t.Fatal(err)
				}
			}
			log.sent = nil
			if err := runAll(t.Context(), pool, v, ops); err != nil {
				t.Fatal(err)
			}
			if got, want := strings.Join(log.sent, " "), strings.Repeat(want[v.id]+" ", 3); got != strings.TrimSpace(want) {
				t.Errorf("statements: %s\nwant: %s", got, want)
			}
			if err := checkRows(t.Context(), pool, map[string]int64{v.id: 3}); err != nil {
				t.Error(err)
			}
			if !v.replays && v.id != "a" { // once is all
				if v.run(t.Context(), pool, &ops[0]) == nil {
					t.Error("the operation ran again with its key")
				}
			}
		})
	}
}

// By hand and through idem the same bytes are stored, or the sizes could not be compared.
func TestRecordsAreAlike(t *testing.T) {
	t.Parallel()
	pool, err := connect(t.Context(), pgtest.New(t), "", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	sizes := map[string]int{}
	for _, id := range []string{"b", "c", "e", "f"} {
		v := variantByID(id)
		ops, err := operations(t.Context(), pool, v, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := runAll(t.Context(), pool, v, ops); err != nil {
			t.Fatal(err)
		}
		var header, body []byte
		var size int
		err = pool.QueryRow(t.Context(), `SELECT response_header, response_body, pg_column_size(k.*) FROM idem.keys AS k WHERE key = $1`, ops[0].key.Value).
			Scan(&header, &body, &size)
		if err != nil {
			t.Fatal(err)
		}
		if string(header) != storedHeader || len(body) != 200 {
			t.Errorf("%s: header %q, body of %d bytes, row of %d bytes", id, header, len(body), size)
		}
		if sizes[id] = size; size != sizes["b"] {
			t.Errorf("row sizes differ: %v", sizes)
		}
	}
}

// Not parallel: allocations of other tests would be counted.
func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates too")
	}
	pool, err := connect(t.Context(), pgtest.New(t), "", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	got := map[string]cost{}
	for _, v := range variants {
		c := cost{flights: map[string]int64{"a": 3, "e": 5, "f": 3}[v.id]}
		if err := c.allocations(t.Context(), pool, v, 200); err != nil {
			t.Fatal(err)
		}
		got[v.id] = c
		t.Logf("%s: %.1f allocations, %.0f bytes", v.id, c.allocs, c.bytes)
	}
	for _, s := range broken(got) {
		t.Error(s)
	}
}

func TestBroken(t *testing.T) {
	t.Parallel()
	good := map[string]cost{"a": {flights: 3, allocs: 20}, "e": {flights: 5}, "f": {flights: 3, allocs: 80}}
	if got := broken(good); got != nil {
		t.Errorf("broken: %q", got)
	}
	bad := map[string]cost{"a": {flights: 3, allocs: 20}, "e": {flights: 4}, "f": {flights: 4, allocs: 81}}
	if got := broken(bad); len(got) != 3 {
		t.Errorf("broken: %q, want three", got)
	}
}

// The proxy delays a round trip by its latency, and does not hold back what is under way: many messages at once take as
// long as one.
func TestProxy(t *testing.T) {
	t.Parallel()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	const latency = 200 * time.Millisecond
	p, err := newProxy("127.0.0.1", uint16(echo.Addr().(*net.TCPAddr).Port), latency)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	c, err := net.Dial("tcp", p.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	p.startCount()
	for range 2 {
		start := time.Now()
		for range 20 {
			if _, err := c.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if _, err := io.ReadFull(c, make([]byte, 20)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < latency {
			t.Errorf("a round trip took %v, want at least %v", took, latency)
		} else if took > 10*latency {
			t.Errorf("20 messages under way took %v, as if each waited for the one before", took)
		}
	}
	if n := p.flights.Load(); n != 2 {
		t.Errorf("%d flights, want 2", n)
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values  []float64
		q, want float64
	}{
		{nil, 0.5, 0},
		{[]float64{3}, 0.25, 3},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{5, 1, 2, 4, 3}, 0.25, 2},
		{[]float64{5, 1, 2, 4, 3}, 1, 5},
	} {
		before := slices.Clone(c.values)
		if got := quantile(c.values, c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
		if !slices.Equal(before, c.values) {
			t.Error("quantile changed its argument")
		}
	}
}

func TestParseFlags(t *testing.T) {
	t.Parallel()
	c, err := parseFlags([]string{"-clients", "1, 4", "-latency", "0,250us"})
	if err != nil || !slices.Equal(c.clients, []int{1, 4}) || !slices.Equal(c.latency, []time.Duration{0, 250 * time.Microsecond}) {
		t.Errorf("parsed %+v, %v", c, err)
	}
	for _, args := range [][]string{{"-clients", "0"}, {"-clients", "x"}, {"-latency", "-1ms"}, {"-latency", "1"}, {"-rounds", "0"}, {"-slice", "0s"}} {
		if _, err := parseFlags(args); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}

// BenchmarkOperation is for profiles: go test -bench Operation/f -cpuprofile cpu.out
func BenchmarkOperation(b *testing.B) {
	for _, v := range variants {
		b.Run(v.id, func(b *testing.B) {
			pool, err := connect(b.Context(), pgtest.New(b), "", 8)
			if err != nil {
				b.Fatal(err)
			}
			defer pool.Close()
			replay, err := fillRecords(b.Context(), pool, replayKeys)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
				for pb.Next() {
					op := newOperation(r)
					if v.replays {
						op = replay[r.IntN(len(replay))]
					}
					if err := v.run(b.Context(), pool, &op); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
