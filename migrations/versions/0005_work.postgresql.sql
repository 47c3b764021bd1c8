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
    ADD COLUMN version BIGINT NOT NULL DEFAULT 1,
    DROP CONSTRAINT ck_action_proposals_times,
    ADD CONSTRAINT ck_action_proposals_times CHECK (
        least(proposed_at, validated_at, cancelled_at, created_at, updated_at, status_changed_at, scheduled_at, expires_at, next_retry_at) >= '1970-01-01 00:00:00+00'
        AND greatest(proposed_at, validated_at, cancelled_at, created_at, updated_at, status_changed_at, scheduled_at, expires_at, next_retry_at) < '9999-01-01 00:00:00+00');

ALTER TABLE action_records
    ADD COLUMN worker TEXT,
    ADD COLUMN lease_expires_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN outcome_unknown BOOLEAN NOT NULL DEFAULT false,
    DROP CONSTRAINT ck_action_records_times,
    ADD CONSTRAINT ck_action_records_times CHECK (
        least(started_at, completed_at, created_at, lease_expires_at) >= '1970-01-01 00:00:00+00'
        AND greatest(started_at, completed_at, created_at, lease_expires_at) < '9999-01-01 00:00:00+00');

-- What stands there is older than any transaction to come; a volatile default would rewrite the table.
ALTER TABLE action_events ADD COLUMN transaction_id BIGINT NOT NULL DEFAULT 0;

ALTER TABLE action_events ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id()::text::bigint;

CREATE INDEX idx_action_proposals_due ON action_proposals (status, priority DESC, coalesce(next_retry_at, scheduled_at, created_at), id) WHERE status = 'validated';

CREATE INDEX idx_action_proposals_expires ON action_proposals (status, expires_at) WHERE status IN ('proposed', 'validated') AND expires_at IS NOT NULL;

CREATE INDEX idx_action_proposals_retry ON action_proposals (status, next_retry_at) WHERE status = 'failed' AND next_retry_at IS NOT NULL;

CREATE INDEX idx_action_records_lease ON action_records (lease_expires_at) WHERE completed_at IS NULL AND lease_expires_at IS NOT NULL;

CREATE INDEX idx_action_events_order ON action_events (transaction_id, id);

-- Whether the ledger can read these parameters: an object, no number that a float can't hold (an integer may
-- have any size), no half of a surrogate pair, not too deep. Only a text that has something of the kind in it
-- is looked at closely.
CREATE FUNCTION action_ledger_readable(document json) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF pg_catalog.json_typeof(document) OPERATOR(pg_catalog.<>) 'object' THEN
        RETURN false;
    ELSIF document::text OPERATOR(pg_catalog.!~) '[eE][+]?[0-9]{3}|[0-9]{250}[0-9]{50}[0-9]*[.eE]|\\u[dD][89a-fA-F]'
        AND pg_catalog.length(pg_catalog.translate(document::text, '[{', '')) OPERATOR(pg_catalog.+) 190
            OPERATOR(pg_catalog.>) pg_catalog.length(document::text) THEN
        RETURN true;
    END IF;
    BEGIN
        RETURN NOT pg_catalog.jsonb_path_exists(document::jsonb, '$.**{190 to last}')
            AND NOT pg_catalog.jsonb_path_exists(document::jsonb, '$.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))');
    EXCEPTION WHEN others THEN
        RETURN false;
    END;
END $$;

DROP TRIGGER action_proposals_updated_at ON action_proposals;

CREATE OR REPLACE FUNCTION action_proposals_touch() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    IF NOT NEW.updated_at > OLD.updated_at THEN
        NEW.updated_at := greatest(clock_timestamp(),
            CASE WHEN OLD.updated_at < '9998-01-01 00:00:00+00' THEN OLD.updated_at + interval '1 microsecond' END);
    END IF;
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;

CREATE TRIGGER action_proposals_updated_at
BEFORE UPDATE ON action_proposals FOR EACH ROW
WHEN (NOT NEW.updated_at > OLD.updated_at OR NEW.version IS DISTINCT FROM OLD.version + 1)
EXECUTE FUNCTION action_proposals_touch();

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

