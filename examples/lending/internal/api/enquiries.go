package api

import (
	"context"

	"github.com/pgidem/pgidem/examples/lending/internal/store"
)

type enquiryInput struct {
	Reference string `json:"reference"`
	Bureau    string `json:"bureau"`
	Subject   string `json:"subject"`
	Purpose   string `json:"purpose"`
}

func (in enquiryInput) check() []fieldError {
	var c checks
	c.reference(in.Reference)
	c.oneOf("bureau", in.Bureau, []string{"commercial", "consumer"})
	c.text("subject", in.Subject, 200)
	c.oneOf("purpose", in.Purpose, []string{"account_review", "new_credit"})
	return c
}

// fees of the bureaus, in the smallest unit.
var fees = map[string]int64{"consumer": 3500, "commercial": 12500}

// createEnquiry asks a credit bureau. Asking twice costs twice, and shows on the person's file.
func createEnquiry(ctx context.Context, q *store.Queries, project string, in enquiryInput) (created, error) {
	row, err := q.CreateEnquiry(ctx, store.CreateEnquiryParams{
		Project: project, Reference: in.Reference, Bureau: in.Bureau, Subject: in.Subject, Purpose: in.Purpose, Fee: fees[in.Bureau],
	})
	return created{"/partner/v1/enquiries/" + row.ID.String(), row}, err
}
