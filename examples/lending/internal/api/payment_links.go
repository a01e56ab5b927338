package api

import (
	"context"
	"crypto/rand"

	"github.com/pgidem/pgidem/examples/lending/internal/store"
)

type paymentLinkInput struct {
	Reference   string `json:"reference"`
	Amount      int64  `json:"amount"`
	Currency    string `json:"currency"`
	Description string `json:"description"`
	ValidHours  int32  `json:"valid_hours"` // not a date: see input
}

func (in paymentLinkInput) check() []fieldError {
	var c checks
	c.reference(in.Reference)
	c.money(in.Amount, in.Currency)
	c.text("description", in.Description, 200)
	c.between("valid_hours", int64(in.ValidHours), 1, 720)
	return c
}

// createPaymentLink makes a link with a secret in it: a retry must get the very same one, since it may have been sent to
// the customer already.
func createPaymentLink(ctx context.Context, q *store.Queries, project string, in paymentLinkInput) (created, error) {
	row, err := q.CreatePaymentLink(ctx, store.CreatePaymentLinkParams{
		Project: project, Reference: in.Reference, Token: rand.Text(), Amount: in.Amount, Currency: in.Currency,
		Description: in.Description, ValidHours: in.ValidHours,
	})
	return created{"/partner/v1/payment-links/" + row.ID.String(), row}, err
}
