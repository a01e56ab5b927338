package main

import (
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

// variant is one way to do the operation: insert a payment, exactly once where the variant knows how.
type variant struct {
	id   string
	name string
	run  func(ctx context.Context, pool *pgxpool.Pool, op *operation) error

	payments, records, claims int  // rows that one run leaves
	replays                   bool // op's key must have a record
}

var variants = []variant{
	{id: "a", name: "plain transaction, no key", run: runPlain, payments: 1},
	{id: "b", name: "the limit: record in one batch with the write, no look", run: runLimit, payments: 1, records: 1},
	{id: "c", name: "by hand: SELECT, write, INSERT", run: runByHand, payments: 1, records: 1},
	{id: "d", name: "claim first: SELECT, INSERT, write, UPDATE", run: runClaimFirst, payments: 1, claims: 1},
	{id: "e", name: "`idem.Do`", run: runDo, payments: 1, records: 1},
	{id: "f", name: "`idem.Run`", run: runRun, payments: 1, records: 1},
	{id: "g", name: "`idem.Run`, replay", run: runReplay, replays: true},
	{id: "h", name: "BEGIN, SELECT by key, COMMIT", run: runSelect, replays: true},
}

func variantByID(id string) variant {
	for _, v := range variants {
		if v.id == id {
			return v
		}
	}
	panic("no variant " + id)
}

// operation is what a client asks for.
type operation struct {
	key    idem.Key
	ref    string
	amount int
}

const (
	project  = "acme"
	endpoint = "POST /payments"
	ttl      = 24 * time.Hour
)

// What every variant answers: a body of 200 bytes and one header field.
var (
	responseHeader = map[string][]string{"Content-Type": {"application/json"}}
	responseBody   = func() []byte {
		b := []byte(`{"id":"pay_`)
		for len(b) < 198 {
			b = append(b, "0123456789abcdef"[len(b)%16])
		}
		return append(b, `"}`...)
	}()
)

// storedHeader is responseHeader as idem stores it. It is a constant here, so that the variants by hand spend nothing on it.
const storedHeader = "\x01\x0cContent-Type\x01\x10application/json"

func newOperation(r *rand.Rand) operation {
	ref := newUUID(r)
	return operation{
		key: idem.Key{Project: project, Endpoint: endpoint, Value: newUUID(r), RequestHash: idem.HashRequest([]byte(ref))},
		ref: ref, amount: 1 + r.IntN(100_000),
	}
}

// newUUID returns a UUID of version 4, as clients send it.
func newUUID(r *rand.Rand) string {
	var u [16]byte
	for i := range u {
		u[i] = byte(r.Uint32())
	}
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

const sqlPay = `INSERT INTO payments (ref, amount) VALUES ($1, $2)`

func runPlain(ctx context.Context, pool *pgxpool.Pool, op *operation) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sqlPay, op.ref, op.amount)
		return err
	})
}

const sqlInsertRecord = `INSERT INTO idem.keys
       (created_at, expires_at, response_status, request_hash, project, endpoint, key, response_header, response_body)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

func recordOf(op *operation) []any {
	now := time.Now()
	return []any{
		now, now.Add(ttl), 201, op.key.RequestHash[:], op.key.Project, op.key.Endpoint, op.key.Value,
		[]byte(storedHeader), responseBody,
	}
}

func runLimit(ctx context.Context, pool *pgxpool.Pool, op *operation) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		b.Queue(sqlPay, op.ref, op.amount)
		b.Queue(sqlInsertRecord, recordOf(op)...)
		return tx.SendBatch(ctx, b).Close()
	})
}

var (
	errReused     = errors.New("key reused")
	errInProgress = errors.New("key in progress")
	errNotNew     = errors.New("the key has a record")
)

const sqlSelectRecord = `SELECT request_hash, response_status, response_header, response_body, expires_at, created_at
FROM idem.keys WHERE project = $1 AND endpoint = $2 AND key = $3`

// stored is what the variants by hand read back.
type stored struct {
	hash, header, body []byte
	status             int
	expires, created   time.Time
}

func selectRecord(ctx context.Context, tx pgx.Tx, op *operation) (stored, error) {
	var s stored
	err := tx.QueryRow(ctx, sqlSelectRecord, op.key.Project, op.key.Endpoint, op.key.Value).
		Scan(&s.hash, &s.status, &s.header, &s.body, &s.expires, &s.created)
	if err == nil && string(s.hash) != string(op.key.RequestHash[:]) {
		err = errReused
	}
	return s, err
}

// runByHand is correct under READ COMMITTED: of two at once, both may run, and the primary key lets one of them commit.
func runByHand(ctx context.Context, pool *pgxpool.Pool, op *operation) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		switch _, err := selectRecord(ctx, tx, op); {
		case err == nil:
			return errNotNew // here it would replay
		case !errors.Is(err, pgx.ErrNoRows):
			return err
		}
		if _, err := tx.Exec(ctx, sqlPay, op.ref, op.amount); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sqlInsertRecord, recordOf(op)...)
		return err
	})
}

const (
	sqlSelectClaim = `SELECT state, request_hash, response_status, response_header, response_body
