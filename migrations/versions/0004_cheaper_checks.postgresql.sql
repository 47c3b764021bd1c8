-- Revision 0004 on PostgreSQL. Statements end at a semicolon before a blank line.

ALTER TABLE action_proposals
    DROP CONSTRAINT ck_action_proposals_action_type,
    DROP CONSTRAINT ck_action_proposals_status,
    DROP CONSTRAINT ck_action_proposals_times,
    ADD CONSTRAINT ck_action_proposals_action_type CHECK (action_type = ANY ('{subject,tool,workflow}'::text[])),
    ADD CONSTRAINT ck_action_proposals_status CHECK (status = ANY ('{proposed,validated,executing,completed,failed,cancelled}'::text[])),
    ADD CONSTRAINT ck_action_proposals_times CHECK (
        least(proposed_at, validated_at, cancelled_at, created_at, updated_at, status_changed_at) >= '1970-01-01 00:00:00+00'
        AND greatest(proposed_at, validated_at, cancelled_at, created_at, updated_at, status_changed_at) < '9999-01-01 00:00:00+00');

ALTER TABLE action_records
    DROP CONSTRAINT ck_action_records_times,
    ADD CONSTRAINT ck_action_records_times CHECK (
        least(started_at, completed_at, created_at) >= '1970-01-01 00:00:00+00'
        AND greatest(started_at, completed_at, created_at) < '9999-01-01 00:00:00+00');

ALTER TABLE action_events
    DROP CONSTRAINT ck_action_events_event_type,
    ADD CONSTRAINT ck_action_events_event_type CHECK (event_type = ANY ('{proposal_created,status_changed,record_started,record_finished}'::text[]));

DROP TRIGGER action_proposals_lifecycle ON action_proposals;

CREATE TRIGGER action_proposals_lifecycle
BEFORE UPDATE OF status ON action_proposals FOR EACH ROW
WHEN (NEW.status IS DISTINCT FROM OLD.status
    AND OLD.status || '>' || NEW.status = ANY ('{proposed>validated,proposed>cancelled,validated>executing,validated>cancelled,executing>completed,executing>failed,executing>cancelled,failed>validated}'::text[]) IS NOT TRUE)
EXECUTE FUNCTION action_ledger_refuse('the lifecycle has no such step');

-- SECURITY DEFINER without a search_path of their own: every name and operator that could be found in
-- another schema is said with its schema, and the unqualified ones are the trigger's own rows.
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
