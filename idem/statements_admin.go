package idem

// The statements of Reaper, Forget and Check, in the style of statements.go. Types are qualified as well: a temporary
// schema is searched for them before pg_catalog.

// reaperLock is the advisory lock of the one reaper of a database: the first 8 bytes of SHA-256("idem reaper"). The
// procedure idem.reap in migrations/ takes the same.
const reaperLock int64 = -5220929711436346261

// sqlReapBegin comes first in each transaction of a pass: above READ COMMITTED a row that was taken over meanwhile would
// fail the batch instead of being left alone. Locks: nothing. Waits for: nothing.
const sqlReapBegin = `-- idem: reap begin
SET TRANSACTION ISOLATION LEVEL READ COMMITTED`

// sqlReapPropagate makes Citus send the SET LOCALs that follow to its workers. To PostgreSQL it is a setting that nobody
// reads. Locks: nothing. Waits for: nothing.
const sqlReapPropagate = `-- idem: reap propagate
SET LOCAL citus.propagate_set_commands = 'local'`

// sqlReapLockTimeout bounds the wait for one row. A statement and not set_config, since Citus sends only statements on.
// Locks: nothing. Waits for: nothing.
const sqlReapLockTimeout = `-- idem: reap lock timeout
SET LOCAL lock_timeout = '100ms'`

// sqlReapPlan, sqlReapNoScan and sqlReapNoBitmap leave the planner one way: along the index on expires_at, as far as the
// LIMIT goes. A plan for any LIMIT, or one made before the table was analyzed, would read and sort all that is expired for
// each batch. And records that expired at the same instant come in one order then, which an OFFSET needs. Locks: nothing. Waits for: nothing.
const (
	sqlReapPlan = `-- idem: reap plan
SET LOCAL plan_cache_mode = 'force_custom_plan'`
	sqlReapNoScan = `-- idem: reap no scan
SET LOCAL enable_seqscan = off`
	sqlReapNoBitmap = `-- idem: reap no bitmap
SET LOCAL enable_bitmapscan = off`
)

// sqlReapLock makes this transaction the reaper, and returns the database's clock. The lock ends with the transaction, so
// that it is safe behind a transaction pooler. Locks: one advisory lock. Waits for: nothing.
const sqlReapLock = `-- idem: reap lock
SELECT pg_catalog.pg_try_advisory_xact_lock($1::bigint), pg_catalog.clock_timestamp()`

// sqlReapHolder returns who holds the reaper's lock. Locks: nothing. Waits for: nothing.
const sqlReapHolder = `-- idem: reap holder
SELECT l.pid, COALESCE(a.application_name, '')
FROM pg_catalog.pg_locks AS l
     LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) l.pid
WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted AND l.objsubid OPERATOR(pg_catalog.=) 1
  AND l.classid OPERATOR(pg_catalog.=) (($1::bigint OPERATOR(pg_catalog.>>) 32) OPERATOR(pg_catalog.&) 4294967295)::pg_catalog.oid
  AND l.objid OPERATOR(pg_catalog.=) ($1::bigint OPERATOR(pg_catalog.&) 4294967295)::pg_catalog.oid
  AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database AS d
                                         WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
LIMIT 1`

// sqlReapLast returns what the last pass left. Locks: nothing. Waits for: nothing.
const sqlReapLast = `-- idem: reap last
SELECT last_run_at, clock FROM idem.reaper`

// sqlReapReport stores what a pass did. Locks: the one row. Waits for: another pass that stores its own, never long.
const sqlReapReport = `-- idem: reap report
INSERT INTO idem.reaper (last_run_at, clock, duration, deleted, batches, blocked, backlog, oldest_expired_at)
VALUES ($1::pg_catalog.timestamptz, $2::pg_catalog.text, $3::interval, $4::bigint, $5::bigint, $6::bigint, $7::bigint,
        $8::pg_catalog.timestamptz)
ON CONFLICT (singleton) DO UPDATE
SET last_run_at = excluded.last_run_at, clock = excluded.clock, duration = excluded.duration, deleted = excluded.deleted,
    batches = excluded.batches, blocked = excluded.blocked, backlog = excluded.backlog,
    oldest_expired_at = excluded.oldest_expired_at`

