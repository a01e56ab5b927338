package idemhttp_test

import (
	"context"
	"flag"
	"os"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
	"github.com/pgidem/pgidem/migrations"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(pgtest.EnvSkip) == "1" { // an Example cannot skip itself
		if err := flag.Set("test.skip", "^Example"); err != nil {
			panic(err)
		}
	}
	os.Exit(pgtest.Main(m, localpg.Options{}, migrate))
}

// migrate also makes the table that the handlers of these tests write to. It has no unique constraint that could hide a
// second run.
func migrate(ctx context.Context, url string) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithTableName(migrations.VersionTable))
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "CREATE TABLE public.charges (id bigint GENERATED ALWAYS AS IDENTITY, note text NOT NULL)")
	return err
}
