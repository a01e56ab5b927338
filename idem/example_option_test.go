package idem_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
)

// A payment whose client may retry for a week.
func ExampleWithTTL() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	key := idem.Key{Project: "acme", Endpoint: "POST /payments", Value: "c2a4", RequestHash: idem.HashRequest([]byte("body"))}
	_, err := idem.Run(ctx, pool, key, func(context.Context, pgx.Tx) (idem.Response, error) {
		return idem.Response{Status: 201}, nil
	}, idem.WithTTL(7*24*time.Hour))
	if err != nil {
		fmt.Println(err)
	}
	var days int
	err = pool.QueryRow(ctx, "SELECT extract(day FROM expires_at - created_at)::int FROM idem.keys").Scan(&days)
	fmt.Println("retained for", days, "days", err)
	// Output:
	// retained for 7 days <nil>
}

// Serializable transactions may fail for no fault of theirs. Run tries again.
func ExampleWithTxOptions() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	key := idem.Key{Project: "acme", Endpoint: "POST /applications", Value: "77ab", RequestHash: idem.HashRequest([]byte("body"))}
	_, err := idem.Run(ctx, pool, key, func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		var level string
		err := tx.QueryRow(ctx, "SHOW transaction_isolation").Scan(&level)
		fmt.Println(level)
		return idem.Response{}, err
	}, idem.WithTxOptions(pgx.TxOptions{IsoLevel: pgx.Serializable}))
	fmt.Println(err)
	// Output:
	// serializable
	// <nil>
}

// An operation without a request to bind its key to, such as one that a calendar starts.
func ExampleWithoutRequestHash() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	key := idem.Key{Project: "acme", Endpoint: "daily interest", Value: "2026-11-21"}
	for range 2 {
		resp, err := idem.Run(ctx, pool, key, func(context.Context, pgx.Tx) (idem.Response, error) {
			return idem.Response{Body: []byte("booked")}, nil
		}, idem.WithoutRequestHash())
		fmt.Println(string(resp.Body), "replayed:", resp.Replayed, err)
	}
	// Output:
	// booked replayed: false <nil>
	// booked replayed: true <nil>
}

// An observer counts what calls came to. It sees no keys.
func ExampleWithObserver() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	observe := idem.WithObserver(idem.ObserverFunc(func(_ context.Context, e idem.Event) {
		fmt.Println(e.Op, e.Endpoint, e.Outcome, e.Body, "bytes")
	}))
	key := idem.Key{Project: "acme", Endpoint: "POST /applications", Value: "9d1f", RequestHash: idem.HashRequest([]byte("body"))}
	for range 2 {
		_, err := idem.Run(ctx, pool, key, func(context.Context, pgx.Tx) (idem.Response, error) {
			return idem.Response{Status: 201, Body: []byte("opened")}, nil
		}, observe)
		if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// run POST /applications executed 6 bytes
	// run POST /applications replayed 6 bytes
}