const dueRecords = `FROM idem.keys
    WHERE expires_at OPERATOR(pg_catalog.>=) $1::pg_catalog.timestamptz
      AND expires_at OPERATOR(pg_catalog.<=) $2::pg_catalog.timestamptz`

// sqlReapDelete deletes up to $3 records that expired between $1 and $2, oldest first, passing over the first $4. It looks
// at expires_at a second time while it deletes: a record that was taken over meanwhile is alive. No FOR UPDATE, which
// would need a right to update and fails across the shards of Citus.
//
// Locks: the rows it deletes. Waits for: a transaction that takes one of them over or forgets it, up to lock_timeout (55P03).
const sqlReapDelete = `-- idem: reap delete
WITH due AS (
    SELECT project, endpoint, key ` + dueRecords + `
    ORDER BY expires_at LIMIT $3::bigint OFFSET $4::bigint)
DELETE FROM idem.keys AS k USING due
WHERE k.project OPERATOR(pg_catalog.=) due.project
  AND k.endpoint OPERATOR(pg_catalog.=) due.endpoint
  AND k.key OPERATOR(pg_catalog.=) due.key
  AND k.expires_at OPERATOR(pg_catalog.<=) $2::pg_catalog.timestamptz
RETURNING k.expires_at`

// sqlReapPeek returns when the next record that is due expired, in sqlReapDelete's order. Locks: nothing. Waits for: nothing.
const sqlReapPeek = `-- idem: reap peek
SELECT expires_at ` + dueRecords + `
    ORDER BY expires_at LIMIT 1 OFFSET $3::bigint`

// sqlReapBacklog counts the records that are due, up to $3, and returns when the oldest of them expired. Locks: nothing.
// Waits for: nothing.
const sqlReapBacklog = `-- idem: reap backlog
SELECT pg_catalog.count(*), pg_catalog.min(late.expires_at)
FROM (SELECT expires_at ` + dueRecords + `
    ORDER BY expires_at LIMIT $3::bigint) AS late`

// sqlForget deletes one record. Locks: the row. Waits for: a transaction that takes it over, and the reaper.
const sqlForget = `-- idem: forget
DELETE FROM idem.keys
WHERE project OPERATOR(pg_catalog.=) $1::pg_catalog.text
  AND endpoint OPERATOR(pg_catalog.=) $2::pg_catalog.text
  AND key OPERATOR(pg_catalog.=) $3::pg_catalog.text`

// sqlForgetProject deletes the records of a project. Locks: the rows. Waits for: transactions that take one of them over,
// and the reaper.
const sqlForgetProject = `-- idem: forget project
DELETE FROM idem.keys WHERE project OPERATOR(pg_catalog.=) $1::pg_catalog.text`

// checkTables lists idem.keys and, where it is partitioned, its partitions.
const checkTables = `WITH RECURSIVE tables AS (
    SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE n.nspname OPERATOR(pg_catalog.=) 'idem' AND c.relname OPERATOR(pg_catalog.=) 'keys'
      AND c.relkind OPERATOR(pg_catalog.<>) ALL (ARRAY['i', 'I', 'c', 'S']::pg_catalog."char"[])
    UNION ALL
    SELECT i.inhrelid FROM tables AS t JOIN pg_catalog.pg_inherits AS i ON i.inhparent OPERATOR(pg_catalog.=) t.oid)
`

