package demo

import (
	"context"
	"fmt"
	"net/http"

	"github.com/pgidem/pgidem/idem"
)

const maxExamples = 3

// verify counts. Whatever it finds comes from the database, but for what only clients can know: what they sent, and
// whether two answers were the same; and what only servers can: that an answer was a replay, and that somebody waited.
func verify(ctx context.Context, r *Result, l *ledger, histories []*history, c *counters) error {
	if err := l.load(ctx, histories); err != nil {
		return err
	}
	r.Rows = make([]Row, len(endpoints))
	v := verifier{Result: r, ledger: l, histories: histories, counters: c}
	steps := []func(context.Context) error{v.database, v.clients, v.servers}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	for _, row := range r.Rows {
		r.Total.add(row)
	}
	r.Total.Endpoint = "total"
	return l.conn.QueryRow(ctx, fill(sqlMoney, nil), l.projects).Scan(&r.Charged, &r.Acknowledged)
}

type verifier struct {
	*Result
	ledger    *ledger
	histories []*history
	counters  *counters
}

// check adds a claim with what speaks against it.
func (v *verifier) check(claim, look string, bad []string) {
	v.Checks = append(v.Checks, Check{Claim: claim, Bad: len(bad), Examples: bad[:min(len(bad), maxExamples)], Look: look})
}

// each asks one question of every endpoint, counts what it finds into its row, and adds the check.
func (v *verifier) each(ctx context.Context, q query, column func(*Row) *int) error {
	var bad []string
	look := ""
	for i, e := range endpoints {
		found, err := v.ledger.find(ctx, q, e)
		if err != nil {
			return err
		}
		if column != nil {
			*column(&v.Rows[i]) += len(found)
		}
		if len(found) > 0 && look == "" {
			look = fill(q.look, e)
		}
		bad = append(bad, found...)
	}
	if q.claim != "" {
		v.check(q.claim, look, bad)
	}
	return nil
}

func (v *verifier) database(ctx context.Context) (err error) {
	for i, e := range endpoints {
		row := &v.Rows[i]
		row.Endpoint = "/" + e.name
		if row.Run, err = v.ledger.count(ctx, sqlRows, e); err != nil {
			return err
		}
		if row.Refused, err = v.ledger.count(ctx, sqlRefused, e); err != nil {
			return err
		}
	}
	if err := v.each(ctx, duplicates, nil); err != nil {
		return err
	}
	if err := v.each(ctx, surplus, func(r *Row) *int { return &r.Duplicates }); err != nil {
		return err
	}
	if err := v.each(ctx, lost, func(r *Row) *int { return &r.Lost }); err != nil {
		return err
	}
	for _, q := range []query{altered, refusedWrote} {
		if err := v.each(ctx, q, nil); err != nil {
			return err
		}
	}
	if v.Protected {
		for _, q := range []query{unrecorded, effectless} {
			if err := v.each(ctx, q, nil); err != nil {
				return err
			}
		}
		if err := v.each(ctx, misremembered, func(r *Row) *int { return &r.Differ }); err != nil {
			return err
		}
	}
	for _, q := range business {
		found, err := v.ledger.find(ctx, q, nil)
		if err != nil {
			return err
		}
		v.check(q.claim, fill(q.look, nil), found)
	}
	return nil
}

// clients checks what only they can know.
func (v *verifier) clients(context.Context) error {
	var unanswered, unexpected, differ, twice, mixed []string
	for _, h := range v.histories {
		row := v.row(h.op.endpoint)
		row.Operations++
		row.Sent += h.sent
		row.Cut += h.cuts
		row.Differ += len(h.differs)

		name := v.Projects[h.op.project] + " " + h.op.reference
		a, won := h.answered()
		switch {
		case h.lost != nil:
			unanswered = append(unanswered, name+": "+h.lost.Error())
		case a == nil:
			unanswered = append(unanswered, name+": every request was answered 422")
		case !expected(h.op.endpoint, a):
			unexpected = append(unexpected, fmt.Sprintf("%s: %d %s", name, a.status, a.body))
		}
		if n := len(h.differs); n > 0 {
			other := h.differs[0]
			differ = append(differ, fmt.Sprintf("%s: %d %s, then %d %s", name, a.status, cut60(a.body), other.status, cut60(other.body)))
		}
		if h.first > 1 {
			twice = append(twice, fmt.Sprintf("%s: %d answers without the marker of a replay", name, h.first))
		}
		if h.seen[original] != nil && h.seen[changed] != nil {
			mixed = append(mixed, fmt.Sprintf("%s: both bodies were accepted: %d %s and %d %s", name,
				h.seen[original].status, cut60(h.seen[original].body), h.seen[changed].status, cut60(h.seen[changed].body)))
		} else if h.reused[won] > 0 {
			mixed = append(mixed, fmt.Sprintf("%s: one body was accepted, and answered 422 as well", name))
		}
	}
	v.check("every operation was answered in the end", "", unanswered)
	v.check("every answer is one that the API has", "", unexpected)
	v.check("all answers to one operation are the same, byte for byte", "", differ)
	v.check("at most one answer to each operation is a first one, all others say Idempotent-Replayed", "", twice)
	v.check("of two bodies under one key one was accepted, the other always answered 422", "", mixed)
	return nil
}

// cut60 is as much of a body as shows which one it is.
func cut60(body []byte) string { return shorten(string(body), 60) }

func (v *verifier) row(e *endpoint) *Row {
	for i := range endpoints {
		if endpoints[i] == e {
			return &v.Rows[i]
		}
	}
	panic("demo: not an endpoint")
}

func expected(e *endpoint, a *answer) bool {
	switch a.status {
	case http.StatusCreated:
		return true
	case http.StatusPaymentRequired:
		return e.table == "charges" && a.code == "charge_declined"
	case http.StatusConflict:
		return e.table == "bookings" && a.code == "slot_taken"
	}
	return false
}

// servers adds what they count, and checks it against what the clients saw and what is in the database.
func (v *verifier) servers(ctx context.Context) error {
	v.ServerErrors = v.counters.errors.lines
	v.counters.mu.Lock()
	defer v.counters.mu.Unlock()
	var bad []string
	for i, e := range endpoints {
		row := &v.Rows[i]
		n := v.counters.outcomes[e.pattern()]
		row.Replayed, row.Reused = n[idem.Replayed], n[idem.Reused]
		row.Waited, row.Panics = v.counters.waited[e.pattern()], v.counters.panics[e.pattern()]
		if !v.Protected {
			continue
		}
		run, err := v.ledger.count(ctx, sqlRun, e)
		if err != nil {
			return err
		}
		if n[idem.Executed] != run || n[idem.Refused] != row.Refused {
			bad = append(bad, fmt.Sprintf("%s: the servers ran %d and refused %d, the database has %d and %d",
				e.path(), n[idem.Executed], n[idem.Refused], run, row.Refused))
		}
		replayed, reused := 0, 0
		for _, h := range v.histories {
			if h.op.endpoint == e {
				replayed += h.again
				reused += h.reused[original] + h.reused[changed]
			}
		}
		// A client that went away may or may not have been answered.
		if replayed > row.Replayed || replayed+reused+row.Cut < row.Replayed+row.Reused || reused > row.Reused {
			bad = append(bad, fmt.Sprintf("%s: the servers replayed %d and answered 422 to %d, the clients got %d and %d and went away %d times",
				e.path(), row.Replayed, row.Reused, replayed, reused, row.Cut))
		}
	}
	if v.Protected {
		v.check("servers, clients and database agree on the numbers", "", bad)
	}
	return nil
}
