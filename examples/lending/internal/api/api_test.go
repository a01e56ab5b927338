package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgidem/pgidem/examples/lending/internal/api"
	"github.com/pgidem/pgidem/examples/lending/internal/database"
)

// endpoints are all of the API's, each with a request and another one to send under the same key.
var endpoints = []struct{ path, table, body, other string }{
	{
		"applications", "applications",
		`{"reference":"r-1","applicant":{"name":"Hana Ito","email":"hana@example.org"},"amount":2500000,"currency":"EUR","term_months":48,"purpose":"home"}`,
		`{"reference":"r-1","applicant":{"name":"Hana Ito","email":"hana@example.org"},"amount":2500001,"currency":"EUR","term_months":48,"purpose":"home"}`,
	},
	{
		"enquiries", "enquiries",
		`{"reference":"r-1","bureau":"consumer","subject":"Hana Ito","purpose":"new_credit"}`,
		`{"reference":"r-1","bureau":"commercial","subject":"Hana Ito","purpose":"new_credit"}`,
	},
	{
		"consents", "consents",
		`{"reference":"r-1","subject":"Hana Ito","scopes":["transactions","accounts"],"valid_days":90}`,
		`{"reference":"r-1","subject":"Hana Ito","scopes":["transactions"],"valid_days":90}`,
	},
	{
		"payment-links", "payment_links",
		`{"reference":"r-1","amount":4900,"currency":"EUR","description":"Instalment 1","valid_hours":48}`,
		`{"reference":"r-1","amount":4900,"currency":"EUR","description":"Instalment 2","valid_hours":48}`,
	},
	{
		"identity-checks", "identity_checks",
		`{"reference":"r-1","full_name":"Hana Ito","document":{"type":"passport","country":"SE","number":"P-100"}}`,
		`{"reference":"r-1","full_name":"Hana Ito","document":{"type":"passport","country":"SE","number":"P-101"}}`,
	},
	{
		"bookings", "bookings",
		`{"reference":"r-1","slot":"slot-0001","attendee":"Hana Ito"}`,
		`{"reference":"r-1","slot":"slot-0002","attendee":"Hana Ito"}`,
	},
	{
		"charges", "charges",
		`{"reference":"r-1","account":"account-1","amount":12500,"currency":"EUR"}`,
		`{"reference":"r-1","account":"account-1","amount":12600,"currency":"EUR"}`,
	},
}

// Cases 1 to 3, 9, 53, 59 and 65 of every endpoint.
func TestEveryEndpoint(t *testing.T) {
	for _, e := range endpoints {
		t.Run(e.path, func(t *testing.T) {
			s := newService(t)
			rows := func() int {
				t.Helper()
				return s.count("SELECT count(*) FROM lending." + e.table)
			}

			first := s.post(e.path, "key-1", e.body)
			s.want(first, http.StatusCreated)
			if first.replayed() || rows() != 1 {
				t.Fatalf("the first request: replayed %t, %d rows; want false, 1", first.replayed(), rows())
			}
			location := "/partner/v1/" + e.path + "/" + first.field(t, "id")
			if got := first.header.Get("Location"); got != location {
				t.Errorf("Location %q, want %q", got, location)
			}

			for _, key := range []string{"key-1", `"key-1"`} { // bare and quoted are one key
				again := s.post(e.path, key, e.body)
				if again.status != first.status || again.body != first.body || again.header.Get("Location") != location || !again.replayed() {
					t.Errorf("key %s again: %d %s, replayed %t; want %s", key, again.status, again.body, again.replayed(), first.body)
				}
			}
			reused := s.post(e.path, "key-1", e.other)
			s.want(reused, http.StatusUnprocessableEntity)
			if strings.Contains(reused.body, first.field(t, "id")) {
				t.Error("the answer to a reused key shows something of the first request")
			}
			if n := rows(); n != 1 {
				t.Errorf("%d rows after replays and a reuse, want 1", n)
			}

			if got := s.get(e.path + "/" + first.field(t, "id")); got.status != http.StatusOK || got.body != first.body {
				t.Errorf("read back: %d %s, want %s", got.status, got.body, first.body)
			}
			var page struct{ Data []json.RawMessage }
			list := s.get(e.path + "?reference=r-1")
			if err := json.Unmarshal([]byte(list.body), &page); err != nil || len(page.Data) != 1 || string(page.Data[0])+"\n" != first.body {
				t.Errorf("list by reference: %d %s, want one element %s", list.status, list.body, first.body)
			}
			if got := s.get(e.path + "?reference=r-2"); got.body != `{"data":[]}`+"\n" {
				t.Errorf("list by another reference: %d %s, want an empty one", got.status, got.body)
			}

			// To another project the object does not exist, and its key is free.
			s.want(s.do("GET", e.path+"/"+first.field(t, "id"), s.south.Token, ""), http.StatusNotFound)
			theirs := s.do("POST", e.path, s.south.Token, e.body, "Idempotency-Key", "key-1")
			s.want(theirs, http.StatusCreated)
			if theirs.replayed() || theirs.field(t, "id") == first.field(t, "id") {
				t.Errorf("another project got %s, which is not its own", theirs.body)
			}
			if n := s.count("SELECT count(*) FROM lending." + e.table + " WHERE project = 'south'"); n != 1 {
				t.Errorf("the other project has %d rows, want 1", n)
			}

			s.want(s.do("POST", e.path, s.north.Token, e.body), http.StatusBadRequest) // no key
			if n := s.count("SELECT count(*) FROM idem.keys"); n != 2 {
				t.Errorf("%d records, want one of each project", n)
			}
		})
	}
}

