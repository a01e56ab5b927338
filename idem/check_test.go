package idem_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

func TestCheck_theMigrations(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		noError(t, idem.Check(t.Context(), pool))
		tx, err := pool.Begin(t.Context())
		noError(t, err)
		defer undo(t, tx)
		noError(t, idem.Check(t.Context(), tx))
	})
}

const (
	columnsOfKeys = `created_at timestamptz NOT NULL, expires_at timestamptz NOT NULL, response_status integer NOT NULL, request_hash bytea NOT NULL,
		project text NOT NULL, endpoint text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, response_header bytea NOT NULL, response_body bytea NOT NULL`
	nondeterministic = `CREATE COLLATION public.loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false); `
)

func TestCheck_unsafe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, sql string
		says      []string
	}{
		{"no unique index", `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey`, []string{"no unique index on exactly (project, endpoint, key)"}},
		{
			"index without the project", `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey, ADD UNIQUE (endpoint, key)`,
			[]string{"no unique index on exactly", "is unique on (endpoint, key)"},
		},
		{
			"index with one column more", `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey, ADD UNIQUE (project, endpoint, key, created_at)`,
			[]string{"no unique index on exactly"},
		},
		{
			"index on an expression", `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey; CREATE UNIQUE INDEX e ON idem.keys (project, endpoint, lower(key))`,
			[]string{"no unique index on exactly", "unique on (project, endpoint, (expression))"},
		},
		{"index that is not unique", `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey; CREATE INDEX n ON idem.keys (project, endpoint, key)`, []string{"index idem.n", "is not unique"}},
		{
			"invalid index", `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey; CREATE UNIQUE INDEX i ON idem.keys (project, endpoint, key);
			UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idem.i'::regclass`, []string{"index idem.i", "is invalid"},
		},
		{"partial index", `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey; CREATE UNIQUE INDEX p ON idem.keys (project, endpoint, key) WHERE response_status < 500`, []string{"index idem.p", "is partial"}},
		{"deferrable constraint", `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey, ADD CONSTRAINT d UNIQUE (project, endpoint, key) DEFERRABLE`, []string{"index idem.d", "is deferrable"}},
		{"deferrable constraint beside the good one", `ALTER TABLE idem.keys ADD CONSTRAINT d UNIQUE (key, endpoint, project) DEFERRABLE`, []string{"index idem.d", "is deferrable", "drop it: ON CONFLICT fails"}},
		{"one more unique index", `CREATE UNIQUE INDEX k ON idem.keys (key)`, []string{"index idem.k is unique on (key)"}},
		{
			"index with a nondeterministic collation", nondeterministic + `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey;
			CREATE UNIQUE INDEX c ON idem.keys (project, endpoint, key COLLATE public.loose)`, []string{"index idem.c", "nondeterministic collation"},
		},
		{"unlogged", `ALTER TABLE idem.keys SET UNLOGGED`, []string{"idem.keys is UNLOGGED"}},
		{
			"partitioned by time", `DROP TABLE idem.keys; CREATE TABLE idem.keys (` + columnsOfKeys + `, UNIQUE (project, endpoint, key, created_at)) PARTITION BY RANGE (created_at);
			CREATE TABLE idem.p PARTITION OF idem.keys DEFAULT`, []string{"partitioned by RANGE (created_at)", "no unique index on exactly"},
		},
		{
			"partitioned by an expression", `DROP TABLE idem.keys; CREATE TABLE idem.keys (` + columnsOfKeys + `) PARTITION BY LIST (lower(project))`,
			[]string{"partitioned by LIST (lower(project))"},
		},
		{
			"sub-partitioned by time", `DROP TABLE idem.keys; CREATE TABLE idem.keys (` + columnsOfKeys + `) PARTITION BY HASH (project);
			CREATE TABLE idem.p PARTITION OF idem.keys FOR VALUES WITH (MODULUS 1, REMAINDER 0) PARTITION BY RANGE (created_at)`, []string{"idem.p is partitioned by RANGE (created_at)"},
		},
		{
			"an unlogged partition", `DROP TABLE idem.keys; CREATE TABLE idem.keys (` + columnsOfKeys + `, PRIMARY KEY (project, endpoint, key)) PARTITION BY HASH (project);
			CREATE UNLOGGED TABLE idem.p PARTITION OF idem.keys FOR VALUES WITH (MODULUS 1, REMAINDER 0)`, []string{"idem.p is UNLOGGED"},
		},
		{
			"a trigger on a partition", `DROP TABLE idem.keys; CREATE TABLE idem.keys (` + columnsOfKeys + `, PRIMARY KEY (project, endpoint, key)) PARTITION BY HASH (project);
			CREATE TABLE idem.p PARTITION OF idem.keys FOR VALUES WITH (MODULUS 1, REMAINDER 0);
			CREATE FUNCTION public.drop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
			CREATE TRIGGER tg BEFORE INSERT ON idem.p FOR EACH ROW EXECUTE FUNCTION public.drop()`, []string{"idem.p has trigger tg"},
		},
		{
			"nondeterministic project", nondeterministic + `ALTER TABLE idem.keys ALTER project TYPE text COLLATE public.loose`,
			[]string{`column project has the nondeterministic collation "loose"`},
		},
		{
			"nondeterministic endpoint and key", nondeterministic + `ALTER TABLE idem.keys ALTER endpoint TYPE text COLLATE public.loose, ALTER key TYPE text COLLATE public.loose`,
			[]string{"column endpoint has", "column key has"},
		},
		{
			"triggers", `CREATE FUNCTION public.drop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
			CREATE TRIGGER one BEFORE INSERT ON idem.keys FOR EACH ROW EXECUTE FUNCTION public.drop();
			CREATE TRIGGER two AFTER DELETE ON idem.keys EXECUTE FUNCTION public.drop()`, []string{"idem.keys has triggers one, two"},
		},
		{"a rule", `CREATE RULE r AS ON INSERT TO idem.keys DO INSTEAD NOTHING`, []string{"idem.keys has rule r"}},
		{"a missing column", `ALTER TABLE idem.keys DROP response_header`, []string{"column response_header is missing"}},
		{"a nullable column", `ALTER TABLE idem.keys ALTER response_body DROP NOT NULL`, []string{"column response_body may be NULL"}},
		{"varchar", `ALTER TABLE idem.keys ALTER key TYPE varchar(40)`, []string{"column key is of type character varying(40), not text"}},
		{"char", `ALTER TABLE idem.keys ALTER endpoint TYPE char(40)`, []string{"column endpoint is of type character(40), not text"}},
		{"timestamp without time zone", `ALTER TABLE idem.keys ALTER expires_at TYPE timestamp`, []string{"column expires_at is of type timestamp without time zone"}},
		{"a column that nothing fills", `ALTER TABLE idem.keys ADD tenant integer NOT NULL`, []string{"column tenant is NOT NULL without a default"}},
		{
			"a view", `ALTER TABLE idem.keys RENAME TO really; CREATE VIEW idem.keys AS SELECT * FROM idem.really`,
			[]string{"idem.keys is a view", "may be NULL"},
		},
		{
			"several at once", `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey; ALTER TABLE idem.keys SET UNLOGGED; CREATE RULE r AS ON DELETE TO idem.keys DO INSTEAD NOTHING`,
			[]string{"no unique index", "UNLOGGED", "rule r"},
		},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			for sql := range strings.SplitSeq(c.sql, ";\n") {
				_, err := pool.Exec(t.Context(), sql) // without arguments: several statements in one are fine
				noError(t, err)
			}
			err := idem.Check(t.Context(), pool)
			want(t, err, idem.ErrUnsafeSchema)
			for _, says := range c.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("the error does not say %q:\n%v", says, err)
				}
			}
			joined, ok := err.(interface{ Unwrap() []error })
			if !ok {
				t.Fatalf("not joined: %T", err)
			}
			for _, one := range joined.Unwrap() {
				if e, ok := errors.AsType[*idem.Error](one); !ok || e.Hint == "" || e.Op != "check" {
					t.Errorf("finding without a hint: %v", one)
				}
			}
		})
	}
}

