-- What undoes revision 0006 on PostgreSQL. Statements end at a semicolon before a blank line.

DROP TRIGGER action_proposals_cascade ON action_proposals;

DROP TRIGGER action_proposals_immutable ON action_proposals;

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
END $do$;

DROP TRIGGER action_proposals_linked ON action_proposals;

DROP FUNCTION action_proposals_cancel_dependants, action_proposals_link, action_proposals_note_link;

DROP INDEX idx_action_proposals_workflow;

ALTER TABLE action_proposals
    DROP COLUMN workflow_id,
    DROP COLUMN depends_on,
    DROP COLUMN wait_on_failure;

DROP TABLE action_dependencies, workflows;

DROP FUNCTION workflows_touch;

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
