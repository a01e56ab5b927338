// Package provider decides which PostgreSQL the tests run on, and gives every
// test a database of its own on it.
//
// IDEM_TEST_PROVIDER forces one; a forced one that is missing is a failure:
//
//   - docker: a container made by testcontainers-go from IDEM_TEST_IMAGE, which
//     defaults to postgres:18-alpine and is pulled where it is missing;
//   - local: a private cluster from this machine's server binaries, and where
//     there are none, from downloaded ones;
//   - url: the server that IDEM_DATABASE_URL names.
//
// Without it: url when IDEM_DATABASE_URL is set, docker when an engine answers
// and has the image already, else local.
package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

// Names of the environment variables that this package reads.
const (
	EnvProvider = "IDEM_TEST_PROVIDER"
	EnvImage    = localpg.EnvImage
)

const (
	docker = "docker"
	local  = "local"
	url    = "url"
)

const startTimeout = 5 * time.Minute // an image may have to be pulled

// chosen is what Main has decided. It is set before the tests run.
var chosen string

// Main runs the tests with the server that was chosen and returns the exit code.
// migrate prepares the database that New copies.
func Main(m *testing.M, migrate func(ctx context.Context, url string) error) int {
	if os.Getenv(pgtest.EnvSkip) == "1" {
		return pgtest.Main(m, localpg.Options{}, nil)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	stop, err := choose(ctx)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "provider:", err)
		return 1
	}
	var fetched downloader
	options := localpg.Options{
		TCP:      true,            // a proxy and PgBouncer stand in front of it
		Private:  chosen == local, // IDEM_DATABASE_URL is not meant then
		Download: fetched.download,
	}
	code := pgtest.Main(m, options, migrate)
	if err := errors.Join(stop(), fetched.remove()); err != nil {
		fmt.Fprintln(os.Stderr, "provider: stop:", err)
		code = max(code, 1)
	}
	return code
}

// choose sets chosen and starts what has to be started.
func choose(ctx context.Context) (stop func() error, err error) {
	nothing := func() error { return nil }
	forced := os.Getenv(EnvProvider)
	image := cmp.Or(os.Getenv(EnvImage), localpg.DefaultImage)
	switch forced {
	case "":
		switch {
		case os.Getenv(localpg.EnvURL) != "":
			chosen = url
		case engineHas(ctx, image):
			chosen = docker
		default:
			chosen = local
		}
	case docker, local, url:
		chosen = forced
	default:
		return nil, fmt.Errorf("%s=%q: say docker, local or url", EnvProvider, forced)
	}
	switch chosen {
	case url:
		if os.Getenv(localpg.EnvURL) == "" {
			return nil, fmt.Errorf("%s=url needs %s", EnvProvider, localpg.EnvURL)
		}
	case docker:
		dsn, stop, err := startContainer(ctx, image)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", image, err)
		}
		// From here on it is a server like any other that somebody names.
		return stop, os.Setenv(localpg.EnvURL, dsn)
	}
	return nothing, nil
}

// New returns the DSN of a new, migrated database, reached by TCP. It goes with the test.
func New(t testing.TB) string {
	t.Helper()
	check(t)
	return pgtest.New(t)
}

// Empty is New without migrations.
func Empty(t testing.TB) string {
	t.Helper()
	check(t)
	return pgtest.Empty(t)
}

// check fails the test when the server is not from where it was forced to be.
func check(t testing.TB) {
	t.Helper()
	sources := map[string][]string{docker: {"url"}, url: {"url"}, local: {"binaries", "download"}}
	source := pgtest.Shared(t).Source()
	if os.Getenv(EnvProvider) != "" && !slices.Contains(sources[chosen], source) {
		t.Fatalf("%s=%s, but the server is from %s: want %s", EnvProvider, chosen, source, strings.Join(sources[chosen], " or "))
	}
}