// Case 38, through HTTP.
func TestTwentyAtOnce(t *testing.T) {
	s := newService(t)
	e := endpoints[len(endpoints)-1]
	answers := make([]answer, 20)
	errs := make([]error, len(answers))
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			answers[i], errs[i] = s.try(t.Context(), "POST", e.path, s.north.Token, e.body, "Idempotency-Key", "key-1")
		})
	}
	wg.Wait()
	firsts := 0
	for i, a := range answers {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		s.want(a, http.StatusCreated)
		if a.body != answers[0].body {
			t.Errorf("got %s and %s", a.body, answers[0].body)
		}
		if !a.replayed() {
			firsts++
		}
	}
	if n := s.count("SELECT count(*) FROM lending.charges"); firsts != 1 || n != 1 {
		t.Errorf("%d first answers and %d charges, want 1 and 1", firsts, n)
	}
	if n := s.count("SELECT balance FROM lending.accounts WHERE project = 'north' AND account = 'account-1'"); n != 87_500 {
		t.Errorf("balance %d, want 87500", n)
	}
}

// Case 21, through HTTP: what a declined charge has written is undone, and the answer stays.
func TestDeclinedCharge(t *testing.T) {
	for name, c := range map[string]struct {
		body   string
		status int
		detail string
	}{
		"above the limit":  {`{"reference":"r-1","account":"account-1","amount":50001,"currency":"EUR"}`, 402, "above the limit"},
		"other currency":   {`{"reference":"r-1","account":"account-1","amount":100,"currency":"USD"}`, 402, "kept in EUR"},
		"unknown account":  {`{"reference":"r-1","account":"account-9","amount":100,"currency":"EUR"}`, 404, "no account account-9"},
		"balance used up":  {`{"reference":"r-1","account":"account-2","amount":40001,"currency":"EUR"}`, 402, "does not cover"},
		"balance just not": {`{"reference":"r-1","account":"account-2","amount":40000,"currency":"EUR"}`, 201, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			if _, err := s.pool.Exec(t.Context(), "UPDATE lending.accounts SET balance = 40000 WHERE account = 'account-2'"); err != nil {
				t.Fatal(err)
			}
			first := s.post("charges", "key-1", c.body)
			s.want(first, c.status)
			if c.status == http.StatusCreated {
				return
			}
			if d := first.field(t, "detail"); !strings.Contains(d, c.detail) || first.field(t, "reference") != "r-1" {
				t.Errorf("got %s, want a detail with %q", first.body, c.detail)
			}
			if n := s.count("SELECT count(*) FROM lending.charge_attempts"); n != 0 {
				t.Errorf("%d attempts are left of a declined charge", n)
			}
			// The answer is remembered, even where the reason has gone meanwhile.
			if _, err := s.pool.Exec(t.Context(), "UPDATE lending.accounts SET charge_limit = 1000000, balance = 1000000, currency = 'USD'"); err != nil {
				t.Fatal(err)
			}
			again := s.post("charges", "key-1", c.body)
			if again.status != c.status || again.body != first.body || !again.replayed() {
				t.Errorf("again: %d %s, replayed %t", again.status, again.body, again.replayed())
			}
			if n := s.count("SELECT count(*) FROM lending.charges"); n != 0 {
				t.Errorf("%d charges, want 0", n)
			}
		})
	}
}

