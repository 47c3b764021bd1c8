-- What undoes revision 0005 on PostgreSQL. Statements end at a semicolon before a blank line.

ALTER TABLE action_events
    ADD CONSTRAINT fk_action_events_proposal_id_action_proposals FOREIGN KEY (proposal_id) REFERENCES action_proposals (id),
    ADD CONSTRAINT fk_action_events_record_id_action_records FOREIGN KEY (record_id) REFERENCES action_records (id),
    ADD CONSTRAINT ck_action_events_id CHECK (id > 0),
    ADD CONSTRAINT ck_action_events_times CHECK (occurred_at >= '1970-01-01 00:00:00+00' AND occurred_at < '9999-01-01 00:00:00+00');

DROP TRIGGER action_proposals_status_changed ON action_proposals;

DROP TRIGGER action_records_started ON action_records;

DROP TRIGGER action_records_finished ON action_records;

DROP FUNCTION action_records_tell_started, action_records_tell_finished;

DO $do$
BEGIN
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

DROP TRIGGER action_records_outcome_dated ON action_records;

DROP TRIGGER action_proposals_immutable ON action_proposals;

DROP TRIGGER action_proposals_updated_at ON action_proposals;

DROP FUNCTION action_events_wake, action_ledger_readable;

DROP INDEX idx_action_proposals_due, idx_action_proposals_expires, idx_action_proposals_retry,
    idx_action_records_lease, idx_action_events_order;

ALTER TABLE action_events DROP COLUMN transaction_id;

ALTER TABLE action_records
    DROP CONSTRAINT ck_action_records_times,
    DROP COLUMN worker,
    DROP COLUMN lease_expires_at,
    DROP COLUMN outcome_unknown,
    ADD CONSTRAINT ck_action_records_times CHECK (
        least(started_at, completed_at, created_at) >= '1970-01-01 00:00:00+00'
        AND greatest(started_at, completed_at, created_at) < '9999-01-01 00:00:00+00');

ALTER TABLE action_proposals
    DROP CONSTRAINT ck_action_proposals_times,
    DROP COLUMN priority,
    DROP COLUMN scheduled_at,
    DROP COLUMN expires_at,
    DROP COLUMN max_retries,
    DROP COLUMN retry_delay,
    DROP COLUMN max_retry_delay,
    DROP COLUMN retry_count,
    DROP COLUMN next_retry_at,
    DROP COLUMN last_error,
    DROP COLUMN version,
    ADD CONSTRAINT ck_action_proposals_times CHECK (
        least(proposed_at, validated_at, cancelled_at, created_at, updated_at, status_changed_at) >= '1970-01-01 00:00:00+00'
        AND greatest(proposed_at, validated_at, cancelled_at, created_at, updated_at, status_changed_at) < '9999-01-01 00:00:00+00');

CREATE OR REPLACE FUNCTION action_proposals_touch() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    NEW.updated_at := greatest(clock_timestamp(),
        CASE WHEN OLD.updated_at < '9998-01-01 00:00:00+00' THEN OLD.updated_at + interval '1 microsecond' END);
    RETURN NEW;
END $$;

CREATE TRIGGER action_proposals_updated_at
BEFORE UPDATE ON action_proposals FOR EACH ROW
WHEN (NOT NEW.updated_at > OLD.updated_at)
EXECUTE FUNCTION action_proposals_touch();

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

CREATE TRIGGER action_records_outcome_dated
BEFORE INSERT ON action_records FOR EACH ROW
WHEN ((NEW.success IS NULL) IS DISTINCT FROM (NEW.completed_at IS NULL))
EXECUTE FUNCTION action_ledger_refuse('an outcome and its completed_at go together');

CREATE TRIGGER action_records_immutable
BEFORE UPDATE ON action_records FOR EACH ROW
WHEN (OLD.completed_at IS NOT NULL
    OR NEW.id IS DISTINCT FROM OLD.id
    OR NEW.proposal_id IS DISTINCT FROM OLD.proposal_id
    OR NEW.started_at IS DISTINCT FROM OLD.started_at
    OR NEW.started_by IS DISTINCT FROM OLD.started_by
    OR NEW.created_at IS DISTINCT FROM OLD.created_at
    OR (NEW.success IS NULL) IS DISTINCT FROM (NEW.completed_at IS NULL))
EXECUTE FUNCTION action_ledger_refuse('an execution is ended once and never edited');
