package idem_test

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
)

// One pass, as cron would make it. In a program, call r.Run(ctx) in a goroutine of your own.
func ExampleReaper() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	key := idem.Key{Project: "acme", Endpoint: "POST /applications", Value: "4711", RequestHash: idem.HashRequest([]byte("{}"))}
	_, err := idem.Run(ctx, pool, key, func(context.Context, pgx.Tx) (idem.Response, error) {
		return idem.Response{Status: http.StatusNoContent}, nil
	}, idem.WithTTL(time.Microsecond))
	if err != nil {
		fmt.Println(err)
	}

	r := &idem.Reaper{DB: pool}
	result, err := r.Reap(ctx)
	fmt.Println("deleted:", result.Deleted, "left:", result.Backlog, err)
	// Output:
	// deleted: 1 left: 0 <nil>
}

// An operator deletes a record on purpose: the key can be used again at once.
func ExampleForget() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	key := idem.Key{Project: "acme", Endpoint: "POST /applications", Value: "4711"}
	found, err := idem.Forget(ctx, pool, key)
	fmt.Println(found, err)
	// Output:
	// false <nil>
}

// At start-up: refuse to serve on a schema that cannot keep the promise.
func ExampleCheck() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	fmt.Println(idem.Check(ctx, pool))
	if _, err := pool.Exec(ctx, "ALTER TABLE idem.keys SET UNLOGGED"); err != nil {
		fmt.Println(err)
	}
	fmt.Println(idem.Check(ctx, pool))
	// Output:
	// <nil>
	// idem: table idem.keys cannot keep the promise (idem.keys is UNLOGGED): a crash of the server empties it: ALTER TABLE idem.keys SET LOGGED
}
