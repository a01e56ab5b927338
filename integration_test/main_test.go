package integration

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
	pressly "github.com/pressly/goose/v3"
	"go.uber.org/goleak"

	"github.com/pgidem/pgidem/integration_test/internal/ledger"
	"github.com/pgidem/pgidem/integration_test/internal/proc"
	"github.com/pgidem/pgidem/integration_test/internal/provider"
	"github.com/pgidem/pgidem/migrations"
)

func TestMain(m *testing.M) {
	proc.Main(roles) // does not return in a child
	before := goleak.IgnoreCurrent()
	code := provider.Main(m, migrate)
	if gooseDir != "" {
		_ = os.RemoveAll(gooseDir)
	}
	if code == 0 {
		code = left(before)
	}
	os.Exit(code)
}

// left reports what the tests have left running.
func left(before goleak.Option) int {
	if n := proc.Running(); n > 0 {
		fmt.Fprintf(os.Stderr, "%d child processes are still there\n", n)
		return 1
	}
	if err := goleak.Find(before); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// migrate prepares the database that every test gets a copy of.
func migrate(ctx context.Context, url string) error {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return err
	}
	defer db.Close()
	p, err := pressly.NewProvider(pressly.DialectPostgres, db, migrations.FS, pressly.WithTableName(migrations.VersionTable))
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return err
	}
	return ledger.Create(ctx, url)
}

// execModes are all ways in which pgx can send a statement.
var execModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

// newPool opens a pool that is closed when the test ends.
func newPool(t testing.TB, url string, mode pgx.QueryExecMode, size int32) *pgxpool.Pool {
	t.Helper()
	pool, err := openPool(t.Context(), url, mode, size, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func openPool(ctx context.Context, url string, mode pgx.QueryExecMode, size int32, tracer pgx.QueryTracer) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = size
	config.ConnConfig.DefaultQueryExecMode = mode
	config.ConnConfig.Tracer = tracer
	return pgxpool.NewWithConfig(ctx, config)
}

// eachMode runs test once per exec mode, in parallel.
func eachMode(t *testing.T, modes []pgx.QueryExecMode, test func(t *testing.T, mode pgx.QueryExecMode)) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			test(t, mode)
		})
	}
}

// needsSIGKILL skips where a process cannot be killed as kill -9 does it.
func needsSIGKILL(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no SIGKILL on this system")
	}
}