DROP TRIGGER action_records_outcome_dated ON action_records;

CREATE TRIGGER action_records_outcome_dated
BEFORE INSERT ON action_records FOR EACH ROW
WHEN ((NEW.success IS NULL AND NOT NEW.outcome_unknown) IS DISTINCT FROM (NEW.completed_at IS NULL)
    OR NEW.outcome_unknown AND NEW.success IS NOT NULL)
EXECUTE FUNCTION action_ledger_refuse('an outcome and its completed_at go together');

DROP TRIGGER action_records_immutable ON action_records;

CREATE TRIGGER action_records_immutable
BEFORE UPDATE ON action_records FOR EACH ROW
WHEN (OLD.completed_at IS NOT NULL
    OR NEW.id IS DISTINCT FROM OLD.id
    OR NEW.proposal_id IS DISTINCT FROM OLD.proposal_id
    OR NEW.started_at IS DISTINCT FROM OLD.started_at
    OR NEW.started_by IS DISTINCT FROM OLD.started_by
    OR NEW.created_at IS DISTINCT FROM OLD.created_at
    OR NEW.worker IS DISTINCT FROM OLD.worker
    OR (NEW.success IS NULL AND NOT NEW.outcome_unknown) IS DISTINCT FROM (NEW.completed_at IS NULL)
    OR NEW.outcome_unknown AND NEW.success IS NOT NULL)
EXECUTE FUNCTION action_ledger_refuse('an execution is ended once and never edited');

-- Events of the statement and not of each row, as for what is created: a worker that ends a hundred executions
-- writes two hundred events in two INSERTs. SECURITY DEFINER, and every name with its schema, as in 0004.
DROP TRIGGER action_proposals_status_changed ON action_proposals;

DROP TRIGGER action_records_started ON action_records;

DROP TRIGGER action_records_finished ON action_records;

DROP FUNCTION action_records_tell;

DO $do$
BEGIN
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_tell_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at)
    SELECT changed.id, 'status_changed', before.status, changed.status, changed.status_changed_by,
        changed.status_reason, pg_catalog.clock_timestamp()
    FROM changed JOIN before ON before.id OPERATOR(pg_catalog.=) changed.id
    WHERE changed.status OPERATOR(pg_catalog.<>) before.status
    ORDER BY changed.id;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_records_tell_started() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
    SELECT proposal_id, id, 'record_started', NULL, coalesce(started_by, 'raw SQL'), NULL, pg_catalog.clock_timestamp()
    FROM started ORDER BY id;
    IF EXISTS (SELECT FROM started WHERE completed_at IS NOT NULL) THEN
        INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
        SELECT proposal_id, id, 'record_finished', success, coalesce(completed_by, 'raw SQL'), error_message,
            pg_catalog.clock_timestamp()
        FROM started WHERE completed_at IS NOT NULL ORDER BY id;
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_records_tell_finished() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    -- What has ended is never changed again, so that each of these was open before. Most statements are heartbeats.
    IF EXISTS (SELECT FROM changed WHERE completed_at IS NOT NULL) THEN
        INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
        SELECT proposal_id, id, 'record_finished', success, coalesce(completed_by, 'raw SQL'), error_message,
            pg_catalog.clock_timestamp()
        FROM changed WHERE completed_at IS NOT NULL ORDER BY id;
    END IF;
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
-- those rows are never deleted or renumbered: so its references need no second look, which would cost more
-- than writing it. Whoever waits for something to happen is woken when this is committed.
CREATE FUNCTION action_events_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.<) 2 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_events_told: only the triggers write the history';
    END IF;
    PERFORM pg_catalog.pg_notify('operator_core_events', '');
    RETURN NULL;
END $$;

CREATE TRIGGER action_events_told
AFTER INSERT ON action_events FOR EACH STATEMENT
EXECUTE FUNCTION action_events_wake();

ALTER TABLE action_events
    DROP CONSTRAINT fk_action_events_proposal_id_action_proposals,
    DROP CONSTRAINT fk_action_events_record_id_action_records,
    DROP CONSTRAINT ck_action_events_id,
    DROP CONSTRAINT ck_action_events_times;
