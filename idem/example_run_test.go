package idem_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
)

// Run begins and commits, and starts over after a lost connection or a serialization failure.
func ExampleRun() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	key := idem.Key{
		Project: "acme", Endpoint: "POST /applications", Value: "8e03978e-40d5-43dd-bc93-6894a57f9324",
		RequestHash: idem.HashRequest([]byte(`{"amount": 25000}`)),
	}
	fn := func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		var id int64
		err := tx.QueryRow(ctx, "INSERT INTO cases (amount) VALUES ($1) RETURNING id", 25000).Scan(&id)
		if err != nil {
			return idem.Response{}, err
		}
		return idem.JSON(http.StatusCreated, map[string]any{"case": id})
	}
	for range 2 { // the request and its retry
		resp, err := idem.Run(ctx, pool, key, fn)
		fmt.Println(resp.Status, string(resp.Body), "replayed:", resp.Replayed, err)
	}
	// Output:
	// 201 {"case":1} replayed: false <nil>
	// 201 {"case":1} replayed: true <nil>
}
