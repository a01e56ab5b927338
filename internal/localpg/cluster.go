package localpg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const superuser = "postgres"

// maxSocketPath is the shortest limit among systems (macOS: 104 with the final NUL).
const maxSocketPath = 103

// cluster is a server run from binaries, in a directory of its own:
//
//	pgidem-…/            also the directory of the socket
//	pgidem-…/data/       data directory
//	pgidem-…/server.log
type cluster struct {
	bin     string
	who     *account
	opts    Options
	dir     string
	data    string
	logPath string
	tcp     bool
	port    string
	dog     *watchdog

	mu   sync.Mutex
	proc *process // of the last start
}

// newCluster returns a function that makes the directory and fills it.
func newCluster(bin string, who *account) func(context.Context, Options) (engine, error) {
	return func(ctx context.Context, o Options) (engine, error) {
		c := &cluster{bin: bin, who: who, opts: o, port: "5432"}
		c.tcp = o.TCP || runtime.GOOS == "windows"
		if err := c.prepare(ctx); err != nil {
			_, rerr := c.remove(false)
			return nil, errors.Join(err, rerr)
		}
		return c, nil
	}
}

func (c *cluster) prepare(ctx context.Context) (err error) {
	if c.dir, err = makeDir(c.who); err != nil {
		return err
	}
	c.data = filepath.Join(c.dir, "data")
	c.logPath = c.opts.LogFile
	if c.logPath == "" {
		c.logPath = filepath.Join(c.dir, "server.log")
	}
	// From here on the directory goes when we go.
	if c.dog, err = startWatchdog(c.who, "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", guardCluster, c.dir); err != nil {
		return err
	}
	if c.tcp {
		if c.port, err = freePort(); err != nil {
			return err
		}
	}
	return c.initData(ctx)
}

// makeDir makes a directory that the server can own, with a short path, where it
// can be removed again by its owner.
func makeDir(who *account) (string, error) {
	var errs []error
	for _, base := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		if len(base)+len("/pgidem-1234567890/.s.PGSQL.65535.lock") > maxSocketPath {
			errs = append(errs, fmt.Errorf("%s: too long for a socket", base))
			continue
		}
		if !who.mayFill(base) {
			errs = append(errs, fmt.Errorf("%s: cannot be written%s", base, who.as()))
			continue
		}
		dir, err := os.MkdirTemp(base, "pgidem-") // 0700
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// Symbolic links resolved, so that what the server and ps print can be compared.
		dir = resolve(dir)
		if err := who.own(dir); err != nil {
			return "", errors.Join(err, os.Remove(dir))
		}
		return dir, nil
	}
	return "", fmt.Errorf("localpg: no place for a data directory: %w", errors.Join(errs...))
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("localpg: find a free port: %w", err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

func (c *cluster) base() dsn {
	if c.tcp {
		return localDSN("127.0.0.1", c.port)
	}
	return localDSN(c.dir, c.port)
}

// command prepares a server program: run as who, without the PG… variables of
// whoever called us, which would change what it does.
func (c *cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(program(c.bin, name), args...)
	cmd.Dir = c.dir
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "LC_") && name != "LANG" && name != "LANGUAGE" {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C", "TZ=UTC")
	isolate(cmd, c.who, false)
	return cmd
}

func (c *cluster) start(ctx context.Context) error {
	// The free port may be taken by the time the server wants it. The first start
	// then takes another one; later ones must keep theirs and wait for it.
	first := c.proc == nil
	for try := 1; ; try++ {
		err := c.startOnce()
		if err != nil || !c.tcp {
			return err
		}
		taken, err := c.portTaken(ctx)
		if err != nil || !taken {
			return err
		}
		if try == 10 {
			return fmt.Errorf("localpg: port %s is taken; the server's log ends with:\n%s", c.port, c.log())
		}
		if first {
			if c.port, err = freePort(); err != nil {
				return err
			}
		} else {
			time.Sleep(500 * time.Millisecond)
		}
	}
}

// portTaken waits until the server has its port or has given up because of it.
func (c *cluster) portTaken(ctx context.Context) (bool, error) {
	for {
		// The server writes this line once it listens everywhere it should.
		if lock, err := os.ReadFile(filepath.Join(c.data, "postmaster.pid")); err == nil && strings.Count(string(lock), "\n") >= 6 {
			if pid, _, _ := strings.Cut(string(lock), "\n"); pid == strconv.Itoa(c.proc.cmd.Process.Pid) {
				return false, nil
			}
		}
		select {
		case <-c.proc.done:
			return strings.Contains(c.log(), "could not create any TCP/IP sockets"), nil
		case <-ctx.Done():
			return false, fmt.Errorf("localpg: start the server: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (c *cluster) startOnce() error {
	logFile, err := os.OpenFile(c.logPath, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("localpg: server log: %w", err)
	}
	defer logFile.Close()
	listen := ""
	if c.tcp {
		listen = "127.0.0.1"
	}
	args := []string{"-D", c.data, "-p", c.port, "-c", "listen_addresses=" + listen}
	if runtime.GOOS != "windows" {
		args = append(args, "-k", c.dir)
	}
	cmd := c.command("postgres", append(args, c.opts.serverFlags()...)...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	p, err := spawn(cmd, syscall.SIGQUIT)
	if err != nil {
		return fmt.Errorf("localpg: start the server: %w", err)
	}
	c.mu.Lock()
	c.proc = p
	c.mu.Unlock()
	return c.dog.tell("pid " + strconv.Itoa(cmd.Process.Pid))
}

func (c *cluster) running() *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc.running() {
		return c.proc
	}
	return nil
}

func (c *cluster) exited() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proc.done
}

func (c *cluster) pid() int {
	if p := c.running(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

func (c *cluster) log() string { return tail(c.logPath) }

// stop stops the server; one that does not obey is killed.
func (c *cluster) stop(ctx context.Context, how stopMode) error {
	p := c.running()
	if p == nil {
		return nil
	}
	for {
		if err := signalServer(c, p, how); err != nil {
			return fmt.Errorf("localpg: stop the server: %w", err)
		}
		select {
		case <-p.done:
			// The pid is nobody's from now on.
			return c.dog.tell("pid")
		case <-ctx.Done():
		case <-time.After(20 * time.Second):
		}
		how++ // ask less politely
		if how > stopKill {
			return errors.New("localpg: the server does not end")
		}
	}
}

func (c *cluster) remove(keep bool) (hint string, err error) {
	if c.dir == "" {
		return "", nil
	}
	how := stopImmediate
	if keep {
		how = stopFast
	}
	err = c.stop(context.Background(), how)
	if keep {
		hint = c.startCommand()
		if c.dog != nil {
			err = errors.Join(err, c.dog.tell("keep"), c.dog.release())
		}
		return hint, err
	}
	if c.dog != nil {
		err = errors.Join(err, c.dog.release())
	}
	return "", errors.Join(err, os.RemoveAll(c.dir))
}

// startCommand is for a human who wants to look at what was kept.
func (c *cluster) startCommand() string {
	cmd := fmt.Sprintf("%s -D %s -k %s -p %s", program(c.bin, "postgres"), c.data, c.dir, c.port)
	if c.tcp {
		cmd += " -c listen_addresses=127.0.0.1"
	} else {
		cmd += " -c listen_addresses="
	}
	if c.who != nil {
		cmd = fmt.Sprintf("su -s /bin/sh %s -c '%s'", c.who.name, cmd)
	}
	return "start the server again with: " + cmd + "\nthen remove it with: rm -rf " + c.dir
}
