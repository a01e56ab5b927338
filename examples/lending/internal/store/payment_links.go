package store

import "context"

const paymentLinkColumns = `id, reference, token, amount, currency, description, expires_at, created_at`

const createPaymentLink = `-- name: CreatePaymentLink :one
INSERT INTO lending.payment_links (project, reference, token, amount, currency, description, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + make_interval(hours => $7))
RETURNING ` + paymentLinkColumns

// CreatePaymentLinkParams are the columns of a new payment link.
type CreatePaymentLinkParams struct {
	Project     string
	Reference   string
	Token       string
	Amount      int64
	Currency    string
	Description string
	ValidHours  int32
}

// CreatePaymentLink inserts a payment link.
func (q *Queries) CreatePaymentLink(ctx context.Context, p CreatePaymentLinkParams) (PaymentLink, error) {
	return one[PaymentLink](ctx, q.db, createPaymentLink,
		p.Project, p.Reference, p.Token, p.Amount, p.Currency, p.Description, p.ValidHours)
}

const getPaymentLink = `-- name: GetPaymentLink :one
SELECT ` + paymentLinkColumns + ` FROM lending.payment_links WHERE project = $1 AND id = $2`

// GetPaymentLink returns a payment link of the project, or pgx.ErrNoRows.
func (q *Queries) GetPaymentLink(ctx context.Context, project string, id UUID) (PaymentLink, error) {
	return one[PaymentLink](ctx, q.db, getPaymentLink, project, id)
}

const listPaymentLinks = `-- name: ListPaymentLinks :many
SELECT ` + paymentLinkColumns + ` FROM lending.payment_links
WHERE project = $1 AND ($2 = '' OR reference = $2)
ORDER BY created_at DESC, id LIMIT $3`

// ListPaymentLinks returns the latest, all of them or those with one reference.
func (q *Queries) ListPaymentLinks(ctx context.Context, project, reference string, limit int32) ([]PaymentLink, error) {
	return many[PaymentLink](ctx, q.db, listPaymentLinks, project, reference, limit)
}
