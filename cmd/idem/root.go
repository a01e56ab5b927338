package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes, part of the tool's interface.
const (
	exitOK    = 0
	exitError = 1 // the command failed
	exitUsage = 2 // it was called in a way that cannot work
	exitCheck = 4 // it worked, and what it looked at is not as it must be
)

// app is what all commands share.
type app struct {
	stdout, stderr io.Writer
	databaseURL    string
	started        bool // the arguments were understood
}

// usageError is a call that cannot work, whatever the database says.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// checkError is the answer no. What is wrong has been printed already.
type checkError struct{ error }

// run is the whole program but for the exit.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once

	a := &app{stdout: stdout, stderr: stderr}
	root := a.command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[checkError](err); ok {
		return exitCheck
	}
	fmt.Fprintf(stderr, "idem: %s\n", text(err))
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(stderr, "  %s\n", hint)
	}
	if _, ok := errors.AsType[usageError](err); ok || !a.started {
		fmt.Fprintf(stderr, "  Run %q for usage.\n", cmd.CommandPath()+" --help")
		return exitUsage
	}
	return exitError
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "idem",
		Short: "Operate idempotency keys in PostgreSQL",
		Long: `Operate idempotency keys that commit with your transaction (github.com/pgidem/pgidem).

The database is named by --database-url, else by DATABASE_URL, else by the variables
that libpq knows (PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD, PGSERVICE, …).

Exit codes: 0 done, 1 an error, 2 wrong usage, 4 a check failed.`,
		Example: `  idem migrate up
  idem reap
  idem doctor --database-url postgres://app@db.example/app`,
		Version:       version(),
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(*cobra.Command, []string) {
			a.started = true
		},
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.PersistentFlags().StringVar(&a.databaseURL, "database-url", "", "URL or keyword/value string of the `database` (default $DATABASE_URL, else $PGHOST, …)")
	root.AddCommand(a.migrate(), a.reap(), a.doctor())
	return root
}

// group makes a command that only has others below it.
func group(c *cobra.Command) *cobra.Command {
	c.Args = cobra.NoArgs
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		return usageError{fmt.Errorf("%s needs one of: %s", cmd.CommandPath(), strings.Join(names, ", "))}
	}
	return c
}

// version says what was built: the module's version where it was installed with one, else the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	v := info.Main.Version
	if v == "" {
		v = "(devel)"
	}
	var revision, modified string
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				modified = ", modified"
			}
		}
	}
	if revision != "" {
		v += " (" + revision + modified + ")"
	}
	return fmt.Sprintf("%s, schema %d, %s", v, newestSchema(), info.GoVersion)
}
