-- Revision 0005 on PostgreSQL. Statements end at a semicolon before a blank line.

ALTER TABLE action_proposals
    ADD COLUMN priority INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN scheduled_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN expires_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN max_retries INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN retry_delay DOUBLE PRECISION NOT NULL DEFAULT 1,
    ADD COLUMN max_retry_delay DOUBLE PRECISION NOT NULL DEFAULT 300,
    ADD COLUMN retry_count INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN next_retry_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN last_error TEXT,
    ADD COLUMN version BIGINT NOT NULL DEFAULT 1;

ALTER TABLE action_records
    ADD COLUMN worker TEXT,
    ADD COLUMN lease_expires_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN outcome_unknown BOOLEAN NOT NULL DEFAULT false;

-- What stands there is older than any transaction to come; a volatile default would rewrite the table.
ALTER TABLE action_events ADD COLUMN transaction_id BIGINT NOT NULL DEFAULT 0;

ALTER TABLE action_events ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id()::text::bigint;

CREATE INDEX idx_action_proposals_due ON action_proposals (status, priority DESC, coalesce(next_retry_at, scheduled_at, created_at), id) WHERE status || '' = 'validated';

CREATE INDEX idx_action_proposals_expires ON action_proposals (status, expires_at) WHERE status IN ('proposed', 'validated') AND expires_at IS NOT NULL;

CREATE INDEX idx_action_proposals_retry ON action_proposals (status, next_retry_at) WHERE status = 'failed' AND next_retry_at IS NOT NULL;

CREATE INDEX idx_action_records_lease ON action_records (lease_expires_at) WHERE completed_at IS NULL AND lease_expires_at IS NOT NULL;

CREATE INDEX idx_action_events_order ON action_events (transaction_id, id);

-- Whether the ledger can read these parameters: an object, no number that a float can't hold (an integer may
-- have any size), no half of a surrogate pair, not too deep. Only a text that has something of the kind in it
-- is looked at closely; one expression for all would take seven times as long as these.
CREATE FUNCTION action_ledger_readable(document json) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    said pg_catalog.text := document;
BEGIN
    IF pg_catalog.json_typeof(document) OPERATOR(pg_catalog.<>) 'object' THEN
        RETURN false;
    ELSIF said OPERATOR(pg_catalog.!~) '[eE][+]?[0-9]{3}'
        AND (pg_catalog.strpos(said, '\u') OPERATOR(pg_catalog.=) 0 OR said OPERATOR(pg_catalog.!~) '\\u[dD][89a-fA-F]')
        AND (pg_catalog.length(said) OPERATOR(pg_catalog.<) 300
            OR said OPERATOR(pg_catalog.!~) '[0-9]{250}[0-9]{50}[0-9]*[.eE]'
            AND pg_catalog.length(pg_catalog.translate(said, '[{', '')) OPERATOR(pg_catalog.+) 190
                OPERATOR(pg_catalog.>) pg_catalog.length(said)) THEN
        RETURN true;
    END IF;
    BEGIN
        RETURN NOT pg_catalog.jsonb_path_exists(document::jsonb, '$.**{190 to last}')
            AND NOT pg_catalog.jsonb_path_exists(document::jsonb, '$.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))');
    EXCEPTION WHEN others THEN
        RETURN false;
    END;
END $$;

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
        NEW.version := OLD.version OPERATOR(pg_catalog.+) 1;
    ELSIF NEW.status_changed_by IS NULL THEN
        NEW.status_changed_by := 'raw SQL';
        NEW.status_changed_at := pg_catalog.clock_timestamp();
    END IF;
    broken := CASE
        WHEN NOT NEW.id OPERATOR(pg_catalog.>) 0 THEN 'id'
        WHEN NOT least(NEW.proposed_at, NEW.validated_at, NEW.cancelled_at, NEW.created_at, NEW.updated_at, NEW.status_changed_at, NEW.scheduled_at, NEW.expires_at, NEW.next_retry_at) OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'
            OR NOT greatest(NEW.proposed_at, NEW.validated_at, NEW.cancelled_at, NEW.created_at, NEW.updated_at, NEW.status_changed_at, NEW.scheduled_at, NEW.expires_at, NEW.next_retry_at) OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00' THEN 'times'
    END;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_proposals_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_proposals" violates check constraint "ck_action_proposals_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$;

DROP TRIGGER action_proposals_immutable ON action_proposals;

CREATE TRIGGER action_proposals_immutable
BEFORE UPDATE OF ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by,
    created_at, idempotency_key, priority, scheduled_at, expires_at, max_retries, retry_delay, max_retry_delay
ON action_proposals FOR EACH ROW
WHEN (NEW.ticket_id IS DISTINCT FROM OLD.ticket_id
    OR NEW.action_name IS DISTINCT FROM OLD.action_name
    OR NEW.action_type IS DISTINCT FROM OLD.action_type
    OR NEW.parameters::text IS DISTINCT FROM OLD.parameters::text
    OR NEW.reason IS DISTINCT FROM OLD.reason
    OR NEW.proposed_at IS DISTINCT FROM OLD.proposed_at
    OR NEW.proposed_by IS DISTINCT FROM OLD.proposed_by
    OR NEW.created_at IS DISTINCT FROM OLD.created_at
    OR NEW.idempotency_key IS DISTINCT FROM OLD.idempotency_key
    OR NEW.priority IS DISTINCT FROM OLD.priority
    OR NEW.scheduled_at IS DISTINCT FROM OLD.scheduled_at
    OR NEW.expires_at IS DISTINCT FROM OLD.expires_at
    OR NEW.max_retries IS DISTINCT FROM OLD.max_retries
    OR NEW.retry_delay IS DISTINCT FROM OLD.retry_delay
    OR NEW.max_retry_delay IS DISTINCT FROM OLD.max_retry_delay)
