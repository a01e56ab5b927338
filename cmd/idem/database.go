package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	applicationName = "idem"
	connectTimeout  = 10 * time.Second
)

// pgVariables name a database when one of them is set. Without any, pgx would take whatever listens on this machine, and
// that is not where anybody wants to migrate by accident.
var pgVariables = []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"}

// config finds the database to work on.
func (a *app) config() (*pgx.ConnConfig, error) {
	url, from := a.databaseURL, "--database-url"
	if url == "" {
		url, from = os.Getenv("DATABASE_URL"), "DATABASE_URL"
	}
	if url == "" {
		from = ""
		for _, name := range pgVariables {
			if os.Getenv(name) != "" {
				from = "the PG… variables"
			}
		}
		if from == "" {
			return nil, usageError{errors.New("no database: set --database-url, DATABASE_URL or PGHOST and its like")}
		}
	}
	// The pool's parser, since a DATABASE_URL that an application shares may have settings of its pool.
	pool, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", from, err)}
	}
	cfg := pool.ConnConfig
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = applicationName
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	return cfg, nil
}

// connect opens one connection. No command sends a statement often enough for preparing it to pay, and without prepared
// statements everything but migrate works through a transaction pooler.
func (a *app) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.StatementCacheCapacity, cfg.DescriptionCacheCapacity = 0, 0
	return pgx.ConnectConfig(ctx, cfg)
}

// disconnect closes a connection even when ctx is over.
func disconnect(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// text is an error as one wants to read it: pgx says twice what failed with TLS and without.
func text(err error) string {
	var lines []string
	for line := range strings.Lines(strings.TrimPrefix(err.Error(), "idem: ")) {
		line = strings.ReplaceAll(strings.TrimRight(line, "\n"), "\t", "  ")
		if n := len(lines); n == 0 || lines[n-1] != line {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// hintFor says what to do about errors that need no knowledge of the command.
func hintFor(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "28P01", "28000":
			return "Check user and password (PGPASSWORD or ~/.pgpass serve too), and the server's pg_hba.conf."
		case "3D000":
			return "Create the database first: createdb NAME."
		case "53300":
			return "The server has no connection left: raise max_connections, or go through a pooler."
		case "57P03":
			return "The server is starting or stopping: try again in a moment."
		}
		return ""
	}
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		return "A URL is postgres://USER@HOST:PORT/DATABASE; the other form is host=HOST dbname=DATABASE."
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		switch text := err.Error(); {
		case strings.Contains(text, "connection refused"), strings.Contains(text, "no such file or directory"):
			return "Is the server running there, and is this its port?"
		case strings.Contains(text, "server refused TLS"), strings.Contains(text, "tls error"):
			return "sslmode in the URL decides about TLS: disable, prefer, require, verify-full."
		}
		return "Check host and port."
	}
	return ""
}
