package localpg

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// findDocker returns the docker command when an engine answers it quickly;
// otherwise why says what is missing.
func findDocker(ctx context.Context) (path, why string) {
	path, err := exec.LookPath("docker")
	if err != nil {
		return "", "there is no docker command"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := dockerOutput(ctx, path, "info", "--format", "{{.ServerVersion}}"); err != nil {
		return "", "no Docker engine answers"
	}
	return path, ""
}

func dockerOutput(ctx context.Context, docker string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, docker, args...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	isolate(cmd, nil, false)
	// A docker run that is killed with us creates no container after the watchdog has looked.
	p, err := spawn(cmd, syscall.SIGKILL)
	if err == nil {
		<-p.done
		err = p.err
	}
	if err != nil {
		return "", fmt.Errorf("localpg: docker %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// container is a server in Docker.
type container struct {
	docker string
	name   string
	image  string
	opts   Options
	port   string // on 127.0.0.1
	made   bool
	dog    *watchdog
}

func newContainer(docker string) func(context.Context, Options) (engine, error) {
	return func(_ context.Context, o Options) (engine, error) {
		c := &container{
			docker: docker,
			name:   "pgidem-" + randomHex(6),
			image:  cmp.Or(os.Getenv(EnvImage), DefaultImage),
			opts:   o,
		}
		var err error
		c.dog, err = startWatchdog(nil, os.Getenv("PATH"), guardContainer, docker, c.name)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}

func (c *container) base() dsn { return localDSN("127.0.0.1", c.port) }

func (c *container) start(ctx context.Context) error {
	if c.made {
		_, err := dockerOutput(ctx, c.docker, "start", c.name)
		return err
	}
	args, err := c.runArgs()
	if err != nil {
		return err
	}
	c.opts.Logger.Debug("localpg: docker run; the first time this downloads the image", "image", c.image)
	if _, err := dockerOutput(ctx, c.docker, args...); err != nil {
		return err
	}
	c.made = true
	out, err := dockerOutput(ctx, c.docker, "port", c.name, "5432/tcp")
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(out, "\n")
	if _, c.port, err = net.SplitHostPort(strings.TrimSpace(first)); err != nil {
		return fmt.Errorf("localpg: docker port: %q: %w", out, err)
	}
	return nil
}

func (c *container) runArgs() ([]string, error) {
	args := []string{
		"run", "-d", "--name", c.name, "--label", "pgidem.localpg=1",
		"-e", "POSTGRES_HOST_AUTH_METHOD=trust",
		"-e", "POSTGRES_INITDB_ARGS=-N --locale=C -E UTF8 --wal-segsize=1",
	}
	if c.opts.Private {
		// Data and port must be there again after a stop.
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		args = append(args, "-p", "127.0.0.1:"+port+":5432")
	} else {
		// PGDATA differs between images; this place is the same in all.
		args = append(args, "--rm", "-p", "127.0.0.1::5432", "--tmpfs", "/pgdata", "-e", "PGDATA=/pgdata/data")
	}
	args = append(args, c.image, "postgres")
	return append(args, c.opts.serverFlags()...), nil
}

// exited is never known: docker does not tell without being asked.
func (c *container) exited() <-chan struct{} { return nil }

// pid is 0: the process belongs to the engine, which may be on another machine.
func (c *container) pid() int { return 0 }

func (c *container) log() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.docker, "logs", "--tail", "30", c.name)
	out, _ := cmd.CombinedOutput() // the error is in there as well
	return strings.TrimSpace(string(out))
}

func (c *container) stop(ctx context.Context, how stopMode) error {
	if !c.opts.Private {
		return fmt.Errorf("localpg: stop the container: %w: its data would go with it; set Options.Private", ErrUnsupported)
	}
	running, err := dockerOutput(ctx, c.docker, "inspect", "-f", "{{.State.Running}}", c.name)
	if err != nil || running != "true" {
		return err
	}
	switch how {
	case stopFast: // the image says SIGINT
		_, err = dockerOutput(ctx, c.docker, "stop", "-t", "30", c.name)
		return err
	case stopImmediate:
		_, err = dockerOutput(ctx, c.docker, "kill", "-s", "QUIT", c.name)
	default:
		_, err = dockerOutput(ctx, c.docker, "kill", c.name)
	}
	if err != nil {
		return err
	}
	_, err = dockerOutput(ctx, c.docker, "wait", c.name)
	return err
}

func (c *container) remove(keep bool) (hint string, err error) {
	if keep {
		hint = fmt.Sprintf("the container runs on; remove it with: docker rm -f -v %s", c.name)
		return hint, errors.Join(c.dog.tell("keep"), c.dog.release())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if c.made {
		if _, err = dockerOutput(ctx, c.docker, "rm", "-f", "-v", c.name); err == nil {
			err = c.dog.tell("keep") // nothing left to do
		}
	}
	return "", errors.Join(err, c.dog.release())
}
