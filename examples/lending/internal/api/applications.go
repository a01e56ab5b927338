package api

import (
	"context"

	"github.com/pgidem/pgidem/examples/lending/internal/store"
)

type applicationInput struct {
	Reference string `json:"reference"`
	Applicant struct {
		Name  string `json:"name"`
		Email string `json:"email"`
	} `json:"applicant"`
	Amount     int64  `json:"amount"` // in the smallest unit of the currency, here and everywhere
	Currency   string `json:"currency"`
	TermMonths int32  `json:"term_months"`
	Purpose    string `json:"purpose"`
}

func (in applicationInput) check() []fieldError {
	var c checks
	c.reference(in.Reference)
	c.text("applicant.name", in.Applicant.Name, 200)
	c.email("applicant.email", in.Applicant.Email)
	c.money(in.Amount, in.Currency)
	c.between("term_months", int64(in.TermMonths), 1, 480)
	c.oneOf("purpose", in.Purpose, []string{"car", "education", "home", "working_capital"})
	return c
}

// createApplication opens a case.
func createApplication(ctx context.Context, q *store.Queries, project string, in applicationInput) (created, error) {
	row, err := q.CreateApplication(ctx, store.CreateApplicationParams{
		Project: project, Reference: in.Reference, ApplicantName: in.Applicant.Name, Email: in.Applicant.Email,
		Amount: in.Amount, Currency: in.Currency, TermMonths: in.TermMonths, Purpose: in.Purpose,
	})
	if err != nil {
		return created{}, err
	}
	if err := q.CreateApplicationEvent(ctx, row.ID, "received"); err != nil {
		return created{}, err
	}
	return created{"/partner/v1/applications/" + row.ID.String(), row}, nil
}
