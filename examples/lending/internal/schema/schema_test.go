package schema_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgidem/pgidem/examples/lending/internal/schema"
	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, localpg.Options{}, nil)) }

// Cases 102 and 103: both sets of migrations apply beside each other, whoever else migrates at the same time.
func TestMigrate(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	var g errgroup.Group
	for range 3 {
		g.Go(func() error { return schema.Migrate(t.Context(), url) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(t.Context(), url); err != nil {
		t.Fatal("once more:", err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := idem.Check(t.Context(), conn); err != nil {
		t.Error(err)
	}
	// Nothing but the key keeps a request from writing twice.
	rows, _ := conn.Query(t.Context(), `SELECT indrelid::regclass || ': ' || pg_get_indexdef(indexrelid) FROM pg_index
		WHERE indisunique AND NOT indisprimary AND indrelid::regclass::text LIKE 'lending.%'`)
	unique, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(unique) > 0 {
		t.Errorf("the business tables have unique indexes: %s", strings.Join(unique, "; "))
	}
}

func TestMigrateForeignDatabase(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	// Another application's version table, with its version 1 applied.
	_, err = conn.Exec(t.Context(), `CREATE TABLE goose_db_version (id serial PRIMARY KEY, version_id bigint NOT NULL,
			is_applied boolean NOT NULL, tstamp timestamp DEFAULT now());
		INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, true), (1, true)`)
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(t.Context(), url); !errors.Is(err, schema.ErrForeign) {
		t.Errorf("got %v, want ErrForeign", err)
	}
}
