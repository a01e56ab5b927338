// Command bench measures what idempotency costs: idem beside what one would write by hand, and beside the limits of both,
// in one run on a private PostgreSQL, alternating. It prints Markdown.
//
// Timings never fail it: machines differ. Round trips and allocations do.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	clients []int
	latency []time.Duration
	rounds  int
	slice   time.Duration
	n       int
	quick   bool
	output  string
}

func parseFlags(args []string) (config, error) {
	var c config
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	clients := fs.String("clients", "1,8,32", "numbers of concurrent clients")
	latency := fs.String("latency", "0,1ms", "latencies that are added to each round trip")
	fs.IntVar(&c.rounds, "rounds", 40, "rounds in each of which every variant gets one slice of time")
	fs.DurationVar(&c.slice, "slice", 100*time.Millisecond, "length of such a slice")
	fs.IntVar(&c.n, "operations", 4000, "operations for bytes and allocations per operation")
	fs.BoolVar(&c.quick, "quick", false, "one short round with 8 clients: checks flights and allocations, its timings mean little")
	fs.StringVar(&c.output, "o", "", "write the Markdown to this file as well")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	for s := range strings.SplitSeq(*clients, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 1 || n > 150 {
			return c, fmt.Errorf("-clients: %q is not a number from 1 to 150", s)
		}
		c.clients = append(c.clients, n)
	}
	for s := range strings.SplitSeq(*latency, ",") {
		d := time.Duration(0)
		if s = strings.TrimSpace(s); s != "0" {
			var err error
			if d, err = time.ParseDuration(s); err != nil || d < 0 {
				return c, fmt.Errorf("-latency: %q is not a duration such as 1ms", s)
			}
		}
		c.latency = append(c.latency, d)
	}
	if c.quick {
		c.clients, c.rounds, c.slice, c.n = []int{8}, 1, 100*time.Millisecond, 400
	}
	if c.rounds < 1 || c.slice <= 0 || c.n < 4 {
		return c, fmt.Errorf("-rounds must be at least 1, -slice above 0, -operations at least 4")
	}
	return c, nil
}

func main() {
	c, err := parseFlags(os.Args[1:])
	if err != nil {
		if err != flag.ErrHelp {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	broken, err := run(ctx, c)
	stop()
	for _, s := range broken {
		fmt.Fprintln(os.Stderr, "bench: FAIL:", s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil || len(broken) > 0 {
		os.Exit(1)
	}
}

// run measures, prints, and returns what must not be.
func run(ctx context.Context, c config) (failures []string, err error) {
	progress := func(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
	s, err := start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if stopErr := s.Stop(); err == nil {
			err = stopErr
		}
	}()
	on, err := describe(ctx, s)
	if err != nil {
		return nil, err
	}
	progress("flights, bytes and allocations of %d variants", len(variants))
	perOp, err := costs(ctx, s, c.n)
	if err != nil {
		return nil, err
	}
	var all []series
	for _, latency := range c.latency {
		for _, clients := range c.clients {
			sc := scene{clients, latency}
			progress("throughput, %v: about %v", sc, (time.Duration((c.rounds+1)*len(variants)) * c.slice).Round(time.Second))
			res, err := throughput(ctx, s, sc, c.rounds, c.slice)
			if err != nil {
				return nil, fmt.Errorf("%v: %w", sc, err)
			}
			all = append(all, res)
		}
	}
	text := report(on, perOp, all, c.rounds, c.slice, c.n)
	if c.quick {
		text += "\nThis was a quick run: its timings mean little.\n"
	}
	fmt.Print(text)
	if c.output != "" {
		if err := os.WriteFile(c.output, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return broken(perOp), nil
}
