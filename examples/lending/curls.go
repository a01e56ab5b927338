package main

import (
	"fmt"
	"io"
	"strings"
)

// printCurls prints a session: the indented lines are to be pasted.
func printCurls(w io.Writer, url, token string) {
	session := `
The API is at {url}. Paste the indented lines into another terminal.

  api={url}/partner/v1 auth='Authorization: Bearer {token}' json='Content-Type: application/json'

Charge an account, and do it again. The second answer is the first one, with Idempotent-Replayed: true.

  curl -i $api/charges -H "$auth" -H "$json" -H 'Idempotency-Key: order-1001-charge' -d '{"reference":"order-1001","account":"account-1","amount":12500,"currency":"EUR"}'
  curl -i $api/charges -H "$auth" -H "$json" -H 'Idempotency-Key: order-1001-charge' -d '{"reference":"order-1001","account":"account-1","amount":12500,"currency":"EUR"}'

Another amount under the same key: 422, and nothing is charged.

  curl -i $api/charges -H "$auth" -H "$json" -H 'Idempotency-Key: order-1001-charge' -d '{"reference":"order-1001","account":"account-1","amount":99900,"currency":"EUR"}'

What the account says: 125.00 are gone, however often you sent it.

  curl $api/accounts/account-1 -H "$auth"
  curl "$api/charges?reference=order-1001" -H "$auth"

Above the account's limit: 402, undone and remembered.

  curl -i $api/charges -H "$auth" -H "$json" -H 'Idempotency-Key: order-1002-charge' -d '{"reference":"order-1002","account":"account-1","amount":750000,"currency":"EUR"}'

Book a slot. Under another key it is taken: 409. Each key keeps its own answer.

  curl -i $api/bookings -H "$auth" -H "$json" -H 'Idempotency-Key: visit-1' -d '{"reference":"visit-1","slot":"slot-0001","attendee":"Hana Ito"}'
  curl -i $api/bookings -H "$auth" -H "$json" -H 'Idempotency-Key: visit-2' -d '{"reference":"visit-2","slot":"slot-0001","attendee":"Bo Dahl"}'

Ten at once under one key: one application, ten times the same answer.

  for i in 1 2 3 4 5 6 7 8 9 10; do curl -s $api/applications -H "$auth" -H "$json" -H 'Idempotency-Key: case-7' -d '{"reference":"case-7","applicant":{"name":"Devi Ghosh","email":"devi@example.org"},"amount":2500000,"currency":"EUR","term_months":48,"purpose":"home"}' & done; wait; echo
  curl "$api/applications?reference=case-7" -H "$auth"

No key: 400. Something wrong in the body: 400, and the key is not used up.

  curl -i $api/consents -H "$auth" -H "$json" -d '{"reference":"consent-1","subject":"Hana Ito","scopes":["accounts"],"valid_days":90}'
  curl -i $api/consents -H "$auth" -H "$json" -H 'Idempotency-Key: consent-1' -d '{"reference":"consent-1","subject":"","scopes":["accounts","loans"],"valid_days":900}'

Ctrl-C stops it.
`
	fmt.Fprint(w, strings.NewReplacer("{url}", url, "{token}", token).Replace(strings.TrimPrefix(session, "\n")))
}
