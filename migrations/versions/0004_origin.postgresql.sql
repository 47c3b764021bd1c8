-- Revision 0004 on PostgreSQL. Statements end at a semicolon before a blank line.

ALTER TABLE action_proposals
    ADD COLUMN requester_id TEXT,
    ADD COLUMN requester_type TEXT,
    ADD COLUMN agent_id TEXT,
    ADD COLUMN run_id TEXT,
    ADD COLUMN parent_id BIGINT,
    ADD COLUMN call_id TEXT,
    ADD COLUMN traceparent TEXT;

CREATE INDEX idx_action_proposals_run ON action_proposals (run_id, id) WHERE run_id IS NOT NULL;

CREATE UNIQUE INDEX uq_action_proposals_call ON action_proposals (run_id, call_id) WHERE run_id IS NOT NULL AND call_id IS NOT NULL;

CREATE INDEX idx_action_proposals_parent ON action_proposals (parent_id, id) WHERE parent_id IS NOT NULL;

CREATE INDEX idx_action_proposals_agent ON action_proposals (agent_id, id) WHERE agent_id IS NOT NULL;

CREATE INDEX idx_action_proposals_requester ON action_proposals (requester_id, id) WHERE requester_id IS NOT NULL;

-- As in revision 0002, with the checks of the new columns. Proposals are never deleted, so it also does the work of a
-- foreign key: it reads the parent's run in any case.
DO $do$
BEGIN
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    refused pg_catalog.text;
    broken pg_catalog.text;
    in_parents_run pg_catalog.bool;
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        -- As the claim takes a retry by its own time.
        IF NEW.next_retry_at OPERATOR(pg_catalog.<) NEW.scheduled_at AND NEW.next_retry_at OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00' THEN
            NEW.next_retry_at := NEW.scheduled_at;
        END IF;
        IF NEW.status OPERATOR(pg_catalog.<>) OLD.status OR coalesce(NEW.next_retry_at, '-infinity') OPERATOR(pg_catalog.<>) coalesce(OLD.next_retry_at, '-infinity') THEN
            IF NEW.status OPERATOR(pg_catalog.=) OLD.status THEN
                -- It is run again at another time, or not at all.
            ELSIF ((OLD.status OPERATOR(pg_catalog.||) '>' OPERATOR(pg_catalog.||) NEW.status) OPERATOR(pg_catalog.=) ANY ('{proposed>validated,proposed>cancelled,validated>executing,validated>cancelled,executing>completed,executing>failed,executing>cancelled,failed>validated}'::pg_catalog.text[])) IS NOT TRUE THEN
                refused := 'lifecycle: the lifecycle has no such step';
            ELSIF NEW.status OPERATOR(pg_catalog.=) 'executing' THEN
                -- With the clock and the conditions of a claim, so that no claim fails here.
                refused := CASE
                    WHEN coalesce(OLD.next_retry_at, OLD.scheduled_at) OPERATOR(pg_catalog.>) pg_catalog.statement_timestamp() THEN 'not_due: it starts at the time that it is scheduled for, or later'
                    WHEN OLD.expires_at OPERATOR(pg_catalog.<=) pg_catalog.statement_timestamp() THEN 'expired: it starts before it expires, or never'
                    WHEN OLD.depends_on IS NOT NULL AND %1$I.action_proposals_waits(OLD.id) THEN 'dependency_pending: it starts when all that it depends on is completed'
                END;
            END IF;
            -- Who does not say who acts, or when, is recorded as what it is.
            IF NEW.status_changed_by IS NULL OR NEW.status_changed_at IS NULL
                OR NEW.status_changed_at OPERATOR(pg_catalog.=) OLD.status_changed_at THEN
                NEW.status_changed_by := 'raw SQL';
                NEW.status_reason := NULL;
                NEW.status_changed_at := greatest(pg_catalog.clock_timestamp(), CASE WHEN OLD.status_changed_at OPERATOR(pg_catalog.<) '9998-01-01 00:00:00+00'
                    THEN OLD.status_changed_at OPERATOR(pg_catalog.+) interval '1 microsecond' END);
            END IF;
        ELSIF (NEW.status_changed_at OPERATOR(pg_catalog.=) OLD.status_changed_at OR NEW.status_changed_at IS NULL AND OLD.status_changed_at IS NULL) IS NOT TRUE
            OR (NEW.status_changed_by OPERATOR(pg_catalog.=) OLD.status_changed_by OR NEW.status_changed_by IS NULL AND OLD.status_changed_by IS NULL) IS NOT TRUE
            OR (NEW.status_reason OPERATOR(pg_catalog.=) OLD.status_reason OR NEW.status_reason IS NULL AND OLD.status_reason IS NULL) IS NOT TRUE THEN
            refused := 'attributed: who acted, why and when change only together with what they did';
        END IF;
        IF refused IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'integrity_constraint_violation',
                MESSAGE = 'action_proposals_' OPERATOR(pg_catalog.||) refused;
        END IF;
        IF NOT NEW.updated_at OPERATOR(pg_catalog.>) OLD.updated_at THEN
            NEW.updated_at := greatest(pg_catalog.clock_timestamp(), CASE WHEN OLD.updated_at OPERATOR(pg_catalog.<) '9998-01-01 00:00:00+00'
                THEN OLD.updated_at OPERATOR(pg_catalog.+) interval '1 microsecond' END);
        END IF;
        NEW.version := OLD.version OPERATOR(pg_catalog.+) 1;
        -- What was proposed was looked at when it was, and does not change.
        IF NOT least(NEW.validated_at, NEW.cancelled_at, NEW.updated_at, NEW.status_changed_at, NEW.next_retry_at) OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'
            OR NOT greatest(NEW.validated_at, NEW.cancelled_at, NEW.updated_at, NEW.status_changed_at, NEW.next_retry_at) OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00' THEN
            broken := 'times';
        END IF;
    ELSE
        IF NEW.status_changed_by IS NULL THEN
            NEW.status_changed_by := 'raw SQL';
            NEW.status_changed_at := pg_catalog.clock_timestamp();
        END IF;
        IF (NEW.version OPERATOR(pg_catalog.=) 1 AND NEW.retry_count OPERATOR(pg_catalog.=) 0 AND NEW.next_retry_at IS NULL AND NEW.last_error IS NULL) IS NOT TRUE THEN
            NEW.version := 1;
            NEW.retry_count := 0;
            NEW.next_retry_at := NULL;
            NEW.last_error := NULL;
        END IF;
        IF NEW.updated_at OPERATOR(pg_catalog.<) NEW.created_at AND NEW.updated_at OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00' THEN
            NEW.updated_at := NEW.created_at;
        END IF;
        broken := CASE
            WHEN NOT (NEW.id OPERATOR(pg_catalog.>) 0 AND NEW.id OPERATOR(pg_catalog.<) 4611686018427387904) THEN 'id'
            WHEN NOT least(NEW.proposed_at, NEW.validated_at, NEW.cancelled_at, NEW.created_at, NEW.updated_at, NEW.status_changed_at, NEW.scheduled_at, NEW.expires_at) OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'
                OR NOT greatest(NEW.proposed_at, NEW.validated_at, NEW.cancelled_at, NEW.created_at, NEW.updated_at, NEW.status_changed_at, NEW.scheduled_at, NEW.expires_at) OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00' THEN 'times'
            WHEN NOT (NEW.priority OPERATOR(pg_catalog.>=) -32768 AND NEW.priority OPERATOR(pg_catalog.<=) 32767) THEN 'priority'
            WHEN NOT (NEW.max_retries OPERATOR(pg_catalog.>=) 0 AND NEW.max_retries OPERATOR(pg_catalog.<=) 1000) THEN 'max_retries'
            -- NaN is greater than any number.
            WHEN NOT (NEW.retry_delay OPERATOR(pg_catalog.>=) 0 AND NEW.retry_delay OPERATOR(pg_catalog.<=) 604800) THEN 'retry_delay'
            WHEN NOT (NEW.max_retry_delay OPERATOR(pg_catalog.>=) 0 AND NEW.max_retry_delay OPERATOR(pg_catalog.<=) 604800) THEN 'max_retry_delay'
            -- Most begin with a letter or digit; ascii() is the code of the first character.
            WHEN NOT (pg_catalog.length(NEW.action_name) OPERATOR(pg_catalog.<=) 255 AND pg_catalog.ascii(NEW.action_name) OPERATOR(pg_catalog.>) 32 AND pg_catalog.ascii(NEW.action_name) OPERATOR(pg_catalog.<) 127)
                AND NOT %1$I.action_ledger_is_text(NEW.action_name, 255) THEN 'action_name'
            WHEN NOT (pg_catalog.length(NEW.proposed_by) OPERATOR(pg_catalog.<=) 255 AND pg_catalog.ascii(NEW.proposed_by) OPERATOR(pg_catalog.>) 32 AND pg_catalog.ascii(NEW.proposed_by) OPERATOR(pg_catalog.<) 127)
                AND NOT %1$I.action_ledger_is_text(NEW.proposed_by, 255) THEN 'proposed_by'
            WHEN NOT (pg_catalog.length(NEW.reason) OPERATOR(pg_catalog.<=) 65536 AND pg_catalog.ascii(NEW.reason) OPERATOR(pg_catalog.>) 32 AND pg_catalog.ascii(NEW.reason) OPERATOR(pg_catalog.<) 127)
                AND NOT %1$I.action_ledger_is_text(NEW.reason, 65536) THEN 'reason'
            WHEN NEW.idempotency_key IS NOT NULL AND NOT %1$I.action_ledger_is_text(NEW.idempotency_key, 255) THEN 'idempotency_key'
            WHEN NEW.depends_on IS NOT NULL AND NOT %1$I.action_ledger_is_list_of_ids(NEW.depends_on) THEN 'depends_on'
        END;
        IF coalesce(NEW.run_id, NEW.agent_id, NEW.requester_id, NEW.requester_type, NEW.call_id, NEW.traceparent) IS NOT NULL THEN
            broken := coalesce(broken, CASE
                WHEN NEW.requester_id IS NOT NULL AND NOT %1$I.action_ledger_is_text(NEW.requester_id, 255) THEN 'requester_id'
                WHEN NEW.requester_type OPERATOR(pg_catalog.<>) ALL ('{user,system,agent}'::pg_catalog.text[]) THEN 'requester_type'
                WHEN NEW.agent_id IS NOT NULL AND NOT %1$I.action_ledger_is_text(NEW.agent_id, 255) THEN 'agent_id'
                WHEN NEW.run_id IS NOT NULL AND NOT %1$I.action_ledger_is_text(NEW.run_id, 255) THEN 'run_id'
                WHEN NEW.call_id IS NOT NULL AND NOT %1$I.action_ledger_is_text(NEW.call_id, 255) THEN 'call_id'
                WHEN NEW.traceparent OPERATOR(pg_catalog.!~) '^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$' THEN 'traceparent'
            END);
        END IF;
        IF NEW.parent_id IS NOT NULL AND broken IS NULL THEN
            in_parents_run := (
                SELECT (run_id OPERATOR(pg_catalog.=) NEW.run_id OR run_id IS NULL AND NEW.run_id IS NULL) IS TRUE
                FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) NEW.parent_id);
            IF in_parents_run IS NULL THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'foreign_key_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
                    CONSTRAINT = 'fk_action_proposals_parent_id_action_proposals',
                    MESSAGE = 'action_proposals_parent_exists: no such proposal',
                    DETAIL = 'Key (parent_id)=(' OPERATOR(pg_catalog.||) NEW.parent_id OPERATOR(pg_catalog.||) ') is not present.';
            ELSIF NOT in_parents_run THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'integrity_constraint_violation',
                    MESSAGE = 'action_proposals_parent_run: a proposal belongs to the run of its parent';
            END IF;
        END IF;
    END IF;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_proposals_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_proposals" violates check constraint "ck_action_proposals_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$$function$, current_schema());
END $do$;

DROP TRIGGER IF EXISTS action_proposals_immutable ON action_proposals;

-- As in revision 0002, with the new columns.
CREATE TRIGGER action_proposals_immutable
BEFORE UPDATE OF ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by,
    created_at, idempotency_key, priority, scheduled_at, expires_at, max_retries, retry_delay, max_retry_delay,
    workflow_id, depends_on, wait_on_failure,
    requester_id, requester_type, agent_id, run_id, parent_id, call_id, traceparent
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
    OR NEW.wait_on_failure IS DISTINCT FROM OLD.wait_on_failure
    OR NEW.requester_id IS DISTINCT FROM OLD.requester_id
    OR NEW.requester_type IS DISTINCT FROM OLD.requester_type
    OR NEW.agent_id IS DISTINCT FROM OLD.agent_id
    OR NEW.run_id IS DISTINCT FROM OLD.run_id
    OR NEW.parent_id IS DISTINCT FROM OLD.parent_id
    OR NEW.call_id IS DISTINCT FROM OLD.call_id
    OR NEW.traceparent IS DISTINCT FROM OLD.traceparent)
EXECUTE FUNCTION action_ledger_refuse('what was proposed can not be edited');
