-- +goose Up

CREATE SCHEMA IF NOT EXISTS idem;

-- One row per operation that committed. A row is complete or it is not there: every column is NOT NULL, there is no
-- status column, and nothing updates a row but the takeover of an expired one.
--
-- Fixed-width columns stand first, which saves the padding between them. project keeps the database's collation, so that
-- the table can be co-located with tables of the application that are distributed by their project.
CREATE TABLE idem.keys (
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    response_status integer     NOT NULL,
    request_hash    bytea       NOT NULL,
    project         text        NOT NULL,
    endpoint        text        NOT NULL COLLATE "C",
    key             text        NOT NULL COLLATE "C",
    response_header bytea       NOT NULL,
    response_body   bytea       NOT NULL,
    CONSTRAINT keys_pkey PRIMARY KEY (project, endpoint, key),
    CONSTRAINT keys_project_length CHECK (octet_length(project) BETWEEN 1 AND 255),
    CONSTRAINT keys_endpoint_length CHECK (octet_length(endpoint) BETWEEN 1 AND 512),
    CONSTRAINT keys_key_length CHECK (octet_length(key) BETWEEN 1 AND 255),
    CONSTRAINT keys_request_hash_length CHECK (octet_length(request_hash) = 32),
    CONSTRAINT keys_response_status_range CHECK (response_status BETWEEN 0 AND 999),
    CONSTRAINT keys_response_header_length CHECK (octet_length(response_header) <= 65536),
    CONSTRAINT keys_response_body_length CHECK (octet_length(response_body) <= 67108864),
    CONSTRAINT keys_expires_after_created CHECK (expires_at > created_at AND expires_at < 'infinity')
) WITH (
    -- Rows are only inserted and, after their retention, deleted in batches. Vacuum by count rather than by a fifth of the
    -- table: with a day's keys of a busy service a fifth is millions of dead index entries.
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_threshold = 5000
);

CREATE INDEX keys_expires_at_idx ON idem.keys (expires_at);

COMMENT ON SCHEMA idem IS 'Idempotency keys that commit with the transaction they protect (github.com/pgidem/pgidem)';
COMMENT ON TABLE idem.keys IS 'One complete row per committed operation; a row exists if and only if the operation committed';
COMMENT ON COLUMN idem.keys.request_hash IS 'SHA-256 that the key is bound to; the request itself is never stored';
COMMENT ON COLUMN idem.keys.response_header IS 'Length-delimited names and values, see package idem; any byte may occur';

-- +goose Down

DROP TABLE idem.keys;
-- Without CASCADE: whatever else somebody keeps in this schema stops the migration instead of vanishing.
DROP SCHEMA idem;
