package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/localpg"
)

// Names of the environment variables that this package reads.
const (
	EnvSkip = "IDEM_TEST_SKIP_DB"
	EnvKeep = "IDEM_TEST_KEEP"
)

const (
	startTimeout    = 5 * time.Minute // Docker may have to fetch an image
	databaseTimeout = 2 * time.Minute
	template        = "idem_template"
)

// shared is the one server of the test binary.
var shared struct {
	sync.Mutex
	ready   bool // Main has run
	opts    localpg.Options
	migrate func(ctx context.Context, url string) error

	tried  bool
	server *localpg.Server
	err    error

	counter atomic.Int64
}

// Main runs the tests and stops the server that they have started, if any. Call it
// from TestMain and pass its result to os.Exit. migrate prepares the database that
// [New] copies; it must have closed its connections when it returns, and may be nil.
func Main(m *testing.M, o localpg.Options, migrate func(ctx context.Context, url string) error) int {
	shared.Lock()
	shared.ready, shared.opts, shared.migrate = true, o, migrate
	shared.Unlock()

	code := m.Run()

	shared.Lock()
	defer shared.Unlock()
	shared.ready = false
	if shared.server == nil {
		return code
	}
	hint, err := shared.server.StopHint()
	if hint != "" {
		fmt.Fprintln(os.Stderr, "pgtest: databases of failed tests kept:", hint)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgtest: stop the server:", err)
		if code == 0 {
			code = 1
		}
	}
	return code
}

// New returns the DSN of a new database in which the migrations have run. It is
// dropped when the test ends, whoever is still connected.
func New(t testing.TB) string {
	t.Helper()
	return create(t, template)
}

// Empty returns the DSN of a new database without migrations; otherwise as [New].
func Empty(t testing.TB) string {
	t.Helper()
	return create(t, "")
}

// Shared returns the server that New and Empty use. Do not stop it.
func Shared(t testing.TB) *localpg.Server {
	t.Helper()
	skip(t)
	shared.Lock()
	defer shared.Unlock()
	if !shared.ready {
		t.Fatal("pgtest: no server: call pgtest.Main in TestMain")
	}
	if !shared.tried {
		shared.tried = true
		shared.server, shared.err = start()
	}
	if shared.err != nil {
		t.Fatal(explain(shared.err))
	}
	return shared.server
}

// Cluster returns a server of the test's own, which may be killed and started
// again: o.Private is set. It is stopped when the test ends; when that has failed, the
// end of the server's log is logged. The test is skipped where the only server is
// the one that IDEM_DATABASE_URL names.
func Cluster(t testing.TB, o localpg.Options) *localpg.Server {
	t.Helper()
	skip(t)
	o.Private = true
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	server, err := localpg.Start(ctx, o)
	if errors.Is(err, localpg.ErrNoDatabase) && os.Getenv(localpg.EnvURL) != "" {
		t.Skip("pgtest: needs a server that can be killed, "+localpg.EnvURL+" does not serve here: ", err)
	}
	if err != nil {
		t.Fatal(explain(err))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("pgtest: the server's log ends with:\n%s", server.Log())
		}
		if err := server.Stop(); err != nil {
			t.Errorf("pgtest: stop the server: %v", err)
		}
	})
	return server
}

func start() (*localpg.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	server, err := localpg.Start(ctx, shared.opts)
	if err != nil {
		return nil, err
	}
	if err := prepare(ctx, server); err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	return server, nil
}

func prepare(ctx context.Context, server *localpg.Server) error {
	url, err := server.CreateDatabase(ctx, template, "")
	if err != nil {
		return err
	}
	if shared.migrate != nil {
		if err := shared.migrate(ctx, url); err != nil {
			return fmt.Errorf("pgtest: migrate: %w", err)
		}
	}
	return server.Seal(ctx, template)
}

func create(t testing.TB, from string) string {
	t.Helper()
	server := Shared(t)
	ctx, cancel := context.WithTimeout(t.Context(), databaseTimeout)
	defer cancel()
	name := databaseName(shared.counter.Add(1), t.Name())
	url, err := server.CreateDatabase(ctx, name, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv(EnvKeep) == "1" {
			server.Keep(name)
			t.Logf("pgtest: kept %s (%s=1)", url, EnvKeep)
			return
		}
		// t.Context() is over by now.
		ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
		defer cancel()
		if err := server.DropDatabase(ctx, name); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return url
}

// databaseName makes a name that tells in pg_stat_activity whose database it is.
func databaseName(n int64, test string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '_'
	}, test)
	if len(clean) > 30 {
		clean = clean[:30]
	}
	return fmt.Sprintf("t%d_%s", n, clean)
}

func skip(t testing.TB) {
	t.Helper()
	if os.Getenv(EnvSkip) == "1" {
		t.Skip("pgtest: needs a database (" + EnvSkip + "=1)")
	}
}

func explain(err error) string {
	if errors.Is(err, localpg.ErrNoDatabase) {
		return fmt.Sprintf("%v.\nTo run only the tests that need no database: %s=1", err, EnvSkip)
	}
	return err.Error()
}
