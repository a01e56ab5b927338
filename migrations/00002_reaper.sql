-- +goose Up

-- What the last pass of the reaper did. The next one compares the clock with it; it is of no use to any call.
CREATE TABLE idem.reaper (
    singleton         boolean     NOT NULL DEFAULT true,
    last_run_at       timestamptz NOT NULL,
    clock             text        NOT NULL,
    duration          interval,
    deleted           bigint      NOT NULL,
    batches           bigint      NOT NULL,
    blocked           bigint      NOT NULL,
    backlog           bigint      NOT NULL,
    oldest_expired_at timestamptz,
    CONSTRAINT reaper_pkey PRIMARY KEY (singleton),
    CONSTRAINT reaper_one_row CHECK (singleton),
    CONSTRAINT reaper_clock CHECK (clock IN ('ok', 'jumped', 'went_back'))
);

COMMENT ON TABLE idem.reaper IS 'What the last pass of the reaper did: one row';
COMMENT ON COLUMN idem.reaper.last_run_at IS 'When the pass began, by this database''s clock';
COMMENT ON COLUMN idem.reaper.clock IS 'jumped: too far ahead of the pass before, nothing was deleted; went_back: behind it';
COMMENT ON COLUMN idem.reaper.duration IS 'How long the pass took; NULL while it runs, and when it was killed';
COMMENT ON COLUMN idem.reaper.blocked IS 'Expired records passed over because another transaction held them';
COMMENT ON COLUMN idem.reaper.backlog IS 'Expired records that were left, counted up to 100000';

-- The reaper for pg_cron and for whoever prefers SQL. It does what idem.Reaper does in Go, keeps the same lock and the same
-- row, and may run beside it:
--
--     SELECT cron.schedule('idem-reap', '* * * * *', 'CALL idem.reap()');
--
-- The command must be that one statement: each batch commits, which no procedure may do inside a transaction.
-- run_interval is the time between two runs: set it when that is above an hour. The role needs SELECT and DELETE on
-- idem.keys, and SELECT, INSERT and UPDATE on idem.reaper.
--
-- Every name and operator is qualified because a procedure that commits cannot have a search_path of its own.
-- +goose StatementBegin
CREATE PROCEDURE idem.reap(
    batch_size   integer  DEFAULT 1000,
    max_duration interval DEFAULT '4 minutes',
    grace        interval DEFAULT '0',
    run_interval interval DEFAULT '1 minute'
)
LANGUAGE plpgsql
AS $reap$
DECLARE
    reaper_lock  CONSTANT bigint   := '-5220929711436346261'; -- the first 8 bytes of SHA-256('idem reaper')
    hold         CONSTANT interval := run_interval OPERATOR(pg_catalog.*) 0.9::double precision;
    jump         CONSTANT interval := GREATEST(run_interval OPERATOR(pg_catalog.*) 2::double precision, '65 minutes'::interval);
    began        timestamp with time zone;
    cutoff       timestamp with time zone;
    gap          interval;
    the_clock    pg_catalog.text := 'ok';
    last_run     timestamp with time zone;
    last_clock   pg_catalog.text;
    -- The window: what expired from low to cutoff, oldest first, but for the first skip records, which others hold.
    low          timestamp with time zone := '-infinity';
    skip         bigint := 0;
    size         bigint := batch_size; -- of the next batch
    held         bigint := 0; -- one of the next held records is held by another transaction; 0: nothing known of that
    lim          bigint;
    pass_over    boolean := false;
    more         boolean := true;
    expired      timestamp with time zone;
    top          timestamp with time zone;
    n            bigint;
    n_deleted    bigint := 0;
    n_batches    bigint := 0;
    n_blocked    bigint := 0;
    n_backlog    bigint := 0;
    oldest       timestamp with time zone;
