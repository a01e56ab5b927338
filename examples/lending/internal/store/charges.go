package store

import "context"

const chargeColumns = `id, reference, account, amount, currency, created_at`

const createChargeAttempt = `-- name: CreateChargeAttempt :exec
INSERT INTO lending.charge_attempts (project, reference, amount) VALUES ($1, $2, $3)`

// CreateChargeAttempt notes that a charge was tried.
func (q *Queries) CreateChargeAttempt(ctx context.Context, project, reference string, amount int64) error {
	_, err := q.db.Exec(ctx, createChargeAttempt, project, reference, amount)
	return err
}

const lockAccount = `-- name: LockAccount :one
SELECT account, currency, balance, charge_limit FROM lending.accounts WHERE project = $1 AND account = $2 FOR NO KEY UPDATE`

// LockAccount returns an account and keeps it from others until the transaction ends, or returns pgx.ErrNoRows.
func (q *Queries) LockAccount(ctx context.Context, project, account string) (Account, error) {
	return one[Account](ctx, q.db, lockAccount, project, account)
}

const debitAccount = `-- name: DebitAccount :exec
UPDATE lending.accounts SET balance = balance - $3 WHERE project = $1 AND account = $2`

// DebitAccount takes an amount from an account.
func (q *Queries) DebitAccount(ctx context.Context, project, account string, amount int64) error {
	_, err := q.db.Exec(ctx, debitAccount, project, account, amount)
	return err
}

const createCharge = `-- name: CreateCharge :one
INSERT INTO lending.charges (project, reference, account, amount, currency)
VALUES ($1, $2, $3, $4, $5)
RETURNING ` + chargeColumns

// CreateChargeParams are the columns of a new charge.
type CreateChargeParams struct {
	Project   string
	Reference string
	Account   string
	Amount    int64
	Currency  string
}

// CreateCharge inserts a charge.
func (q *Queries) CreateCharge(ctx context.Context, p CreateChargeParams) (Charge, error) {
	return one[Charge](ctx, q.db, createCharge, p.Project, p.Reference, p.Account, p.Amount, p.Currency)
}

const getCharge = `-- name: GetCharge :one
SELECT ` + chargeColumns + ` FROM lending.charges WHERE project = $1 AND id = $2`

// GetCharge returns a charge of the project, or pgx.ErrNoRows.
func (q *Queries) GetCharge(ctx context.Context, project string, id UUID) (Charge, error) {
	return one[Charge](ctx, q.db, getCharge, project, id)
}

const listCharges = `-- name: ListCharges :many
SELECT ` + chargeColumns + ` FROM lending.charges
WHERE project = $1 AND ($2 = '' OR reference = $2)
ORDER BY created_at DESC, id LIMIT $3`

// ListCharges returns the latest, all of them or those with one reference.
func (q *Queries) ListCharges(ctx context.Context, project, reference string, limit int32) ([]Charge, error) {
	return many[Charge](ctx, q.db, listCharges, project, reference, limit)
}

const getAccount = `-- name: GetAccount :one
SELECT account, currency, balance, charge_limit FROM lending.accounts WHERE project = $1 AND account = $2`

// GetAccount returns an account of the project, or pgx.ErrNoRows.
func (q *Queries) GetAccount(ctx context.Context, project, account string) (Account, error) {
	return one[Account](ctx, q.db, getAccount, project, account)
}
