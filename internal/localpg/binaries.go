package localpg

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// installDirs are the places where packages put the server outside of PATH.
var installDirs = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/pgsql-*/bin",          // PostgreSQL's own RPMs
	"/usr/libexec/postgresql*",  // Alpine
	"/usr/lib/postgresql*/bin",  // SUSE
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/opt/local/lib/postgresql*/bin", // MacPorts
	"/usr/local/pgsql/bin",           // make install
	`C:\Program Files\PostgreSQL\*\bin`,
}

// findBinaries returns a directory from which who can run initdb and postgres, or "".
func findBinaries(ctx context.Context, who *account) (string, error) {
	if dir := os.Getenv(EnvBinDir); dir != "" {
		if !hasServer(dir, who) {
			return "", fmt.Errorf("localpg: %w: %s=%s, where initdb and postgres cannot be run%s", ErrNoDatabase, EnvBinDir, dir, who.as())
		}
		return resolve(dir), nil
	}
	for _, dir := range binaryDirs(ctx) {
		// A link in /usr/local/bin leads to a directory that holds everything;
		// a wrapper's directory may hold everything without being a link.
		for _, dir := range []string{resolve(dir), dir} {
			if hasServer(dir, who) {
				return dir, nil
			}
		}
	}
	return "", nil
}

func binaryDirs(ctx context.Context) []string {
	var dirs []string
	for _, name := range []string{"postgres", "initdb"} {
		if path, err := exec.LookPath(name); err == nil {
			dirs = append(dirs, filepath.Dir(resolve(path)), filepath.Dir(path))
		}
	}
	if path, err := exec.LookPath("pg_config"); err == nil {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if out, err := exec.CommandContext(ctx, path, "--bindir").Output(); err == nil {
			dirs = append(dirs, strings.TrimSpace(string(out)))
		}
	}
	for _, pattern := range installDirs {
		matches, _ := filepath.Glob(pattern)
		slices.SortFunc(matches, newestFirst)
		dirs = append(dirs, matches...)
	}
	return dirs
}

// newestFirst compares paths by the version in them: 16 before 15 before 9.6.
func newestFirst(a, b string) int {
	if c := slices.Compare(numbers(b), numbers(a)); c != 0 {
		return c
	}
	return strings.Compare(b, a)
}

func numbers(path string) []int {
	var all []int
	for _, digits := range strings.FieldsFunc(path, func(r rune) bool { return r < '0' || r > '9' }) {
		n, _ := strconv.Atoi(digits)
		all = append(all, n)
	}
	return all
}

func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

func hasServer(dir string, who *account) bool {
	for _, name := range []string{"initdb", "postgres"} {
		path := program(dir, name)
		info, err := os.Stat(path)
		if err != nil || info.IsDir() || !who.mayRun(path) {
			return false
		}
	}
	return true
}

func program(dir, name string) string {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(dir, name)
}
