-- What undoes revision 0005 on PostgreSQL. Statements end at a semicolon before a blank line.

ALTER TABLE action_events
    ADD CONSTRAINT fk_action_events_proposal_id_action_proposals FOREIGN KEY (proposal_id) REFERENCES action_proposals (id),
    ADD CONSTRAINT fk_action_events_record_id_action_records FOREIGN KEY (record_id) REFERENCES action_records (id),
    ADD CONSTRAINT ck_action_events_event_type CHECK (event_type = ANY ('{proposal_created,status_changed,record_started,record_finished}'::text[])),
    ADD CONSTRAINT ck_action_events_id CHECK (id > 0),
    ADD CONSTRAINT ck_action_events_times CHECK (occurred_at >= '1970-01-01 00:00:00+00' AND occurred_at < '9999-01-01 00:00:00+00');

DROP TRIGGER action_proposals_status_changed ON action_proposals;

DROP TRIGGER action_records_started ON action_records;

DROP TRIGGER action_records_finished ON action_records;

DROP FUNCTION action_records_tell_started, action_records_tell_finished;

DO $do$
BEGIN
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_tell_created() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, event_type, to_status, actor, reason, occurred_at)
    SELECT id, 'proposal_created', status, status_changed_by, reason, pg_catalog.clock_timestamp()
    FROM created ORDER BY id;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_tell_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at)
    VALUES (NEW.id, 'status_changed', OLD.status, NEW.status, NEW.status_changed_by, NEW.status_reason, pg_catalog.clock_timestamp());
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_records_tell() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
        INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, actor, occurred_at)
        VALUES (NEW.proposal_id, NEW.id, 'record_started', coalesce(NEW.started_by, 'raw SQL'), pg_catalog.clock_timestamp());
    END IF;
    IF NEW.completed_at IS NOT NULL THEN
        INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
        VALUES (NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
            coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, pg_catalog.clock_timestamp());
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
END $do$;

REVOKE EXECUTE ON FUNCTION action_records_tell FROM PUBLIC;

CREATE TRIGGER action_proposals_status_changed
AFTER UPDATE OF status ON action_proposals FOR EACH ROW
WHEN (NEW.status IS DISTINCT FROM OLD.status)
EXECUTE FUNCTION action_proposals_tell_changed();

CREATE TRIGGER action_records_started
AFTER INSERT ON action_records FOR EACH ROW
EXECUTE FUNCTION action_records_tell();

CREATE TRIGGER action_records_finished
AFTER UPDATE OF completed_at ON action_records FOR EACH ROW
WHEN (OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL)
EXECUTE FUNCTION action_records_tell();

DROP TRIGGER action_events_told ON action_events;

DROP TRIGGER action_records_immutable ON action_records;

DROP TRIGGER action_proposals_immutable ON action_proposals;

DROP FUNCTION action_ledger_readable;

DROP INDEX idx_action_proposals_due, idx_action_proposals_expires, idx_action_proposals_retry,
    idx_action_records_lease, idx_action_events_order;

ALTER TABLE action_events DROP COLUMN transaction_id;

ALTER TABLE action_records
    DROP COLUMN worker,
    DROP COLUMN lease_expires_at,
    DROP COLUMN outcome_unknown;

ALTER TABLE action_proposals
    DROP COLUMN priority,
    DROP COLUMN scheduled_at,
    DROP COLUMN expires_at,
    DROP COLUMN max_retries,
    DROP COLUMN retry_delay,
    DROP COLUMN max_retry_delay,
    DROP COLUMN retry_count,
    DROP COLUMN next_retry_at,
    DROP COLUMN last_error,
    DROP COLUMN version;

