package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/examples/lending/internal/api"
	"github.com/pgidem/pgidem/idem"
)

// faultHeader asks the server for a fault. Only servers that the demo starts understand it.
const faultHeader = "X-Demo-Fault"

func (f fault) header() string {
	var s []string
	if f.sleep > 0 {
		s = append(s, "sleep="+f.sleep.String())
	}
	if f.panic {
		s = append(s, "panic")
	}
	return strings.Join(s, ";")
}

// injected is what a handler panics with on demand.
const injected = "panic injected by the demo"

// replica is one server of the API, with its own pool.
type replica struct {
	url  string
	pool *pgxpool.Pool
	http *http.Server
	done chan error

	stopReaper context.CancelFunc
	reaped     chan struct{}
}

func startReplica(ctx context.Context, databaseURL string, c *counters, o Options) (*replica, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 16
	config.ConnConfig.RuntimeParams["application_name"] = "lending demo"
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	log := slog.New(&c.errors)
	conf := api.Config{Pool: pool, Logger: log, Observer: c, AfterWrites: c.afterWrites}
	if o.WithoutIdem {
		conf.Protect = unprotected(pool)
	}
	handler, err := api.New(conf)
	if err != nil {
		pool.Close()
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		pool.Close()
		return nil, err
	}
	r := &replica{
		url:  "http://" + listener.Addr().String(),
		pool: pool,
		http: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 10 * time.Second,
			ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, 0), // connections that are reset half-way are the point
		},
		done:   make(chan error, 1),
		reaped: make(chan struct{}),
	}
	go func() { r.done <- r.http.Serve(listener) }()
	// Each server reaps as it would in production, only more often: nothing that is needed may go.
	reaping, stopReaper := context.WithCancel(context.WithoutCancel(ctx))
	r.stopReaper = stopReaper
	go func() {
		defer close(r.reaped)
		reaper := idem.Reaper{DB: pool, Interval: 500 * time.Millisecond, Logger: log}
		_ = reaper.Run(reaping) // ends when it is told to
	}()
	return r, nil
}

// stop returns when no request is being handled any more and every connection to the database is closed.
func (r *replica) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	err := r.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop a server: %w", err), r.http.Close())
	}
	if serveErr := <-r.done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	r.stopReaper()
	<-r.reaped
	r.pool.Close()
	return err
}

// counters is what the servers count. It is an idem.Observer.
type counters struct {
	mu       sync.Mutex
	outcomes map[string]map[idem.Outcome]int // by endpoint
	waited   map[string]int
	panics   map[string]int
	replayed atomic.Int64
	errors   errorLog
}

func newCounters() *counters {
	return &counters{outcomes: map[string]map[idem.Outcome]int{}, waited: map[string]int{}, panics: map[string]int{}}
}

// Observe is told how a call of idem.Run ended.
func (c *counters) Observe(_ context.Context, e idem.Event) {
	if e.Outcome == idem.Replayed {
		c.replayed.Add(1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outcomes[e.Endpoint] == nil {
		c.outcomes[e.Endpoint] = map[idem.Outcome]int{}
	}
	c.outcomes[e.Endpoint][e.Outcome]++
	if e.Waited > 0 {
		c.waited[e.Endpoint]++
	}
}

// afterWrites does what the client asks for, when the handler has written and nothing is committed.
func (c *counters) afterWrites(r *http.Request) {
	for what := range strings.SplitSeq(r.Header.Get(faultHeader), ";") {
		if s, ok := strings.CutPrefix(what, "sleep="); ok {
			d, _ := time.ParseDuration(s)
			time.Sleep(min(d, time.Second))
		}
		if what == "panic" {
			c.mu.Lock()
			c.panics[r.Pattern]++
			c.mu.Unlock()
			panic(injected)
		}
	}
}

// errorLog keeps the first errors that the servers log and that nobody has asked for.
type errorLog struct {
	mu    sync.Mutex
	lines []string
}

// Enabled is slog.Handler's.
func (l *errorLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle is slog.Handler's.
func (l *errorLog) Handle(ctx context.Context, r slog.Record) error {
	if ctx.Err() != nil { // the client has gone: asked for
		return nil
	}
	var line strings.Builder
	line.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&line, " %s=%v", a.Key, a.Value)
		return true
	})
	if strings.Contains(line.String(), injected) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) < 5 {
		l.lines = append(l.lines, line.String())
	}
	return nil
}

// WithAttrs is slog.Handler's.
func (l *errorLog) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup is slog.Handler's.
func (l *errorLog) WithGroup(string) slog.Handler { return l }
