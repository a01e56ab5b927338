package api

import (
	"context"
	"slices"

	"github.com/pgidem/pgidem/examples/lending/internal/store"
)

type consentInput struct {
	Reference string   `json:"reference"`
	Subject   string   `json:"subject"`
	Scopes    []string `json:"scopes"`
	ValidDays int32    `json:"valid_days"` // not a date: see input
}

func (in consentInput) check() []fieldError {
	var c checks
	c.reference(in.Reference)
	c.text("subject", in.Subject, 200)
	c.require(len(in.Scopes) > 0, "scopes", "must name at least one")
	for i, scope := range in.Scopes {
		c.oneOf("scopes", scope, []string{"accounts", "balances", "bureau", "transactions"})
		c.require(!slices.Contains(in.Scopes[:i], scope), "scopes", "names %s twice", scope)
	}
	c.between("valid_days", int64(in.ValidDays), 1, 365)
	return c
}

// createConsent notes what a customer agreed to.
func createConsent(ctx context.Context, q *store.Queries, project string, in consentInput) (created, error) {
	id, err := q.CreateConsent(ctx, store.CreateConsentParams{
		Project: project, Reference: in.Reference, Subject: in.Subject, ValidDays: in.ValidDays,
	})
	if err != nil {
		return created{}, err
	}
	if err := q.AddConsentScopes(ctx, id, in.Scopes); err != nil {
		return created{}, err
	}
	row, err := q.GetConsent(ctx, project, id)
	return created{"/partner/v1/consents/" + id.String(), row}, err
}
