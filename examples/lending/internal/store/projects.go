package store

import (
	"context"
	"time"
)

const createProject = `-- name: CreateProject :exec
INSERT INTO lending.projects (project, name) VALUES ($1, $2) ON CONFLICT (project) DO NOTHING`

// CreateProject creates a project, or leaves the one that is there.
func (q *Queries) CreateProject(ctx context.Context, project, name string) error {
	_, err := q.db.Exec(ctx, createProject, project, name)
	return err
}

const createToken = `-- name: CreateToken :exec
INSERT INTO lending.tokens (token_hash, project) VALUES ($1, $2)`

// CreateToken lets a bearer token in, given as its SHA-256.
func (q *Queries) CreateToken(ctx context.Context, tokenHash []byte, project string) error {
	_, err := q.db.Exec(ctx, createToken, tokenHash, project)
	return err
}

const deleteToken = `-- name: DeleteToken :exec
DELETE FROM lending.tokens WHERE token_hash = $1`

// DeleteToken shuts a bearer token out.
func (q *Queries) DeleteToken(ctx context.Context, tokenHash []byte) error {
	_, err := q.db.Exec(ctx, deleteToken, tokenHash)
	return err
}

const projectOfToken = `-- name: ProjectOfToken :one
SELECT project FROM lending.tokens WHERE token_hash = $1`

// ProjectOfToken returns the project that a token belongs to, or pgx.ErrNoRows.
func (q *Queries) ProjectOfToken(ctx context.Context, tokenHash []byte) (project string, err error) {
	err = q.db.QueryRow(ctx, projectOfToken, tokenHash).Scan(&project)
	return project, err
}

const createSlots = `-- name: CreateSlots :exec
INSERT INTO lending.slots (project, slot, starts_at)
SELECT $1, 'slot-' || to_char(n, 'FM0000'), $3::timestamptz + n * interval '15 minutes'
FROM generate_series(1, $2::int) n
ON CONFLICT (project, slot) DO NOTHING`

// CreateSlots creates free slots slot-0001 to slot-n, a quarter of an hour apart, where there are none.
func (q *Queries) CreateSlots(ctx context.Context, project string, n int, first time.Time) error {
	_, err := q.db.Exec(ctx, createSlots, project, n, first)
	return err
}

const createAccount = `-- name: CreateAccount :exec
INSERT INTO lending.accounts (project, account, currency, opening, balance, charge_limit)
VALUES ($1, $2, $3, $4, $4, $5)
ON CONFLICT (project, account) DO NOTHING`

// CreateAccountParams are the columns of a new account.
type CreateAccountParams struct {
	Project     string
	Account     string
	Currency    string
	Opening     int64
	ChargeLimit int64
}

// CreateAccount creates an account, or leaves the one that is there.
func (q *Queries) CreateAccount(ctx context.Context, p CreateAccountParams) error {
	_, err := q.db.Exec(ctx, createAccount, p.Project, p.Account, p.Currency, p.Opening, p.ChargeLimit)
	return err
}
