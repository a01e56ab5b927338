// Package idem makes an operation idempotent: a call that is repeated with the same key gets the first answer, byte for
// byte, and its work is done once. The key, the hash of the request and the response are one row in PostgreSQL that commits
// in the same transaction as the work. A crash at any instant leaves both or neither.
//
//	resp, err := idem.Do(ctx, tx, key, func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
//		id, err := openCase(ctx, tx, application)
//		if err != nil {
//			return idem.Response{}, err
//		}
//		return idem.JSON(http.StatusCreated, map[string]any{"id": id})
//	})
//
// # The guarantee
//
// For one (project, endpoint, key), while the record is retained: the writes made through the transaction commit at most
// once, and every acknowledged call returns the same bytes.
//
// Not promised: that fn is called only once (a crash before COMMIT means that it runs again; only one run commits); effects
// outside PostgreSQL (give them Key.Derive, or enqueue them in the same transaction); writes on another connection; anything
// after the record has expired.
//
// # How it works: lock, look, run, record
//
//  1. lock: try an advisory lock for the key that ends with the transaction. It never waits.
//  2. look: read the record, in a statement of its own, so that a winner that has just committed is seen.
//     A live record is replayed, or refused when the request hash differs, whatever the lock said.
//     No record and no lock: the key is in progress. No record and the lock: go on.
//  3. run fn.
//  4. record: insert one complete row.
//
// A row exists if and only if the operation committed. There is no row that says "in progress", no lease, and nothing to
// unstick after a crash: an unfinished call is an open transaction, and PostgreSQL knows how to end those. The lock saves
// wasted work; the unique constraint is the judge. Lock and look travel together. In Run they ride with BEGIN, and the record
// with COMMIT, so that it makes no more round trips than the bare transaction.
//
// To read the code, begin with do.go, then statements.go. Run, in run.go, adds the transaction and the retries.
//
// # Whose transaction
//
// Do works in a transaction that the caller owns, Run in one of its own, which it begins again where that helps. Prefer Run
// where the operation is the whole transaction. DoValue and RunValue are the same for a Go value instead of a Response.
//
// The clock is the database's. All five of pgx's exec modes work, and so does a transaction pooler such as PgBouncer (with
// pgx in the exec modes that it can do). In the modes exec and simple_protocol pgx reads text, so that a session needs
// PostgreSQL's defaults there: DateStyle ISO and bytea_output hex. Every call needs the primary: records are not read on a
// standby.
//
// # Errors
//
// Errors carry a sentinel for errors.Is, the key cut to its first characters, and a hint:
//
//	idem: key reused with a different request (project "acme", endpoint "POST /applications", key 3b1e…; first used 2026-11-21T10:02:11Z): a new operation needs a new key
//
// What fn returns comes back unchanged.
//
// # Upkeep
//
// Package migrations has the schema. Expired records are deleted by a Reaper, or by its procedure in the database, from cron.
package idem
