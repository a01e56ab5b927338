package main

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/migrations"
)

const template = "bench_template"

const schema = `
CREATE TABLE public.payments (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ref    text NOT NULL,
    amount integer NOT NULL
);
CREATE TABLE public.claims (
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    response_status integer,
    request_hash    bytea NOT NULL,
    project         text NOT NULL,
    endpoint        text NOT NULL COLLATE "C",
    key             text NOT NULL COLLATE "C",
    state           text NOT NULL,
    response_header bytea,
    response_body   bytea,
    PRIMARY KEY (project, endpoint, key)
);
CREATE INDEX claims_expires_at_idx ON public.claims (expires_at);`

// prepare makes the schema of the benchmark in a database.
func prepare(ctx context.Context, url string) error {
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
	if _, err := p.Up(ctx); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, schema)
	return err
}

// start starts the server of the benchmark: everything that makes a commit durable is on, and what would come at a time of
// its own choosing, in the middle of one variant, is off.
func start(ctx context.Context) (*localpg.Server, error) {
	s, err := localpg.Start(ctx, localpg.Options{
		TCP: true, Durable: true, Private: true,
		Settings: map[string]string{
			"shared_buffers":     "256MB",
			"min_wal_size":       "512MB",
			"max_wal_size":       "4GB",
			"checkpoint_timeout": "1h",
			"autovacuum":         "off",
		},
	})
	if err != nil {
		return nil, err
	}
	if err := fill(ctx, s); err != nil {
		_ = s.Stop()
		return nil, err
	}
	return s, nil
}

// fill makes the template database, and WAL files to write over: a new server would make each of them when it is needed.
func fill(ctx context.Context, s *localpg.Server) error {
	url, err := s.CreateDatabase(ctx, template, "")
	if err != nil {
		return err
	}
	if err := prepare(ctx, url); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `SELECT pg_logical_emit_message(false, 'bench', repeat('x', 1 << 20)) FROM generate_series(1, 256)`)
	if err == nil {
		_, err = conn.Exec(ctx, `CHECKPOINT`)
	}
	_ = conn.Close(ctx)
	if err != nil {
		return err
	}
	return s.Seal(ctx, template)
}

// connect returns a pool of as many open connections as there are clients; address replaces the server's where it is not "".
func connect(ctx context.Context, url, address string, clients int, change ...func(*pgx.ConnConfig)) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns, cfg.MinConns = int32(clients), int32(clients)
	cfg.HealthCheckPeriod = time.Hour // nothing happens beside the measurement
	if address != "" {
		cfg.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	for _, f := range change {
		f(cfg.ConnConfig)
	}
	return pgxpool.NewWithConfig(ctx, cfg)
}

// withPool calls f with a pool on a new database, through a proxy where latency is above 0 or count is set. The database
// goes with the server.
func withPool(ctx context.Context, s *localpg.Server, name string, clients int, latency time.Duration, count bool, f func(*pgxpool.Pool, *proxy) error) error {
	url, err := s.CreateDatabase(ctx, name, template)
	if err != nil {
		return err
	}
	return withURL(ctx, url, clients, latency, count, f)
}

func withURL(ctx context.Context, url string, clients int, latency time.Duration, count bool, f func(*pgxpool.Pool, *proxy) error, change ...func(*pgx.ConnConfig)) error {
	var p *proxy
	address := ""
	if latency > 0 || count {
		cfg, err := pgx.ParseConfig(url)
		if err != nil {
			return err
		}
		if p, err = newProxy(cfg.Host, cfg.Port, latency); err != nil {
			return err
		}
		defer p.close()
		address = p.addr()
	}
	pool, err := connect(ctx, url, address, clients, change...)
	if err != nil {
		return err
	}
	defer pool.Close()
	return f(pool, p)
}

// describe says on what the figures were measured.
func describe(ctx context.Context, s *localpg.Server) (string, error) {
	conn, err := pgx.Connect(ctx, s.URL(""))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	var settings []string
	for _, name := range []string{
		"fsync", "synchronous_commit", "full_page_writes", "wal_level", "shared_buffers", "max_wal_size",
		"checkpoint_timeout", "autovacuum",
	} {
		var value string
		if err := conn.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err != nil {
			return "", err
		}
		settings = append(settings, name+"="+value)
	}
	pgxVersion := "?"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/jackc/pgx/v5" {
				pgxVersion = m.Version
			}
		}
	}
	return fmt.Sprintf("PostgreSQL %s (%s), pgx %s, %s %s/%s, %d CPUs shared by client and server",
		s.Version(), strings.Join(settings, ", "), pgxVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU()), nil
}
