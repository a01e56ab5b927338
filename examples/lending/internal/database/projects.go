package database

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/examples/lending/internal/api"
	"github.com/pgidem/pgidem/examples/lending/internal/store"
)

// Project is a partner that may use the API.
type Project struct {
	Name     string   // also its id
	Token    string   // bearer token, known here and to the partner alone
	Accounts []string // to charge
}

// Terms are what a project starts with. Amounts are in the smallest unit.
type Terms struct {
	Accounts    int
	Currency    string
	Opening     int64 // balance of each account
	ChargeLimit int64 // above it a charge is declined
	Slots       int   // slot-0001 and so on
}

// CreateProject creates a project with what it needs to try the API, or adds what is missing, and gives it a new token.
func CreateProject(ctx context.Context, pool *pgxpool.Pool, name string, t Terms) (Project, error) {
	p := Project{Name: name, Token: "lend_" + rand.Text()}
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		q := store.New(tx)
		err := errors.Join(q.CreateProject(ctx, name, name), q.CreateToken(ctx, api.TokenHash(p.Token), name))
		for n := range t.Accounts {
			account := fmt.Sprintf("account-%d", n+1)
			p.Accounts = append(p.Accounts, account)
			err = errors.Join(err, q.CreateAccount(ctx, store.CreateAccountParams{
				Project: name, Account: account, Currency: t.Currency, Opening: t.Opening, ChargeLimit: t.ChargeLimit,
			}))
		}
		tomorrow := time.Now().UTC().Truncate(24 * time.Hour).Add(33 * time.Hour) // at nine
		return errors.Join(err, q.CreateSlots(ctx, name, t.Slots, tomorrow))
	})
	if err != nil {
		return Project{}, fmt.Errorf("create project %s: %w", name, err)
	}
	return p, nil
}

// RevokeToken shuts a token out again.
func RevokeToken(ctx context.Context, pool *pgxpool.Pool, token string) error {
	return store.New(pool).DeleteToken(ctx, api.TokenHash(token))
}
