package store

import "context"

const identityCheckColumns = `id, reference, full_name, document_type, document_country, status, created_at`

const createIdentityCheck = `-- name: CreateIdentityCheck :one
INSERT INTO lending.identity_checks (project, reference, full_name, document_type, document_country, document_number, status)
VALUES ($1, $2, $3, $4, $5, $6, 'pending')
RETURNING ` + identityCheckColumns

// CreateIdentityCheckParams are the columns of a new identity check.
type CreateIdentityCheckParams struct {
	Project         string
	Reference       string
	FullName        string
	DocumentType    string
	DocumentCountry string
	DocumentNumber  string
}

// CreateIdentityCheck inserts an identity check.
func (q *Queries) CreateIdentityCheck(ctx context.Context, p CreateIdentityCheckParams) (IdentityCheck, error) {
	return one[IdentityCheck](ctx, q.db, createIdentityCheck,
		p.Project, p.Reference, p.FullName, p.DocumentType, p.DocumentCountry, p.DocumentNumber)
}

const getIdentityCheck = `-- name: GetIdentityCheck :one
SELECT ` + identityCheckColumns + ` FROM lending.identity_checks WHERE project = $1 AND id = $2`

// GetIdentityCheck returns an identity check of the project, or pgx.ErrNoRows.
func (q *Queries) GetIdentityCheck(ctx context.Context, project string, id UUID) (IdentityCheck, error) {
	return one[IdentityCheck](ctx, q.db, getIdentityCheck, project, id)
}

const listIdentityChecks = `-- name: ListIdentityChecks :many
SELECT ` + identityCheckColumns + ` FROM lending.identity_checks
WHERE project = $1 AND ($2 = '' OR reference = $2)
ORDER BY created_at DESC, id LIMIT $3`

// ListIdentityChecks returns the latest, all of them or those with one reference.
func (q *Queries) ListIdentityChecks(ctx context.Context, project, reference string, limit int32) ([]IdentityCheck, error) {
	return many[IdentityCheck](ctx, q.db, listIdentityChecks, project, reference, limit)
}
