package demo

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// What the clients were told, beside what is in the database.
const sqlSeen = `
CREATE TEMPORARY TABLE seen (
    project text, endpoint text, key text, reference text, status integer, body bytea, id uuid,
    PRIMARY KEY (project, endpoint, key))`

const sqlSeenID = `UPDATE seen SET id = (convert_from(body, 'UTF8')::jsonb ->> 'id')::uuid`

// query finds what must not be: one line of text for each.
type query struct {
	claim string
	sql   string // {table} is the business table, {endpoint} the pattern, $1 the projects
	look  string // SQL for somebody who wants to see
}

// Of every endpoint.
var (
	duplicates = query{
		claim: "no operation has more than one row in its business table",
		sql: `SELECT project || ' ' || reference || ': ' || count(*) || ' rows in {table}'
			FROM {table} WHERE project = ANY($1) GROUP BY project, reference HAVING count(*) > 1 ORDER BY count(*) DESC, 1`,
		look: `SELECT * FROM {table} WHERE reference = '…' ORDER BY created_at`,
	}
	surplus = query{
		sql: `SELECT reference FROM (SELECT reference, row_number() OVER (PARTITION BY project, reference) AS n
			FROM {table} WHERE project = ANY($1)) t WHERE n > 1`,
	}
	lost = query{
		claim: "every operation acknowledged with 2xx has its row",
		sql: `SELECT s.project || ' ' || s.reference || ': acknowledged with id ' || coalesce(s.id::text, '(none)') || ', which is not in {table}'
			FROM seen s LEFT JOIN {table} t ON t.id = s.id AND t.project = s.project
			WHERE s.endpoint = '{endpoint}' AND s.status BETWEEN 200 AND 299 AND t.id IS NULL ORDER BY 1`,
		look: `SELECT * FROM {table} WHERE reference = '…'`,
	}
	altered = query{
		claim: "the row says what the answer said: no changed body has changed anything",
		sql: `SELECT s.project || ' ' || s.reference || ': answered ' || convert_from(s.body, 'UTF8') || ', stored ' || to_jsonb(t)
			FROM seen s JOIN {table} t ON t.id = s.id
			WHERE s.endpoint = '{endpoint}'
			  AND NOT to_jsonb(t) @> (convert_from(s.body, 'UTF8')::jsonb - ARRAY['created_at', 'expires_at', 'scopes']) ORDER BY 1`,
		look: `SELECT * FROM {table} WHERE reference = '…'`,
	}
	refusedWrote = query{
		claim: "no refused operation has left a row",
		sql: `SELECT s.project || ' ' || s.reference || ': refused with ' || s.status || ', and there is a row in {table}'
			FROM seen s JOIN {table} t ON t.project = s.project AND t.reference = s.reference
			WHERE s.endpoint = '{endpoint}' AND s.status >= 400 ORDER BY 1`,
		look: `SELECT * FROM {table} WHERE reference = '…'`,
	}
	unrecorded = query{
		claim: "no row without a record: effect and key committed together",
		sql: `SELECT t.project || ' ' || t.reference || ': row ' || t.id || ' in {table} has no record'
			FROM {table} t
			WHERE t.project = ANY($1) AND t.id NOT IN (
				SELECT (convert_from(k.response_body, 'UTF8')::jsonb ->> 'id')::uuid FROM idem.keys k
				WHERE k.project = ANY($1) AND k.endpoint = '{endpoint}' AND k.response_status < 400) ORDER BY 1`,
		look: `SELECT * FROM {table} WHERE reference = '…'`,
	}
	effectless = query{
		claim: "no record without a row",
		sql: `SELECT k.project || ' ' || k.key || ': recorded with ' || k.response_status || ', and its row is not in {table}'
			FROM idem.keys k LEFT JOIN {table} t ON t.id = (convert_from(k.response_body, 'UTF8')::jsonb ->> 'id')::uuid
			WHERE k.project = ANY($1) AND k.endpoint = '{endpoint}' AND k.response_status < 400 AND t.id IS NULL ORDER BY 1`,
		look: `SELECT *, convert_from(response_body, 'UTF8') FROM idem.keys WHERE key = '…'`,
	}
	misremembered = query{
		claim: "every operation has one record, and it holds the status and the bytes that the clients got",
		sql: `SELECT coalesce(s.project, k.project) || ' ' || coalesce(s.reference, k.key) || ': ' || CASE
				WHEN k.key IS NULL THEN 'answered with ' || s.status || ', and there is no record'
				WHEN s.key IS NULL THEN 'recorded with ' || k.response_status || ', and nobody got that answer'
				ELSE 'answered with ' || s.status || ' ' || convert_from(s.body, 'UTF8') || ', recorded '
					|| k.response_status || ' ' || convert_from(k.response_body, 'UTF8') END
			FROM (SELECT * FROM seen WHERE endpoint = '{endpoint}') s
			FULL JOIN (SELECT * FROM idem.keys WHERE endpoint = '{endpoint}' AND project = ANY($1)) k USING (project, endpoint, key)
			WHERE (s.status, s.body) IS DISTINCT FROM (k.response_status, k.response_body) ORDER BY 1`,
		look: `SELECT *, convert_from(response_body, 'UTF8') FROM idem.keys WHERE key = '…'`,
	}
)

