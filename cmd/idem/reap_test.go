package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

func itoa(n uint16) string { return fmt.Sprint(n) }

func TestReap(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	conn := open(t, url)
	call("reap", "--database-url", url).says(t, exitOK, "nothing deleted (", "; no expired record left\n")
	seed(t, conn, "dead", 5, -time.Hour)
	seed(t, conn, "live", 2, time.Hour)
	o := call("reap", "--database-url", url, "--batch", "2")
	o.says(t, exitOK, "deleted 5 expired records in 3 batches (", "; no expired record left\n")
	if strings.Count(o.stdout, "\n") != 1 {
		t.Errorf("not one line: %q", o.stdout)
	}
	if n := count(t, conn, `SELECT count(*) FROM idem.keys`); n != 2 {
		t.Errorf("%d of 2 live records left", n)
	}
	seed(t, conn, "one", 1, -time.Hour)
	call("reap", "--database-url", url, "--grace", "2h").says(t, exitOK, "nothing deleted")
	call("reap", "--database-url", url).says(t, exitOK, "deleted 1 expired record in 1 batch (")
}

func TestReap_held(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	conn := open(t, url)
	seed(t, conn, "dead", 5, -2*time.Hour)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // the end of the test
	if _, err := tx.Exec(t.Context(), `SELECT FROM idem.keys WHERE key = 'dead3' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	call("reap", "--database-url", url).says(t, exitOK, "deleted 4 expired records in ", "passed over 1 record that other transactions hold", "1 expired record left, the oldest for 2h0m")
}

func TestReap_case88_overlap(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	conn := open(t, url)
	seed(t, conn, "dead", 5, -time.Hour)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // the end of the test
	if _, err := tx.Exec(t.Context(), `SET LOCAL application_name = 'the other'; SELECT pg_advisory_xact_lock(-5220929711436346261)`); err != nil {
		t.Fatal(err)
	}
	o := call("reap", "--database-url", url)
	o.says(t, exitOK, fmt.Sprintf(`another reaper is running (pid %d, application "the other")`, conn.PgConn().PID()))
	if strings.Contains(o.stdout, "left") {
		t.Errorf("speaks of what is left, which it has not counted: %s", o.stdout)
	}
}

func TestReap_clockJumped(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	conn := open(t, url)
	call("reap", "--database-url", url).says(t, exitOK)
	exec(t, conn, `UPDATE idem.reaper SET last_run_at = last_run_at - interval '1 day'`)
	seed(t, conn, "dead", 3, -time.Hour)
	call("reap", "--database-url", url).says(t, exitOK, "nothing deleted", "the last pass was 24h0m", "3 expired records left")
	call("reap", "--database-url", url).says(t, exitOK, "nothing is deleted until")
	exec(t, conn, `UPDATE idem.reaper SET clock = 'ok', last_run_at = clock_timestamp() - interval '1 day'`)
	call("reap", "--database-url", url, "--interval", "24h").says(t, exitOK, "deleted 3 expired records")
}

func TestReap_errors(t *testing.T) {
	t.Parallel()
	call("reap", "--database-url", pgtest.Empty(t)).says(t, exitError, "idem: table idem.reaper does not exist: run", "idem migrate up")
	url := pgtest.New(t)
	exec(t, open(t, url), `DROP TABLE idem.reaper`)
	call("reap", "--database-url", url).says(t, exitError, "idem: table idem.reaper does not exist", "idem migrate up")
}

// A signal ends the pass after the running batch, and what was done is reported.
func TestReap_case93_signal(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	conn, watch := open(t, url), open(t, url)
	seed(t, conn, "dead", 200, -time.Hour)
	// Of 200 records 60 are held, each for 100 ms of waiting: the pass is busy when the signal comes.
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // the end of the test
	if _, err := tx.Exec(t.Context(), `SELECT FROM (SELECT FROM idem.keys WHERE key >= 'dead150' ORDER BY key LIMIT 60 FOR UPDATE) AS held`); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := osexec.CommandContext(t.Context(), self, "reap", "--database-url", url, "--batch", "10")
	cmd.Env = append(os.Environ(), asCommand+"=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if count(t, watch, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idem' AND wait_event_type = 'Lock'`) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}.says(t, exitOK, "stopped by a signal", "left, the oldest for 1h0m")
	if err != nil {
		t.Errorf("%v", err)
	}
	left := count(t, watch, `SELECT count(*) FROM idem.keys`)
	if !strings.Contains(stdout.String(), fmt.Sprintf("%d expired records left", left)) || left < 60 {
		t.Errorf("%d left: %s", left, stdout.String())
	}
}