func TestBookingLosesItsSlot(t *testing.T) {
	s := newService(t)
	body := func(reference string) string {
		return fmt.Sprintf(`{"reference":%q,"slot":"slot-0001","attendee":"Hana Ito"}`, reference)
	}
	var wg sync.WaitGroup
	answers := make([]answer, 8)
	errs := make([]error, len(answers))
	for i := range answers {
		wg.Go(func() {
			key := fmt.Sprintf("key-%d", i)
			answers[i], errs[i] = s.try(t.Context(), "POST", "bookings", s.north.Token, body(key), "Idempotency-Key", key)
		})
	}
	wg.Wait()
	won := -1
	for i, a := range answers {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		switch {
		case a.status == http.StatusCreated && won < 0:
			won = i
		case a.status != http.StatusConflict || a.field(t, "code") != "slot_taken":
			t.Errorf("key-%d: %d %s, want 409 slot_taken", i, a.status, a.body)
		}
	}
	if won < 0 || s.count("SELECT count(*) FROM lending.bookings") != 1 {
		t.Fatalf("nobody, or more than one, got the slot: %v", answers)
	}
	// The slot is free again. Those who lost it still have: their keys were answered.
	if _, err := s.pool.Exec(t.Context(), "WITH b AS (DELETE FROM lending.bookings) UPDATE lending.slots SET taken = false"); err != nil {
		t.Fatal(err)
	}
	for i, a := range answers {
		key := fmt.Sprintf("key-%d", i)
		if again := s.post("bookings", key, body(key)); again.status != a.status || again.body != a.body || !again.replayed() {
			t.Errorf("%s: first %d %s, then %d %s", key, a.status, a.body, again.status, again.body)
		}
	}
	s.want(s.post("bookings", "key-new", body("key-new")), http.StatusCreated)
	s.want(s.post("bookings", "key-none", `{"reference":"r","slot":"slot-9999","attendee":"Hana Ito"}`), http.StatusNotFound)
}

func TestFreeSlotsAndAccount(t *testing.T) {
	s := newService(t)
	slots := func() (names []string) {
		t.Helper()
		var page struct{ Data []struct{ Slot string } }
		if err := json.Unmarshal([]byte(s.get("slots").body), &page); err != nil {
			t.Fatal(err)
		}
		for _, d := range page.Data {
			names = append(names, d.Slot)
		}
		return names
	}
	if got, want := slots(), []string{"slot-0001", "slot-0002", "slot-0003"}; !slices.Equal(got, want) {
		t.Errorf("free slots %q, want %q", got, want)
	}
	s.want(s.post("bookings", "key-1", `{"reference":"r-1","slot":"slot-0002","attendee":"Hana Ito"}`), http.StatusCreated)
	if got, want := slots(), []string{"slot-0001", "slot-0003"}; !slices.Equal(got, want) {
		t.Errorf("free slots after a booking %q, want %q", got, want)
	}
	s.want(s.post("charges", "key-1", `{"reference":"r-1","account":"account-1","amount":12500,"currency":"EUR"}`), http.StatusCreated)
	if got, want := s.get("accounts/account-1").body, `{"account":"account-1","currency":"EUR","balance":87500,"charge_limit":50000}`+"\n"; got != want {
		t.Errorf("account %s, want %s", got, want)
	}
	for _, path := range []string{"accounts/account-9", "accounts/%00", "accounts/%ff", "charges/not-a-uuid"} {
		s.want(s.get(path), http.StatusNotFound)
	}
	for _, path := range []string{"charges?reference=%00", "charges?reference=%ff"} {
		s.want(s.get(path), http.StatusBadRequest)
	}
}