// What looks unusual and keeps the promise all the same.
func TestCheck_harmless(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, sql string }{
		{
			"partitioned by hash of project", `DROP TABLE idem.keys; CREATE TABLE idem.keys (` + columnsOfKeys + `, PRIMARY KEY (project, endpoint, key)) PARTITION BY HASH (project);
			CREATE TABLE idem.p PARTITION OF idem.keys FOR VALUES WITH (MODULUS 1, REMAINDER 0)`,
		},
		{
			"partitioned by list of project", `DROP TABLE idem.keys; CREATE TABLE idem.keys (` + columnsOfKeys + `, PRIMARY KEY (project, endpoint, key)) PARTITION BY LIST (project);
			CREATE TABLE idem.p PARTITION OF idem.keys DEFAULT`,
		},
		{"key columns in another order", `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey; CREATE UNIQUE INDEX ON idem.keys (key, project, endpoint) INCLUDE (expires_at)`},
		{"one more column", `ALTER TABLE idem.keys ADD note text, ADD n integer NOT NULL DEFAULT 0`},
		{"one more index", `CREATE INDEX ON idem.keys (created_at); CREATE UNIQUE INDEX ON idem.keys (project, endpoint, key, created_at)`},
		{
			"a trigger on TRUNCATE", `CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
			CREATE TRIGGER t BEFORE TRUNCATE ON idem.keys EXECUTE FUNCTION public.no()`,
		},
		{
			"a disabled trigger", `CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
			CREATE TRIGGER t BEFORE INSERT ON idem.keys EXECUTE FUNCTION public.no(); ALTER TABLE idem.keys DISABLE TRIGGER t`,
		},
		{"a table called keys elsewhere", `CREATE TABLE public.keys (key text); CREATE TEMP TABLE keys (key text)`},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			_, err := pool.Exec(t.Context(), c.sql)
			noError(t, err)
			noError(t, idem.Check(t.Context(), pool))
			var n counter
			_, err = do(t.Context(), pool, keyFor("k"), n.order("k"))
			noError(t, err)
			if res := reap(t, idem.Reaper{DB: pool}); res.Skipped != "" {
				t.Errorf("%+v", res)
			}
		})
	}
}

func TestCheck_errors(t *testing.T) {
	t.Parallel()
	want(t, idem.Check(t.Context(), nil), idem.ErrInvalidCall)
	pool := connect(t, pgtest.Empty(t))
	err := idem.Check(t.Context(), pool)
	want(t, err, idem.ErrNoSchema)
	if !strings.Contains(err.Error(), "idem migrate up") {
		t.Errorf("no hint: %v", err)
	}
	_, err = pool.Exec(t.Context(), `CREATE SCHEMA idem`)
	noError(t, err)
	want(t, idem.Check(t.Context(), pool), idem.ErrNoSchema)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	want(t, idem.Check(ctx, pool), context.Canceled)
}
