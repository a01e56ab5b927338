package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
	"github.com/pgidem/pgidem/migrations"
)

// asCommand makes the test binary be the command, for tests that need a process to send signals to.
const asCommand = "IDEM_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	for _, name := range append(pgVariables, "DATABASE_URL", "PGAPPNAME", "PGOPTIONS") { // whatever is set where the tests run
		_ = os.Unsetenv(name)
	}
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

// outcome is what a call of the command did.
type outcome struct {
	code           int
	stdout, stderr string
}

// call runs the command in this process.
func call(args ...string) outcome {
	var stdout, stderr bytes.Buffer
	code := run(args, &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// says fails the test unless the outcome has that code and all those texts, in whichever stream.
func (o outcome) says(t testing.TB, code int, texts ...string) {
	t.Helper()
	ok := o.code == code
	for _, text := range texts {
		ok = ok && strings.Contains(o.stdout+o.stderr, text)
	}
	if !ok {
		t.Errorf("want code %d and %q\ngot code %d\nstdout: %s\nstderr: %s", code, texts, o.code, o.stdout, o.stderr)
	}
	if code == exitOK && o.stderr != "" {
		t.Errorf("code 0 and yet on stderr: %s", o.stderr)
	}
}

func open(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

func exec(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func count(t testing.TB, conn *pgx.Conn, sql string, args ...any) (n int) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// seed inserts n records that expire after d.
func seed(t testing.TB, conn *pgx.Conn, prefix string, n int, d time.Duration) {
	t.Helper()
	exec(t, conn, `
		INSERT INTO idem.keys (created_at, expires_at, response_status, request_hash, project, endpoint, key, response_header, response_body)
		SELECT now() - interval '30 days', clock_timestamp() + $3::interval, 200, sha256('x'), 'acme', 'e', $1::text || i, '', ''
		FROM generate_series(1, $2::int) AS i`, prefix, n, d)
}
