-- What undoes revision 0004 on PostgreSQL. Statements end at a semicolon before a blank line.

ALTER TABLE action_proposals
    DROP CONSTRAINT ck_action_proposals_action_type,
    DROP CONSTRAINT ck_action_proposals_status,
    ADD CONSTRAINT ck_action_proposals_id CHECK (id > 0),
    ADD CONSTRAINT ck_action_proposals_action_type CHECK (action_type IN ('subject', 'tool', 'workflow')),
    ADD CONSTRAINT ck_action_proposals_status CHECK (status IN ('proposed', 'validated', 'executing', 'completed', 'failed', 'cancelled')),
    ADD CONSTRAINT ck_action_proposals_times CHECK (
        proposed_at >= '1970-01-01 00:00:00+00' AND proposed_at < '9999-01-01 00:00:00+00'
        AND validated_at >= '1970-01-01 00:00:00+00' AND validated_at < '9999-01-01 00:00:00+00'
        AND cancelled_at >= '1970-01-01 00:00:00+00' AND cancelled_at < '9999-01-01 00:00:00+00'
        AND created_at >= '1970-01-01 00:00:00+00' AND created_at < '9999-01-01 00:00:00+00'
        AND updated_at >= '1970-01-01 00:00:00+00' AND updated_at < '9999-01-01 00:00:00+00'
        AND status_changed_at >= '1970-01-01 00:00:00+00' AND status_changed_at < '9999-01-01 00:00:00+00');

ALTER TABLE action_records
    ADD CONSTRAINT ck_action_records_id CHECK (id > 0),
    ADD CONSTRAINT ck_action_records_times CHECK (
        started_at >= '1970-01-01 00:00:00+00' AND started_at < '9999-01-01 00:00:00+00'
        AND completed_at >= '1970-01-01 00:00:00+00' AND completed_at < '9999-01-01 00:00:00+00'
        AND created_at >= '1970-01-01 00:00:00+00' AND created_at < '9999-01-01 00:00:00+00');

ALTER TABLE action_events
    DROP CONSTRAINT ck_action_events_event_type,
    ADD CONSTRAINT ck_action_events_event_type CHECK (event_type IN ('proposal_created', 'status_changed', 'record_started', 'record_finished'));

DROP INDEX idx_action_proposals_ticket;

CREATE INDEX idx_action_proposals_ticket ON action_proposals (ticket_id, id);

DROP TRIGGER action_proposals_guard ON action_proposals;

DROP TRIGGER action_proposals_not_renumbered ON action_proposals;

DROP TRIGGER action_records_guard ON action_records;

DROP TRIGGER action_records_immutable ON action_records;

DROP FUNCTION action_proposals_guard, action_records_guard, action_ledger_is_action_type, action_ledger_is_status;

CREATE TRIGGER action_proposals_not_renumbered
BEFORE UPDATE ON action_proposals FOR EACH ROW
WHEN (NEW.id IS DISTINCT FROM OLD.id)
EXECUTE FUNCTION action_ledger_refuse('an id never changes');

CREATE TRIGGER action_proposals_lifecycle
BEFORE UPDATE OF status ON action_proposals FOR EACH ROW
WHEN (NEW.status IS DISTINCT FROM OLD.status
    AND (OLD.status = 'proposed' AND NEW.status IN ('validated', 'cancelled')
        OR OLD.status = 'validated' AND NEW.status IN ('executing', 'cancelled')
        OR OLD.status = 'executing' AND NEW.status IN ('completed', 'failed', 'cancelled')
        OR OLD.status = 'failed' AND NEW.status = 'validated') IS NOT TRUE)
EXECUTE FUNCTION action_ledger_refuse('the lifecycle has no such step');

CREATE FUNCTION action_proposals_mark() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    NEW.status_changed_by := 'raw SQL';
    IF TG_OP = 'INSERT' THEN
        NEW.status_changed_at := clock_timestamp();
    ELSE
        NEW.status_reason := NULL;
        NEW.status_changed_at := greatest(clock_timestamp(),
            CASE WHEN OLD.status_changed_at < '9998-01-01 00:00:00+00' THEN OLD.status_changed_at + interval '1 microsecond' END);
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER action_proposals_unsaid
BEFORE INSERT ON action_proposals FOR EACH ROW
WHEN (NEW.status_changed_by IS NULL)
EXECUTE FUNCTION action_proposals_mark();

CREATE TRIGGER action_proposals_unsaid_change
BEFORE UPDATE OF status ON action_proposals FOR EACH ROW
WHEN (NEW.status IS DISTINCT FROM OLD.status
    AND (NEW.status_changed_at IS NULL
        OR NEW.status_changed_at IS NOT DISTINCT FROM OLD.status_changed_at
        OR NEW.status_changed_by IS NULL))
EXECUTE FUNCTION action_proposals_mark();

CREATE FUNCTION action_proposals_touch() RETURNS trigger LANGUAGE plpgsql
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

CREATE OR REPLACE FUNCTION action_proposals_tell_created() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at)
    SELECT id, 'proposal_created', status, status_changed_by, reason, clock_timestamp()
    FROM created ORDER BY id;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION action_proposals_tell_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at)
    VALUES (NEW.id, 'status_changed', OLD.status, NEW.status, NEW.status_changed_by, NEW.status_reason, clock_timestamp());
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION action_records_tell() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO action_events (proposal_id, record_id, event_type, actor, occurred_at)
        VALUES (NEW.proposal_id, NEW.id, 'record_started', coalesce(NEW.started_by, 'raw SQL'), clock_timestamp());
    END IF;
    IF NEW.completed_at IS NOT NULL THEN
        INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
        VALUES (NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
            coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, clock_timestamp());
    END IF;
    RETURN NULL;
END $$;
