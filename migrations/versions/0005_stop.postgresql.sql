-- Revision 0005 on PostgreSQL. Statements end at a semicolon before a blank line.
--
-- How a halt holds for every writer. The guard of the proposals asks about halts wherever something would begin. It does so
-- behind a flag, a sequence, because reading one costs a seventh of the cheapest query. A change of a sequence is in no
-- transaction: the flag is up before the halt is committed. It is down only while its value is the negative of the
-- oid of action_halts, so that a restored copy of the ledger begins with a flag that is up. Up, it is the number of the
-- transaction that wrote the last halt. By that number, a transaction at REPEATABLE READ or above can tell that its snapshot is
-- older than the halt, and fails to be repeated (40001).
--
-- Two advisory locks, both with the oid of action_halts as the second key. 7302913 is held, shared, by every transaction
-- that has begun something; nobody takes it exclusively, and who halts waits for its holders by pg_locks. 7302914 is held by
-- the transaction that writes a halt. The flag goes down only when that lock is free, in a transaction that has
-- written nothing: what it sees is committed, and no halt is being written.

CREATE TABLE action_halts (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    mode TEXT NOT NULL,
    action_name TEXT,
    agent_id TEXT,
    run_id TEXT,
    halted_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT statement_timestamp(),
    valid_from TIMESTAMP WITH TIME ZONE,
    valid_until TIMESTAMP WITH TIME ZONE,
    cancels BOOLEAN NOT NULL DEFAULT false,
    resumed_at TIMESTAMP WITH TIME ZONE,
    resumed_by TEXT,
    resume_reason TEXT,
    CONSTRAINT pk_action_halts PRIMARY KEY (id)
);

CREATE INDEX idx_action_halts_open ON action_halts (id) WHERE resumed_at IS NULL;

-- Which agents take part in a run.
CREATE INDEX idx_action_proposals_run_agent ON action_proposals (run_id, agent_id) WHERE run_id IS NOT NULL AND agent_id IS NOT NULL;

ALTER TABLE action_records ADD COLUMN halt_seen_at TIMESTAMP WITH TIME ZONE;

ALTER TABLE action_events
    ALTER COLUMN proposal_id DROP NOT NULL,
    ADD COLUMN details JSON;

CREATE SEQUENCE action_halts_flag AS BIGINT MINVALUE -9223372036854775808 OWNED BY action_halts.mode;

SELECT setval('action_halts_flag', -('action_halts'::regclass::oid::bigint));

DO $do$
DECLARE
    halts text := quote_ident(current_schema()) || '.action_halts';
    flag text := quote_ident(current_schema()) || '.action_halts_flag';
