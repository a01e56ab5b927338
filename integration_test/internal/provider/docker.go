package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
)

// engineHas reports whether a Docker engine answers and has the image.
func engineHas(ctx context.Context, image string) bool {
	engine, err := engine(ctx)
	if err != nil {
		return false
	}
	defer engine.Close()
	_, err = engine.Client().ImageInspect(ctx, image)
	return err == nil
}

// engine connects to the Docker engine.
func engine(ctx context.Context) (_ *testcontainers.DockerProvider, err error) {
	defer func() { // testcontainers-go panics where it finds no socket
		if r := recover(); r != nil {
			err = fmt.Errorf("no Docker engine: %v", r)
		}
	}()
	engine, err := testcontainers.NewDockerProvider()
	if err != nil {
		return nil, fmt.Errorf("no Docker engine: %w", err)
	}
	if err := engine.Health(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("no Docker engine answers: %w", err), engine.Close())
	}
	return engine, nil
}

// startContainer starts a server and returns its DSN and how to remove it.
func startContainer(ctx context.Context, image string) (dsn string, stop func() error, err error) {
	engine, err := engine(ctx)
	if err != nil {
		return "", nil, err
	}
	_ = engine.Close()
	container, err := postgres.Run(ctx, image,
		testcontainers.WithCmdArgs("-c", "full_page_writes=off", "-c", "max_connections=200"), // fsync is off already
		testcontainers.WithTmpfs(map[string]string{"/pgdata": "rw"}),
		testcontainers.WithEnv(map[string]string{"PGDATA": "/pgdata/data"}), // one place for all majors
		postgres.BasicWaitStrategies(),
	)
	stop = func() error { return testcontainers.TerminateContainer(container) }
	if err == nil {
		dsn, err = container.ConnectionString(ctx, "sslmode=disable")
	}
	if err != nil {
		return "", nil, errors.Join(err, stop())
	}
	return dsn, stop, nil
}
