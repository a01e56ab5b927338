//go:build unix

package localpg

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// nothingElse hides every server and every way to start one from a test.
func nothingElse(t *testing.T) {
	t.Helper()
	t.Setenv(EnvURL, "")
	t.Setenv(EnvBinDir, "")
	t.Setenv("PATH", t.TempDir())
	dirs := installDirs
	installDirs = nil
	t.Cleanup(func() { installDirs = dirs })
}

func TestNoDatabase(t *testing.T) {
	nothingElse(t)
	_, err := Start(t.Context(), Options{})
	if !errors.Is(err, ErrNoDatabase) {
		t.Fatal(err)
	}
	for _, want := range []string{EnvURL, "install PostgreSQL", "start Docker", "no docker command"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the message does not name %q: %v", want, err)
		}
	}
	_, err = Start(t.Context(), Options{Private: true})
	if !errors.Is(err, ErrNoDatabase) || strings.Contains(err.Error(), "or set "+EnvURL) {
		t.Errorf("a private server: %v", err)
	}
	cause := errors.New("no network")
	_, err = Start(t.Context(), Options{Download: func(context.Context) (string, error) { return "", cause }})
	if !errors.Is(err, ErrNoDatabase) || !errors.Is(err, cause) {
		t.Errorf("a failed download: %v", err)
	}
	t.Setenv(EnvBinDir, t.TempDir())
	if _, err := Start(t.Context(), Options{}); !errors.Is(err, ErrNoDatabase) || !strings.Contains(err.Error(), EnvBinDir) {
		t.Errorf("a wrong directory: %v", err)
	}
}

func TestDownloadedBinaries(t *testing.T) {
	who, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := findBinaries(t.Context(), who)
	if err != nil || bin == "" {
		t.Fatalf("%q, %v", bin, err)
	}
	nothingElse(t)
	s := start(t, Options{Download: func(context.Context) (string, error) { return bin, nil }})
	if s.Source() != sourceDownload || s.Pid() == 0 {
		t.Errorf("source %q, pid %d", s.Source(), s.Pid())
	}
}

func TestFindBinaries(t *testing.T) {
	who, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	// t.TempDir is closed to other users when root makes it; programs are not kept there.
	for dir := base; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	install := func(dir string) string {
		dir = filepath.Join(base, dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"initdb", "postgres"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return resolve(dir)
	}
	find := func(want string) {
		t.Helper()
		if got, err := findBinaries(t.Context(), who); got != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	nothingElse(t)
	find("")

	install("pg/9.6/bin")
	install("pg/15/bin")
	newest := install("pg/16/bin")
	installDirs = []string{filepath.Join(base, "pg/*/bin")}
	find(newest)

	if who != nil {
		closed := filepath.Dir(install("pg/17/bin"))
		if err := os.Chmod(closed, 0o700); err != nil {
			t.Fatal(err)
		}
		find(newest) // as somebody else, 17 cannot be run
	}

	// Links in a directory of PATH lead to the real place.
	real, path := install("real/bin"), filepath.Join(base, "path")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"initdb", "postgres"} {
		if err := os.Symlink(filepath.Join(real, name), filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", path)
	find(real)

	named := install("named")
	t.Setenv(EnvBinDir, named)
	find(named)
}

func TestNewestFirst(t *testing.T) {
	t.Parallel()
	got := []string{"/p/9.6/bin", "/p/16/bin", "/p/15/bin", "/p/10/bin"}
	slices.SortFunc(got, newestFirst)
	if want := []string{"/p/16/bin", "/p/15/bin", "/p/10/bin", "/p/9.6/bin"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
