package api

import (
	"context"

	"github.com/pgidem/pgidem/examples/lending/internal/store"
)

type identityCheckInput struct {
	Reference string `json:"reference"`
	FullName  string `json:"full_name"`
	Document  struct {
		Type    string `json:"type"`
		Country string `json:"country"`
		Number  string `json:"number"`
	} `json:"document"`
}

func (in identityCheckInput) check() []fieldError {
	var c checks
	c.reference(in.Reference)
	c.text("full_name", in.FullName, 200)
	c.oneOf("document.type", in.Document.Type, []string{"driving_licence", "identity_card", "passport"})
	c.require(len(in.Document.Country) == 2 && isUpper(in.Document.Country), "document.country", "must be a country's two letters, such as DE")
	c.text("document.number", in.Document.Number, 40)
	return c
}

func isUpper(s string) bool {
	for _, c := range s {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return true
}

// createIdentityCheck starts a check; its result comes later.
func createIdentityCheck(ctx context.Context, q *store.Queries, project string, in identityCheckInput) (created, error) {
	row, err := q.CreateIdentityCheck(ctx, store.CreateIdentityCheckParams{
		Project: project, Reference: in.Reference, FullName: in.FullName, DocumentType: in.Document.Type,
		DocumentCountry: in.Document.Country, DocumentNumber: in.Document.Number,
	})
	return created{"/partner/v1/identity-checks/" + row.ID.String(), row}, err
}
