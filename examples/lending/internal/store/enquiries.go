package store

import "context"

const enquiryColumns = `id, reference, bureau, subject, purpose, fee, created_at`

const createEnquiry = `-- name: CreateEnquiry :one
INSERT INTO lending.enquiries (project, reference, bureau, subject, purpose, fee)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING ` + enquiryColumns

// CreateEnquiryParams are the columns of a new enquiry.
type CreateEnquiryParams struct {
	Project   string
	Reference string
	Bureau    string
	Subject   string
	Purpose   string
	Fee       int64
}

// CreateEnquiry inserts an enquiry.
func (q *Queries) CreateEnquiry(ctx context.Context, p CreateEnquiryParams) (Enquiry, error) {
	return one[Enquiry](ctx, q.db, createEnquiry, p.Project, p.Reference, p.Bureau, p.Subject, p.Purpose, p.Fee)
}

const getEnquiry = `-- name: GetEnquiry :one
SELECT ` + enquiryColumns + ` FROM lending.enquiries WHERE project = $1 AND id = $2`

// GetEnquiry returns an enquiry of the project, or pgx.ErrNoRows.
func (q *Queries) GetEnquiry(ctx context.Context, project string, id UUID) (Enquiry, error) {
	return one[Enquiry](ctx, q.db, getEnquiry, project, id)
}

const listEnquiries = `-- name: ListEnquiries :many
SELECT ` + enquiryColumns + ` FROM lending.enquiries
WHERE project = $1 AND ($2 = '' OR reference = $2)
ORDER BY created_at DESC, id LIMIT $3`

// ListEnquiries returns the latest, all of them or those with one reference.
func (q *Queries) ListEnquiries(ctx context.Context, project, reference string, limit int32) ([]Enquiry, error) {
	return many[Enquiry](ctx, q.db, listEnquiries, project, reference, limit)
}
