// Package database finds or starts the PostgreSQL that the example runs on.
package database

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/localpg"
)

// Name is the name of a database that Open creates (on IDEM_DATABASE_URL with a prefix of its own).
const Name = "lending"

// Database is a database to work in.
type Database struct {
	// URL is where it is.
	URL string

	// Origin says in words where it comes from.
	Origin string

	// Version is the server's, such as "15.14".
	Version string

	server *localpg.Server
}

// Open uses the database that url names. When url is empty it takes a new database on the server that IDEM_DATABASE_URL
// names, on a private cluster from the machine's own PostgreSQL binaries, in Docker, or on a downloaded server, whichever
// is there first. The caller must call Close.
func Open(ctx context.Context, url string) (*Database, error) {
	if url != "" {
		d := &Database{URL: url, Origin: "the database that -database-url names"}
		return d, d.hello(ctx)
	}
	server, err := localpg.Start(ctx, localpg.Options{Download: download})
	if err != nil {
		return nil, err
	}
	d := &Database{server: server, Origin: origins[server.Source()], Version: server.Version()}
	if d.URL, err = server.CreateDatabase(ctx, Name, ""); err != nil {
		_, _ = d.Close(false) // err says more
		return nil, err
	}
	return d, nil
}

var origins = map[string]string{
	"url":      "a new database on " + localpg.EnvURL,
	"binaries": "a private cluster",
	"docker":   "a container of its own",
	"download": "a downloaded server",
}

func (d *Database) hello(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.URL)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := conn.QueryRow(ctx, "SHOW server_version").Scan(&d.Version); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return nil
}

// Close removes what Open made; a database that Open was given stays as it is. With keep everything stays, and hint says
// how to get at it.
func (d *Database) Close(keep bool) (hint string, err error) {
	if d.server == nil {
		return "", nil
	}
	if keep {
		d.server.Keep(Name)
	}
	return d.server.StopHint()
}
