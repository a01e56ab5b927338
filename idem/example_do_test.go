package idem_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
)

// The key and the case commit with the caller's transaction. The retry gets the first answer, and opens no second case.
func ExampleDo() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	body := []byte(`{"amount": 25000}`)
	key := idem.Key{
		Project:     "acme",               // who sends it
		Endpoint:    "POST /applications", // what it is for
		Value:       "8e03978e-40d5-43dd-bc93-6894a57f9324",
		RequestHash: idem.HashRequest(body),
	}
	for range 2 { // the request and its retry
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			resp, err := idem.Do(ctx, tx, key, func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				var id int64
				err := tx.QueryRow(ctx, "INSERT INTO cases (amount) VALUES ($1) RETURNING id", 25000).Scan(&id)
				if err != nil {
					return idem.Response{}, err
				}
				return idem.JSON(http.StatusCreated, map[string]any{"case": id})
			})
			fmt.Println(resp.Status, string(resp.Body), "replayed:", resp.Replayed)
			return err // nil commits the case and the key
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// 201 {"case":1} replayed: false
	// 201 {"case":1} replayed: true
}
