// Package proc runs a role of a test in a process of its own, so that the process
// can be killed. The process is the test binary again: TestMain calls [Main] first,
// and in a child that runs the role instead of the tests.
//
// A role calls [Child.At] at the points of its work that a test may want to stop
// at. A test names the point when it starts the child, waits until the child has
// come there, and kills it or lets it go on.
package proc

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	envRole = "IDEM_TEST_CHILD_ROLE"
	envStop = "IDEM_TEST_CHILD_STOP"
	envArgs = "IDEM_TEST_CHILD_ARGS"
)

// patience bounds every wait for a child. It is there so that a broken test
// ends, not to judge speed.
const patience = 2 * time.Minute

// line is what a child tells its parent, as JSON on its standard output.
type line struct {
	Event string          `json:"event"`
	Value json.RawMessage `json:"value,omitempty"`
}

// Process is a child, seen by the test that started it.
type Process struct {
	t      testing.TB
	role   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr *buffer

	mu     sync.Mutex
	events []line
	news   chan struct{} // closed and replaced at each event, and at the end
	ended  bool
	err    error
}

var running atomic.Int64

// Running is the number of children that have not ended.
func Running() int { return int(running.Load()) }

// Start starts a role. args are handed to it as JSON. It stops at the point named
// stop; "" is nowhere. The child ends with the test at the latest, or with the
// test's process, however that ends.
func Start(t testing.TB, role, stop string, args any) *Process {
	t.Helper()
	data, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, role: role, cmd: exec.Command(self), stderr: &buffer{}, news: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), envRole+"="+role, envStop+"="+stop, envArgs+"="+string(data))
	p.cmd.Stderr = p.stderr
	p.cmd.WaitDelay = 10 * time.Second
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", role, err)
	}
	running.Add(1)
	go p.listen(stdout)
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() && p.stderr.String() != "" {
			t.Logf("child %s, pid %d, printed:\n%s", role, p.Pid(), p.stderr)
		}
	})
	return p
}

func (p *Process) listen(stdout io.Reader) {
	scanner := bufio.NewScanner(stdout)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var l line
		if err := json.Unmarshal(scanner.Bytes(), &l); err != nil {
			fmt.Fprintf(p.stderr, "%s\n", scanner.Bytes())
			continue
		}
		p.mu.Lock()
		p.events = append(p.events, l)
		p.announce()
		p.mu.Unlock()
	}
	err := p.cmd.Wait()
	running.Add(-1)
	p.mu.Lock()
	p.ended, p.err = true, err
	p.announce()
	p.mu.Unlock()
}

func (p *Process) announce() {
	close(p.news)
	p.news = make(chan struct{})
}

// Pid is the child's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Wait waits until the child has told event and decodes what it told into value,
// unless that is nil. The test fails when the child ends first.
func (p *Process) Wait(event string, value any) {
	p.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		p.mu.Lock()
		i := slices.IndexFunc(p.events, func(l line) bool { return l.Event == event })
		var l line
		if i >= 0 {
			l = p.events[i]
		}
		ended, err, news := p.ended, p.err, p.news
		p.mu.Unlock()
		switch {
		case i >= 0:
			if value != nil {
				if err := json.Unmarshal(l.Value, value); err != nil {
					p.t.Fatalf("child %s: %s: %v", p.role, event, err)
				}
			}
			return
		case ended:
			p.t.Fatalf("child %s ended (%v) before %q; it printed:\n%s", p.role, err, event, p.stderr)
		}
		select {
		case <-news:
		case <-deadline.C:
			p.t.Fatalf("child %s did not come to %q; it printed:\n%s", p.role, event, p.stderr)
		}
	}
}

// Told reports whether the child has told event so far.
func (p *Process) Told(event string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.events, func(l line) bool { return l.Event == event })
}

// Continue lets the child go on from the point where it has stopped.
func (p *Process) Continue() {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, "continue\n"); err != nil {
		p.t.Fatalf("child %s: %v", p.role, err)
	}
}

// Kill kills the child as kill -9 does and returns when it is gone. It does
// nothing to one that is gone already.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.end()
}

// Finish waits for the end of a child that ends by itself; the test fails when it did not end well.
func (p *Process) Finish() {
	p.t.Helper()
	select {
	case <-p.end():
	case <-time.After(patience):
		p.t.Fatalf("child %s does not end; it printed:\n%s", p.role, p.stderr)
	}
	if p.err != nil {
		p.t.Fatalf("child %s: %v; it printed:\n%s", p.role, p.err, p.stderr)
	}
}

// end returns a channel that is closed once the child has ended.
func (p *Process) end() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			p.mu.Lock()
			ended, news := p.ended, p.news
			p.mu.Unlock()
			if ended {
				return
			}
			<-news
		}
	}()
	return done
}

// buffer collects what a child prints, while it prints.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Child is the child's side.
type Child struct {
	stop string
	free chan struct{}
	out  sync.Mutex
}

// Main returns at once in a test's process. In a child it runs the role and exits.
func Main(roles map[string]func(*Child) error) {
	name, ok := os.LookupEnv(envRole)
	if !ok {
		return
	}
	role := roles[name]
	if role == nil {
		fmt.Fprintf(os.Stderr, "there is no role %q\n", name)
		os.Exit(2)
	}
	c := &Child{stop: os.Getenv(envStop), free: make(chan struct{}, 16)}
	go c.obey()
	if err := role(c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// obey reads the parent's orders. When the parent is gone, so is the child.
func (c *Child) obey() {
	scanner := bufio.NewScanner(os.Stdin)
	for scanner.Scan() {
		c.free <- struct{}{}
	}
	os.Exit(0)
}

// Args decodes what the test handed over.
func (c *Child) Args(v any) error { return json.Unmarshal([]byte(os.Getenv(envArgs)), v) }

// Tell tells the test that something has happened.
func (c *Child) Tell(event string, value any) {
	data, err := json.Marshal(value)
	if err == nil {
		data, err = json.Marshal(line{Event: event, Value: data})
	}
	if err != nil {
		panic(errors.New("proc: " + err.Error()))
	}
	c.out.Lock()
	defer c.out.Unlock()
	_, _ = os.Stdout.Write(append(data, '\n'))
}

// At tells the test that the child has come to point, when that is where it was
// told to stop, and waits until it may go on.
func (c *Child) At(point string) {
	if point != c.stop {
		return
	}
	c.Tell(point, nil)
	<-c.free
}