EXECUTE FUNCTION action_ledger_refuse('what was proposed can not be edited');

CREATE OR REPLACE FUNCTION action_records_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    undated pg_catalog.bool := ((NEW.success IS NULL AND NOT NEW.outcome_unknown) OPERATOR(pg_catalog.=) (NEW.completed_at IS NULL)) IS NOT TRUE
        OR NEW.outcome_unknown AND NEW.success IS NOT NULL;
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
        WHEN NOT least(NEW.started_at, NEW.completed_at, NEW.created_at, NEW.lease_expires_at) OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'
            OR NOT greatest(NEW.started_at, NEW.completed_at, NEW.created_at, NEW.lease_expires_at) OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00' THEN 'times'
    END;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_records_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_records" violates check constraint "ck_action_records_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$;

DROP TRIGGER action_records_immutable ON action_records;

CREATE TRIGGER action_records_immutable
BEFORE UPDATE OF id, proposal_id, started_at, started_by, created_at, worker ON action_records FOR EACH ROW
WHEN (NEW.id IS DISTINCT FROM OLD.id
    OR NEW.proposal_id IS DISTINCT FROM OLD.proposal_id
    OR NEW.started_at IS DISTINCT FROM OLD.started_at
    OR NEW.started_by IS DISTINCT FROM OLD.started_by
    OR NEW.created_at IS DISTINCT FROM OLD.created_at
    OR NEW.worker IS DISTINCT FROM OLD.worker)
EXECUTE FUNCTION action_ledger_refuse('an execution is ended once and never edited');

-- Whoever waits for something to happen is woken when it is committed.
-- Events of the statement and not of each row, as for what is created: a worker that ends a hundred executions
-- writes two hundred events in two INSERTs, in the order in which the statement came to the rows: sorting them
-- would cost a single one more than its event's index entries. SECURITY DEFINER, and every name with its schema,
-- as in 0004.
DROP TRIGGER action_proposals_status_changed ON action_proposals;

DROP TRIGGER action_records_started ON action_records;

DROP TRIGGER action_records_finished ON action_records;

DROP FUNCTION action_records_tell;

DO $do$
BEGIN
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_tell_created() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, event_type, to_status, actor, reason, occurred_at)
    SELECT id, 'proposal_created', status, status_changed_by, reason, pg_catalog.clock_timestamp()
    FROM created;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_tell_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at)
    SELECT changed.id, 'status_changed', before.status, changed.status, changed.status_changed_by,
        changed.status_reason, pg_catalog.clock_timestamp()
    FROM changed JOIN before ON before.id OPERATOR(pg_catalog.=) changed.id
    WHERE changed.status OPERATOR(pg_catalog.<>) before.status;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_records_tell_started() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
    SELECT proposal_id, id, event_type, success, actor, reason, pg_catalog.clock_timestamp()
    FROM (
        SELECT proposal_id, id, 'record_started' AS event_type, NULL::pg_catalog.bool AS success,
            coalesce(started_by, 'raw SQL') AS actor, NULL AS reason
        FROM started
        UNION ALL
        SELECT proposal_id, id, 'record_finished', success, coalesce(completed_by, 'raw SQL'), error_message
        FROM started WHERE completed_at IS NOT NULL
    ) AS told;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_records_tell_finished() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    -- What has ended is never changed again, so that each of these was open before.
    INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
    SELECT proposal_id, id, 'record_finished', success, coalesce(completed_by, 'raw SQL'), error_message,
        pg_catalog.clock_timestamp()
    FROM changed WHERE completed_at IS NOT NULL;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    RETURN NULL;
END $$$function$, current_schema());
END $do$;

CREATE TRIGGER action_proposals_status_changed
AFTER UPDATE ON action_proposals REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT
EXECUTE FUNCTION action_proposals_tell_changed();

CREATE TRIGGER action_records_started
AFTER INSERT ON action_records REFERENCING NEW TABLE AS started FOR EACH STATEMENT
EXECUTE FUNCTION action_records_tell_started();

CREATE TRIGGER action_records_finished
AFTER UPDATE ON action_records REFERENCING NEW TABLE AS changed FOR EACH STATEMENT
EXECUTE FUNCTION action_records_tell_finished();

REVOKE EXECUTE ON FUNCTION action_records_tell_started, action_records_tell_finished FROM PUBLIC;

-- Nobody writes the history but the triggers of the rows that it is about, which have them at hand, and
-- those rows are never deleted or renumbered: so neither its references nor its values need a second look, which
-- would cost more than writing it.
CREATE TRIGGER action_events_told
BEFORE INSERT ON action_events FOR EACH STATEMENT
WHEN (pg_trigger_depth() < 1)
EXECUTE FUNCTION action_ledger_refuse('only the triggers write the history');

ALTER TABLE action_events
    DROP CONSTRAINT fk_action_events_proposal_id_action_proposals,
    DROP CONSTRAINT fk_action_events_record_id_action_records,
    DROP CONSTRAINT ck_action_events_event_type,
    DROP CONSTRAINT ck_action_events_id,
    DROP CONSTRAINT ck_action_events_times;
