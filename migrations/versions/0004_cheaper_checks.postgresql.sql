-- Revision 0004 on PostgreSQL. Statements end at a semicolon before a blank line.

-- A list of values in a CHECK is read anew, byte by byte, for each statement; a function's body once in a session. Every
-- name and operator that could be found in another schema is said with its schema, here and below.
CREATE FUNCTION action_ledger_is_action_type(value text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN value OPERATOR(pg_catalog.=) ANY ('{subject,tool,workflow}'::pg_catalog.text[]);
END $$;

CREATE FUNCTION action_ledger_is_status(value text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN value OPERATOR(pg_catalog.=) ANY ('{proposed,validated,executing,completed,failed,cancelled}'::pg_catalog.text[]);
END $$;

ALTER TABLE action_proposals
    DROP CONSTRAINT ck_action_proposals_action_type,
    DROP CONSTRAINT ck_action_proposals_id,
    DROP CONSTRAINT ck_action_proposals_status,
    DROP CONSTRAINT ck_action_proposals_times,
    ADD CONSTRAINT ck_action_proposals_action_type CHECK (action_ledger_is_action_type(action_type)),
    ADD CONSTRAINT ck_action_proposals_status CHECK (action_ledger_is_status(status));

ALTER TABLE action_records
    DROP CONSTRAINT ck_action_records_id,
    DROP CONSTRAINT ck_action_records_times;

ALTER TABLE action_events
    DROP CONSTRAINT ck_action_events_event_type,
    ADD CONSTRAINT ck_action_events_event_type CHECK (event_type = ANY ('{proposal_created,status_changed,record_started,record_finished}'::text[]));

-- Most proposals have no ticket, and each change of a row writes an entry to each of its indexes.
DROP INDEX idx_action_proposals_ticket;

CREATE INDEX idx_action_proposals_ticket ON action_proposals (ticket_id, id) WHERE ticket_id IS NOT NULL;

DROP TRIGGER action_proposals_lifecycle ON action_proposals;

DROP TRIGGER action_proposals_unsaid ON action_proposals;

DROP TRIGGER action_proposals_unsaid_change ON action_proposals;

DROP TRIGGER action_proposals_updated_at ON action_proposals;

DROP TRIGGER action_proposals_not_renumbered ON action_proposals;

DROP TRIGGER action_records_outcome_dated ON action_records;

DROP TRIGGER action_records_immutable ON action_records;

DROP FUNCTION action_proposals_mark, action_proposals_touch;

-- What the constraints and triggers before said, by their names.
CREATE FUNCTION action_proposals_guard() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER action_proposals_guard
BEFORE INSERT OR UPDATE ON action_proposals FOR EACH ROW
EXECUTE FUNCTION action_proposals_guard();

CREATE TRIGGER action_proposals_not_renumbered
BEFORE UPDATE OF id ON action_proposals FOR EACH ROW
WHEN (NEW.id IS DISTINCT FROM OLD.id)
EXECUTE FUNCTION action_ledger_refuse('an id never changes');

CREATE FUNCTION action_records_guard() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER action_records_guard
BEFORE INSERT OR UPDATE ON action_records FOR EACH ROW
EXECUTE FUNCTION action_records_guard();

CREATE TRIGGER action_records_immutable
BEFORE UPDATE OF id, proposal_id, started_at, started_by, created_at ON action_records FOR EACH ROW
WHEN (NEW.id IS DISTINCT FROM OLD.id
    OR NEW.proposal_id IS DISTINCT FROM OLD.proposal_id
    OR NEW.started_at IS DISTINCT FROM OLD.started_at
    OR NEW.started_by IS DISTINCT FROM OLD.started_by
    OR NEW.created_at IS DISTINCT FROM OLD.created_at)
EXECUTE FUNCTION action_ledger_refuse('an execution is ended once and never edited');

-- SECURITY DEFINER without a search_path of their own: the unqualified names are the trigger's own rows.
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
CREATE OR REPLACE FUNCTION action_records_tell() RETURNS trigger LANGUAGE plpgsql
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