// What cannot be accepted uses up no key.
func TestValidation(t *testing.T) {
	const long = "12345678901234567890123456789012345678901234567890123456789012345678901234567890+"
	for _, c := range []struct{ path, body, field string }{
		{"applications", `{}`, "reference"},
		{"applications", `{"reference":"` + long + `"}`, "reference"},
		{"applications", `{"reference":" r"}`, "reference"},
		{"applications", `{"reference":"r\u0000"}`, "reference"},
		{"applications", `{"applicant":{"name":""}}`, "applicant.name"},
		{"applications", `{"applicant":{"email":"Hana <hana@example.org>"}}`, "applicant.email"},
		{"applications", `{"amount":0}`, "amount"},
		{"applications", `{"amount":-5}`, "amount"},
		{"applications", `{"amount":1000000001}`, "amount"},
		{"applications", `{"currency":"eur"}`, "currency"},
		{"applications", `{"term_months":481}`, "term_months"},
		{"applications", `{"purpose":"boat"}`, "purpose"},
		{"enquiries", `{"bureau":"secret"}`, "bureau"},
		{"enquiries", `{"subject":""}`, "subject"},
		{"enquiries", `{"purpose":""}`, "purpose"},
		{"consents", `{"scopes":[]}`, "scopes"},
		{"consents", `{"scopes":["loans"]}`, "scopes"},
		{"consents", `{"scopes":["accounts","accounts"]}`, "scopes"},
		{"consents", `{"valid_days":366}`, "valid_days"},
		{"payment-links", `{"description":""}`, "description"},
		{"payment-links", `{"valid_hours":0}`, "valid_hours"},
		{"identity-checks", `{"full_name":""}`, "full_name"},
		{"identity-checks", `{"document":{"type":"library_card"}}`, "document.type"},
		{"identity-checks", `{"document":{"country":"Se"}}`, "document.country"},
		{"identity-checks", `{"document":{"number":""}}`, "document.number"},
		{"bookings", `{"slot":""}`, "slot"},
		{"bookings", `{"attendee":""}`, "attendee"},
		{"charges", `{"account":""}`, "account"},
	} {
		t.Run(c.path+" "+c.field, func(t *testing.T) {
			s := newService(t)
			got := s.post(c.path, "key-1", c.body)
			s.want(got, http.StatusBadRequest)
			var p struct {
				Errors []struct{ Field, Detail string }
			}
			if err := json.Unmarshal([]byte(got.body), &p); err != nil {
				t.Fatal(err)
			}
			found := false
			for _, e := range p.Errors {
				found = found || e.Field == c.field && e.Detail != ""
			}
			if !found {
				t.Errorf("got %s, want an error about %s", got.body, c.field)
			}
			i := slices.IndexFunc(endpoints, func(e struct{ path, table, body, other string }) bool { return e.path == c.path })
			s.want(s.post(c.path, "key-1", endpoints[i].body), http.StatusCreated)
		})
	}
}

func TestBodyThatIsNoJSON(t *testing.T) {
	s := newService(t)
	good := endpoints[1]
	for name, c := range map[string]struct {
		body   string
		status int
	}{
		"empty":         {"", 415},
		"not JSON":      {"reference=r-1", 400},
		"a list":        {"[]", 400},
		"unknown field": {`{"colour":"red"}`, 400},
		"wrong type":    {`{"reference":1}`, 400},
		"two values":    {good.body + good.body, 400},
		"too large":     {`{"reference":"` + strings.Repeat("x", 70_000) + `"}`, 413},
	} {
		if got := s.post(good.path, "key-1", c.body); got.status != c.status || got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: got %d %s, want %d", name, got.status, got.body, c.status)
		}
	}
	got := s.do("POST", good.path, s.north.Token, good.body, "Idempotency-Key", "key-1", "Content-Type", "text/plain")
	s.want(got, http.StatusUnsupportedMediaType)
	s.want(s.post(good.path, "key-1", good.body), http.StatusCreated)
}

