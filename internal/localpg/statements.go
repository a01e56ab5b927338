package localpg

// Statements that take no name. They read catalogs, lock nothing and wait for nothing.
const (
	sqlVersion = `-- idem: localpg version
SHOW server_version`

	sqlMayCreate = `-- idem: localpg may create databases
SELECT rolsuper OR rolcreatedb, extract(epoch FROM pg_catalog.clock_timestamp())::bigint
FROM pg_catalog.pg_roles WHERE rolname = current_user`

	sqlLeftovers = `-- idem: localpg leftovers
SELECT datname::text FROM pg_catalog.pg_database AS d
WHERE datname ~ '^pgidem_[0-9]+_[0-9a-f]+_' AND pg_catalog.pg_get_userbyid(datdba) = current_user
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a WHERE a.datid = d.oid)`

	sqlTerminate = `-- idem: localpg terminate sessions
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE datname = $1 AND pid <> pg_catalog.pg_backend_pid()`
)

// Statements that take quoted names. CREATE DATABASE needs that nobody is
// connected to the template: the server waits up to 5 s, then refuses with 55006.
const (
	sqlCreate = `-- idem: localpg create database
CREATE DATABASE %s TEMPLATE %s`

	sqlDropForce = `-- idem: localpg drop database
DROP DATABASE IF EXISTS %s WITH (FORCE)`

	sqlDrop = `-- idem: localpg drop unused database
DROP DATABASE IF EXISTS %s`

	sqlSeal = `-- idem: localpg close database
ALTER DATABASE %s WITH ALLOW_CONNECTIONS false`
)
