package localpg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
)

// Names of the environment variables that this package reads.
const (
	EnvURL    = "IDEM_DATABASE_URL" // DSN of a server on which databases may be created
	EnvBinDir = "IDEM_PG_BINDIR"    // directory of initdb and postgres
	EnvImage  = "IDEM_TEST_IMAGE"   // Docker image
)

// DefaultImage is the Docker image used unless IDEM_TEST_IMAGE names another.
const DefaultImage = "postgres:18-alpine"

// ErrNoDatabase says that there is neither a server nor a way to start one.
var ErrNoDatabase = errors.New("no PostgreSQL to be had")

// ErrUnsupported says that a server cannot be killed or started again, because
// it is not a server of our own: set [Options].Private.
var ErrUnsupported = errors.New("not possible with this server")

// Options say what kind of server [Start] starts. The zero value is a server for
// tests on a unix socket.
type Options struct {
	// TCP makes the server listen on a free port of 127.0.0.1 as well, and makes
	// [Server.URL] name that port. Every user of this machine can then log in as
	// the superuser. Defaults to the unix socket only, where there are such.
	TCP bool

	// Settings are server settings, name to value, over those that the package
	// chooses itself. A server named by IDEM_DATABASE_URL keeps its own settings
	// (a warning is logged); Private rules that out. Defaults to none.
	Settings map[string]string

	// Durable leaves fsync and full_page_writes on. Defaults to off: tests are
	// faster, and what a killed server wrote survives in the system's cache all
	// the same. Only the death of the machine makes a difference.
	Durable bool

	// Private asks for a server of our own, which [Server.Kill],
	// [Server.StopImmediate] and [Server.Restart] work on: IDEM_DATABASE_URL is
	// not considered. Defaults to false.
	Private bool

	// Download is asked last. It returns a directory with initdb and postgres, or
	// the DSN of a server that it has started (postgres://…). Defaults to none.
	Download func(ctx context.Context) (binDirOrURL string, err error)

	// LogFile receives what the server prints, after what the file holds already,
	// and is not removed. Defaults to a file that goes with the server; see [Server.Log].
	// Without effect with IDEM_DATABASE_URL and Docker.
	LogFile string

	// Logger receives what the package does, at level debug. Defaults to none.
	Logger *slog.Logger
}

// reserved settings decide where the server is found: they are the package's.
var reserved = []string{
	"port", "listen_addresses", "unix_socket_directories", "data_directory",
	"hba_file", "ident_file", "config_file", "external_pid_file",
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

func (o Options) check() error {
	for name := range o.Settings {
		if !settingName.MatchString(name) {
			return fmt.Errorf("localpg: %q is not the name of a setting", name)
		}
		if slices.Contains(reserved, name) {
			return fmt.Errorf("localpg: setting %s belongs to this package (to listen on TCP: Options.TCP)", name)
		}
	}
	return nil
}

// serverFlags returns the settings as -c flags, in a stable order.
func (o Options) serverFlags() []string {
	settings := map[string]string{
		"max_connections": "200",
		"shared_buffers":  "64MB",
		// Results do not depend on where the test runs.
		"timezone":     "UTC",
		"log_timezone": "UTC",
		// posix would leave segments in /dev/shm behind when the server is killed;
		// these are files in the data directory.
		"dynamic_shared_memory_type": "mmap",
	}
	if !o.Durable {
		settings["fsync"] = "off"
		settings["full_page_writes"] = "off"
	}
	maps.Copy(settings, o.Settings)
	var flags []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		flags = append(flags, "-c", name+"="+settings[name])
	}
	return flags
}