BEGIN
    IF batch_size IS NULL OR max_duration IS NULL OR grace IS NULL OR run_interval IS NULL
       OR batch_size OPERATOR(pg_catalog.<) 1 OR max_duration OPERATOR(pg_catalog.<) '0'::interval
       OR grace OPERATOR(pg_catalog.<) '0'::interval OR run_interval OPERATOR(pg_catalog.<=) '0'::interval THEN
        RAISE EXCEPTION 'idem.reap: batch_size and run_interval must be above 0, max_duration and grace not below'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    COMMIT; -- now, so that a CALL inside a transaction fails before it has done anything
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    IF NOT pg_catalog.pg_try_advisory_xact_lock(reaper_lock) THEN
        RAISE NOTICE 'idem.reap: another reaper is running, nothing deleted';
        RETURN;
    END IF;

    began := pg_catalog.clock_timestamp();
    cutoff := began OPERATOR(pg_catalog.-) grace;
    SELECT r.last_run_at, r.clock INTO last_run, last_clock FROM idem.reaper AS r;
    IF FOUND THEN
        gap := began OPERATOR(pg_catalog.-) last_run;
        IF gap OPERATOR(pg_catalog.<) '-1 second'::interval THEN
            the_clock := 'went_back';
            RAISE WARNING 'idem.reap: the clock went back since the last run at %; nothing is deleted too early by that', last_run;
        ELSIF last_clock OPERATOR(pg_catalog.=) 'jumped' AND gap OPERATOR(pg_catalog.<) hold THEN
            RAISE WARNING 'idem.reap: the clock jumped ahead before %: nothing is deleted until %',
                last_run, last_run OPERATOR(pg_catalog.+) hold;
            RETURN;
        ELSIF last_clock OPERATOR(pg_catalog.<>) 'jumped' AND gap OPERATOR(pg_catalog.>) jump THEN
            the_clock := 'jumped';
        END IF;
    END IF;

    IF the_clock OPERATOR(pg_catalog.=) 'jumped' THEN
        more := false;
        RAISE WARNING 'idem.reap: the last run was % ago by the clock, more than %: the clock jumped, or nothing ran. Nothing is deleted until %',
            gap, jump, began OPERATOR(pg_catalog.+) hold
            USING HINT = 'Set run_interval to the time between runs.';
    ELSE
        INSERT INTO idem.reaper (last_run_at, clock, deleted, batches, blocked, backlog)
        VALUES (began, the_clock, 0, 0, 0, 0)
        ON CONFLICT (singleton) DO UPDATE
        SET last_run_at = excluded.last_run_at, clock = excluded.clock, duration = NULL, deleted = 0, batches = 0,
            blocked = 0, backlog = 0, oldest_expired_at = NULL;
    END IF;

    WHILE more AND (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) began) OPERATOR(pg_catalog.<) max_duration LOOP
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        IF NOT pg_catalog.pg_try_advisory_xact_lock(reaper_lock) THEN
            RAISE NOTICE 'idem.reap: another reaper took over; deleted % expired records in % batches', n_deleted, n_batches;
            RETURN;
        END IF;
        -- Statements and not set_config: Citus sends only those on to its workers.
        SET LOCAL citus.propagate_set_commands = 'local';
        SET LOCAL lock_timeout = '100ms';
        -- One way for the planner: along the index on expires_at, as far as the LIMIT goes. Records that expired at the
        -- same instant come in one order then, which OFFSET needs.
        SET LOCAL plan_cache_mode = 'force_custom_plan';
        SET LOCAL enable_seqscan = off;
        SET LOCAL enable_bitmapscan = off;

        IF pass_over THEN
            -- The next record is held: leave it to a later run, and feel the way, as those behind it may be held as well.
            pass_over := false;
            held := 0;
            size := 1;
            SELECT k.expires_at INTO expired FROM idem.keys AS k
            WHERE k.expires_at OPERATOR(pg_catalog.>=) low AND k.expires_at OPERATOR(pg_catalog.<=) cutoff
            ORDER BY k.expires_at LIMIT 1 OFFSET skip;
            more := FOUND;
            IF more THEN
                IF expired OPERATOR(pg_catalog.>) low THEN
                    low := expired;
                    skip := 0;
                END IF;
                skip := skip OPERATOR(pg_catalog.+) 1;
                n_blocked := n_blocked OPERATOR(pg_catalog.+) 1;
            END IF;
            CONTINUE;
        END IF;

        lim := size;
        IF held OPERATOR(pg_catalog.>) 0 THEN
            lim := LEAST(size, GREATEST(1, held OPERATOR(pg_catalog./) 2));
        END IF;
        n := 0;
        top := low;
        BEGIN
            FOR expired IN
                WITH due AS (
                    SELECT d.project, d.endpoint, d.key FROM idem.keys AS d
                    WHERE d.expires_at OPERATOR(pg_catalog.>=) low AND d.expires_at OPERATOR(pg_catalog.<=) cutoff
                    ORDER BY d.expires_at LIMIT lim OFFSET skip)
                DELETE FROM idem.keys AS k USING due
                WHERE k.project OPERATOR(pg_catalog.=) due.project
                  AND k.endpoint OPERATOR(pg_catalog.=) due.endpoint
                  AND k.key OPERATOR(pg_catalog.=) due.key
                  AND k.expires_at OPERATOR(pg_catalog.<=) cutoff -- once more: it may have been taken over meanwhile
                RETURNING k.expires_at
            LOOP
                n := n OPERATOR(pg_catalog.+) 1;
                top := GREATEST(top, expired);
            END LOOP;
        EXCEPTION WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
            held := lim;
            pass_over := lim OPERATOR(pg_catalog.=) 1;
            CONTINUE;
        END;

        IF top OPERATOR(pg_catalog.>) low THEN
            low := top;
            skip := 0;
        END IF;
        IF n OPERATOR(pg_catalog.>) 0 THEN
            n_deleted := n_deleted OPERATOR(pg_catalog.+) n;
            n_batches := n_batches OPERATOR(pg_catalog.+) 1;
        END IF;
        IF held OPERATOR(pg_catalog.>) 0 THEN
            held := held OPERATOR(pg_catalog.-) lim;
        ELSE
            size := LEAST(size OPERATOR(pg_catalog.*) 2, batch_size::bigint);
        END IF;
        IF n OPERATOR(pg_catalog.<) lim THEN
            -- Nothing left, or records that were due a moment ago and are not any more.
            SELECT k.expires_at INTO expired FROM idem.keys AS k
            WHERE k.expires_at OPERATOR(pg_catalog.>=) low AND k.expires_at OPERATOR(pg_catalog.<=) cutoff
            ORDER BY k.expires_at LIMIT 1 OFFSET skip;
            more := FOUND;
            IF more AND n OPERATOR(pg_catalog.=) 0 THEN -- seen, and yet not deleted: it must not keep us busy
                IF expired OPERATOR(pg_catalog.>) low THEN
                    low := expired;
                    skip := 0;
                END IF;
                skip := skip OPERATOR(pg_catalog.+) 1;
                n_blocked := n_blocked OPERATOR(pg_catalog.+) 1;
            END IF;
        END IF;
    END LOOP;

    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SELECT pg_catalog.count(*), pg_catalog.min(late.expires_at) INTO n_backlog, oldest
    FROM (SELECT k.expires_at FROM idem.keys AS k
          WHERE k.expires_at OPERATOR(pg_catalog.<=) cutoff -- from the beginning: what was passed over lies before the window
          ORDER BY k.expires_at LIMIT 100000) AS late;
    INSERT INTO idem.reaper (last_run_at, clock, duration, deleted, batches, blocked, backlog, oldest_expired_at)
    VALUES (began, the_clock, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) began, n_deleted, n_batches, n_blocked,
            n_backlog, oldest)
    ON CONFLICT (singleton) DO UPDATE
    SET last_run_at = excluded.last_run_at, clock = excluded.clock, duration = excluded.duration,
        deleted = excluded.deleted, batches = excluded.batches, blocked = excluded.blocked, backlog = excluded.backlog,
        oldest_expired_at = excluded.oldest_expired_at;
    RAISE NOTICE 'idem.reap: deleted % expired records in % batches; passed over % held ones; % expired ones left%',
        n_deleted, n_batches, n_blocked, n_backlog,
        CASE WHEN oldest IS NULL THEN '' ELSE pg_catalog.format(', the oldest since %s', oldest) END;
END
$reap$;
-- +goose StatementEnd

COMMENT ON PROCEDURE idem.reap IS 'Deletes expired records in batches that each commit; for pg_cron';

-- +goose Down

DROP PROCEDURE idem.reap;
DROP TABLE idem.reaper;
