package idem

// Every statement of this package. Names and operators are qualified: an unqualified name can be shadowed by a temporary
// table or by a schema earlier in search_path, and then the same payment is taken twice.

// sqlLock tries the advisory lock of the key, never waits, and ends with the transaction. The lock is volatile, so it is
// taken in a statement of its own before sqlLook's snapshot: under READ COMMITTED a winner that has just committed is
// seen. It also returns the database's clock (the only one that is compared with stored times), the start of the
// transaction (which tells whether fn ended it) and what kind of transaction it is, and turns synchronous_commit on where
// it is off, since a key that was acknowledged must survive a crash.
//
// Locks: one advisory lock. Waits for: nothing.
const sqlLock = `-- idem: lock
SELECT pg_catalog.pg_try_advisory_xact_lock($1::bigint),
       pg_catalog.clock_timestamp(),
       pg_catalog.now(),
       NOT pg_catalog.starts_with(pg_catalog.current_setting('transaction_isolation'), 'read '),
       pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'on',
       CASE WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'
            THEN pg_catalog.set_config('synchronous_commit', 'on', true) OPERATOR(pg_catalog.=) 'on' ELSE true END`

// sqlLook reads the record. Locks: nothing. Waits for: nothing.
const sqlLook = `-- idem: look
SELECT created_at, expires_at, response_status, request_hash, response_header, response_body
FROM idem.keys
WHERE project OPERATOR(pg_catalog.=) $1::pg_catalog.text
  AND endpoint OPERATOR(pg_catalog.=) $2::pg_catalog.text
  AND key OPERATOR(pg_catalog.=) $3::pg_catalog.text`

// sqlLookReplicated is sqlLook for WithReplicatedReplay. The row lock gives the transaction an id, so that its COMMIT
// waits for the synchronous standby. A row that somebody is deleting or taking over is passed over.
//
// Locks: the row, shared. Waits for: nothing; COMMIT then waits for the standby.
const sqlLookReplicated = sqlLook + ` FOR SHARE SKIP LOCKED`

const insertRecord = `INSERT INTO idem.keys AS existing (created_at, expires_at, response_status, request_hash,
                               project, endpoint, key, response_header, response_body)
VALUES ($1::pg_catalog.timestamptz, $2::pg_catalog.timestamptz,
        $3::integer OPERATOR(pg_catalog./) (pg_catalog.now() OPERATOR(pg_catalog.=) $10::pg_catalog.timestamptz)::integer,
        $4::pg_catalog.bytea, $5::pg_catalog.text, $6::pg_catalog.text, $7::pg_catalog.text, $8::pg_catalog.bytea, $9::pg_catalog.bytea)`

// sqlRecord inserts the complete row or fails: by the unique constraint when somebody recorded the key first (SQLSTATE
// 23505), by a division by zero when this is no longer the transaction that took the lock (22012, $10 is its start). Run
// sends it in one flight with COMMIT, which is skipped after an error. An INSERT that merely affected no row would let the
// COMMIT through.
//
// Locks: the new row. Waits for: an uncommitted row with the same key, which the advisory lock makes impossible but for
// engines where that lock does nothing.
const sqlRecord = `-- idem: record
` + insertRecord

// sqlRecordOver is sqlRecord with the takeover of an expired row: it replaces that and nothing else. No row affected means
// that somebody recorded the key first. Above READ COMMITTED a row that the snapshot does not show gives 40001.
//
// Locks: the row. Waits for: an uncommitted row with the same key, or the reaper's or an operator's delete of it.
const sqlRecordOver = `-- idem: record over
` + insertRecord + `
ON CONFLICT (project, endpoint, key) DO UPDATE
SET created_at = excluded.created_at, expires_at = excluded.expires_at, response_status = excluded.response_status,
    request_hash = excluded.request_hash, response_header = excluded.response_header, response_body = excluded.response_body
WHERE existing.expires_at OPERATOR(pg_catalog.<=) excluded.created_at`

// sqlFail puts the transaction into the failed state, so that a caller who ignores Do's error cannot commit fn's writes
// without a record. The server's log shows the text; COMMIT then answers ROLLBACK, and pgx reports that.
const sqlFail = `-- idem: fail
SELECT CAST('idem.Do failed in this transaction: it must be rolled back' AS integer)`
