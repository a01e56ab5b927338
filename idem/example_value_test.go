package idem_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
)

type charge struct {
	ID     int64 `json:"id"`
	Amount int64 `json:"amount"`
}

// A job that is delivered twice charges once. Where there is no HTTP there is no response either: the value is recorded as JSON.
func ExampleRunValue() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	key := idem.Key{Project: "acme", Endpoint: "job charge", Value: "job-4711", RequestHash: idem.HashRequest([]byte("4711"), []byte("1250"))}
	for range 2 {
		res, err := idem.RunValue(ctx, pool, key, func(ctx context.Context, tx pgx.Tx) (charge, error) {
			c := charge{Amount: 1250}
			err := tx.QueryRow(ctx, "INSERT INTO charges (account, amount) VALUES ('4711', $1) RETURNING id", c.Amount).Scan(&c.ID)
			return c, err
		})
		fmt.Println(res.Value.ID, res.Value.Amount, "replayed:", res.Replayed, err)
	}
	// Output:
	// 1 1250 replayed: false <nil>
	// 1 1250 replayed: true <nil>
}

// DoValue is for the caller's own transaction.
func ExampleDoValue() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		key := idem.Key{Project: "acme", Endpoint: "job charge", Value: "job-4711", RequestHash: idem.HashRequest([]byte("4711"))}
		res, err := idem.DoValue(ctx, tx, key, func(ctx context.Context, tx pgx.Tx) (id int64, err error) {
			err = tx.QueryRow(ctx, "INSERT INTO charges (account, amount) VALUES ('4711', 1250) RETURNING id").Scan(&id)
			return id, err
		})
		fmt.Println("charge", res.Value)
		return err
	})
	fmt.Println(err)
	// Output:
	// charge 1
	// <nil>
}
