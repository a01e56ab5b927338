package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/examples/lending/internal/store"
)

type chargeInput struct {
	Reference string `json:"reference"`
	Account   string `json:"account"`
	Amount    int64  `json:"amount"`
	Currency  string `json:"currency"`
}

func (in chargeInput) check() []fieldError {
	var c checks
	c.reference(in.Reference)
	c.text("account", in.Account, 40)
	c.money(in.Amount, in.Currency)
	return c
}

// createCharge takes money. It writes as it goes and may find out late that it must not: the refusals below undo the
// attempt that was noted first, and stay the answer to this key.
func createCharge(ctx context.Context, q *store.Queries, project string, in chargeInput) (created, error) {
	if err := q.CreateChargeAttempt(ctx, project, in.Reference, in.Amount); err != nil {
		return created{}, err
	}
	account, err := q.LockAccount(ctx, project, in.Account)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return created{}, refuse(http.StatusNotFound, "account_unknown", in.Reference, "there is no account %s", in.Account)
	case err != nil:
		return created{}, err
	case account.Currency != in.Currency:
		return created{}, declined(in, "account %s is kept in %s", in.Account, account.Currency)
	case in.Amount > account.ChargeLimit:
		return created{}, declined(in, "the amount is above the limit of account %s, which is %d", in.Account, account.ChargeLimit)
	case in.Amount > account.Balance:
		return created{}, declined(in, "the balance of account %s does not cover the amount", in.Account)
	}
	if err := q.DebitAccount(ctx, project, in.Account, in.Amount); err != nil {
		return created{}, err
	}
	row, err := q.CreateCharge(ctx, store.CreateChargeParams{
		Project: project, Reference: in.Reference, Account: in.Account, Amount: in.Amount, Currency: in.Currency,
	})
	return created{"/partner/v1/charges/" + row.ID.String(), row}, err
}

func declined(in chargeInput, format string, args ...any) error {
	return refuse(http.StatusPaymentRequired, "charge_declined", in.Reference, format, args...)
}