// Of the business as a whole.
var business = []query{
	{
		claim: "no slot is booked twice, and none that was contested is left free",
		sql: `SELECT l.project || ' ' || l.slot || ': ' || count(b.id) || ' bookings, taken ' || l.taken
			FROM lending.slots l LEFT JOIN lending.bookings b USING (project, slot)
			WHERE project = ANY($1) GROUP BY l.project, l.slot, l.taken HAVING count(b.id) <> l.taken::integer
			UNION ALL
			SELECT s.project || ' ' || s.reference || ': lost its slot, which is free'
			FROM seen s JOIN lending.slots l ON l.project = s.project
				AND l.slot = substring(convert_from(s.body, 'UTF8')::jsonb ->> 'detail' FROM 'slot-[0-9]+')
			WHERE s.endpoint = 'POST /partner/v1/bookings' AND s.status >= 400 AND NOT l.taken ORDER BY 1`,
		look: `SELECT * FROM lending.bookings WHERE slot = '…' ORDER BY created_at`,
	},
	{
		claim: "every charge has one attempt, and no attempt is left of a declined one",
		sql: `SELECT project || ' ' || reference || ': ' || coalesce(a.n, 0) || ' attempts, ' || coalesce(c.n, 0) || ' charges'
			FROM (SELECT project, reference, count(*) AS n FROM lending.charge_attempts WHERE project = ANY($1) GROUP BY 1, 2) a
			FULL JOIN (SELECT project, reference, count(*) AS n FROM lending.charges WHERE project = ANY($1) GROUP BY 1, 2) c
				USING (project, reference)
			WHERE a.n IS DISTINCT FROM c.n ORDER BY 1`,
		look: `SELECT * FROM lending.charge_attempts WHERE reference = '…'`,
	},
	{
		claim: "every account's balance is its opening balance less what was acknowledged as charged",
		sql: `SELECT a.project || ' ' || a.account || ': ' || a.opening - a.balance || ' taken, ' || coalesce(s.amount, 0) || ' acknowledged'
			FROM lending.accounts a LEFT JOIN (
				SELECT project, j ->> 'account' AS account, sum((j ->> 'amount')::bigint) AS amount
				FROM (SELECT project, convert_from(body, 'UTF8')::jsonb AS j FROM seen
					WHERE endpoint = 'POST /partner/v1/charges' AND status < 400) t GROUP BY 1, 2) s USING (project, account)
			WHERE a.project = ANY($1) AND a.opening - a.balance <> coalesce(s.amount, 0) ORDER BY 1`,
		look: `SELECT reference, count(*), sum(amount) FROM lending.charges WHERE account = '…' GROUP BY 1 HAVING count(*) > 1`,
	},
}

const (
	sqlRows    = `SELECT count(*) FROM {table} WHERE project = ANY($1)`
	sqlRefused = `SELECT count(*) FROM idem.keys WHERE project = ANY($1) AND endpoint = '{endpoint}' AND response_status >= 400`
	sqlRun     = `SELECT count(*) FROM idem.keys WHERE project = ANY($1) AND endpoint = '{endpoint}' AND response_status < 400`
	sqlMoney   = `SELECT (SELECT coalesce(sum(opening - balance), 0)::bigint FROM lending.accounts WHERE project = ANY($1)),
		(SELECT coalesce(sum((convert_from(body, 'UTF8')::jsonb ->> 'amount')::bigint), 0)::bigint FROM seen
		 WHERE endpoint = 'POST /partner/v1/charges' AND status < 400)`
)

// ledger reads the database when nobody writes any more.
type ledger struct {
	conn     *pgx.Conn
	projects []string
}

func (l *ledger) load(ctx context.Context, histories []*history) error {
	if _, err := l.conn.Exec(ctx, sqlSeen); err != nil {
		return err
	}
	var rows [][]any
	for _, h := range histories {
		if a, _ := h.answered(); a != nil {
			op := h.op
			rows = append(rows, []any{l.projects[op.project], op.endpoint.pattern(), op.key, op.reference, a.status, a.body})
		}
	}
	columns := []string{"project", "endpoint", "key", "reference", "status", "body"}
	if _, err := l.conn.CopyFrom(ctx, pgx.Identifier{"seen"}, columns, pgx.CopyFromRows(rows)); err != nil {
		return err
	}
	_, err := l.conn.Exec(ctx, sqlSeenID)
	return err
}

func fill(sql string, e *endpoint) string {
	if e != nil {
		sql = strings.NewReplacer("{table}", "lending."+e.table, "{endpoint}", e.pattern()).Replace(sql)
	}
	return strings.Join(strings.Fields(sql), " ")
}

func (l *ledger) count(ctx context.Context, sql string, e *endpoint) (n int, err error) {
	err = l.conn.QueryRow(ctx, fill(sql, e), l.projects).Scan(&n)
	return n, err
}

// find returns what a query finds. e is nil for one about the business as a whole.
func (l *ledger) find(ctx context.Context, q query, e *endpoint) ([]string, error) {
	var args []any
	if strings.Contains(q.sql, "$1") {
		args = append(args, l.projects)
	}
	rows, err := l.conn.Query(ctx, fill(q.sql, e), args...)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("%w in %s", err, fill(q.sql, e))
	}
	return found, nil
}
