package store

import "context"

const consentColumns = `c.id, c.reference, c.subject, c.valid_days, c.created_at,
       ARRAY(SELECT s.scope FROM lending.consent_scopes s WHERE s.consent_id = c.id ORDER BY s.scope) AS scopes`

const createConsent = `-- name: CreateConsent :one
INSERT INTO lending.consents (project, reference, subject, valid_days)
VALUES ($1, $2, $3, $4)
RETURNING id`

// CreateConsentParams are the columns of a new consent.
type CreateConsentParams struct {
	Project   string
	Reference string
	Subject   string
	ValidDays int32
}

// CreateConsent inserts a consent, still without scopes.
func (q *Queries) CreateConsent(ctx context.Context, p CreateConsentParams) (id UUID, err error) {
	err = q.db.QueryRow(ctx, createConsent, p.Project, p.Reference, p.Subject, p.ValidDays).Scan(&id)
	return id, err
}

const addConsentScopes = `-- name: AddConsentScopes :exec
INSERT INTO lending.consent_scopes (consent_id, scope) SELECT $1, unnest($2::text[])`

// AddConsentScopes adds what the consent is given for.
func (q *Queries) AddConsentScopes(ctx context.Context, consent UUID, scopes []string) error {
	_, err := q.db.Exec(ctx, addConsentScopes, consent, scopes)
	return err
}

const getConsent = `-- name: GetConsent :one
SELECT ` + consentColumns + ` FROM lending.consents c WHERE c.project = $1 AND c.id = $2`

// GetConsent returns a consent of the project, or pgx.ErrNoRows.
func (q *Queries) GetConsent(ctx context.Context, project string, id UUID) (Consent, error) {
	return one[Consent](ctx, q.db, getConsent, project, id)
}

const listConsents = `-- name: ListConsents :many
SELECT ` + consentColumns + ` FROM lending.consents c
WHERE c.project = $1 AND ($2 = '' OR c.reference = $2)
ORDER BY c.created_at DESC, c.id LIMIT $3`

// ListConsents returns the latest, all of them or those with one reference.
func (q *Queries) ListConsents(ctx context.Context, project, reference string, limit int32) ([]Consent, error) {
	return many[Consent](ctx, q.db, listConsents, project, reference, limit)
}
