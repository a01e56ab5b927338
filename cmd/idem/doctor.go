package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
)

func (a *app) doctor() *cobra.Command {
	timeout := 10 * time.Second
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say whether this database keeps the promise",
		Long: `Look at the database as this role sees it, and say what is well (✓), what deserves a look
(⚠) and what breaks the promise or the next call (✗), each with what to do about it:
the server and its version, the schema and its version, the table and its unique index,
what this role may do, when the reaper last ran and how far behind it is, and the settings
that decide what survives a crash.

It only reads. Run it with the application's role and once more with the reaper's.

Exit codes: 0 no ✗, 4 at least one ✗, 2 wrong usage.`,
		Example: `  idem doctor
  idem doctor --database-url "$DATABASE_URL" || echo "do not deploy"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return usageError{errors.New("--timeout must be above 0")}
			}
			if _, err := a.config(); err != nil {
				return err
			}
			r := &report{w: a.stdout, color: colored(a.stdout)}
			a.examine(cmd.Context(), r, timeout)
			return r.end()
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", timeout, "give up a statement after this `time`")
	return c
}

// examine makes all checks that the connection allows.
func (a *app) examine(ctx context.Context, r *report, timeout time.Duration) {
	conn, err := a.connect(ctx)
	if err != nil {
		r.bad("cannot connect: "+text(err), hintFor(err))
		return
	}
	defer disconnect(ctx, conn)
	// One transaction, so that the timeout ends with it also behind a transaction pooler. It cannot write.
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d", max(1, timeout.Milliseconds()))); err != nil {
			return err
		}
		for _, check := range checks {
			// A savepoint: what fails in one says nothing of the others.
			err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return check.look(ctx, tx, r) })
			if err != nil {
				r.bad(check.name+": "+text(err), hintFor(err))
			}
			if conn.IsClosed() {
				return nil
			}
		}
		return nil
	})
	if err != nil && !conn.IsClosed() {
		r.bad(text(err), hintFor(err))
	}
}

// report prints findings as they come, and counts them.
type report struct {
	w              io.Writer
	color          bool
	problems, odds int
}

// good states what is well.
func (r *report) good(format string, args ...any) {
	r.line("✓", "32", fmt.Sprintf(format, args...), "")
}

// odd states what deserves a look.
func (r *report) odd(fact, hint string) {
	r.odds++
	r.line("⚠", "33", fact, hint)
}

// bad states what breaks the promise or the next call.
func (r *report) bad(fact, hint string) {
	r.problems++
	r.line("✗", "31", fact, hint)
}

func (r *report) line(sign, color, fact, hint string) {
	if r.color {
		sign = "\x1b[" + color + "m" + sign + "\x1b[0m"
	}
	fmt.Fprintf(r.w, "%s %s\n", sign, strings.ReplaceAll(strings.TrimSpace(fact), "\n", "\n  "))
	if hint != "" {
		fmt.Fprintf(r.w, "  → %s\n", hint)
	}
}

// end prints the verdict and returns it.
func (r *report) end() error {
	warnings := plural(int64(r.odds), "warning")
	switch {
	case r.problems > 0:
		fmt.Fprintf(r.w, "\n%s, %s.\n", plural(int64(r.problems), "problem"), warnings)
		return checkError{errors.New("the check failed")}
	case r.odds > 0:
		fmt.Fprintf(r.w, "\nNo problem, %s.\n", warnings)
	default:
		fmt.Fprintln(r.w, "\nAll is well.")
	}
	return nil
}

// colored reports whether w is a terminal whose user wants colours (no-color.org).
func colored(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
