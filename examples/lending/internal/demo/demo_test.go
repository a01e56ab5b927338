package demo

import (
	"bytes"
	"context"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/examples/lending/internal/schema"
	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, localpg.Options{}, schema.Migrate))
}

func TestRun(t *testing.T) {
	t.Parallel()
	shown := 0
	o := Options{DatabaseURL: pgtest.New(t), Operations: 200, Seed: 7, Progress: func(Progress) { shown++ }}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	out := printed(r)
	if !r.OK() {
		t.Fatalf("something is broken:\n%s", out)
	}
	total := r.Total
	if total.Operations != 200 || total.Run+total.Refused != 200 || total.Duplicates+total.Lost+total.Differ != 0 {
		t.Errorf("200 operations came out as %+v", total)
	}
	// A run in which nothing went wrong on the way would show nothing.
	if total.Sent <= 400 || total.Replayed == 0 || total.Reused == 0 || total.Waited == 0 || total.Refused == 0 || total.Panics == 0 || total.Cut == 0 {
		t.Errorf("a fault was never tried: %+v", total)
	}
	if r.Charged == 0 || r.Charged != r.Acknowledged {
		t.Errorf("charged %d, acknowledged %d", r.Charged, r.Acknowledged)
	}
	if shown == 0 {
		t.Error("no progress was shown")
	}
	for _, want := range []string{"seed 7", "/payment-links", "200 operations, ", "0 duplicates, 0 lost, 0 replays that differ"} {
		if !strings.Contains(out, want) {
			t.Errorf("the report has no %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "✗") || strings.Contains(out, "\x1b") {
		t.Errorf("the report has crosses or control characters:\n%s", out)
	}

	// The same database again: nothing of the first run is counted.
	if r, err = Run(t.Context(), Options{DatabaseURL: o.DatabaseURL, Operations: 30, Seed: 7}); err != nil {
		t.Fatal(err)
	}
	if !r.OK() || r.Total.Run+r.Total.Refused != 30 {
		t.Errorf("a second run on the same database:\n%s", printed(r))
	}
}

// Without keys the same operations leave duplicates, and the checks see them.
func TestControl(t *testing.T) {
	t.Parallel()
	r, err := Run(t.Context(), Options{DatabaseURL: pgtest.New(t), Operations: 200, Seed: 7, WithoutIdem: true})
	if err != nil {
		t.Fatal(err)
	}
	out := printed(r)
	if r.OK() || r.Total.Duplicates == 0 || r.Total.Differ == 0 || r.Charged <= r.Acknowledged {
		t.Errorf("the control found nothing:\n%s", out)
	}
	for _, row := range r.Rows {
		if slots := row.Endpoint == "/bookings"; (row.Duplicates == 0) != slots { // a slot takes one booking, whatever is sent
			t.Errorf("%s: %d duplicates", row.Endpoint, row.Duplicates)
		}
	}
	if !strings.Contains(out, "CONTROL, WITHOUT pgidem") || !strings.Contains(out, "✗") {
		t.Errorf("the report does not say that it is a control:\n%s", out)
	}
}

// Every check fails when what it checks is broken.
func TestChecksSeeWhatIsBroken(t *testing.T) {
	t.Parallel()
	d, err := begin(t.Context(), Options{DatabaseURL: pgtest.New(t), Operations: 150, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.drive(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), d.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())

	const charge = `(SELECT id FROM lending.charges ORDER BY id LIMIT 1)`
	for name, c := range map[string]struct {
		sql   string         // done to the database before the count
		do    func(*history) // or to what a client saw
		claim string         // that must be found broken
		row   func(Row) int  // and counted
	}{
		"nothing": {},
		"a second row": {
			sql:   `INSERT INTO lending.consents (project, reference, subject, valid_days) SELECT project, reference, subject, valid_days FROM lending.consents LIMIT 1`,
			claim: "more than one row", row: func(r Row) int { return r.Duplicates },
		},
		"a row is gone": {
			sql:   `DELETE FROM lending.charges WHERE id = ` + charge,
			claim: "acknowledged with 2xx has its row", row: func(r Row) int { return r.Lost },
		},
		"a row has changed":       {sql: `UPDATE lending.charges SET amount = amount + 100 WHERE id = ` + charge, claim: "the row says what the answer said"},
		"a row without a record":  {sql: `INSERT INTO lending.enquiries (project, reference, bureau, subject, purpose, fee) SELECT project, 'stray', 'consumer', '', '', 0 FROM lending.projects LIMIT 1`, claim: "no row without a record"},
		"a record without a row":  {sql: `DELETE FROM lending.charges WHERE id = ` + charge, claim: "no record without a row"},
		"a refused one wrote":     {sql: `INSERT INTO lending.charges (project, reference, account, amount, currency) SELECT project, convert_from(response_body, 'UTF8')::jsonb ->> 'reference', 'account-1', 1, 'EUR' FROM idem.keys WHERE response_status = 402 LIMIT 1`, claim: "no refused operation has left a row"},
		"a record is gone":        {sql: `DELETE FROM idem.keys WHERE key = (SELECT min(key) FROM idem.keys)`, claim: "every operation has one record", row: func(r Row) int { return r.Differ }},
		"a record has changed":    {sql: `UPDATE idem.keys SET response_body = response_body || ' ' WHERE key = (SELECT min(key) FROM idem.keys)`, claim: "every operation has one record", row: func(r Row) int { return r.Differ }},
		"a slot is booked twice":  {sql: `INSERT INTO lending.bookings (project, reference, slot, attendee) SELECT project, 'stray', slot, attendee FROM lending.bookings LIMIT 1`, claim: "no slot is booked twice"},
		"an attempt is left":      {sql: `INSERT INTO lending.charge_attempts (project, reference, amount) SELECT project, 'stray', 1 FROM lending.projects LIMIT 1`, claim: "every charge has one attempt"},
		"money is missing":        {sql: `UPDATE lending.accounts SET balance = balance - 1 WHERE account = 'account-1'`, claim: "every account's balance"},
		"no answer":               {do: func(h *history) { h.lost = context.DeadlineExceeded }, claim: "was answered in the end"},
		"an answer that is none":  {do: func(h *history) { h.seen[original] = &answer{status: 418, body: []byte("{}")} }, claim: "one that the API has"},
		"another answer":          {do: func(h *history) { h.differs = append(h.differs, &answer{}) }, claim: "byte for byte", row: func(r Row) int { return r.Differ }},
		"two first answers":       {do: func(h *history) { h.first = 2 }, claim: "at most one answer"},
		"two bodies accepted":     {do: func(h *history) { h.seen[changed] = h.seen[original] }, claim: "of two bodies"},
		"422 to the right body":   {do: func(h *history) { h.reused[original]++ }, claim: "of two bodies"},
		"an answer nobody counts": {do: func(h *history) { h.again += 1000 }, claim: "agree on the numbers"},
	} {
		t.Run(name, func(t *testing.T) {
			// What is broken here is whole again for the next one.
			tx, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := tx.Rollback(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
			}()
			if c.sql != "" {
				tag, err := tx.Exec(t.Context(), c.sql)
				if err != nil || tag.RowsAffected() == 0 {
					t.Fatalf("%s: %d rows, %v", c.sql, tag.RowsAffected(), err)
				}
			}
			d := &run{Options: d.Options, counters: d.counters, projects: d.projects, histories: slices.Clone(d.histories)}
			if c.do != nil {
				i := slices.IndexFunc(d.histories, func(h *history) bool { return h.seen[original] != nil })
				h := d.histories[i]
				d.histories[i] = &history{op: h.op, sent: h.sent, cuts: h.cuts, seen: h.seen, first: h.first, again: h.again, reused: h.reused}
				c.do(d.histories[i])
			}
			r, err := d.countOn(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			if c.claim == "" {
				if !r.OK() {
					t.Errorf("something is broken:\n%s", printed(r))
				}
				return
			}
			found := false
			for _, check := range r.Checks {
				found = found || strings.Contains(check.Claim, c.claim) && check.Bad > 0 && len(check.Examples) > 0
			}
			if !found || r.OK() {
				t.Errorf("not seen: %q should be broken:\n%s", c.claim, printed(r))
			}
			if c.row != nil && c.row(r.Total) == 0 {
				t.Errorf("not counted: %+v", r.Total)
			}
		})
	}
}

func printed(r *Result) string {
	var b bytes.Buffer
	Printer{W: &b}.Print(r)
	return b.String()
}

func TestTimeIsUp(t *testing.T) {
	t.Parallel()
	r, err := Run(t.Context(), Options{DatabaseURL: pgtest.New(t), Operations: 20_000, Seed: 7, Limit: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	out := printed(r)
	if !r.OK() || r.Total.Operations >= 20_000 || !strings.Contains(out, "The time was up") {
		t.Errorf("with a limit:\n%s", out)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := Options{DatabaseURL: pgtest.New(t), Operations: 20_000, Seed: 7, Progress: func(p Progress) {
		if p.Operations > 10 {
			cancel()
		}
	}}
	if r, err := Run(ctx, o); err == nil {
		t.Errorf("interrupted, and no error: %+v", r.Total)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	a, slots := makePlan(1, 2000)
	b, _ := makePlan(1, 2000)
	if !reflect.DeepEqual(a, b) {
		t.Error("the same seed gives another plan")
	}
	if c, _ := makePlan(2, 2000); reflect.DeepEqual(a, c) {
		t.Error("another seed gives the same plan")
	}
	if slots == 0 {
		t.Error("no slots")
	}

	seen := map[identity]bool{}
	keys := map[string]int{}
	counts := map[string]int{}
	for _, op := range a {
		id := identity{op.project, op.endpoint, op.key}
		if seen[id] {
			t.Errorf("two operations are one: %+v", id)
		}
		seen[id] = true
		keys[op.key]++
		if bytes.Equal(op.body, op.changed) {
			t.Errorf("%s: the changed body is the same: %s", op.reference, op.body)
		}
		if n := len(op.sends); n < 1 || n > 5 {
			t.Errorf("%s is sent %d times", op.reference, n)
		}
		if op.sends[0].late || op.sends[0].changed {
			t.Errorf("%s: nothing is sent first", op.reference)
		}
		counts[op.endpoint.name]++
		for _, s := range op.sends {
			for what, is := range map[string]bool{
				"late": s.late, "panic": s.fault.panic, "changed, late": s.changed && s.late, "changed, racing": s.changed && !s.late,
				"cancel": s.cut == cutCancel, "reset": s.cut == cutReset, "partial": s.cut == cutPartial, "quoted": s.quoted,
			} {
				if is {
					counts[what]++
				}
			}
		}
	}
	for _, what := range []string{
		"applications", "enquiries", "consents", "payment-links", "identity-checks", "bookings", "charges",
		"late", "panic", "changed, late", "changed, racing", "cancel", "reset", "partial", "quoted",
	} {
		if counts[what] < 50 {
			t.Errorf("%s: %d of 2,000 operations", what, counts[what])
		}
	}
	if len(keys) == len(a) {
		t.Error("no two operations share a key")
	}
}

func TestProgressLine(t *testing.T) {
	t.Parallel()
	steps := func(terminal bool) string {
		var b bytes.Buffer
		show, end := ProgressLine(&b, terminal)
		for s := range 8 {
			show(Progress{Operations: 100 * s, Of: 2000, Requests: 350 * s, Replayed: 90 * s, Elapsed: time.Duration(s) * time.Second})
		}
		end()
		return b.String()
	}
	plain := steps(false)
	want := "300 of 2,000 operations, 1,050 requests, 270 replays, 3.0 s\n600 of 2,000 operations, 2,100 requests, 540 replays, 6.0 s\n"
	if plain != want {
		t.Errorf("got %q, want %q", plain, want)
	}
	if fancy := steps(true); strings.Contains(fancy, "\n") || !strings.HasSuffix(fancy, "\r\x1b[K") {
		t.Errorf("on a terminal: %q", fancy)
	}
}