// A replay is authorised like any request.
func TestAuthentication(t *testing.T) {
	s := newService(t)
	e := endpoints[0]
	s.want(s.post(e.path, "key-1", e.body), http.StatusCreated)
	if err := database.RevokeToken(t.Context(), s.pool, s.north.Token); err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string]string{
		"none":    "",
		"basic":   "Basic bm9ydGg6c2VjcmV0",
		"empty":   "Bearer ",
		"unknown": "Bearer lend_unknown",
		"revoked": "Bearer " + s.north.Token,
	} {
		for _, method := range []string{"POST", "GET"} {
			got := s.do(method, e.path, "", e.body, "Idempotency-Key", "key-1", "Authorization", header)
			if got.status != http.StatusUnauthorized || got.header.Get("WWW-Authenticate") == "" || got.replayed() {
				t.Errorf("%s %s: %d %s, want 401", method, name, got.status, got.body)
			}
		}
	}
	// A new token of the same project gets its replay.
	p, err := database.CreateProject(t.Context(), s.pool, "north", database.Terms{})
	if err != nil {
		t.Fatal(err)
	}
	s.north = p
	if got := s.post(e.path, "key-1", e.body); got.status != http.StatusCreated || !got.replayed() {
		t.Errorf("with a new token: %d %s, want the replay", got.status, got.body)
	}
}

// Case 75, through HTTP: a panic between the writes and the commit leaves nothing, and the retry runs.
func TestPanicAfterWrites(t *testing.T) {
	for _, e := range endpoints {
		t.Run(e.path, func(t *testing.T) {
			var calls atomic.Int32
			s := newService(t, func(c *api.Config) {
				c.AfterWrites = func(*http.Request) {
					if calls.Add(1) == 1 {
						panic("after the writes")
					}
				}
			})
			got := s.post(e.path, "key-1", e.body)
			s.want(got, http.StatusInternalServerError)
			if strings.Contains(got.body, "after the writes") {
				t.Errorf("the answer shows the reason: %s", got.body)
			}
			if rows, keys := s.count("SELECT count(*) FROM lending."+e.table), s.count("SELECT count(*) FROM idem.keys"); rows != 0 || keys != 0 {
				t.Errorf("%d rows and %d records are left of a panic", rows, keys)
			}
			again := s.post(e.path, "key-1", e.body)
			s.want(again, http.StatusCreated)
			if again.replayed() || calls.Load() != 2 {
				t.Errorf("the retry: replayed %t after %d calls, want a run", again.replayed(), calls.Load())
			}
		})
	}
}

// An error of the database is not shown, not remembered, and leaves nothing.
func TestDatabaseError(t *testing.T) {
	s := newService(t)
	exec := func(sql string) {
		t.Helper()
		if _, err := s.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	e := endpoints[0]
	exec("ALTER TABLE lending.application_events ADD CONSTRAINT broken CHECK (event <> 'received')")
	got := s.post(e.path, "key-1", e.body)
	s.want(got, http.StatusInternalServerError)
	if strings.Contains(got.body, "broken") || strings.Contains(got.body, "lending.") {
		t.Errorf("the answer shows the reason: %s", got.body)
	}
	if n := s.count("SELECT count(*) FROM lending.applications"); n != 0 {
		t.Errorf("%d applications are left", n)
	}
	exec("ALTER TABLE lending.application_events DROP CONSTRAINT broken")
	s.want(s.post(e.path, "key-1", e.body), http.StatusCreated)
}

func TestMisconfigured(t *testing.T) {
	if _, err := api.New(api.Config{}); err == nil {
		t.Error("New without a pool: no error")
	}
}
