// Package migrations holds the schema of package idem as goose migrations.
//
// With the goose command:
//
//	goose -dir migrations -table idem_goose_version postgres "$DATABASE_URL" up
//
// In a program, beside the application's own migrations:
//
//	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithTableName(migrations.VersionTable))
//
// By hand, with the part of each file above "-- +goose Down". The loop is for a database that has none of them; to update,
// give it the new files only:
//
//	for f in migrations/0*.sql; do sed '/^-- +goose Down/,$d' "$f"; done | psql -1 -v ON_ERROR_STOP=1 "$DATABASE_URL"
package migrations

import "embed"

// FS holds the migrations at its root, in the form that goose reads.
//
//go:embed *.sql
var FS embed.FS

// VersionTable is the name of the goose version table to use for these migrations. It must not be the application's own:
// goose compares version numbers only, so with a shared table it takes these files for applied already and skips them
// without an error.
const VersionTable = "idem_goose_version"
