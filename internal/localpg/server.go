package localpg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// startTimeout bounds the wait for a server that has been started: crash
// recovery on a busy machine takes a while.
const startTimeout = 2 * time.Minute

// engine is a server that we run ourselves.
type engine interface {
	base() dsn                       // where it is, from prepare on
	start(ctx context.Context) error // starts it, the first time and again; it may not accept connections yet
	exited() <-chan struct{}         // closed when what start started has ended; nil where that cannot be known
	stop(ctx context.Context, how stopMode) error
	remove(keep bool) (hint string, err error) // stops it and removes it with its data
	pid() int
	log() string
}

type stopMode int

const (
	stopFast      stopMode = iota // sessions are ended, everything is written
	stopImmediate                 // processes quit, recovery at the next start
	stopKill                      // SIGKILL
)

// Server is a PostgreSQL server to create databases on. Its methods may be called
// from several goroutines at once.
type Server struct {
	source  string
	version string
	dsn     dsn
	eng     engine // nil: somebody else's server
	logger  *slog.Logger

	life    sync.Mutex // one start, stop or kill at a time
	stopped bool

	creating sync.Mutex // one CREATE DATABASE at a time; see CreateDatabase
	mu       sync.Mutex
	prefix   string            // of databases on somebody else's server
	created  map[string]string // name → name on the server
	kept     []string          // names on the server
}

