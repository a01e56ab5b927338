package localpg

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// initData makes the data directory: a copy of the cached one, or by initdb, which
// takes four times as long. The cache only saves time: whatever is wrong with it,
// the server starts.
func (c *cluster) initData(ctx context.Context) error {
	version, err := c.run(ctx, "postgres", "--version")
	if err != nil {
		return fmt.Errorf("localpg: %s: %w", program(c.bin, "postgres"), err)
	}
	flags := initFlags(version)
	cache, err := openCache()
	if err != nil {
		c.opts.Logger.Debug("localpg: no cache of data directories", "error", err)
		return c.initdb(ctx, flags)
	}
	defer cache.Close()
	key := cacheKey(version, c.bin, flags)
	err = fromCache(cache, key, c.data, c.who)
	if err == nil {
		return nil
	}
	c.opts.Logger.Debug("localpg: no cached data directory", "reason", err)
	if err := os.RemoveAll(c.data); err != nil {
		return err
	}
	if err := c.initdb(ctx, flags); err != nil {
		return err
	}
	if err := toCache(cache, key, c.data); err != nil {
		c.opts.Logger.Debug("localpg: data directory not cached", "error", err)
	}
	return nil
}

func initFlags(version string) []string {
	flags := []string{"-A", "trust", "-U", superuser, "-N", "--locale=C", "-E", "UTF8"}
	// "postgres (PostgreSQL) 15.14 (Debian …)". --wal-segsize came with 11: files of
	// 1 MB make the directory small.
	if n := numbers(version); len(n) > 0 && n[0] >= 11 {
		flags = append(flags, "--wal-segsize=1")
	}
	return flags
}

func (c *cluster) initdb(ctx context.Context, flags []string) error {
	out, err := c.run(ctx, "initdb", append(flags, "-D", c.data)...)
	if err != nil {
		return fmt.Errorf("localpg: initdb: %w\n%s", err, out)
	}
	return nil
}

// run runs a server program to its end. It dies with us, and with ctx.
func (c *cluster) run(ctx context.Context, name string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := c.command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second // for children of a killed initdb that hold the pipe
	p, err := spawn(cmd, syscall.SIGKILL)
	if err != nil {
		return "", err
	}
	select {
	case <-p.done:
		return strings.TrimSpace(out.String()), p.err
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-p.done
		return "", ctx.Err()
	}
}

// cacheKey names what the content depends on. The place of the binaries is part
// of it: two builds of one version need not agree on their files.
func cacheKey(version, bin string, flags []string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "1\x00%s\x00%s\x00%s\x00%s\x00%q", runtime.GOOS, runtime.GOARCH, version, bin, flags))
	return fmt.Sprintf("data-%x", sum[:8])
}

// openCache opens the directory of cached data directories. Whoever could write to
// it could have a server of ours run code, so it must be only ours. The check
// is on the open directory: what is behind the name may be exchanged.
func openCache() (*os.Root, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	// The user id is in the name, so that sudo -E leaves nothing in the way.
	dir = filepath.Join(dir, fmt.Sprintf("pgidem-localpg-%d", os.Geteuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err == nil && !onlyOurs(info) {
		err = fmt.Errorf("%s can be written by others", dir)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// manifest tells a complete copy from one that lost files, by a crash of the
// machine for instance: nothing here is synced.
type manifest struct {
	Files int
	Bytes int64
}

const manifestName = "pgidem-manifest.json" // beside the tree

func fromCache(cache *os.Root, key, dst string, who *account) error {
	entry, err := cache.OpenRoot(key)
	if err != nil {
		return err
	}
	defer entry.Close()
	if info, err := entry.Stat("."); err != nil || !onlyOurs(info) {
		return errors.Join(err, errors.New("the cached directory can be written by others"))
	}
	var want manifest
	data, err := entry.ReadFile(manifestName)
	if err == nil {
		err = json.Unmarshal(data, &want)
	}
	var got manifest
	if err == nil {
		var tree *os.Root
		if tree, err = entry.OpenRoot("data"); err == nil {
			got, err = copyTree(dst, tree, who)
			tree.Close()
		}
	}
	if err == nil && got == want {
		return nil
	}
	// Of no use to anybody: make room for a good one.
	return errors.Join(err, fmt.Errorf("the cached directory is incomplete: %+v of %+v", got, want), cache.RemoveAll(key))
}

// toCache adds a copy. It appears under its name complete or not at all; of two
// processes that do this at once, one is first and the other's copy is dropped.
func toCache(cache *os.Root, key, src string) error {
	sweepCache(cache)
	tmp := "tmp-" + randomHex(8)
	if err := cache.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	err := fillEntry(cache, tmp, src)
	if err == nil {
		err = cache.Rename(tmp, key)
	}
	if err == nil {
		return nil
	}
	return errors.Join(err, cache.RemoveAll(tmp))
}

func fillEntry(cache *os.Root, name, src string) error {
	tree, err := os.OpenRoot(src)
	if err != nil {
		return err
	}
	defer tree.Close()
	made, err := copyTree(filepath.Join(cache.Name(), name, "data"), tree, nil)
	if err != nil {
		return err
	}
	data, err := json.Marshal(made)
	if err != nil {
		return err
	}
	return cache.WriteFile(filepath.Join(name, manifestName), data, 0o600)
}

// sweepCache removes what a process that died while copying has left.
func sweepCache(cache *os.Root) {
	dir, err := cache.Open(".")
	if err != nil {
		return
	}
	defer dir.Close()
	entries, _ := dir.ReadDir(-1)
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), "tmp-") && time.Since(info.ModTime()) > time.Hour {
			_ = cache.RemoveAll(e.Name())
		}
	}
}