FROM claims WHERE project = $1 AND endpoint = $2 AND key = $3`
	sqlInsertClaim = `INSERT INTO claims (project, endpoint, key, state, request_hash, created_at, expires_at)
VALUES ($1, $2, $3, 'started', $4, $5, $6) ON CONFLICT DO NOTHING`
	sqlUpdateClaim = `UPDATE claims SET state = 'done', response_status = $4, response_header = $5, response_body = $6
WHERE project = $1 AND endpoint = $2 AND key = $3`
)

// runClaimFirst is the shape of most packages and articles: a row that says "started", later completed.
func runClaimFirst(ctx context.Context, pool *pgxpool.Pool, op *operation) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		k := &op.key
		var state string
		var status *int
		var hash, header, body []byte
		switch err := tx.QueryRow(ctx, sqlSelectClaim, k.Project, k.Endpoint, k.Value).Scan(&state, &hash, &status, &header, &body); {
		case err == nil:
			return errNotNew // here it would replay, or answer "in progress"
		case !errors.Is(err, pgx.ErrNoRows):
			return err
		}
		now := time.Now()
		tag, err := tx.Exec(ctx, sqlInsertClaim, k.Project, k.Endpoint, k.Value, k.RequestHash[:], now, now.Add(ttl))
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return errInProgress
		}
		if _, err := tx.Exec(ctx, sqlPay, op.ref, op.amount); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, sqlUpdateClaim, k.Project, k.Endpoint, k.Value, 201, []byte(storedHeader), responseBody)
		return err
	})
}

// pay is the operation as a function for idem.
func pay(op *operation) idem.Func {
	return func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		if _, err := tx.Exec(ctx, sqlPay, op.ref, op.amount); err != nil {
			return idem.Response{}, err
		}
		return idem.Response{Status: 201, Header: responseHeader, Body: responseBody}, nil
	}
}

func runDo(ctx context.Context, pool *pgxpool.Pool, op *operation) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		resp, err := idem.Do(ctx, tx, op.key, pay(op))
		if err == nil && resp.Replayed {
			err = errNotNew
		}
		return err
	})
}

func runRun(ctx context.Context, pool *pgxpool.Pool, op *operation) error {
	resp, err := idem.Run(ctx, pool, op.key, pay(op))
	if err == nil && resp.Replayed {
		err = errNotNew
	}
	return err
}

var errNoReplay = errors.New("not replayed, or other bytes than the first time")

func runReplay(ctx context.Context, pool *pgxpool.Pool, op *operation) error {
	resp, err := idem.Run(ctx, pool, op.key, pay(op))
	if err == nil && (!resp.Replayed || string(resp.Body) != string(responseBody)) {
		err = errNoReplay
	}
	return err
}

func runSelect(ctx context.Context, pool *pgxpool.Pool, op *operation) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		s, err := selectRecord(ctx, tx, op)
		if err == nil && string(s.body) != string(responseBody) {
			err = errNoReplay
		}
		return err
	})
}
