package provider

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// downloader fetches server binaries, the last resort. The archive stays in the
// user's cache directory; what is unpacked from it lies where an unprivileged
// user can run it, since the server refuses to run as root, and goes with remove.
type downloader struct{ dir string }

func (d *downloader) remove() error { return os.RemoveAll(d.dir) } // "" removes nothing

func (d *downloader) download(context.Context) (binDir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	if d.dir, err = os.MkdirTemp("", "pgidem-embedded-"); err != nil {
		return "", err
	}
	if err := os.Chmod(d.dir, 0o755); err != nil {
		return "", err
	}
	port, err := freePort()
	if err != nil {
		return "", err
	}
	server := embedded.NewDatabase(embedded.DefaultConfig().
		CachePath(filepath.Join(cache, "pgidem", "embedded")).
		BinariesPath(d.dir).
		RuntimePath(filepath.Join(d.dir, "run")).
		Port(port).
		Logger(io.Discard))
	// It cannot fetch without starting. As root the start fails, after the fetch.
	startErr := server.Start()
	if startErr == nil {
		startErr = server.Stop()
	}
	err = os.RemoveAll(filepath.Join(d.dir, "run"))
	binDir = filepath.Join(d.dir, "bin")
	if _, statErr := os.Stat(filepath.Join(binDir, "initdb")); statErr != nil {
		return "", errors.Join(startErr, statErr)
	}
	return binDir, err
}

func freePort() (uint32, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return uint32(l.Addr().(*net.TCPAddr).Port), nil
}
