package database

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const downloadVersion = embeddedpostgres.V18

// download fetches a server by embedded-postgres and returns the directory of its programs. It is the last resort of a
// machine with neither PostgreSQL nor Docker, and is done once per machine.
func download(ctx context.Context) (binDir string, err error) {
	if os.Geteuid() == 0 {
		return "", errors.New("embedded-postgres cannot run as root: try as another user")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	base := filepath.Join(cache, "pgidem", "embedded-postgres-"+string(downloadVersion))
	binDir = filepath.Join(base, "server", "bin")
	complete := filepath.Join(base, "complete")
	if _, err := os.Stat(complete); err == nil {
		return binDir, nil
	}

	// The package fetches as part of starting a server, so one is started, and stopped at once.
	scratch, err := os.MkdirTemp("", "pgidem-download-")
	if err != nil {
		return "", err
	}
	port, err := freePort()
	if err != nil {
		return "", err
	}
	done := make(chan error, 1)
	go func() { // it takes no context
		defer os.RemoveAll(scratch)
		pg := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
			Version(downloadVersion).
			Port(port).
			CachePath(filepath.Join(base, "archive")).
			BinariesPath(filepath.Join(base, "server")).
			RuntimePath(scratch).
			StartTimeout(time.Minute).
			Logger(io.Discard))
		err := pg.Start()
		if err == nil {
			err = pg.Stop()
		}
		done <- err
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case err := <-done:
		if err != nil {
			return "", fmt.Errorf("embedded-postgres %s for %s/%s: %w", downloadVersion, runtime.GOOS, runtime.GOARCH, err)
		}
	}
	return binDir, os.WriteFile(complete, nil, 0o600)
}

func freePort() (uint32, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return uint32(l.Addr().(*net.TCPAddr).Port), nil
}
