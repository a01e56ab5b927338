package pgtest_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

// envChild turns on tests that are run by other tests only.
const envChild = "PGTEST_TEST_CHILD"

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, localpg.Options{}, migrate))
}

// migrate leaves a connection open, as a pool that is closed too late does.
func migrate(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `CREATE TABLE note (body text)`)
	return err
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func TestNew(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.New(t))
			if _, err := conn.Exec(t.Context(), `INSERT INTO note VALUES ('mine')`); err != nil {
				t.Fatal(err)
			}
			var n int
			if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM note`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n != 1 {
				t.Errorf("%d notes: databases are not separate", n)
			}
		})
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	if _, err := connect(t, pgtest.Empty(t)).Exec(t.Context(), `SELECT FROM note`); err == nil {
		t.Error("migrations have run")
	}
}

func TestDroppedInTheEnd(t *testing.T) {
	t.Parallel()
	var url string
	t.Run("user", func(t *testing.T) {
		url = pgtest.New(t)
		conn, err := pgx.Connect(t.Context(), url) // never closed
		if err != nil {
			t.Fatal(err)
		}
		forgotten = conn
	})
	if _, err := pgx.Connect(t.Context(), url); err == nil {
		t.Error("the database is still there")
	}
}

// forgotten keeps the connection of TestDroppedInTheEnd from being collected.
var forgotten any

func TestCluster(t *testing.T) {
	t.Parallel()
	server := pgtest.Cluster(t, localpg.Options{Durable: true})
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	connect(t, server.URL(""))
}

// rerun runs one test of this binary in another process.
func rerun(t *testing.T, test string, env ...string) (output string, ok bool) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), append(env, envChild+"=1")...)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

func TestWithoutDatabase(t *testing.T) {
	t.Parallel()
	none := []string{localpg.EnvURL + "=", localpg.EnvBinDir + "=" + t.TempDir(), pgtest.EnvSkip + "="}

	out, ok := rerun(t, "TestEmpty", none...)
	if ok || !strings.Contains(out, "--- FAIL: TestEmpty") || !strings.Contains(out, localpg.ErrNoDatabase.Error()) || !strings.Contains(out, pgtest.EnvSkip) {
		t.Errorf("a test without its database does not fail with a clear message:\n%s", out)
	}
	out, ok = rerun(t, "Test(Empty|Cluster)", append(none, pgtest.EnvSkip+"=1")...)
	if !ok || strings.Count(out, "--- SKIP") != 2 {
		t.Errorf("not skipped on request:\n%s", out)
	}
	out, ok = rerun(t, "TestNoNeed", none...)
	if !ok || !strings.Contains(out, "--- PASS: TestNoNeed") {
		t.Errorf("a test that needs no database needs one:\n%s", out)
	}
}

func TestNoNeed(t *testing.T) {
	if os.Getenv(envChild) == "" {
		t.Skip("run by TestWithoutDatabase")
	}
}

func TestFailing(t *testing.T) {
	if os.Getenv(envChild) == "" {
		t.Skip("run by TestKeep")
	}
	t.Logf("URL <%s>", pgtest.New(t))
	t.Fail()
}

func TestKeep(t *testing.T) {
	t.Parallel()
	dirOf := func(out string) string {
		_, rest, _ := strings.Cut(out, "URL <")
		dsn, _, _ := strings.Cut(rest, ">")
		u, err := url.Parse(dsn)
		if err != nil || u.Query().Get("host") == "" {
			t.Fatalf("%v:\n%s", err, out)
		}
		return u.Query().Get("host")
	}
	own := localpg.EnvURL + "="

	out, ok := rerun(t, "TestFailing", own, pgtest.EnvKeep+"=1", pgtest.EnvSkip+"=")
	dir := dirOf(out)
	t.Cleanup(func() { os.RemoveAll(dir) })
	if ok || !strings.Contains(out, "start the server again") || !strings.Contains(out, "kept postgres://") {
		t.Errorf("does not say what was kept:\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "PG_VERSION")); err != nil {
		t.Errorf("not kept: %v", err)
	}

	out, _ = rerun(t, "TestFailing", own, pgtest.EnvKeep+"=", pgtest.EnvSkip+"=")
	if _, err := os.Stat(dirOf(out)); !os.IsNotExist(err) {
		t.Errorf("kept without being asked: %v", err)
	}
}
