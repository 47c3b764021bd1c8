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

-- A look at all rows of a statement for those that depend on others, or on which others may depend, costs a
-- small one a thirtieth of its time or more, and most have none: the guard, which sees each row, leaves word of the
-- first one, in a setting that ends with the transaction.
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
        IF (NEW.status OPERATOR(pg_catalog.=) 'cancelled' OR NEW.status OPERATOR(pg_catalog.=) 'failed' AND NEW.next_retry_at IS NULL)
            AND NOT (OLD.status OPERATOR(pg_catalog.=) 'cancelled' OR OLD.status OPERATOR(pg_catalog.=) 'failed' AND OLD.next_retry_at IS NULL) THEN
            PERFORM pg_catalog.set_config('operator_core.ended_badly', 'on', true);
        END IF;
    ELSE
        IF NEW.status_changed_by IS NULL THEN
            NEW.status_changed_by := 'raw SQL';
            NEW.status_changed_at := pg_catalog.clock_timestamp();
        END IF;
        IF NEW.depends_on IS NOT NULL THEN
            PERFORM pg_catalog.set_config('operator_core.linked', 'on', true);
        END IF;
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

-- Called with the ids of proposals that have just ended badly. Cancelling what depends on them comes here again, for
-- what depends on that: not all at once, as one that somebody is just starting is not cancelled, and what depends on it
-- must not be either.
CREATE FUNCTION action_proposals_cancel_dependants(ids bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        -- All of a chain name its beginning.
        status_reason = CASE
            WHEN cause.status_changed_by = 'ledger' AND cause.status_reason LIKE 'proposal %, which it depends on, %' THEN cause.status_reason
            ELSE 'proposal ' || cause.id || ', which it depends on, ' || CASE cause.status WHEN 'failed' THEN 'failed' ELSE 'was cancelled' END
        END,
        status_changed_by = 'ledger', cancelled_at = clock_timestamp(),
        status_changed_at = greatest(clock_timestamp(),
            CASE WHEN status_changed_at < '9998-01-01 00:00:00+00' THEN status_changed_at + interval '1 microsecond' END)
    FROM (
        SELECT DISTINCT ON (proposal_id) proposal_id, needed.id, needed.status, needed.status_changed_by, needed.status_reason
        FROM action_dependencies JOIN action_proposals needed ON needed.id = depends_on_id
        WHERE depends_on_id = ANY (ids)
        ORDER BY proposal_id, depends_on_id
    ) AS cause
    WHERE action_proposals.id = cause.proposal_id
        AND NOT wait_on_failure AND action_proposals.status IN ('proposed', 'validated');
END $$;

REVOKE EXECUTE ON FUNCTION action_proposals_cancel_dependants FROM PUBLIC;

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
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_tell_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
DECLARE
    ended bigint[];
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at)
    SELECT changed.id, 'status_changed', before.status, changed.status, changed.status_changed_by,
        changed.status_reason, pg_catalog.clock_timestamp()
    FROM changed JOIN before ON before.id OPERATOR(pg_catalog.=) changed.id
    WHERE changed.status OPERATOR(pg_catalog.<>) before.status;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    IF pg_catalog.current_setting('operator_core.ended_badly', true) OPERATOR(pg_catalog.=) 'on' THEN
        ended := ARRAY(
            SELECT changed.id FROM changed JOIN before ON before.id OPERATOR(pg_catalog.=) changed.id
            WHERE (changed.status OPERATOR(pg_catalog.=) 'cancelled' OR changed.status OPERATOR(pg_catalog.=) 'failed' AND changed.next_retry_at IS NULL)
                AND NOT (before.status OPERATOR(pg_catalog.=) 'cancelled' OR before.status OPERATOR(pg_catalog.=) 'failed' AND before.next_retry_at IS NULL)
        );
        IF pg_catalog.cardinality(ended) OPERATOR(pg_catalog.>) 0 THEN
            PERFORM %1$I.action_proposals_cancel_dependants(ended);
        END IF;
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
END $do$;

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
