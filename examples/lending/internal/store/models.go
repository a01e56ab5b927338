package store

import (
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// UUID is a uuid column; in JSON it is a string.
type UUID = pgtype.UUID

// Application is a row of lending.applications. Amounts here and below are in the smallest unit of their currency.
type Application struct {
	ID            UUID      `db:"id" json:"id"`
	Reference     string    `db:"reference" json:"reference"`
	ApplicantName string    `db:"applicant_name" json:"applicant_name"`
	Email         string    `db:"email" json:"email"`
	Amount        int64     `db:"amount" json:"amount"`
	Currency      string    `db:"currency" json:"currency"`
	TermMonths    int32     `db:"term_months" json:"term_months"`
	Purpose       string    `db:"purpose" json:"purpose"`
	Status        string    `db:"status" json:"status"`
	CreatedAt     time.Time `db:"created_at" json:"created_at"`
}

// Enquiry is a row of lending.enquiries.
type Enquiry struct {
	ID        UUID      `db:"id" json:"id"`
	Reference string    `db:"reference" json:"reference"`
	Bureau    string    `db:"bureau" json:"bureau"`
	Subject   string    `db:"subject" json:"subject"`
	Purpose   string    `db:"purpose" json:"purpose"`
	Fee       int64     `db:"fee" json:"fee"`
	CreatedAt time.Time `db:"created_at" json:"created_at"`
}

// Consent is a row of lending.consents with its scopes.
type Consent struct {
	ID        UUID      `db:"id" json:"id"`
	Reference string    `db:"reference" json:"reference"`
	Subject   string    `db:"subject" json:"subject"`
	Scopes    []string  `db:"scopes" json:"scopes"`
	ValidDays int32     `db:"valid_days" json:"valid_days"`
	CreatedAt time.Time `db:"created_at" json:"created_at"`
}

// PaymentLink is a row of lending.payment_links.
type PaymentLink struct {
	ID          UUID      `db:"id" json:"id"`
	Reference   string    `db:"reference" json:"reference"`
	Token       string    `db:"token" json:"token"`
	Amount      int64     `db:"amount" json:"amount"`
	Currency    string    `db:"currency" json:"currency"`
	Description string    `db:"description" json:"description"`
	ExpiresAt   time.Time `db:"expires_at" json:"expires_at"`
	CreatedAt   time.Time `db:"created_at" json:"created_at"`
}

// IdentityCheck is a row of lending.identity_checks. The document's number stays in the database.
type IdentityCheck struct {
	ID              UUID      `db:"id" json:"id"`
	Reference       string    `db:"reference" json:"reference"`
	FullName        string    `db:"full_name" json:"full_name"`
	DocumentType    string    `db:"document_type" json:"document_type"`
	DocumentCountry string    `db:"document_country" json:"document_country"`
	Status          string    `db:"status" json:"status"`
	CreatedAt       time.Time `db:"created_at" json:"created_at"`
}

// Booking is a row of lending.bookings.
type Booking struct {
	ID        UUID      `db:"id" json:"id"`
	Reference string    `db:"reference" json:"reference"`
	Slot      string    `db:"slot" json:"slot"`
	Attendee  string    `db:"attendee" json:"attendee"`
	CreatedAt time.Time `db:"created_at" json:"created_at"`
}

// Charge is a row of lending.charges.
type Charge struct {
	ID        UUID      `db:"id" json:"id"`
	Reference string    `db:"reference" json:"reference"`
	Account   string    `db:"account" json:"account"`
	Amount    int64     `db:"amount" json:"amount"`
	Currency  string    `db:"currency" json:"currency"`
	CreatedAt time.Time `db:"created_at" json:"created_at"`
}

// Slot is a row of lending.slots.
type Slot struct {
	Slot     string    `db:"slot" json:"slot"`
	StartsAt time.Time `db:"starts_at" json:"starts_at"`
}

// Account is a row of lending.accounts.
type Account struct {
	Account     string `db:"account" json:"account"`
	Currency    string `db:"currency" json:"currency"`
	Balance     int64  `db:"balance" json:"balance"`
	ChargeLimit int64  `db:"charge_limit" json:"charge_limit"`
}