BEGIN
    -- Whether a halt of this action, agent and run is about a proposal. In a pattern, * is any text and ? any character.
    EXECUTE format($function$
CREATE FUNCTION action_halts_covers(of_action text, of_agent text, of_run text, action text, agent text, run text, parent bigint) RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    above bigint := parent;
BEGIN
    IF of_run IS NOT NULL AND (of_run OPERATOR(pg_catalog.=) run) IS NOT TRUE
        OR of_action IS NOT NULL AND (action COLLATE "C" OPERATOR(pg_catalog.~~) pg_catalog.translate(
            pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(of_action, '\', '\\'), '%%', '\%%'), '_', '\_'), '*?', '%%_')) IS NOT TRUE THEN
        RETURN false;
    ELSIF of_agent IS NULL OR of_agent OPERATOR(pg_catalog.=) agent THEN
        RETURN true;
    ELSIF run IS NOT NULL THEN
        -- A parent is in the same run.
        RETURN EXISTS (SELECT 1 FROM %1$I.action_proposals AS other WHERE other.run_id OPERATOR(pg_catalog.=) run AND other.agent_id OPERATOR(pg_catalog.=) of_agent);
    END IF;
    WHILE above IS NOT NULL LOOP
        IF (SELECT other.agent_id OPERATOR(pg_catalog.=) of_agent FROM %1$I.action_proposals AS other WHERE other.id OPERATOR(pg_catalog.=) above) THEN
            RETURN true;
        END IF;
        above := (SELECT other.parent_id FROM %1$I.action_proposals AS other WHERE other.id OPERATOR(pg_catalog.=) above);
    END LOOP;
    RETURN false;
END $$$function$, current_schema());
    -- Why a proposal may not be made, or with `starts` not begin; NULL if it may.
    EXECUTE format($function$
CREATE FUNCTION action_halts_refusal(action text, agent text, run text, parent bigint, starts boolean) RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newest bigint := pg_catalog.pg_sequence_last_value(%3$L::pg_catalog.regclass);
    open_one bigint;
BEGIN
    IF newest OPERATOR(pg_catalog.>) 0 AND pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=) ANY ('{repeatable read,serializable}'::pg_catalog.text[]) THEN
        BEGIN
            IF pg_catalog.pg_xact_status(newest::pg_catalog.text::pg_catalog.xid8) IS NULL THEN END IF;
        EXCEPTION WHEN invalid_parameter_value THEN
            -- A number of the future comes from another server, whose dump this is.
            newest := 0;
        END;
        IF newest OPERATOR(pg_catalog.>) 0 AND NOT pg_catalog.pg_visible_in_snapshot(newest::pg_catalog.text::pg_catalog.xid8, pg_catalog.pg_current_snapshot())
            AND (newest::pg_catalog.text::pg_catalog.xid8 OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id_if_assigned()) IS NOT TRUE THEN
            RAISE EXCEPTION USING
                ERRCODE = 'serialization_failure',
                MESSAGE = 'action_halts_refusal: a halt was written after this transaction began';
        END IF;
    END IF;
    -- With the clock of a claim, so that no claim fails here.
    open_one := (
        SELECT pg_catalog.min(halt.id) FROM %1$I.action_halts AS halt
        WHERE halt.resumed_at IS NULL AND (starts OR halt.mode OPERATOR(pg_catalog.=) 'halted')
            AND (halt.valid_from IS NULL OR halt.valid_from OPERATOR(pg_catalog.<=) pg_catalog.statement_timestamp())
            AND (halt.valid_until IS NULL OR halt.valid_until OPERATOR(pg_catalog.>) pg_catalog.statement_timestamp())
            AND %1$I.action_halts_covers(halt.action_name, halt.agent_id, halt.run_id, action, agent, run, parent));
    RETURN 'halted: halt ' OPERATOR(pg_catalog.||) open_one OPERATOR(pg_catalog.||) ' is open';
END $$$function$, current_schema(), halts, flag);
    EXECUTE format($function$
CREATE FUNCTION action_halts_guard() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    broken text;
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        IF OLD.resumed_at IS NOT NULL OR NEW.resumed_at IS NULL
            OR (pg_catalog.to_jsonb(NEW) OPERATOR(pg_catalog.-) '{resumed_at,resumed_by,resume_reason}'::pg_catalog.text[])
                OPERATOR(pg_catalog.<>) (pg_catalog.to_jsonb(OLD) OPERATOR(pg_catalog.-) '{resumed_at,resumed_by,resume_reason}'::pg_catalog.text[]) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'integrity_constraint_violation',
                MESSAGE = 'action_halts_immutable: a halt is resumed once and never edited';
        END IF;
        NEW.resumed_at := pg_catalog.clock_timestamp();
        broken := CASE
            WHEN NOT coalesce(%1$I.action_ledger_is_text(NEW.resumed_by, 255), false) THEN 'resumed_by'
            WHEN NOT coalesce(%1$I.action_ledger_is_text(NEW.resume_reason, 65536), false) THEN 'resume_reason'
        END;
    ELSE
        -- One at a time: see the head of this file.
        IF pg_catalog.pg_advisory_xact_lock(7302914, (%2$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int4) IS NULL THEN END IF;
        IF pg_catalog.setval(%3$L::pg_catalog.regclass, pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8) IS NULL THEN END IF;
        NEW.created_at := pg_catalog.clock_timestamp();
        broken := CASE
            WHEN NOT (NEW.id OPERATOR(pg_catalog.>) 0 AND NEW.id OPERATOR(pg_catalog.<) 4611686018427387904) THEN 'id'
            WHEN NEW.mode OPERATOR(pg_catalog.<>) ALL ('{observe,halted}'::pg_catalog.text[]) THEN 'mode'
            WHEN NOT %1$I.action_ledger_is_text(NEW.action_name, 255) THEN 'action_name'
            WHEN NOT %1$I.action_ledger_is_text(NEW.agent_id, 255) THEN 'agent_id'
            WHEN NOT %1$I.action_ledger_is_text(NEW.run_id, 255) THEN 'run_id'
            WHEN NOT %1$I.action_ledger_is_text(NEW.halted_by, 255) THEN 'halted_by'
            WHEN NOT %1$I.action_ledger_is_text(NEW.reason, 65536) THEN 'reason'
            WHEN NOT least(NEW.valid_from, NEW.valid_until) OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'
                OR NOT greatest(NEW.valid_from, NEW.valid_until) OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00'
                OR NEW.valid_until OPERATOR(pg_catalog.<=) coalesce(NEW.valid_from, NEW.created_at) THEN 'times'
            WHEN coalesce(NEW.resumed_at::pg_catalog.text, NEW.resumed_by, NEW.resume_reason) IS NOT NULL THEN 'resumed'
        END;
    END IF;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_halts_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_halts" violates check constraint "ck_action_halts_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$$function$, current_schema(), halts, flag);
    EXECUTE format($function$
CREATE FUNCTION action_halts_tell() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO %1$I.action_events (event_type, actor, reason, occurred_at, details)
    VALUES (
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN 'halted' ELSE 'resumed' END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN NEW.halted_by ELSE NEW.resumed_by END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN NEW.reason ELSE NEW.resume_reason END,
        pg_catalog.clock_timestamp(),
        pg_catalog.json_strip_nulls(pg_catalog.json_build_object(
            'halt', NEW.id, 'mode', NEW.mode, 'action_name', NEW.action_name, 'agent_id', NEW.agent_id, 'run_id', NEW.run_id)));
    IF pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    RETURN NULL;
END $$$function$, current_schema());
    -- Takes the flag down if no halt is open. A freeze that is over stays open until it is resumed, and counts for one more day, whatever
    -- the clock does.
    EXECUTE format($function$
CREATE FUNCTION action_halts_settle() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_catalog.pg_current_xact_id_if_assigned() IS NULL AND pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=) 'read committed' THEN
        IF pg_catalog.pg_try_advisory_xact_lock(7302914, (%2$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int4) THEN
            IF NOT EXISTS (
                SELECT 1 FROM %1$I.action_halts
                WHERE resumed_at IS NULL AND (valid_until IS NULL OR valid_until OPERATOR(pg_catalog.>) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 day'::pg_catalog.interval))) THEN
                IF pg_catalog.setval(%3$L::pg_catalog.regclass, OPERATOR(pg_catalog.-) (%2$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int8) IS NULL THEN END IF;
            END IF;
        END IF;
    END IF;
    RETURN NULL;
END $$$function$, current_schema(), halts, flag);
    -- As in revision 0004, with the question about halts.
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
            IF refused IS NULL AND NEW.status OPERATOR(pg_catalog.<>) OLD.status AND (NEW.status OPERATOR(pg_catalog.=) 'executing' OR NEW.status OPERATOR(pg_catalog.=) 'validated') THEN
                -- Held until the end of the transaction, so that a halt can wait for those that have begun something.
                IF pg_catalog.pg_advisory_xact_lock_shared(7302913, (%2$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int4) IS NULL THEN END IF;
                IF (pg_catalog.pg_sequence_last_value(%3$L::pg_catalog.regclass) OPERATOR(pg_catalog.=) (OPERATOR(pg_catalog.-) (%2$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int8)) IS NOT TRUE THEN
                    refused := %1$I.action_halts_refusal(NEW.action_name, NEW.agent_id, NEW.run_id, NEW.parent_id, true);
                END IF;
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
        IF broken IS NULL AND NEW.status OPERATOR(pg_catalog.<>) 'completed' AND NEW.status OPERATOR(pg_catalog.<>) 'cancelled' THEN
            IF pg_catalog.pg_advisory_xact_lock_shared(7302913, (%2$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int4) IS NULL THEN END IF;
            IF (pg_catalog.pg_sequence_last_value(%3$L::pg_catalog.regclass) OPERATOR(pg_catalog.=) (OPERATOR(pg_catalog.-) (%2$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int8)) IS NOT TRUE THEN
                refused := %1$I.action_halts_refusal(NEW.action_name, NEW.agent_id, NEW.run_id, NEW.parent_id, NEW.status OPERATOR(pg_catalog.=) 'executing' OR NEW.status OPERATOR(pg_catalog.=) 'validated');
            END IF;
            IF refused IS NOT NULL THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'integrity_constraint_violation',
                    MESSAGE = 'action_proposals_' OPERATOR(pg_catalog.||) refused;
            END IF;
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
END $$$function$, current_schema(), halts, flag);
END $do$;

REVOKE EXECUTE ON FUNCTION action_halts_guard, action_halts_tell, action_halts_settle FROM PUBLIC;

CREATE TRIGGER action_halts_guard
BEFORE INSERT OR UPDATE ON action_halts FOR EACH ROW
EXECUTE FUNCTION action_halts_guard();

CREATE TRIGGER action_halts_told
AFTER INSERT OR UPDATE ON action_halts FOR EACH ROW
EXECUTE FUNCTION action_halts_tell();

CREATE TRIGGER action_halts_settled
AFTER UPDATE ON action_halts FOR EACH STATEMENT
EXECUTE FUNCTION action_halts_settle();

CREATE TRIGGER action_halts_not_deleted
BEFORE DELETE OR TRUNCATE ON action_halts FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('halts are never deleted');

-- Roles that may write proposals already need no new grant for it, or for asking about halts.
DO $do$
DECLARE
    writer regrole;
BEGIN
    FOR writer IN
        SELECT DISTINCT acl.grantee
        FROM pg_class CROSS JOIN LATERAL (
            SELECT grantee, privilege_type FROM aclexplode(relacl)
            UNION ALL
            SELECT of_column.grantee, of_column.privilege_type
            FROM pg_attribute CROSS JOIN aclexplode(attacl) AS of_column WHERE attrelid = pg_class.oid
        ) AS acl
        WHERE pg_class.oid = 'action_proposals'::regclass AND acl.privilege_type IN ('INSERT', 'UPDATE') AND acl.grantee <> relowner
    LOOP
        EXECUTE format('GRANT SELECT ON action_halts, action_halts_flag TO %s', CASE WHEN writer::oid = 0 THEN 'PUBLIC' ELSE writer::text END);
    END LOOP;
END $do$;