// sqlCheckTables returns the table, its partitions, and what keeps each of them from holding a record. Locks: nothing.
// Waits for: nothing.
const sqlCheckTables = `-- idem: check tables
` + checkTables + `SELECT (c.oid::pg_catalog.regclass)::pg_catalog.text, c.relkind::pg_catalog.text, c.relpersistence::pg_catalog.text,
       COALESCE(pg_catalog.pg_get_partkeydef(c.oid), ''),
       ARRAY(SELECT a.attname::pg_catalog.text
             FROM pg_catalog.pg_partitioned_table AS p
                  CROSS JOIN LATERAL pg_catalog.unnest(p.partattrs::pg_catalog.int2[]) AS n (num)
                  LEFT JOIN pg_catalog.pg_attribute AS a
                  ON a.attrelid OPERATOR(pg_catalog.=) p.partrelid AND a.attnum OPERATOR(pg_catalog.=) n.num
                     AND a.attnum OPERATOR(pg_catalog.>) 0
             WHERE p.partrelid OPERATOR(pg_catalog.=) c.oid),
       ARRAY(SELECT g.tgname::pg_catalog.text FROM pg_catalog.pg_trigger AS g
             WHERE g.tgrelid OPERATOR(pg_catalog.=) c.oid AND NOT g.tgisinternal AND g.tgenabled OPERATOR(pg_catalog.<>) 'D'
               -- 4, 8 and 16: on INSERT, DELETE and UPDATE; one on TRUNCATE alone changes no record.
               AND (g.tgtype OPERATOR(pg_catalog.&) 28::smallint) OPERATOR(pg_catalog.<>) 0
             ORDER BY g.tgname),
       ARRAY(SELECT r.rulename::pg_catalog.text FROM pg_catalog.pg_rewrite AS r
             WHERE r.ev_class OPERATOR(pg_catalog.=) c.oid AND c.relkind OPERATOR(pg_catalog.<>) 'v'
               AND r.ev_enabled OPERATOR(pg_catalog.<>) 'D'
             ORDER BY r.rulename)
FROM tables AS t JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.oid
ORDER BY c.oid`

// sqlCheckColumns returns the columns of idem.keys. Locks: nothing. Waits for: nothing.
const sqlCheckColumns = `-- idem: check columns
SELECT a.attname::pg_catalog.text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.atthasdef OR a.attidentity OPERATOR(pg_catalog.<>) '', a.attgenerated OPERATOR(pg_catalog.<>) '',
       COALESCE(l.collname::pg_catalog.text, ''), COALESCE(l.collisdeterministic, true)
FROM pg_catalog.pg_attribute AS a
     JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
     JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
     LEFT JOIN pg_catalog.pg_collation AS l ON l.oid OPERATOR(pg_catalog.=) a.attcollation
WHERE n.nspname OPERATOR(pg_catalog.=) 'idem' AND c.relname OPERATOR(pg_catalog.=) 'keys'
  AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
ORDER BY a.attnum`

// sqlCheckIndexes returns the indexes of idem.keys. Locks: nothing. Waits for: nothing.
const sqlCheckIndexes = `-- idem: check indexes
SELECT (x.indexrelid::pg_catalog.regclass)::pg_catalog.text, x.indisunique, x.indisvalid AND x.indisready, x.indimmediate,
       x.indpred IS NOT NULL,
       ARRAY(SELECT COALESCE(a.attname::pg_catalog.text, '(expression)')
             FROM pg_catalog.generate_series(1, x.indnkeyatts::integer) AS k (i)
                  LEFT JOIN pg_catalog.pg_attribute AS a
                  ON a.attrelid OPERATOR(pg_catalog.=) x.indrelid
                     AND a.attnum OPERATOR(pg_catalog.=) (x.indkey::pg_catalog.int2[])[k.i OPERATOR(pg_catalog.-) 1]
                     AND a.attnum OPERATOR(pg_catalog.>) 0
             ORDER BY k.i),
       EXISTS (SELECT FROM pg_catalog.unnest(x.indcollation::pg_catalog.oid[]) AS u (id)
                    JOIN pg_catalog.pg_collation AS l ON l.oid OPERATOR(pg_catalog.=) u.id
               WHERE NOT l.collisdeterministic),
       EXISTS (SELECT FROM pg_catalog.unnest(x.indclass::pg_catalog.oid[]) AS u (id)
                    JOIN pg_catalog.pg_opclass AS o ON o.oid OPERATOR(pg_catalog.=) u.id
                    JOIN pg_catalog.pg_namespace AS m ON m.oid OPERATOR(pg_catalog.=) o.opcnamespace
               WHERE m.nspname OPERATOR(pg_catalog.<>) 'pg_catalog')
FROM pg_catalog.pg_index AS x
     JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) x.indrelid
     JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE n.nspname OPERATOR(pg_catalog.=) 'idem' AND c.relname OPERATOR(pg_catalog.=) 'keys'
ORDER BY x.indexrelid`
