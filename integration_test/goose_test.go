package integration

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/integration_test/internal/provider"
	"github.com/pgidem/pgidem/migrations"
)

// envGoose names a goose command to use in place of the one that is built here.
const envGoose = "IDEM_TEST_GOOSE"

// goose is the real command, of the version in go.mod, without the drivers of other
// databases.
var goose = sync.OnceValues(func() (path string, err error) {
	if path := os.Getenv(envGoose); path != "" {
		return exec.LookPath(path)
	}
	version, err := command("go", "list", "-m", "-f", "{{.Version}}", "github.com/pressly/goose/v3")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "pgidem-goose-")
	if err != nil {
		return "", err
	}
	gooseDir = dir
	install := exec.Command("go", "install",
		"-tags=no_azuresql no_clickhouse no_duckdb no_libsql no_mssql no_mysql no_spanner no_sqlite3 no_starrocks no_turso no_vertica no_ydb",
		"github.com/pressly/goose/v3/cmd/goose@"+version)
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOWORK=off", "GOFLAGS=")
	if out, err := install.CombinedOutput(); err != nil {
		return "", &commandError{err, string(out)}
	}
	name := "goose"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(dir, name), nil
})

var gooseDir string // what TestMain removes

type commandError struct {
	error
	out string
}

func (e *commandError) Error() string { return e.error.Error() + "\n" + e.out }

func command(name string, args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", &commandError{err, stderr.String()}
	}
	return strings.TrimSpace(string(out)), nil
}

