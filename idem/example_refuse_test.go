package idem_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
)

// A decline is an answer: it is remembered, and what was written on the way to it is undone.
func ExampleRefuse() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	key := idem.Key{Project: "acme", Endpoint: "POST /charges", Value: "5f0c2d9e", RequestHash: idem.HashRequest([]byte(`{"amount": 900}`))}
	for range 2 {
		resp, err := idem.Run(ctx, pool, key, func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			fmt.Println("asking the limit")
			if _, err := tx.Exec(ctx, "INSERT INTO charges (account, amount) VALUES ('4711', 900)"); err != nil {
				return idem.Response{}, err
			}
			var total int64
			if err := tx.QueryRow(ctx, "SELECT sum(amount) FROM charges WHERE account = '4711'").Scan(&total); err != nil {
				return idem.Response{}, err
			}
			if total > 500 {
				declined, err := idem.JSON(http.StatusPaymentRequired, map[string]any{"error": "over the limit"})
				return idem.Response{}, errors.Join(err, idem.Refuse(declined))
			}
			return idem.JSON(http.StatusCreated, map[string]any{"total": total})
		})
		fmt.Println(resp.Status, string(resp.Body), "replayed:", resp.Replayed, err)
	}
	var charges int
	err := pool.QueryRow(ctx, "SELECT count(*) FROM charges").Scan(&charges)
	fmt.Println(charges, "charges", err)
	// Output:
	// asking the limit
	// 402 {"error":"over the limit"} replayed: false <nil>
	// 402 {"error":"over the limit"} replayed: true <nil>
	// 0 charges <nil>
}

// With a savepoint an error of fn undoes fn's writes and nothing else: the caller's transaction goes on.
func ExampleWithSavepoint() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, amount := range []int64{100, -1, 300} {
			key := idem.Key{Project: "acme", Endpoint: "import", Value: fmt.Sprint("line-", amount), RequestHash: idem.HashRequest(fmt.Append(nil, amount))}
			_, err := idem.Do(ctx, tx, key, func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				if _, err := tx.Exec(ctx, "INSERT INTO cases (amount) VALUES ($1)", amount); err != nil {
					return idem.Response{}, err
				}
				if amount < 0 {
					return idem.Response{}, fmt.Errorf("amount %d", amount)
				}
				return idem.Response{}, nil
			}, idem.WithSavepoint())
			if err != nil {
				fmt.Println("left out:", err)
			}
		}
		return nil
	})
	var n int
	if err == nil {
		err = pool.QueryRow(ctx, "SELECT count(*) FROM cases").Scan(&n)
	}
	fmt.Println(n, "cases", err)
	// Output:
	// left out: amount -1
	// 2 cases <nil>
}