CREATE OR REPLACE FUNCTION action_proposals_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    broken pg_catalog.text;
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        IF NEW.status OPERATOR(pg_catalog.<>) OLD.status THEN
            IF ((OLD.status OPERATOR(pg_catalog.||) '>' OPERATOR(pg_catalog.||) NEW.status) OPERATOR(pg_catalog.=) ANY ('{proposed>validated,proposed>cancelled,validated>executing,validated>cancelled,executing>completed,executing>failed,executing>cancelled,failed>validated}'::pg_catalog.text[])) IS NOT TRUE THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'integrity_constraint_violation',
                    MESSAGE = 'action_proposals_lifecycle: the lifecycle has no such step';
            END IF;
            -- Who moves the status and does not say who acts, or when, is recorded as what it is.
            IF NEW.status_changed_by IS NULL OR NEW.status_changed_at IS NULL
                OR NEW.status_changed_at OPERATOR(pg_catalog.=) OLD.status_changed_at THEN
                NEW.status_changed_by := 'raw SQL';
                NEW.status_reason := NULL;
                NEW.status_changed_at := greatest(pg_catalog.clock_timestamp(), CASE WHEN OLD.status_changed_at OPERATOR(pg_catalog.<) '9998-01-01 00:00:00+00'
                    THEN OLD.status_changed_at OPERATOR(pg_catalog.+) interval '1 microsecond' END);
            END IF;
        END IF;
        IF NOT NEW.updated_at OPERATOR(pg_catalog.>) OLD.updated_at THEN
            NEW.updated_at := greatest(pg_catalog.clock_timestamp(), CASE WHEN OLD.updated_at OPERATOR(pg_catalog.<) '9998-01-01 00:00:00+00'
                THEN OLD.updated_at OPERATOR(pg_catalog.+) interval '1 microsecond' END);
        END IF;
    ELSIF NEW.status_changed_by IS NULL THEN
        NEW.status_changed_by := 'raw SQL';
        NEW.status_changed_at := pg_catalog.clock_timestamp();
    END IF;
    broken := CASE
        WHEN NOT NEW.id OPERATOR(pg_catalog.>) 0 THEN 'id'
        WHEN NOT least(NEW.proposed_at, NEW.validated_at, NEW.cancelled_at, NEW.created_at, NEW.updated_at, NEW.status_changed_at) OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'
            OR NOT greatest(NEW.proposed_at, NEW.validated_at, NEW.cancelled_at, NEW.created_at, NEW.updated_at, NEW.status_changed_at) OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00' THEN 'times'
    END;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_proposals_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_proposals" violates check constraint "ck_action_proposals_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER action_proposals_immutable
BEFORE UPDATE OF ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by,
    created_at, idempotency_key ON action_proposals FOR EACH ROW
WHEN (NEW.ticket_id IS DISTINCT FROM OLD.ticket_id
    OR NEW.action_name IS DISTINCT FROM OLD.action_name
    OR NEW.action_type IS DISTINCT FROM OLD.action_type
    OR NEW.parameters::text IS DISTINCT FROM OLD.parameters::text
    OR NEW.reason IS DISTINCT FROM OLD.reason
    OR NEW.proposed_at IS DISTINCT FROM OLD.proposed_at
    OR NEW.proposed_by IS DISTINCT FROM OLD.proposed_by
    OR NEW.created_at IS DISTINCT FROM OLD.created_at
    OR NEW.idempotency_key IS DISTINCT FROM OLD.idempotency_key)
EXECUTE FUNCTION action_ledger_refuse('what was proposed can not be edited');

CREATE OR REPLACE FUNCTION action_records_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    undated pg_catalog.bool := (NEW.success IS NULL) OPERATOR(pg_catalog.<>) (NEW.completed_at IS NULL);
    broken pg_catalog.text;
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        IF undated OR OLD.completed_at IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'integrity_constraint_violation',
                MESSAGE = 'action_records_immutable: an execution is ended once and never edited';
        END IF;
    ELSIF undated THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_records_outcome_dated: an outcome and its completed_at go together';
    END IF;
    broken := CASE
        WHEN NOT NEW.id OPERATOR(pg_catalog.>) 0 THEN 'id'
        WHEN NOT least(NEW.started_at, NEW.completed_at, NEW.created_at) OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'
            OR NOT greatest(NEW.started_at, NEW.completed_at, NEW.created_at) OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00' THEN 'times'
    END;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_records_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_records" violates check constraint "ck_action_records_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER action_records_immutable
BEFORE UPDATE OF id, proposal_id, started_at, started_by, created_at ON action_records FOR EACH ROW
WHEN (NEW.id IS DISTINCT FROM OLD.id
    OR NEW.proposal_id IS DISTINCT FROM OLD.proposal_id
    OR NEW.started_at IS DISTINCT FROM OLD.started_at
    OR NEW.started_by IS DISTINCT FROM OLD.started_by
    OR NEW.created_at IS DISTINCT FROM OLD.created_at)
EXECUTE FUNCTION action_ledger_refuse('an execution is ended once and never edited');
