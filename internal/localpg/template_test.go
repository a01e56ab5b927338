//go:build unix

package localpg

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cacheIn moves the user's cache directory and returns where the entries will be.
func cacheIn(t *testing.T) (entries func() []string, env []string) {
	t.Helper()
	home := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CACHE_HOME"} {
		t.Setenv(name, home)
		env = append(env, name+"="+home)
	}
	entries = func() []string {
		cache, err := openCache()
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		all, err := filepath.Glob(filepath.Join(cache.Name(), "*"))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	return entries, env
}

// prepareLogged makes a data directory, removes it, and returns what was logged.
func prepareLogged(t *testing.T) string {
	t.Helper()
	var log bytes.Buffer
	o := Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	from, err := find(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	made, err := from.engine(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := made.remove(false); err != nil {
		t.Fatal(err)
	}
	return log.String()
}

const missed = "no cached data directory"

func TestCacheIsFilledByManyAtOnce(t *testing.T) {
	entries, env := cacheIn(t)
	done := make(chan *childProgram)
	const programs = 3
	for range programs {
		go func() { done <- startChild(t, "stop", env...) }()
	}
	for range programs {
		p := <-done
		p.stdin.Close()
		if err := p.cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if got := entries(); len(got) != 1 || !strings.HasPrefix(filepath.Base(got[0]), "data-") {
		t.Fatalf("the cache holds %q", got)
	}
	if log := prepareLogged(t); strings.Contains(log, missed) {
		t.Errorf("the cache was not used: %s", log)
	}
	connect(t, start(t, Options{}).URL("")) // what it holds serves
}

func TestCacheIsNotTrustedBlindly(t *testing.T) {
	entries, _ := cacheIn(t)
	if log := prepareLogged(t); !strings.Contains(log, missed) {
		t.Fatalf("the cache is not empty: %s", log)
	}
	entry := entries()[0]
	for _, test := range []struct {
		name   string
		change func() error
		back   func() error
		reason string
	}{
		{
			"a file was lost", func() error { return os.Remove(filepath.Join(entry, "data", "PG_VERSION")) },
			nil, "incomplete",
		},
		{
			"a file is empty", func() error { return os.Truncate(filepath.Join(entry, "data", "PG_VERSION"), 0) },
			nil, "incomplete",
		},
		{
			"a link", func() error { return os.Symlink("/etc/passwd", filepath.Join(entry, "data", "link")) },
			nil, "neither a file nor a directory",
		},
		{
			"others can write the entry", func() error { return os.Chmod(entry, 0o777) },
			func() error { return os.Chmod(entry, 0o700) }, "can be written by others",
		},
		{
			"others can write the cache", func() error { return os.Chmod(filepath.Dir(entry), 0o777) },
			func() error { return os.Chmod(filepath.Dir(entry), 0o700) }, "can be written by others",
		},
		{
			"another user's cache", func() error { return chownIfRoot(filepath.Dir(entry), 65534) },
			func() error { return chownIfRoot(filepath.Dir(entry), 0) }, "can be written by others",
		},
	} {
		if strings.HasPrefix(test.name, "another user") && os.Geteuid() != 0 {
			continue
		}
		if err := test.change(); err != nil {
			t.Fatal(err)
		}
		if log := prepareLogged(t); !strings.Contains(log, test.reason) {
			t.Errorf("%s: it was used: %s", test.name, log)
		}
		if test.back != nil {
			if err := test.back(); err != nil {
				t.Fatal(err)
			}
		}
		if log := prepareLogged(t); strings.Contains(log, missed) {
			t.Errorf("%s: the cache was not made good: %s", test.name, log)
		}
		if got := entries(); len(got) != 1 {
			t.Errorf("%s: the cache holds %q", test.name, got)
		}
	}
}

func chownIfRoot(path string, uid int) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Chown(path, uid, -1)
}
