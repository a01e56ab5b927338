package migrations_test

import (
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
	"github.com/pgidem/pgidem/migrations"
)

// objects counts what is in the schema idem.
const objects = `SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('idem'))
	+ (SELECT count(*) FROM pg_proc WHERE pronamespace = to_regnamespace('idem')) + (SELECT count(*) FROM pg_namespace WHERE nspname = 'idem')`

func TestProvider_case102_upDownUp(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	pool := open(t, url)
	p, err := goose.NewProvider(goose.DialectPostgres, openSQL(t, url), migrations.FS, goose.WithTableName(migrations.VersionTable))
	noError(t, err)
	files, err := fs.Glob(migrations.FS, "*.sql")
	noError(t, err)
	var made int
	for round := range 2 {
		up, err := p.Up(t.Context())
		noError(t, err)
		if len(up) != len(files) {
			t.Errorf("round %d: %d of %d applied", round, len(up), len(files))
		}
		noError(t, idem.Check(t.Context(), pool))
		n := count(t, pool, objects)
		if round > 0 && n != made {
			t.Errorf("%d objects the first time, %d the second", made, n)
		}
		made = n
		// One at a time: each undoes itself and nothing else.
		for range files {
			_, err := p.Down(t.Context())
			noError(t, err)
		}
		if n := count(t, pool, objects); n != 0 {
			t.Errorf("round %d: %d objects left after down", round, n)
		}
	}
}

// Down stops at what is not ours.
func TestProvider_downKeepsOthers(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	pool := open(t, url)
	exec(t, pool, `CREATE TABLE idem.mine ()`)
	p, err := goose.NewProvider(goose.DialectPostgres, openSQL(t, url), migrations.FS, goose.WithTableName(migrations.VersionTable))
	noError(t, err)
	if _, err := p.DownTo(t.Context(), 0); err == nil {
		t.Fatal("the schema went with somebody else's table in it")
	}
	if n := count(t, pool, `SELECT count(*) FROM pg_class WHERE oid IN (to_regclass('idem.mine'), to_regclass('idem.keys'))`); n != 2 {
		t.Errorf("%d of 2 tables left", n)
	}
}

// ofAnApplication are migrations with the same version numbers.
var ofAnApplication = fstest.MapFS{
	"00001_orders.sql": {Data: []byte("-- +goose Up\nCREATE TABLE public.orders ();\n-- +goose Down\nDROP TABLE public.orders;\n")},
	"00002_more.sql":   {Data: []byte("-- +goose Up\nCREATE TABLE public.more ();\n-- +goose Down\nDROP TABLE public.more;\n")},
	"00003_most.sql":   {Data: []byte("-- +goose Up\nCREATE TABLE public.most ();\n-- +goose Down\nDROP TABLE public.most;\n")},
}

func TestProvider_case102_besideAnApplication(t *testing.T) {
	t.Parallel()
	for _, oursFirst := range []bool{true, false} {
		url := pgtest.Empty(t)
		pool, db := open(t, url), openSQL(t, url)
		ours, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithTableName(migrations.VersionTable))
		noError(t, err)
		theirs, err := goose.NewProvider(goose.DialectPostgres, db, ofAnApplication)
		noError(t, err)
		order := []*goose.Provider{theirs, ours}
		if oursFirst {
			order = []*goose.Provider{ours, theirs}
		}
		for _, p := range order {
			_, err := p.Up(t.Context())
			noError(t, err)
		}
		noError(t, idem.Check(t.Context(), pool))
		if n := count(t, pool, `SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename IN ('orders', 'more', 'most')`); n != 3 {
			t.Errorf("%d of the application's 3 tables", n)
		}
	}
}

// What VersionTable is for: with one version table for both, goose skips these files and says nothing.
func TestProvider_sharedVersionTable(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	pool, db := open(t, url), openSQL(t, url)
	theirs, err := goose.NewProvider(goose.DialectPostgres, db, ofAnApplication)
	noError(t, err)
	_, err = theirs.Up(t.Context())
	noError(t, err)
	ours, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS)
	noError(t, err)
	applied, err := ours.Up(t.Context())
	if err != nil || len(applied) != 0 {
		t.Fatalf("goose does not skip them any more (%d applied, %v): say so in the documentation", len(applied), err)
	}
	if err := idem.Check(t.Context(), pool); err == nil || !strings.Contains(err.Error(), "idem migrate up") {
		t.Errorf("Check finds nothing: %v", err)
	}
}

func TestProvider_case103_fourAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	var wg sync.WaitGroup
	applied, errs := make([]int, 4), make([]error, 4)
	for i := range 4 {
		db := openSQL(t, url)
		wg.Go(func() {
			locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120))
			if err != nil {
				errs[i] = err
				return
			}
			p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithTableName(migrations.VersionTable), goose.WithSessionLocker(locker))
			if err != nil {
				errs[i] = err
				return
			}
			up, err := p.Up(t.Context())
			applied[i], errs[i] = len(up), err
		})
	}
	wg.Wait()
	var busy int
	for i := range 4 {
		noError(t, errs[i])
		if applied[i] != 0 {
			busy++
		}
	}
	if busy != 1 {
		t.Errorf("%d of 4 applied something: %v", busy, applied)
	}
	noError(t, idem.Check(t.Context(), open(t, url)))
}

// The line of the package's documentation, as it stands there, run by a shell at the root of the module.
func TestByHand(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("migrations.go")
	noError(t, err)
	line := regexp.MustCompile(`(?m)^//\t(for f in migrations/.*)$`).FindSubmatch(source)
	if line == nil {
		t.Fatal("the documentation of package migrations has no line that begins with: for f in migrations/")
	}
	psql := findPsql(t)
	url := pgtest.Empty(t)
	// #nosec G204 -- the documentation's own line
	cmd := osexec.CommandContext(t.Context(), "sh", "-c", string(line[1]))
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(psql)+string(os.PathListSeparator)+os.Getenv("PATH"), "DATABASE_URL="+url)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pool := open(t, url)
	noError(t, idem.Check(t.Context(), pool))
	exec(t, pool, `CALL idem.reap()`)
}

func findPsql(t testing.TB) string {
	if path, err := osexec.LookPath("psql"); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
	if len(found) == 0 {
		t.Skip("no psql on this machine")
	}
	return found[len(found)-1]
}
