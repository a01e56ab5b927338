package store

import "context"

const applicationColumns = `id, reference, applicant_name, email, amount, currency, term_months, purpose, status, created_at`

const createApplication = `-- name: CreateApplication :one
INSERT INTO lending.applications (project, reference, applicant_name, email, amount, currency, term_months, purpose, status)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'received')
RETURNING ` + applicationColumns

// CreateApplicationParams are the columns of a new application.
type CreateApplicationParams struct {
	Project       string
	Reference     string
	ApplicantName string
	Email         string
	Amount        int64
	Currency      string
	TermMonths    int32
	Purpose       string
}

// CreateApplication inserts an application.
func (q *Queries) CreateApplication(ctx context.Context, p CreateApplicationParams) (Application, error) {
	return one[Application](ctx, q.db, createApplication,
		p.Project, p.Reference, p.ApplicantName, p.Email, p.Amount, p.Currency, p.TermMonths, p.Purpose)
}

const createApplicationEvent = `-- name: CreateApplicationEvent :exec
INSERT INTO lending.application_events (application_id, event) VALUES ($1, $2)`

// CreateApplicationEvent adds a line to the application's history.
func (q *Queries) CreateApplicationEvent(ctx context.Context, application UUID, event string) error {
	_, err := q.db.Exec(ctx, createApplicationEvent, application, event)
	return err
}

const getApplication = `-- name: GetApplication :one
SELECT ` + applicationColumns + ` FROM lending.applications WHERE project = $1 AND id = $2`

// GetApplication returns an application of the project, or pgx.ErrNoRows.
func (q *Queries) GetApplication(ctx context.Context, project string, id UUID) (Application, error) {
	return one[Application](ctx, q.db, getApplication, project, id)
}

const listApplications = `-- name: ListApplications :many
SELECT ` + applicationColumns + ` FROM lending.applications
WHERE project = $1 AND ($2 = '' OR reference = $2)
ORDER BY created_at DESC, id LIMIT $3`

// ListApplications returns the latest, all of them or those with one reference.
func (q *Queries) ListApplications(ctx context.Context, project, reference string, limit int32) ([]Application, error) {
	return many[Application](ctx, q.db, listApplications, project, reference, limit)
}
