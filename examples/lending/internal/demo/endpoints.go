package demo

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
)

// endpoint is one of the API's operations.
type endpoint struct {
	name   string // last element of the path
	table  string // where its effects are
	weight int    // share of the operations, in percent
	body   func(b *bodyBuilder) any
}

func (e *endpoint) path() string    { return "/partner/v1/" + e.name }
func (e *endpoint) pattern() string { return "POST " + e.path() }

// Terms of the demo's projects. An amount above the limit is declined, one below it never is: the balance covers them all.
const (
	currency    = "EUR"
	chargeLimit = 500_000
	opening     = 1_000_000_000_00
	accounts    = 8
)

var endpoints = []*endpoint{
	{name: "applications", table: "applications", weight: 14, body: (*bodyBuilder).application},
	{name: "enquiries", table: "enquiries", weight: 12, body: (*bodyBuilder).enquiry},
	{name: "consents", table: "consents", weight: 12, body: (*bodyBuilder).consent},
	{name: "payment-links", table: "payment_links", weight: 12, body: (*bodyBuilder).paymentLink},
	{name: "identity-checks", table: "identity_checks", weight: 12, body: (*bodyBuilder).identityCheck},
	{name: "bookings", table: "bookings", weight: 16, body: (*bodyBuilder).booking},
	{name: "charges", table: "charges", weight: 22, body: (*bodyBuilder).charge},
}

// bodyBuilder makes the body of one operation. Two builders with the same random numbers, one of them changed, make two
// bodies that differ in one field: what a client does that reuses a key by mistake.
type bodyBuilder struct {
	random    *rand.Rand
	reference string
	slot      string
	changed   bool
}

type object = map[string]any

func (b *bodyBuilder) build(e *endpoint) []byte {
	body, err := json.Marshal(e.body(b))
	if err != nil { // maps of strings and numbers marshal
		panic(err)
	}
	return body
}

func (b *bodyBuilder) pick(values ...string) string { return values[b.random.IntN(len(values))] }

func (b *bodyBuilder) person() string {
	return b.pick("Amara", "Bo", "Chidi", "Devi", "Elif", "Farid", "Greta", "Hana", "Ines", "Jun") + " " +
		b.pick("Adler", "Brook", "Castro", "Dahl", "Ekström", "Flores", "Ghosh", "Horváth", "Ito", "Jansen")
}

// amount is below the charge limit, changed or not.
func (b *bodyBuilder) amount() int {
	n := 100 + b.random.IntN(chargeLimit-1000)
	if b.changed {
		n += 100
	}
	return n
}

func (b *bodyBuilder) application() any {
	return object{
		"reference": b.reference,
		"applicant": object{"name": b.person(), "email": fmt.Sprintf("applicant%d@example.org", b.random.IntN(1000))},
		"amount":    b.amount(), "currency": currency, "term_months": 6 + b.random.IntN(60),
		"purpose": b.pick("car", "education", "home", "working_capital"),
	}
}

func (b *bodyBuilder) enquiry() any {
	subject := b.person()
	if b.changed {
		subject += " jr."
	}
	return object{
		"reference": b.reference, "bureau": b.pick("commercial", "consumer"), "subject": subject,
		"purpose": b.pick("account_review", "new_credit"),
	}
}

func (b *bodyBuilder) consent() any {
	days := 30 + b.random.IntN(300)
	if b.changed {
		days++
	}
	return object{
		"reference": b.reference, "subject": b.person(), "valid_days": days,
		"scopes": []string{"accounts", b.pick("balances", "bureau", "transactions")},
	}
}

func (b *bodyBuilder) paymentLink() any {
	return object{
		"reference": b.reference, "amount": b.amount(), "currency": currency, "description": "Instalment " + b.pick("1", "2", "3"),
		"valid_hours": 1 + b.random.IntN(72),
	}
}

func (b *bodyBuilder) identityCheck() any {
	number := 10_000_000 + b.random.IntN(80_000_000)
	name := b.person()
	if b.changed {
		name += " jr."
	}
	return object{
		"reference": b.reference, "full_name": name,
		"document": object{
			"type":    b.pick("driving_licence", "identity_card", "passport"),
			"country": b.pick("DE", "IN", "KE", "SE"), "number": fmt.Sprint(number),
		},
	}
}

func (b *bodyBuilder) booking() any {
	attendee := b.person()
	if b.changed {
		attendee += " jr."
	}
	return object{"reference": b.reference, "slot": b.slot, "attendee": attendee}
}

// charge is declined in one case of six.
func (b *bodyBuilder) charge() any {
	amount := b.amount()
	if b.random.IntN(6) == 0 {
		amount += chargeLimit
	}
	return object{
		"reference": b.reference, "account": fmt.Sprintf("account-%d", 1+b.random.IntN(accounts)), "amount": amount, "currency": currency,
	}
}