// Start starts a server, or finds one. The caller must call Stop in the end. When
// the error is [ErrNoDatabase], its message tells the user what to do; print it.
func Start(ctx context.Context, o Options) (*Server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	found, err := find(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &Server{source: found.source, logger: o.Logger, created: map[string]string{}}
	began := time.Now()
	if found.url != "" {
		err = s.adopt(ctx, found.url, o)
	} else {
		err = s.launch(ctx, found.engine, o)
	}
	if err != nil {
		return nil, err
	}
	s.logger.Debug("localpg: ready", "source", s.source, "version", s.version, "took", time.Since(began))
	return s, nil
}

func (s *Server) launch(ctx context.Context, newEngine func(context.Context, Options) (engine, error), o Options) error {
	eng, err := newEngine(ctx, o)
	if err != nil {
		return err
	}
	s.eng = eng
	if err := s.startEngine(ctx); err != nil {
		_, rerr := eng.remove(false)
		return errors.Join(err, rerr)
	}
	return nil
}

// startEngine starts the server and waits until it accepts connections.
func (s *Server) startEngine(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.eng.start(ctx); err != nil {
		return err
	}
	// Address and version are what they were when it starts again.
	if s.dsn == "" {
		s.dsn = s.eng.base()
	}
	for {
		version, err := s.hello(ctx)
		if err == nil {
			if s.version == "" {
				s.version = version
			}
			return nil
		}
		select {
		case <-s.eng.exited():
			return fmt.Errorf("localpg: the server ended at once; its log ends with:\n%s", s.eng.log())
		case <-ctx.Done():
			return fmt.Errorf("localpg: the server does not accept connections: %w; its log ends with:\n%s", err, s.eng.log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// hello connects once and asks for the version.
func (s *Server) hello(ctx context.Context) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = s.withConn(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, sqlVersion).Scan(&version)
	})
	return version, err
}

// URL returns the DSN of a database. "" is the maintenance database, "postgres"
// unless IDEM_DATABASE_URL says otherwise.
func (s *Server) URL(database string) string {
	return s.dsn.of(s.realName(database))
}

// Source says where the server comes from: "url", "binaries", "docker" or "download".
func (s *Server) Source() string { return s.source }

// Version is the version of the server, such as "15.14".
func (s *Server) Version() string {
	version, _, _ := strings.Cut(s.version, " ")
	return version
}

// major is the number that decides which syntax the server knows; 0 when it cannot be read.
func (s *Server) major() int {
	// "15.14", "19devel", "18beta1"
	version := s.Version()
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(version)
	}
	n, _ := strconv.Atoi(version[:end])
	return n
}

// Addr returns host:port where the server listens on TCP, otherwise "".
func (s *Server) Addr() string {
	config, err := pgx.ParseConfig(s.dsn.of(""))
	if err != nil || strings.HasPrefix(config.Host, "/") || strings.HasPrefix(config.Host, "@") {
		return ""
	}
	return net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
}

// Pid returns the process id of the postmaster, or 0 when it is not running or
// is not a process that this program started.
func (s *Server) Pid() int {
	if s.eng == nil {
		return 0
	}
	return s.eng.pid()
}

// Log returns the end of what the server has printed, or "".
func (s *Server) Log() string {
	if s.eng == nil {
		return ""
	}
	return s.eng.log()
}

// DataDir returns the data directory, or "" when it is not on this machine.
func (s *Server) DataDir() string {
	if c, ok := s.eng.(*cluster); ok {
		return c.data
	}
	return ""
}

// Kill kills the server as a crash would: SIGKILL for the postmaster and all of
// its processes. It returns when they are gone. The data stays; [Server.Restart]
// starts the server again, through recovery. Killing a server that is down does
// nothing. Any error means that the server may still be there.
func (s *Server) Kill() error { return s.halt(stopKill) }

// StopImmediate stops the server without writing anything ("immediate shutdown").
// The next start goes through recovery. Any error means that the server may still
// be there.
func (s *Server) StopImmediate() error { return s.halt(stopImmediate) }

func (s *Server) halt(how stopMode) error {
	s.life.Lock()
	defer s.life.Unlock()
	if err := s.mayHalt(); err != nil {
		return err
	}
	return s.eng.stop(context.Background(), how)
}

func (s *Server) mayHalt() error {
	if s.stopped {
		return errors.New("localpg: the server has been stopped for good")
	}
	if s.eng == nil {
		return fmt.Errorf("localpg: stop and start a server of source %q: %w: set Options.Private", s.source, ErrUnsupported)
	}
	return nil
}

// Restart starts the server again on the same data and the same address, after
// stopping it in good order where it is running, and returns when it accepts
// connections. After an error the server is down; its log is part of the error.
func (s *Server) Restart(ctx context.Context) error {
	s.life.Lock()
	defer s.life.Unlock()
	if err := s.mayHalt(); err != nil {
		return err
	}
	if err := s.eng.stop(ctx, stopFast); err != nil {
		return err
	}
	return s.startEngine(ctx)
}

// Keep makes Stop leave a database for somebody to look at. On somebody else's
// server it stays there (until a Start a day later, see the package comment). A
// server of our own stops all the same, but its data stays; [Server.StopHint]
// returns the command that starts it again.
func (s *Server) Keep(database string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if real, ok := s.created[database]; ok {
		s.kept = append(s.kept, real)
		delete(s.created, database) // no longer ours to drop
	}
}

// Stop drops the databases that were created on somebody else's server; a server
// of our own is stopped and removed with its data. Calling it again does nothing.
// After an error something may have been left behind; the error says what.
func (s *Server) Stop() error {
	_, err := s.StopHint()
	return err
}

// StopHint is Stop; after [Server.Keep] it also returns how to get at what was kept.
func (s *Server) StopHint() (hint string, err error) {
	s.life.Lock()
	defer s.life.Unlock()
	if s.stopped {
		return "", nil
	}
	s.stopped = true
	s.mu.Lock()
	kept := s.kept
	s.mu.Unlock()
	if s.eng != nil {
		return s.eng.remove(len(kept) > 0)
	}
	if len(kept) > 0 {
		hint = "drop on the server, when done: " + strings.Join(kept, ", ")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return hint, s.dropAll(ctx)
}

// tail returns the end of a file, for error messages.
func tail(path string) string {
	const most = 4 << 10
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return strings.TrimSpace(string(data))
}
