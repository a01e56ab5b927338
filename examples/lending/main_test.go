package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

// asMain makes the test binary the program itself.
const asMain = "LENDING_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) == "1" {
		main()
		return
	}
	os.Exit(pgtest.Main(m, localpg.Options{}, nil))
}

func lending(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestDemo(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	code, stdout, stderr := lending(t.Context(), "demo", "-operations", "200", "-seed", "7", "-database-url", url)
	if code != 0 || !strings.Contains(stdout, "0 duplicates, 0 lost, 0 replays that differ") || stderr != "" {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if strings.ContainsAny(stdout, "\r\x1b") {
		t.Errorf("control characters on something that is no terminal: %q", stdout)
	}
	// The rows stay in a database that was given.
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM idem.keys").Scan(&n); err != nil || n != 200 {
		t.Errorf("%d records (%v), want 200", n, err)
	}

	code, stdout, stderr = lending(t.Context(), "demo", "-operations", "20", "-quiet", "-database-url", url)
	if code != 0 || strings.Count(stdout, "\n") > 3 || stderr != "" {
		t.Errorf("quiet: exit code %d\n%s%s", code, stdout, stderr)
	}
}

func TestDemoControl(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := lending(t.Context(), "demo", "-operations", "200", "-seed", "7", "-without-idem", "-database-url", pgtest.Empty(t))
	if code != 1 || !strings.Contains(stdout, "CONTROL, WITHOUT pgidem") || strings.Contains(stdout, " 0 duplicates") || stderr != "" {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"", 2, "usage: lending"},
		{"help", 0, "usage: lending"},
		{"-h", 0, "usage: lending"},
		{"sell", 2, "usage: lending"},
		{"demo -h", 0, "-without-idem"},
		{"demo -operations 0", 2, "-operations must be"},
		{"demo -operations many", 2, "invalid value"},
		{"demo now", 2, `not "now"`},
		{"serve -h", 0, "-addr"},
		{"serve -port 1", 2, "-port"},
		{"demo -database-url postgres://127.0.0.1:1/none", 1, "lending: database"},
		{"serve -database-url postgres://127.0.0.1:1/none", 1, "lending: database"},
	} {
		code, stdout, stderr := lending(t.Context(), strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.says) || stdout != "" {
			t.Errorf("lending %s: exit code %d, want %d\n%s%s", c.args, code, c.code, stdout, stderr)
		}
	}
}

// lockedBuffer is written by one goroutine and read by another.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// waitFor returns the first match in what is written, which must come.
func (b *lockedBuffer) waitFor(t *testing.T, pattern string, done <-chan int) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for {
		if m := re.FindStringSubmatch(b.String()); m != nil {
			return m
		}
		select {
		case code := <-done:
			t.Fatalf("ended with exit code %d before %q came:\n%s", code, pattern, b.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs lockedBuffer
	done := make(chan int, 1)
	url := pgtest.Empty(t)
	go func() { done <- run(ctx, []string{"serve", "-addr", "127.0.0.1:0", "-database-url", url}, &out, &errs) }()
	printed := out.waitFor(t, `api=(\S+) auth='Authorization: (Bearer \S+)'[\s\S]*Ctrl-C stops it`, done)

	// Every curl line with a body is a request that the API answers as the text above it says.
	var got []string
	for _, m := range regexp.MustCompile(`curl -i \$api/(\S+) .*?(?:-H 'Idempotency-Key: (\S+)' )?-d '(.*)'`).FindAllStringSubmatch(out.String(), -1) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, printed[1]+"/"+m[1], strings.NewReader(m[3]))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", printed[2])
		r.Header.Set("Content-Type", "application/json")
		if m[2] != "" {
			r.Header.Set("Idempotency-Key", m[2])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		got = append(got, strings.TrimSpace(fmt.Sprint(m[1], " ", resp.StatusCode, " ", resp.Header.Get("Idempotent-Replayed"))))
	}
	want := "charges 201, charges 201 true, charges 422, charges 402, bookings 201, bookings 409, consents 400, consents 400"
	if strings.Join(got, ", ") != want {
		t.Errorf("the curl lines give\n%s, want\n%s", strings.Join(got, ", "), want)
	}

	cancel()
	if code := <-done; code != 0 || !strings.HasSuffix(out.String(), "stopped\n") {
		t.Errorf("exit code %d\n%s%s", code, out.String(), errs.String())
	}
	// The token has gone with the program.
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM lending.tokens").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d tokens are left (%v)", n, err)
	}
}

// Ctrl-C in the middle of a run on a private cluster: a clear end, and nothing left.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	pgtest.Shared(t) // or skip
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { // the server may run as another user
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "demo", "-operations", "50000", "-duration", "0")
	cmd.Env = append(os.Environ(), asMain+"=1", "TMPDIR="+dir)
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan int, 1)
	go func() {
		_ = cmd.Wait() // the exit code tells
		done <- cmd.ProcessState.ExitCode()
	}()
	out.waitFor(t, `[1-9]\S* of 50,000 operations`, done)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := <-done; code != 130 || !strings.HasSuffix(out.String(), "interrupted\n") {
		t.Errorf("exit code %d\n%s", code, out.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
