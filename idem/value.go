package idem

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Result is the value of an operation that is not an HTTP response.
type Result[T any] struct {
	// Value is what fn returned, as its JSON form gives it back. The first call gets it through JSON too, so that a field
	// that JSON leaves out is missing at once and not only on the replay.
	Value T

	// Replayed and CreatedAt are Response's.
	Replayed  bool
	CreatedAt time.Time
}

// DoValue is Do for a value that is stored as JSON. A value that does not survive JSON is an error, and nothing is recorded.
// A refusal must hold the JSON of a T as its body.
func DoValue[T any](ctx context.Context, tx pgx.Tx, key Key, fn func(context.Context, pgx.Tx) (T, error), opts ...Option) (Result[T], error) {
	r, err := Do(ctx, tx, key, asFunc(fn), opts...)
	return asResult[T]("do", key, r, err)
}

// RunValue is Run for a value that is stored as JSON. A value that does not survive JSON is an error, and nothing is
// recorded. A refusal must hold the JSON of a T as its body.
func RunValue[T any](ctx context.Context, pool *pgxpool.Pool, key Key, fn func(context.Context, pgx.Tx) (T, error), opts ...Option) (Result[T], error) {
	r, err := Run(ctx, pool, key, asFunc(fn), opts...)
	return asResult[T]("run", key, r, err)
}

func asFunc[T any](fn func(context.Context, pgx.Tx) (T, error)) Func {
	if fn == nil {
		return nil
	}
	return func(ctx context.Context, tx pgx.Tx) (Response, error) {
		v, err := fn(ctx, tx)
		if refused, ok := asRefusal(err); ok {
			if bad := json.Unmarshal(refused.Body, new(T)); bad != nil {
				return Response{}, fmt.Errorf("idem: the body of the refusal is not the JSON of a %T: %w", v, bad)
			}
		}
		if err != nil {
			return Response{}, err
		}
		r, err := JSON(0, v)
		if err != nil {
			return Response{}, err
		}
		if err := json.Unmarshal(r.Body, new(T)); err != nil { // now, while the writes can still be undone
			return Response{}, fmt.Errorf("idem: value cannot be read back from its own JSON: %w", err)
		}
		return Response{Body: r.Body}, nil
	}
}

func asResult[T any](op string, key Key, r Response, err error) (Result[T], error) {
	res := Result[T]{Replayed: r.Replayed, CreatedAt: r.CreatedAt}
	if err != nil {
		return res, err
	}
	if err := json.Unmarshal(r.Body, &res.Value); err != nil {
		return Result[T]{}, &Error{Op: op, Key: key, Err: err, Hint: "the recorded value does not fit the type; a type that changed needs a new endpoint name"}
	}
	return res, nil
}
