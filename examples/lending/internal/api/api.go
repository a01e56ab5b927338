// Package api is the HTTP API of a lender for its partners. Every POST is protected by an idempotency key: what it writes
// and what it answers are committed in one transaction, once, however often the request arrives.
package api

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/examples/lending/internal/store"
	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/idem/idemhttp"
)

// Config is what the API needs.
type Config struct {
	// Pool is the database, migrated. Required.
	Pool *pgxpool.Pool

	// Logger receives errors and panics. Defaults to none.
	Logger *slog.Logger

	// Observer is told how every protected call ended. Defaults to none.
	Observer idem.Observer

	// AfterWrites is called in every POST between the last write and the commit; it may panic or take its time. It is there
	// to try what happens then. Defaults to none, and that is what production wants.
	AfterWrites func(*http.Request)

	// Protect replaces the protection by idempotency keys, to see what happens without it. Defaults to idemhttp.Handle.
	Protect func(Handler) http.Handler
}

// Handler does one operation in a transaction. What it returns as an error undoes the writes and is answered with 500; so
// does an answer of 400 and above, which is remembered all the same: the operation has been decided.
type Handler = func(ctx context.Context, tx pgx.Tx, w http.ResponseWriter, r *http.Request) error

type api struct {
	log         *slog.Logger
	afterWrites func(*http.Request)
	protect     func(Handler) http.Handler
}

// New returns the API's handler, or what is wrong with the configuration.
//
// A request passes, in this order: recovery from panics, authentication, routing, validation, the idempotency key, the
// operation. Authentication stands before the key, so that a replay is authorised like any request. Validation does too, so
// that a request which can never be done uses up no key.
func New(c Config) (http.Handler, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	keys := &idemhttp.Middleware{
		Pool:     c.Pool,
		Project:  func(r *http.Request) string { return projectOf(r.Context()) },
		Logger:   c.Logger,
		Observer: c.Observer,
	}
	if err := keys.Validate(); err != nil {
		return nil, err
	}
	a := &api{
		log:         c.Logger,
		afterWrites: c.AfterWrites,
		protect:     func(h Handler) http.Handler { return idemhttp.Handle(keys, h) },
	}
	if c.Protect != nil {
		a.protect = c.Protect
	}

	mux := http.NewServeMux()
	mux.Handle("POST /partner/v1/applications", operation(a, createApplication))
	mux.Handle("POST /partner/v1/enquiries", operation(a, createEnquiry))
	mux.Handle("POST /partner/v1/consents", operation(a, createConsent))
	mux.Handle("POST /partner/v1/payment-links", operation(a, createPaymentLink))
	mux.Handle("POST /partner/v1/identity-checks", operation(a, createIdentityCheck))
	mux.Handle("POST /partner/v1/bookings", operation(a, createBooking))
	mux.Handle("POST /partner/v1/charges", operation(a, createCharge))

	q := store.New(c.Pool)
	mux.Handle("GET /partner/v1/applications", list(a, q.ListApplications))
	mux.Handle("GET /partner/v1/applications/{id}", get(a, q.GetApplication))
	mux.Handle("GET /partner/v1/enquiries", list(a, q.ListEnquiries))
	mux.Handle("GET /partner/v1/enquiries/{id}", get(a, q.GetEnquiry))
	mux.Handle("GET /partner/v1/consents", list(a, q.ListConsents))
	mux.Handle("GET /partner/v1/consents/{id}", get(a, q.GetConsent))
	mux.Handle("GET /partner/v1/payment-links", list(a, q.ListPaymentLinks))
	mux.Handle("GET /partner/v1/payment-links/{id}", get(a, q.GetPaymentLink))
	mux.Handle("GET /partner/v1/identity-checks", list(a, q.ListIdentityChecks))
	mux.Handle("GET /partner/v1/identity-checks/{id}", get(a, q.GetIdentityCheck))
	mux.Handle("GET /partner/v1/bookings", list(a, q.ListBookings))
	mux.Handle("GET /partner/v1/bookings/{id}", get(a, q.GetBooking))
	mux.Handle("GET /partner/v1/charges", list(a, q.ListCharges))
	mux.Handle("GET /partner/v1/charges/{id}", get(a, q.GetCharge))
	mux.Handle("GET /partner/v1/slots", a.freeSlots(q))
	mux.Handle("GET /partner/v1/accounts/{account}", a.account(q))

	return a.recovered(a.authenticated(q, mux)), nil
}
