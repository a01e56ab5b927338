package idemhttp

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
)

// operation is what a handler finds in its context.
type operation struct {
	tx  pgx.Tx
	key idem.Key
}

type operationKey struct{}

func withOperation(ctx context.Context, tx pgx.Tx, key idem.Key) context.Context {
	return context.WithValue(ctx, operationKey{}, &operation{tx, key})
}

// Tx returns the transaction of a protected request: what is written through it commits with the record of the response,
// or not at all. It refuses Commit and Rollback; Begin (a savepoint) works. It returns nil where there is none: on requests
// that pass through, and outside Handler and Handle.
func Tx(ctx context.Context) pgx.Tx {
	if o, ok := ctx.Value(operationKey{}).(*operation); ok {
		return o.tx
	}
	return nil
}

// Key returns the key that a protected request runs under. Its Derive method makes the keys for calls to other services,
// which a second run then repeats with the same key. It returns the zero Key where there is none.
func Key(ctx context.Context) idem.Key {
	if o, ok := ctx.Value(operationKey{}).(*operation); ok {
		return o.key
	}
	return idem.Key{}
}