// runGoose runs one goose command as an operator does and returns what it printed.
func runGoose(t *testing.T, url, table, dir string, args ...string) string {
	t.Helper()
	path, err := goose()
	if err != nil {
		t.Fatalf("the goose command: %v\n(%s=… names one that is there already)", err, envGoose)
	}
	cmd := exec.Command(path, append([]string{"-dir", dir, "-table", table, "postgres", url}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("goose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

const ours = "../migrations"

// Up, down, up again leaves what up leaves; down leaves nothing but goose's own table.
func TestGoose_case102_upDownUp(t *testing.T) {
	t.Parallel()
	url := provider.Empty(t)
	conn := connect(t, url)
	files := migrationFiles(t)
	empty := catalog(t, conn)

	runGoose(t, url, migrations.VersionTable, ours, "up")
	up := catalog(t, conn)
	if slices.Equal(up, empty) {
		t.Fatal("up has changed nothing")
	}
	for _, relation := range []string{"idem.keys"} {
		if !slices.ContainsFunc(up, func(line string) bool { return strings.HasPrefix(line, "relation "+relation+" ") }) {
			t.Errorf("the catalog has no %s:\n%s", relation, strings.Join(up, "\n"))
		}
	}
	if err := idem.Check(t.Context(), conn); err != nil {
		t.Errorf("Check after up: %v", err)
	}
	if status := runGoose(t, url, migrations.VersionTable, ours, "status"); strings.Contains(status, "Pending") || strings.Count(status, ".sql") != len(files) {
		t.Errorf("status after up of %d files:\n%s", len(files), status)
	}

	runGoose(t, url, migrations.VersionTable, ours, "down-to", "0")
	if down := without(catalog(t, conn), migrations.VersionTable); !slices.Equal(down, empty) {
		t.Errorf("down leaves:\n%s", difference(empty, down))
	}
	if status := runGoose(t, url, migrations.VersionTable, ours, "status"); strings.Count(status, "Pending") != len(files) {
		t.Errorf("status after down:\n%s", status)
	}

	runGoose(t, url, migrations.VersionTable, ours, "up")
	if again := catalog(t, conn); !slices.Equal(again, up) {
		t.Errorf("up after down differs:\n%s", difference(up, again))
	}
	// One by one as well.
	for range files {
		runGoose(t, url, migrations.VersionTable, ours, "down")
	}
	for range files {
		runGoose(t, url, migrations.VersionTable, ours, "up-by-one")
	}
	if again := catalog(t, conn); !slices.Equal(again, up) {
		t.Errorf("one by one, the result differs:\n%s", difference(up, again))
	}
	if err := idem.Check(t.Context(), conn); err != nil {
		t.Errorf("Check: %v", err)
	}
	run := 0
	resp, err := idem.Run(t.Context(), newPool(t, url, pgx.QueryExecModeCacheStatement, 1), newKey("op-1"), func(context.Context, pgx.Tx) (idem.Response, error) {
		run++
		return idem.JSON(200, run)
	})
	if err != nil || run != 1 {
		t.Errorf("Run after it: %+v, %v", resp, err)
	}
}

// An application migrates itself with goose too, with version numbers that collide
// with ours. Each has a version table, and both apply, in either order.
func TestGoose_case102_besideTheApplications(t *testing.T) {
	t.Parallel()
	app := t.TempDir()
	for name, content := range map[string]string{
		"00001_accounts.sql": "-- +goose Up\nCREATE TABLE accounts (id bigint PRIMARY KEY);\n-- +goose Down\nDROP TABLE accounts;\n",
		"00002_transfers.sql": "-- +goose Up\nCREATE TABLE transfers (id bigint PRIMARY KEY, account bigint REFERENCES accounts);\n" +
			"-- +goose Down\nDROP TABLE transfers;\n",
	} {
		if err := os.WriteFile(filepath.Join(app, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const appTable = "goose_db_version" // goose's default
	catalogs := map[bool][]string{}
	for _, oursFirst := range []bool{true, false} {
		url := provider.Empty(t)
		conn := connect(t, url)
		if oursFirst {
			runGoose(t, url, migrations.VersionTable, ours, "up")
			runGoose(t, url, appTable, app, "up")
		} else {
			runGoose(t, url, appTable, app, "up")
			runGoose(t, url, migrations.VersionTable, ours, "up")
		}
		catalogs[oursFirst] = catalog(t, conn)
		for _, relation := range []string{"idem.keys", "public.accounts", "public.transfers"} {
			if !slices.ContainsFunc(catalogs[oursFirst], func(line string) bool { return strings.HasPrefix(line, "relation "+relation+" ") }) {
				t.Errorf("ours first %t: %s is missing", oursFirst, relation)
			}
		}
		if err := idem.Check(t.Context(), conn); err != nil {
			t.Errorf("Check: %v", err)
		}
		// Ours down leaves the application's alone.
		runGoose(t, url, migrations.VersionTable, ours, "down-to", "0")
		left := catalog(t, conn)
		if slices.ContainsFunc(left, func(line string) bool { return strings.Contains(line, "idem.keys") }) ||
			!slices.ContainsFunc(left, func(line string) bool { return strings.HasPrefix(line, "relation public.transfers ") }) {
			t.Errorf("after our down:\n%s", strings.Join(left, "\n"))
		}
	}
	if !slices.Equal(catalogs[true], catalogs[false]) {
		t.Errorf("the order matters:\n%s", difference(catalogs[true], catalogs[false]))
	}
}

func migrationFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(ours + "/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files in %s: %v", len(files), ours, err)
	}
	return files
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// sqlCatalog describes everything in a database that a migration can make, one line
// per thing, without what differs from one creation to the next, such as OIDs.
const sqlCatalog = `
WITH spaces AS (
	SELECT oid, nspname, nspacl FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), relations AS (
	SELECT c.*, n.nspname, format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN spaces n ON n.oid = c.relnamespace
)
SELECT format('schema %s acl %s comment %s', nspname, nspacl, obj_description(oid, 'pg_namespace')) FROM spaces
UNION ALL
SELECT format('relation %s kind %s persistence %s options %s toast %s acl %s rls %s comment %s', name, relkind, relpersistence, reloptions,
              (SELECT t.reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid), relacl, relrowsecurity, obj_description(oid, 'pg_class'))
FROM relations c
UNION ALL
SELECT format('column %s.%s %s type %s null %s default %s collation %s storage %s comment %s', c.name, a.attname, a.attnum,
              format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attcollation::regcollation,
              a.attstorage, col_description(c.oid, a.attnum))
FROM relations c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
UNION ALL
SELECT format('constraint %s on %s %s', k.conname, c.name, pg_get_constraintdef(k.oid)) FROM pg_constraint k JOIN relations c ON c.oid = k.conrelid
UNION ALL
SELECT format('index %s valid %s', pg_get_indexdef(i.indexrelid), i.indisvalid) FROM pg_index i JOIN relations c ON c.oid = i.indexrelid
UNION ALL
SELECT format('trigger %s', pg_get_triggerdef(t.oid)) FROM pg_trigger t JOIN relations c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
UNION ALL
SELECT format('function %s acl %s comment %s', pg_get_functiondef(p.oid), p.proacl, obj_description(p.oid, 'pg_proc'))
FROM pg_proc p JOIN spaces n ON n.oid = p.pronamespace WHERE p.prokind IN ('f', 'p')
UNION ALL
SELECT format('type %s.%s %s', n.nspname, t.typname, t.typtype) FROM pg_type t JOIN spaces n ON n.oid = t.typnamespace
UNION ALL
SELECT format('extension %s', extname) FROM pg_extension`

func catalog(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, _ := conn.Query(t.Context(), sqlCatalog)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(lines, cmp.Compare[string])
	return lines
}

// without leaves out what belongs to a table of goose.
func without(lines []string, table string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return strings.Contains(line, table) })
}

// difference is for humans.
func difference(want, got []string) string {
	var b strings.Builder
	for _, line := range want {
		if !slices.Contains(got, line) {
			b.WriteString("- " + line + "\n")
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			b.WriteString("+ " + line + "\n")
		}
	}
	return cmp.Or(b.String(), "(the same lines, some of them more than once)")
}
