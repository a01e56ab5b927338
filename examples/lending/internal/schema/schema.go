// Package schema migrates a database for the lending API: the tables of the business, and beside them the one of package
// idem. Each has its own goose version table.
package schema

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/pgidem/pgidem/migrations"
)

//go:embed migrations/*.sql
var files embed.FS

// ErrForeign means that the database belongs to another application.
var ErrForeign = errors.New("the database holds goose migrations of another application")

// Migrate brings the database that url names up to date. Any number of replicas may call it at once: one of them works,
// the others wait. It returns ErrForeign, with nothing changed, where goose would mistake another application's version
// numbers for these.
func Migrate(ctx context.Context, url string) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	if err := ours(ctx, db); err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	business, err := fs.Sub(files, "migrations")
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	if err := up(ctx, db, business, goose.DefaultTablename); err != nil {
		return fmt.Errorf("schema: migrate the business tables: %w", err)
	}
	// The same command with the package's files and its own version table: in a shared one goose would compare numbers
	// alone and take version 1 for applied.
	if err := up(ctx, db, migrations.FS, migrations.VersionTable); err != nil {
		return fmt.Errorf("schema: migrate idem: %w", err)
	}
	return nil
}

func up(ctx context.Context, db *sql.DB, files fs.FS, versionTable string) error {
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(versionTable), goose.WithSessionLocker(locker))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// ours looks for a version table that somebody else has filled. An empty one is fine: another replica is at work.
func ours(ctx context.Context, db *sql.DB) error {
	var exists bool
	if err := db.QueryRowContext(ctx, `SELECT to_regclass('goose_db_version') IS NOT NULL`).Scan(&exists); err != nil || !exists {
		return err
	}
	const query = `SELECT EXISTS (SELECT FROM goose_db_version WHERE version_id > 0) AND to_regnamespace('lending') IS NULL`
	var foreign bool
	if err := db.QueryRowContext(ctx, query).Scan(&foreign); err != nil {
		return err
	}
	if foreign {
		return fmt.Errorf("%w: give the lending API a database of its own", ErrForeign)
	}
	return nil
}
