package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/spf13/cobra"

	"github.com/pgidem/pgidem/migrations"
)

func (a *app) migrate() *cobra.Command {
	c := group(&cobra.Command{
		Use:   "migrate",
		Short: "Create, update or drop the schema idem",
		Long: `Create, update or drop the schema idem, with the same files that goose would use
(migrations/ in the module) and the same version table, ` + migrations.VersionTable + `.

Any number of these may start at once, say one per replica: one migrates, the others wait.
That takes a lock of the session, so connect to the server itself and not to a pooler.

The role needs CREATE on the database and on the schema that holds the version table
(usually public). No other command, and no application, needs such rights.`,
		Example: `  idem migrate up
  idem migrate status`,
	})
	c.AddCommand(a.migrateUp(), a.migrateDown(), a.migrateStatus())
	return c
}

func (a *app) migrateUp() *cobra.Command {
	return &cobra.Command{
		Use:   "up",
		Short: "Apply what is not applied yet",
		Long:  "Apply every migration that is not applied yet, each in a transaction of its own.",
		Example: `  idem migrate up
  idem migrate up --database-url "postgres://owner@db.example/app"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.goose(func(p *goose.Provider) ([]*goose.MigrationResult, error) { return p.Up(cmd.Context()) })
		},
	}
}

func (a *app) migrateDown() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "down",
		Short: "Drop the schema idem with every key in it",
		Long: `Undo every migration: drop the tables and the schema idem.

That deletes every key. A request that was answered before and comes again then runs
again. Therefore it asks for --yes.`,
		Example: `  idem migrate down --yes`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return usageError{errors.New("migrate down deletes every key, and requests that come again run again: say --yes")}
			}
			return a.goose(func(p *goose.Provider) ([]*goose.MigrationResult, error) { return p.DownTo(cmd.Context(), 0) })
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, delete every key")
	return c
}

// goose runs migrations and prints each.
func (a *app) goose(migrate func(*goose.Provider) ([]*goose.MigrationResult, error)) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	// Ask every second for up to five minutes.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithTableName(migrations.VersionTable),
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	results, err := migrate(p)
	if partial, ok := errors.AsType[*goose.PartialError](err); ok {
		results = partial.Applied
	}
	for _, r := range results {
		fmt.Fprintf(a.stdout, "%s %s (%v)\n", r.Direction, r.Source.Path, short(r.Duration))
	}
	if err != nil {
		return migrateError(err)
	}
	if len(results) == 0 {
		fmt.Fprintln(a.stdout, "nothing to do")
	}
	return nil
}

// migrateError adds what to do.
func migrateError(err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	switch pg.Code {
	case "42501":
		return fmt.Errorf("%w\n  The role that migrates needs CREATE on the database, and on the schema of the table %s:\n"+
			"  GRANT CREATE ON DATABASE … TO …; GRANT CREATE ON SCHEMA public TO …", err, migrations.VersionTable)
	case "42P07", "42723":
		return fmt.Errorf("%w\n  It was made by other means than this table of versions (%s) knows of: by hand, or by goose with another table.\n"+
			"  Go on with those means", err, migrations.VersionTable)
	case "2BP01":
		return fmt.Errorf("%w\n  Something that is not this package's is in the schema idem, or depends on it: remove that first", err)
	}
	return err
}

func (a *app) migrateStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what is applied",
		Long: `Show which migrations are applied and which are not. It only reads; the exit code says
nothing about what it found (idem doctor's does).`,
		Example: `  idem migrate status`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			conn, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer disconnect(ctx, conn)
			s, err := readSchema(ctx, conn)
			if err != nil {
				return err
			}
			if s.tracked && !s.readable {
				return fmt.Errorf("this role may not read the table of versions: GRANT SELECT ON %s TO …", migrations.VersionTable)
			}
			if !s.tracked && s.keys {
				fmt.Fprintf(a.stdout, "The schema idem is there, the table of versions (%s) is not: it was made by other means.\n", migrations.VersionTable)
				return nil
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "VERSION\tFILE\tAPPLIED")
			for _, m := range embedded() {
				applied := "no"
				if at, ok := s.applied[m.version]; ok {
					applied = at.Format("2006-01-02 15:04:05")
				}
				fmt.Fprintf(w, "%d\t%s\t%s\n", m.version, m.file, applied)
			}
			for v, at := range s.applied {
				if v > newestSchema() {
					fmt.Fprintf(w, "%d\t(of a newer version of this tool)\t%s\n", v, at.Format("2006-01-02 15:04:05"))
				}
			}
			return w.Flush()
		},
	}
}

// migration is a file that is built into this program.
type migration struct {
	version int64
	file    string
}

func embedded() []migration {
	files, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		panic(err) // the pattern is constant
	}
	var all []migration
	for _, f := range files { // in order
		v, err := goose.NumericComponent(f)
		if err != nil {
			panic(err) // the files are built in
		}
		all = append(all, migration{v, f})
	}
	return all
}

func newestSchema() int64 {
	all := embedded()
	return all[len(all)-1].version
}

// schema is what of the migrations is in a database.
type schema struct {
	tracked      bool // by goose
	readable     bool // what goose has tracked, by this role
	keys, reaper bool // the tables
	applied      map[int64]time.Time
}

func (s schema) version() int64 {
	var newest int64
	for v := range s.applied {
		newest = max(newest, v)
	}
	return newest
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func readSchema(ctx context.Context, db querier) (schema, error) {
	var s schema
	if err := db.QueryRow(ctx, sqlVersionTable, migrations.VersionTable).Scan(&s.tracked, &s.readable, &s.keys, &s.reaper); err != nil {
		return s, err
	}
	if !s.readable {
		return s, nil
	}
	rows, err := db.Query(ctx, fmt.Sprintf(sqlVersions, pgx.Identifier{migrations.VersionTable}.Sanitize()))
	if err != nil {
		return s, err
	}
	s.applied = map[int64]time.Time{}
	var v int64
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&v, &at}, func() error {
		s.applied[v] = at
		return nil
	})
	return s, err
}
