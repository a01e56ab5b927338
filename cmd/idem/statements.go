package main

// Every statement of this command, but for what package idem and goose send.

// sqlWhere says where one is connected, and what kind of server that is.
const sqlWhere = `-- idem: doctor where
SELECT pg_catalog.current_database()::pg_catalog.text, current_user::pg_catalog.text,
       pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num')::integer,
       pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('default_transaction_read_only')`

// sqlVersionTable says whether goose's version table is there and may be read, and whether the tables of the schema are.
const sqlVersionTable = `-- idem: schema tables
SELECT pg_catalog.to_regclass($1::pg_catalog.text) IS NOT NULL,
       COALESCE(pg_catalog.has_table_privilege(pg_catalog.to_regclass($1::pg_catalog.text), 'SELECT'), false),
       pg_catalog.to_regclass('idem.keys') IS NOT NULL, pg_catalog.to_regclass('idem.reaper') IS NOT NULL`

// sqlVersions returns the migrations that goose has applied; the name of its table goes in by %s.
const sqlVersions = `-- idem: schema versions
SELECT version_id, pg_catalog.max(tstamp) FROM %s
WHERE is_applied AND version_id OPERATOR(pg_catalog.>) 0 GROUP BY version_id ORDER BY version_id`

// sqlPrivileges returns what the role may do: use the schema; SELECT, INSERT, UPDATE, DELETE on idem.keys; SELECT, INSERT,
// UPDATE on idem.reaper.
const sqlPrivileges = `-- idem: doctor privileges
SELECT pg_catalog.has_schema_privilege('idem', 'USAGE'),
       pg_catalog.has_table_privilege(k.oid, 'SELECT'), pg_catalog.has_table_privilege(k.oid, 'INSERT'),
       pg_catalog.has_table_privilege(k.oid, 'UPDATE'), pg_catalog.has_table_privilege(k.oid, 'DELETE'),
       COALESCE(pg_catalog.has_table_privilege(r.oid, 'SELECT'), false),
       COALESCE(pg_catalog.has_table_privilege(r.oid, 'INSERT'), false),
       COALESCE(pg_catalog.has_table_privilege(r.oid, 'UPDATE'), false)
FROM pg_catalog.pg_namespace AS n
     JOIN pg_catalog.pg_class AS k ON k.relnamespace OPERATOR(pg_catalog.=) n.oid AND k.relname OPERATOR(pg_catalog.=) 'keys'
     LEFT JOIN pg_catalog.pg_class AS r ON r.relnamespace OPERATOR(pg_catalog.=) n.oid AND r.relname OPERATOR(pg_catalog.=) 'reaper'
WHERE n.nspname OPERATOR(pg_catalog.=) 'idem'`

// sqlTable returns size and shape of idem.keys. The number of records is the planner's estimate, -1 before the first one.
const sqlTable = `-- idem: doctor table
SELECT k.reltuples::bigint, pg_catalog.pg_total_relation_size(k.oid), k.relrowsecurity
FROM pg_catalog.pg_class AS k JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) k.relnamespace
WHERE n.nspname OPERATOR(pg_catalog.=) 'idem' AND k.relname OPERATOR(pg_catalog.=) 'keys'`

// sqlLastRun returns what the last pass of the reaper left, and how long ago it began.
const sqlLastRun = `-- idem: doctor last run
SELECT pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) last_run_at, clock, duration, deleted, blocked
FROM idem.reaper`

// sqlBacklog counts the expired records, up to 100,000, and says for how long the oldest has been.
const sqlBacklog = `-- idem: doctor backlog
SELECT pg_catalog.count(*), pg_catalog.max(late.age)
FROM (SELECT pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) k.expires_at AS age FROM idem.keys AS k
      WHERE k.expires_at OPERATOR(pg_catalog.<=) pg_catalog.now()
      ORDER BY k.expires_at LIMIT 100000) AS late`

// sqlDurability returns the settings that decide what survives a crash.
const sqlDurability = `-- idem: doctor durability
SELECT pg_catalog.current_setting('fsync'), pg_catalog.current_setting('full_page_writes'),
       pg_catalog.current_setting('synchronous_commit'), pg_catalog.current_setting('synchronous_standby_names')`
