-- What undoes revision 0004 on PostgreSQL. Statements end at a semicolon before a blank line.

ALTER TABLE action_proposals
    DROP CONSTRAINT ck_action_proposals_action_type,
    DROP CONSTRAINT ck_action_proposals_status,
    DROP CONSTRAINT ck_action_proposals_times,
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
    DROP CONSTRAINT ck_action_records_times,
    ADD CONSTRAINT ck_action_records_times CHECK (
        started_at >= '1970-01-01 00:00:00+00' AND started_at < '9999-01-01 00:00:00+00'
        AND completed_at >= '1970-01-01 00:00:00+00' AND completed_at < '9999-01-01 00:00:00+00'
        AND created_at >= '1970-01-01 00:00:00+00' AND created_at < '9999-01-01 00:00:00+00');

ALTER TABLE action_events
    DROP CONSTRAINT ck_action_events_event_type,
    ADD CONSTRAINT ck_action_events_event_type CHECK (event_type IN ('proposal_created', 'status_changed', 'record_started', 'record_finished'));

DROP TRIGGER action_proposals_lifecycle ON action_proposals;

CREATE TRIGGER action_proposals_lifecycle
BEFORE UPDATE OF status ON action_proposals FOR EACH ROW
WHEN (NEW.status IS DISTINCT FROM OLD.status
    AND (OLD.status = 'proposed' AND NEW.status IN ('validated', 'cancelled')
        OR OLD.status = 'validated' AND NEW.status IN ('executing', 'cancelled')
        OR OLD.status = 'executing' AND NEW.status IN ('completed', 'failed', 'cancelled')
        OR OLD.status = 'failed' AND NEW.status = 'validated') IS NOT TRUE)
EXECUTE FUNCTION action_ledger_refuse('the lifecycle has no such step');

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
