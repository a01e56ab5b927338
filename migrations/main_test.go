package migrations_test

import (
	"context"
	"database/sql"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
	"github.com/pgidem/pgidem/migrations"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, localpg.Options{}, func(ctx context.Context, url string) error {
		cfg, err := pgx.ParseConfig(url)
		if err != nil {
			return err
		}
		db := stdlib.OpenDB(*cfg)
		defer db.Close()
		p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithTableName(migrations.VersionTable))
		if err != nil {
			return err
		}
		_, err = p.Up(ctx)
		return err
	}))
}

func openSQL(t testing.TB, url string) *sql.DB {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	noError(t, err)
	db := stdlib.OpenDB(*cfg)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func open(t testing.TB, url string, change ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	noError(t, err)
	for _, f := range change {
		f(cfg)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	noError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func exec(t testing.TB, pool *pgxpool.Pool, statement string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), statement, args...)
	noError(t, err)
}

func count(t testing.TB, pool *pgxpool.Pool, statement string, args ...any) (n int) {
	t.Helper()
	noError(t, pool.QueryRow(context.WithoutCancel(t.Context()), statement, args...).Scan(&n))
	return n
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// seed inserts n records whose keys begin with prefix and that expire after d, which is negative for expired ones.
func seed(t testing.TB, pool *pgxpool.Pool, prefix string, n int, d time.Duration) {
	t.Helper()
	exec(t, pool, `
		INSERT INTO idem.keys (created_at, expires_at, response_status, request_hash, project, endpoint, key, response_header, response_body)
		SELECT now() - interval '30 days', clock_timestamp() + $3::interval + i * interval '1 second', 200, sha256('x'), 'acme', 'e', $1::text || i, '', ''
		FROM generate_series(0, $2::int - 1) AS i`, prefix, n, d)
}

// like counts the records whose keys begin with prefix.
func like(t testing.TB, pool *pgxpool.Pool, prefix string) int {
	t.Helper()
	return count(t, pool, `SELECT count(*) FROM idem.keys WHERE key LIKE $1 || '%'`, prefix)
}

// waiting returns when a statement like that waits for a lock.
func waiting(t testing.TB, pool *pgxpool.Pool, statement string) {
	t.Helper()
	for range 2000 {
		if count(t, pool, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1 AND pid <> pg_backend_pid()`, statement) > 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("nothing like %q waits", statement)
}
