-- What undoes revision 0005 on PostgreSQL. Statements end at a semicolon before a blank line.

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
