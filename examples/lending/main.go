// Command lending is the API that package idem was written for, and the demo that tries to break it.
//
//	lending demo     drive operations with faults at two servers, and count in the database what became of them
//	lending serve    keep the API up, with curl lines to paste
//
// Both need PostgreSQL: server programs on this machine, Docker, IDEM_DATABASE_URL, or -database-url.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second Ctrl-C ends the program at once
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

const usage = `usage: lending <command> [flags]

  demo     drive operations with faults at two servers, and count in the database what became of them
  serve    keep the API up, with curl lines to paste

lending <command> -h lists the flags.
`

// Exit codes.
const (
	exitOK          = 0
	exitBroken      = 1   // an invariant does not hold, or something failed
	exitUsage       = 2   // wrong flags
	exitInterrupted = 130 // Ctrl-C, as shells count it
)

// run is main with everything that it depends on as arguments.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	commands := map[string]func(context.Context, []string, io.Writer, io.Writer) error{"demo": runDemo, "serve": runServe}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprint(stderr, usage)
		if len(args) == 1 && (args[0] == "help" || args[0] == "-h" || args[0] == "-help" || args[0] == "--help") {
			return exitOK
		}
		return exitUsage
	}
	err := commands[args[0]](ctx, args[1:], stdout, stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errUsage):
		return exitUsage // the flag package has said why
	case errors.Is(err, errBroken):
		return exitBroken // the report has said why
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "interrupted")
		return exitInterrupted
	default:
		fmt.Fprintln(stderr, "lending:", err)
		return exitBroken
	}
}

var (
	errUsage  = errors.New("wrong flags")
	errBroken = errors.New("an invariant is broken")
)

func parse(f *flag.FlagSet, args []string) error {
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return errUsage
	case f.NArg() > 0:
		fmt.Fprintf(f.Output(), "%s takes flags only, not %q\n", f.Name(), f.Arg(0))
		return errUsage
	}
	return nil
}
