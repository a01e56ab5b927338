package idem_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
)

// What to answer when a call fails. The key is cut in the text, so that it can be logged.
func ExampleError() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	send := func(body string) (int, error) {
		key := idem.Key{
			Project: "acme", Endpoint: "POST /applications", Value: "8e03978e-40d5-43dd-bc93-6894a57f9324",
			RequestHash: idem.HashRequest([]byte(body)),
		}
		resp, err := idem.Run(ctx, pool, key, func(context.Context, pgx.Tx) (idem.Response, error) {
			return idem.Response{Status: http.StatusCreated}, nil
		})
		switch {
		case err == nil:
			return resp.Status, nil
		case errors.Is(err, idem.ErrInvalidKey):
			return http.StatusBadRequest, err
		case errors.Is(err, idem.ErrKeyReused):
			return http.StatusUnprocessableEntity, err
		case errors.Is(err, idem.ErrInProgress):
			return http.StatusConflict, err // with Retry-After
		}
		return http.StatusServiceUnavailable, err // the client retries with the same key
	}
	fmt.Println(send(`{"amount": 25000}`))
	status, err := send(`{"amount": 99999}`)
	fmt.Println(status, errors.Is(err, idem.ErrKeyReused))
	if e, ok := errors.AsType[*idem.Error](err); ok {
		fmt.Println(e.Op, e.Key.Endpoint, e.Hint)
	}
	// Output:
	// 201 <nil>
	// 422 true
	// run POST /applications a new operation needs a new key
}

// A duplicate that arrives while the first call is still running waits a while, here not at all.
func ExampleWithWait() {
	ctx := context.Background()
	pool, closePool := openPool()
	defer closePool()

	key := idem.Key{Project: "acme", Endpoint: "POST /applications", Value: "1c88", RequestHash: idem.HashRequest([]byte("body"))}
	work := func(context.Context, pgx.Tx) (idem.Response, error) { return idem.Response{Status: 201}, nil }

	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := idem.Do(ctx, tx, key, work); err != nil {
			return err
		}
		_, err := idem.Run(ctx, pool, key, work, idem.WithWait(0)) // meanwhile, somewhere else
		fmt.Println("in progress:", errors.Is(err, idem.ErrInProgress))
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	resp, err := idem.Run(ctx, pool, key, work, idem.WithWait(0))
	fmt.Println(resp.Status, "replayed:", resp.Replayed, err)
	// Output:
	// in progress: true
	// 201 replayed: true <nil>
}
