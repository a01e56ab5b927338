-- +goose Up

CREATE SCHEMA lending;

-- A partner of the lender. Everything below belongs to one.
CREATE TABLE lending.projects (
    project    text        PRIMARY KEY,
    name       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Bearer tokens, by their SHA-256.
CREATE TABLE lending.tokens (
    token_hash bytea PRIMARY KEY CHECK (octet_length(token_hash) = 32),
    project    text  NOT NULL REFERENCES lending.projects ON DELETE CASCADE
);

-- In the tables below reference is the partner's own name for what it asked for. None of them has a unique constraint on
-- it, or on anything else that a client sends: what keeps a repeated request from writing twice is the idempotency key
-- alone. (Keep such constraints in your own schema where the business wants them. Here they would hide what is shown.)

CREATE TABLE lending.applications (
    id             uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    project        text        NOT NULL REFERENCES lending.projects,
    reference      text        NOT NULL,
    applicant_name text        NOT NULL,
    email          text        NOT NULL,
    amount         bigint      NOT NULL CHECK (amount > 0),
    currency       text        NOT NULL,
    term_months    integer     NOT NULL,
    purpose        text        NOT NULL,
    status         text        NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON lending.applications (project, reference);

CREATE TABLE lending.application_events (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    application_id uuid        NOT NULL REFERENCES lending.applications ON DELETE CASCADE,
    event          text        NOT NULL,
    at             timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON lending.application_events (application_id);

-- A question to a credit bureau. Every one costs a fee and leaves a mark on the person's file.
CREATE TABLE lending.enquiries (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    project    text        NOT NULL REFERENCES lending.projects,
    reference  text        NOT NULL,
    bureau     text        NOT NULL,
    subject    text        NOT NULL,
    purpose    text        NOT NULL,
    fee        bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON lending.enquiries (project, reference);

CREATE TABLE lending.consents (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    project    text        NOT NULL REFERENCES lending.projects,
    reference  text        NOT NULL,
    subject    text        NOT NULL,
    valid_days integer     NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON lending.consents (project, reference);

CREATE TABLE lending.consent_scopes (
    consent_id uuid NOT NULL REFERENCES lending.consents ON DELETE CASCADE,
    scope      text NOT NULL,
    PRIMARY KEY (consent_id, scope)
);

CREATE TABLE lending.payment_links (
    id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    project     text        NOT NULL REFERENCES lending.projects,
    reference   text        NOT NULL,
    token       text        NOT NULL,
    amount      bigint      NOT NULL CHECK (amount > 0),
    currency    text        NOT NULL,
    description text        NOT NULL,
    expires_at  timestamptz NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON lending.payment_links (project, reference);

CREATE TABLE lending.identity_checks (
    id               uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    project          text        NOT NULL REFERENCES lending.projects,
    reference        text        NOT NULL,
    full_name        text        NOT NULL,
    document_type    text        NOT NULL,
    document_country text        NOT NULL,
    document_number  text        NOT NULL,
    status           text        NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON lending.identity_checks (project, reference);

-- A slot takes one booking: that is a rule of the business, whoever sends what how often.
CREATE TABLE lending.slots (
    project   text        NOT NULL REFERENCES lending.projects,
    slot      text        NOT NULL,
    starts_at timestamptz NOT NULL,
    taken     boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (project, slot)
);

CREATE TABLE lending.bookings (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    project    text        NOT NULL,
    reference  text        NOT NULL,
    slot       text        NOT NULL,
    attendee   text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (project, slot) REFERENCES lending.slots
);
CREATE INDEX ON lending.bookings (project, reference);
CREATE INDEX ON lending.bookings (project, slot);

-- Amounts are in the smallest unit of the currency.
CREATE TABLE lending.accounts (
    project      text   NOT NULL REFERENCES lending.projects,
    account      text   NOT NULL,
    currency     text   NOT NULL,
    opening      bigint NOT NULL,
    balance      bigint NOT NULL CHECK (balance >= 0),
    charge_limit bigint NOT NULL,
    PRIMARY KEY (project, account)
);

CREATE TABLE lending.charges (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    project    text        NOT NULL,
    reference  text        NOT NULL,
    account    text        NOT NULL,
    amount     bigint      NOT NULL CHECK (amount > 0),
    currency   text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (project, account) REFERENCES lending.accounts
);
CREATE INDEX ON lending.charges (project, reference);

CREATE TABLE lending.charge_attempts (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project    text        NOT NULL REFERENCES lending.projects,
    reference  text        NOT NULL,
    amount     bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON lending.charge_attempts (project, reference);

-- +goose Down

DROP SCHEMA lending CASCADE;
