-- Revision 0006 on PostgreSQL. Statements end at a semicolon before a blank line.

CREATE TABLE workflows (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    description TEXT,
    ticket_id BIGINT,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT statement_timestamp(),
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT statement_timestamp(),
    CONSTRAINT pk_workflows PRIMARY KEY (id),
    CONSTRAINT fk_workflows_ticket_id_tickets FOREIGN KEY (ticket_id) REFERENCES tickets (id),
    CONSTRAINT ck_workflows_id CHECK (id > 0),
    CONSTRAINT ck_workflows_times CHECK (
        least(created_at, updated_at) >= '1970-01-01 00:00:00+00'
        AND greatest(created_at, updated_at) < '9999-01-01 00:00:00+00')
);

CREATE TABLE action_dependencies (
    proposal_id BIGINT NOT NULL,
    depends_on_id BIGINT NOT NULL,
    CONSTRAINT pk_action_dependencies PRIMARY KEY (proposal_id, depends_on_id),
    CONSTRAINT fk_action_dependencies_proposal_id_action_proposals FOREIGN KEY (proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT fk_action_dependencies_depends_on_id_action_proposals FOREIGN KEY (depends_on_id) REFERENCES action_proposals (id),
    CONSTRAINT ck_action_dependencies_order CHECK (depends_on_id < proposal_id)
);

CREATE INDEX idx_action_dependencies_needed ON action_dependencies (depends_on_id, proposal_id);

ALTER TABLE action_proposals
    ADD COLUMN workflow_id BIGINT,
    ADD COLUMN depends_on JSON,
    ADD COLUMN wait_on_failure BOOLEAN NOT NULL DEFAULT false,
    ADD CONSTRAINT fk_action_proposals_workflow_id_workflows FOREIGN KEY (workflow_id) REFERENCES workflows (id);

CREATE INDEX idx_action_proposals_workflow ON action_proposals (workflow_id, id) WHERE workflow_id IS NOT NULL;

CREATE TRIGGER action_dependencies_not_changed
BEFORE UPDATE OR DELETE OR TRUNCATE ON action_dependencies FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('what was proposed can not be edited');

CREATE TRIGGER workflows_not_deleted
BEFORE DELETE OR TRUNCATE ON workflows FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('workflows are never deleted');

CREATE FUNCTION workflows_touch() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    NEW.updated_at := greatest(clock_timestamp(),
        CASE WHEN OLD.updated_at < '9998-01-01 00:00:00+00' THEN OLD.updated_at + interval '1 microsecond' END);
    RETURN NEW;
END $$;

CREATE TRIGGER workflows_updated_at
BEFORE UPDATE ON workflows FOR EACH ROW
WHEN (NOT NEW.updated_at > OLD.updated_at)
EXECUTE FUNCTION workflows_touch();

-- Called with the ids of proposals that were just written: their edges, and the end of those that depend
-- on something that has ended badly already. What they depend on is locked meanwhile, so that it can't end
-- badly without seeing them.
CREATE FUNCTION action_proposals_link(ids bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO action_dependencies (proposal_id, depends_on_id)
    SELECT DISTINCT id, needed::bigint
    FROM action_proposals, json_array_elements_text(depends_on) AS needed
    WHERE id = ANY (ids) AND depends_on IS NOT NULL;
    PERFORM 1 FROM action_proposals
    WHERE id IN (SELECT depends_on_id FROM action_dependencies WHERE proposal_id = ANY (ids))
    ORDER BY id FOR SHARE;
    UPDATE action_proposals
    SET status = 'cancelled', status_reason = 'a proposal that it depends on has failed or was cancelled',
        status_changed_by = 'ledger', status_changed_at = clock_timestamp(), cancelled_at = clock_timestamp()
    WHERE id = ANY (ids) AND NOT wait_on_failure AND status IN ('proposed', 'validated')
        AND EXISTS (
            SELECT 1 FROM action_dependencies JOIN action_proposals needed ON needed.id = depends_on_id
            WHERE proposal_id = action_proposals.id
                AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL));
END $$;

REVOKE EXECUTE ON FUNCTION action_proposals_link FROM PUBLIC;

-- A look at all rows of a statement for those that depend on others costs each INSERT a thirtieth of its time,
-- and most statements have none: the first such row leaves word, in a setting that ends with the transaction.
CREATE FUNCTION action_proposals_note_link() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.set_config('operator_core.linked', 'on', true);
    RETURN NEW;
END $$;

CREATE TRIGGER action_proposals_linked
BEFORE INSERT ON action_proposals FOR EACH ROW
WHEN (NEW.depends_on IS NOT NULL)
EXECUTE FUNCTION action_proposals_note_link();

DO $do$
BEGIN
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_tell_created() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
DECLARE
    linked bigint[];
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, event_type, to_status, actor, reason, occurred_at)
    SELECT id, 'proposal_created', status, status_changed_by, reason, pg_catalog.clock_timestamp()
    FROM created;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    IF pg_catalog.current_setting('operator_core.linked', true) OPERATOR(pg_catalog.=) 'on' THEN
        linked := ARRAY(SELECT id FROM created WHERE depends_on IS NOT NULL);
        IF pg_catalog.cardinality(linked) OPERATOR(pg_catalog.>) 0 THEN
            PERFORM %1$I.action_proposals_link(linked);
        END IF;
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
END $do$;

-- Cancelling one of them cancels what depends on it in turn.
CREATE FUNCTION action_proposals_cancel_dependants() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        status_reason = 'proposal ' || NEW.id || ', which it depends on, '
            || CASE NEW.status WHEN 'failed' THEN 'failed' ELSE 'was cancelled' END,
        status_changed_by = 'ledger', cancelled_at = clock_timestamp(),
        status_changed_at = greatest(clock_timestamp(),
            CASE WHEN status_changed_at < '9998-01-01 00:00:00+00' THEN status_changed_at + interval '1 microsecond' END)
    WHERE id IN (SELECT proposal_id FROM action_dependencies WHERE depends_on_id = NEW.id)
        AND NOT wait_on_failure AND status IN ('proposed', 'validated');
    RETURN NULL;
END $$;

REVOKE EXECUTE ON FUNCTION action_proposals_cancel_dependants FROM PUBLIC;

CREATE TRIGGER action_proposals_cascade
AFTER UPDATE OF status, next_retry_at ON action_proposals FOR EACH ROW
WHEN ((NEW.status = 'cancelled' OR NEW.status = 'failed' AND NEW.next_retry_at IS NULL)
    AND NOT (OLD.status = 'cancelled' OR OLD.status = 'failed' AND OLD.next_retry_at IS NULL))
EXECUTE FUNCTION action_proposals_cancel_dependants();

DROP TRIGGER action_proposals_immutable ON action_proposals;

CREATE TRIGGER action_proposals_immutable
BEFORE UPDATE OF ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by,
    created_at, idempotency_key, priority, scheduled_at, expires_at, max_retries, retry_delay, max_retry_delay,
    workflow_id, depends_on, wait_on_failure
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
    OR NEW.max_retry_delay IS DISTINCT FROM OLD.max_retry_delay
    OR NEW.workflow_id IS DISTINCT FROM OLD.workflow_id
    OR NEW.depends_on::text IS DISTINCT FROM OLD.depends_on::text
    OR NEW.wait_on_failure IS DISTINCT FROM OLD.wait_on_failure)
EXECUTE FUNCTION action_ledger_refuse('what was proposed can not be edited');
