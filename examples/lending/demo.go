package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/pgidem/pgidem/examples/lending/internal/database"
	"github.com/pgidem/pgidem/examples/lending/internal/demo"
)

func runDemo(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	f := flag.NewFlagSet("lending demo", flag.ContinueOnError)
	f.SetOutput(stderr)
	operations := f.Int("operations", 2000, "how many operations, each of them sent 1 to 5 times")
	seed := f.Uint64("seed", 0, "what the operations are and how they are sent; 0 picks one, and prints it")
	limit := f.Duration("duration", 40*time.Second, "begin no more operations after this time; 0 means no limit")
	url := f.String("database-url", "", "work in this database, and leave the rows in it (defaults to a new one: private, in Docker, or on the server\nthat IDEM_DATABASE_URL names)")
	quiet := f.Bool("quiet", false, "print the last lines only")
	keep := f.Bool("keep", false, "keep the database afterwards, and say how to reach it")
	without := f.Bool("without-idem", false, "the control: the same handlers without idempotency keys. Ends with exit code 1, since things break")
	if err := parse(f, args); err != nil {
		return err
	}
	if *operations < 1 || *operations > 1_000_000 || *limit < 0 {
		fmt.Fprintln(stderr, "lending demo: -operations must be 1 to 1000000, -duration must not be negative")
		return errUsage
	}
	for *seed == 0 {
		*seed = uint64(rand.Uint32N(1_000_000))
	}

	terminal := isTerminal(stdout)
	show, end := demo.ProgressLine(stdout, terminal)
	if *quiet {
		show, end = nil, func() {}
	} else if terminal {
		fmt.Fprint(stdout, "starting PostgreSQL …") // the first progress overwrites it
	}
	db, err := database.Open(ctx, *url)
	if err != nil {
		end()
		return err
	}
	defer func() {
		hint, closeErr := db.Close(*keep)
		if hint != "" {
			fmt.Fprintf(stdout, "\nThe database %s is kept: %s\n", database.Name, hint)
		}
		err = errors.Join(err, closeErr)
	}()

	o := demo.Options{
		DatabaseURL: db.URL,
		Database:    fmt.Sprintf("PostgreSQL %s (%s)", db.Version, db.Origin),
		Operations:  *operations,
		Seed:        *seed,
		Limit:       *limit,
		WithoutIdem: *without,
		Progress:    show,
	}
	result, err := demo.Run(ctx, o)
	end()
	if err != nil {
		return fmt.Errorf("seed %d: %w", *seed, err)
	}
	p := demo.Printer{W: stdout, Color: terminal && os.Getenv("NO_COLOR") == "", Quiet: *quiet}
	p.Print(result)
	if !result.OK() || *without {
		return errBroken
	}
	return nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}
