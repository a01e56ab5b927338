package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/pgidem/pgidem/examples/lending/internal/api"
	"github.com/pgidem/pgidem/examples/lending/internal/database"
	"github.com/pgidem/pgidem/examples/lending/internal/schema"
	"github.com/pgidem/pgidem/idem"
)

func runServe(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	f := flag.NewFlagSet("lending serve", flag.ContinueOnError)
	f.SetOutput(stderr)
	addr := f.String("addr", "127.0.0.1:8080", "where to listen; port 0 picks a free one")
	url := f.String("database-url", "", "work in this database (defaults to a new one that goes with the program)")
	if err := parse(f, args); err != nil {
		return err
	}

	db, err := database.Open(ctx, *url)
	if err != nil {
		return err
	}
	defer func() {
		_, closeErr := db.Close(false)
		err = errors.Join(err, closeErr)
	}()
	if err := schema.Migrate(ctx, db.URL); err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, db.URL)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := idem.Check(ctx, pool); err != nil {
		return err
	}
	project, err := database.CreateProject(ctx, pool, "north", database.Terms{
		Accounts: 2, Currency: "EUR", Opening: 10_000_00, ChargeLimit: 5_000_00, Slots: 20,
	})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, database.RevokeToken(context.WithoutCancel(ctx), pool, project.Token))
	}()

	log := slog.New(slog.NewTextHandler(stderr, nil))
	handler, err := api.New(api.Config{Pool: pool, Logger: log})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	fmt.Fprintf(stdout, "PostgreSQL %s (%s)\n\n", db.Version, db.Origin)
	printCurls(stdout, "http://"+listener.Addr().String(), project.Token)

	g, gctx := errgroup.WithContext(ctx) // ends when one of these does, or with Ctrl-C
	g.Go(func() error { return server.Serve(listener) })
	g.Go(func() error {
		reaper := idem.Reaper{DB: pool, Logger: log}
		return reaper.Run(gctx)
	})
	g.Go(func() error {
		<-gctx.Done()
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return server.Shutdown(stopping)
	})
	err = g.Wait()
	if ctx.Err() != nil && (errors.Is(err, http.ErrServerClosed) || errors.Is(err, context.Canceled)) {
		fmt.Fprintln(stdout, "\nstopped")
		return nil
	}
	return err
}
