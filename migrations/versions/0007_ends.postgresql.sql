-- Revision 0007 on PostgreSQL. Statements end at a semicolon before a blank line.

ALTER TABLE action_proposals
    ADD COLUMN end_code TEXT,
    ADD COLUMN status_cause TEXT,
    ADD COLUMN content_digest TEXT;

CREATE INDEX idx_action_proposals_end_code ON action_proposals (end_code, id) WHERE end_code IS NOT NULL;

-- The guard is that of revision 0005, with the move of revision 0006 and the checks of the new columns; the others are those of revision 0002.
-- The event of a move has its end code and its cause in one JSON object.
DO $do$
DECLARE
    halts text := quote_ident(current_schema()) || '.action_halts';
    flag text := quote_ident(current_schema()) || '.action_halts_flag';
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
            ELSIF ((OLD.status OPERATOR(pg_catalog.||) '>' OPERATOR(pg_catalog.||) NEW.status) OPERATOR(pg_catalog.=) ANY ('{proposed>validated,proposed>cancelled,validated>executing,validated>cancelled,executing>completed,executing>failed,executing>cancelled,failed>validated}'::pg_catalog.text[])) IS NOT TRUE
                AND (CASE WHEN OLD.status OPERATOR(pg_catalog.=) 'failed' AND NEW.status OPERATOR(pg_catalog.=) 'completed'
                    THEN %1$I.outcome_resolutions_done(OLD.id) END) IS NOT TRUE THEN
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
                IF NEW.status OPERATOR(pg_catalog.<>) OLD.status THEN
                    NEW.status_cause := NULL;
                END IF;
            END IF;
            IF NEW.status OPERATOR(pg_catalog.=) OLD.status THEN
                IF (NEW.end_code OPERATOR(pg_catalog.=) OLD.end_code OR NEW.end_code IS NULL AND OLD.end_code IS NULL) IS NOT TRUE
                    OR (NEW.status_cause OPERATOR(pg_catalog.=) OLD.status_cause OR NEW.status_cause IS NULL AND OLD.status_cause IS NULL) IS NOT TRUE THEN
                    refused := 'attributed: an end code and a cause belong to a move';
                END IF;
            ELSE
                -- A cause that is that of the move before was not said by the writer.
                IF NEW.status_cause OPERATOR(pg_catalog.=) OLD.status_cause THEN
                    NEW.status_cause := NULL;
                END IF;
                IF NEW.status OPERATOR(pg_catalog.=) 'cancelled' OR NEW.status OPERATOR(pg_catalog.=) 'failed' THEN
                    IF NEW.end_code IS NULL THEN
                        NEW.end_code := NEW.status;
                    END IF;
                ELSIF NEW.end_code OPERATOR(pg_catalog.=) OLD.end_code THEN
                    NEW.end_code := NULL;
                ELSIF NEW.end_code IS NOT NULL THEN
                    refused := coalesce(refused, 'attributed: an end code belongs to a move to cancelled or failed');
                END IF;
            END IF;
        ELSIF (NEW.status_changed_at OPERATOR(pg_catalog.=) OLD.status_changed_at OR NEW.status_changed_at IS NULL AND OLD.status_changed_at IS NULL) IS NOT TRUE
            OR (NEW.status_changed_by OPERATOR(pg_catalog.=) OLD.status_changed_by OR NEW.status_changed_by IS NULL AND OLD.status_changed_by IS NULL) IS NOT TRUE
            OR (NEW.status_reason OPERATOR(pg_catalog.=) OLD.status_reason OR NEW.status_reason IS NULL AND OLD.status_reason IS NULL) IS NOT TRUE
            OR (NEW.end_code OPERATOR(pg_catalog.=) OLD.end_code OR NEW.end_code IS NULL AND OLD.end_code IS NULL) IS NOT TRUE
            OR (NEW.status_cause OPERATOR(pg_catalog.=) OLD.status_cause OR NEW.status_cause IS NULL AND OLD.status_cause IS NULL) IS NOT TRUE THEN
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
        ELSIF NEW.end_code OPERATOR(pg_catalog.<>) ALL ('{failed,cancelled,denied,rejected,withdrawn,undecided,expired,approval_expired,halted,superseded,dependency,outcome_unknown,limit,not_begun,tampered}'::pg_catalog.text[]) THEN
            broken := 'end_code';
        ELSIF NEW.status_cause IS NOT NULL AND (NEW.status_cause OPERATOR(pg_catalog.~) '^\{"(rule|decision|grant|halt|limit|proposal)":[1-9][0-9]{0,18}\}$'
            AND pg_catalog.substr(NEW.status_cause, pg_catalog.strpos(NEW.status_cause, ':') OPERATOR(pg_catalog.+) 1, pg_catalog.length(NEW.status_cause) OPERATOR(pg_catalog.-) pg_catalog.strpos(NEW.status_cause, ':') OPERATOR(pg_catalog.-) 1)::pg_catalog.numeric OPERATOR(pg_catalog.<) 4611686018427387904) IS NOT TRUE THEN
            broken := 'status_cause';
        ELSIF OLD.content_digest IS NULL AND NEW.content_digest IS NOT NULL AND NOT (pg_catalog.length(NEW.content_digest) OPERATOR(pg_catalog.=) 68 AND pg_catalog.rtrim(NEW.content_digest, '0123456789abcdef') OPERATOR(pg_catalog.=) 'oc1:') THEN
            broken := 'content_digest';
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
        IF NEW.status_cause IS NOT NULL OR NEW.end_code OPERATOR(pg_catalog.<>) (CASE WHEN NEW.status OPERATOR(pg_catalog.=) 'cancelled' OR NEW.status OPERATOR(pg_catalog.=) 'failed' THEN NEW.status ELSE '' END) THEN
            refused := 'attributed: an end code or a cause belongs to a move';
        ELSIF NEW.status OPERATOR(pg_catalog.=) 'cancelled' OR NEW.status OPERATOR(pg_catalog.=) 'failed' THEN
            NEW.end_code := NEW.status;
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
            WHEN NOT (pg_catalog.length(NEW.content_digest) OPERATOR(pg_catalog.=) 68 AND pg_catalog.rtrim(NEW.content_digest, '0123456789abcdef') OPERATOR(pg_catalog.=) 'oc1:') THEN 'content_digest'
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
        IF broken IS NULL AND refused IS NULL AND NEW.status OPERATOR(pg_catalog.<>) 'completed' AND NEW.status OPERATOR(pg_catalog.<>) 'cancelled' THEN
            IF pg_catalog.pg_advisory_xact_lock_shared(7302913, (%2$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int4) IS NULL THEN END IF;
            IF (pg_catalog.pg_sequence_last_value(%3$L::pg_catalog.regclass) OPERATOR(pg_catalog.=) (OPERATOR(pg_catalog.-) (%2$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int8)) IS NOT TRUE THEN
                refused := %1$I.action_halts_refusal(NEW.action_name, NEW.agent_id, NEW.run_id, NEW.parent_id, NEW.status OPERATOR(pg_catalog.=) 'executing' OR NEW.status OPERATOR(pg_catalog.=) 'validated');
            END IF;
        END IF;
        IF refused IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'integrity_constraint_violation',
                MESSAGE = 'action_proposals_' OPERATOR(pg_catalog.||) refused;
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
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_link(ids bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    late bigint[];
BEGIN
    INSERT INTO %1$I.action_dependencies (proposal_id, depends_on_id)
    SELECT given.id, needed::pg_catalog.text::bigint
    FROM pg_catalog.unnest(ids) AS given (id)
    CROSS JOIN LATERAL (SELECT depends_on FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) given.id OFFSET 0) AS written
    CROSS JOIN LATERAL pg_catalog.json_array_elements(written.depends_on) AS needed;
    PERFORM 1 FROM %1$I.action_proposals
    WHERE id OPERATOR(pg_catalog.=) ANY (ARRAY(
        SELECT edge.depends_on_id FROM pg_catalog.unnest(ids) AS given (id)
        CROSS JOIN LATERAL (SELECT depends_on_id FROM %1$I.action_dependencies WHERE proposal_id OPERATOR(pg_catalog.=) given.id OFFSET 0) AS edge))
    ORDER BY id FOR SHARE;
    late := ARRAY(
        SELECT given.id FROM pg_catalog.unnest(ids) AS given (id)
        WHERE (
            SELECT 1 FROM %1$I.action_dependencies
            WHERE proposal_id OPERATOR(pg_catalog.=) given.id AND (
                SELECT needed.status OPERATOR(pg_catalog.=) 'cancelled' OR needed.status OPERATOR(pg_catalog.=) 'failed' AND needed.next_retry_at IS NULL
                FROM %1$I.action_proposals AS needed WHERE needed.id OPERATOR(pg_catalog.=) depends_on_id)
            LIMIT 1) OPERATOR(pg_catalog.=) 1);
    IF pg_catalog.cardinality(late) OPERATOR(pg_catalog.>) 0 THEN
        UPDATE %1$I.action_proposals
        SET status = 'cancelled', status_reason = 'a proposal that it depends on has failed or was cancelled',
            end_code = 'dependency', status_cause = '{"proposal":' OPERATOR(pg_catalog.||) (
                SELECT pg_catalog.min(edge.depends_on_id) FROM %1$I.action_dependencies AS edge
                WHERE edge.proposal_id OPERATOR(pg_catalog.=) action_proposals.id AND (
                    SELECT needed.status OPERATOR(pg_catalog.=) 'cancelled' OR needed.status OPERATOR(pg_catalog.=) 'failed' AND needed.next_retry_at IS NULL
                    FROM %1$I.action_proposals AS needed WHERE needed.id OPERATOR(pg_catalog.=) edge.depends_on_id)
            ) OPERATOR(pg_catalog.||) '}',
            status_changed_by = 'ledger', cancelled_at = pg_catalog.clock_timestamp(),
            status_changed_at = greatest(pg_catalog.clock_timestamp(), CASE WHEN status_changed_at OPERATOR(pg_catalog.<) '9998-01-01 00:00:00+00'
                THEN status_changed_at OPERATOR(pg_catalog.+) interval '1 microsecond' END)
        WHERE id OPERATOR(pg_catalog.=) ANY (late) AND NOT wait_on_failure AND (status OPERATOR(pg_catalog.||) '') OPERATOR(pg_catalog.=) ANY ('{proposed,validated}'::pg_catalog.text[]);
    END IF;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_cancel(ids bigint[], ended bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_nestloop = off SET enable_hashjoin = on SET enable_mergejoin = on SET jit = off AS $$
DECLARE
    edge record;
    roots bigint[] := pg_catalog.array_fill(NULL::bigint, ARRAY[pg_catalog.cardinality(ids)]);
BEGIN
    FOR edge IN
        SELECT this.place, root.id AS root, cause.place AS cause
        FROM %1$I.action_dependencies AS needs
        JOIN pg_catalog.unnest(ids) WITH ORDINALITY AS this (id, place) ON this.id OPERATOR(pg_catalog.=) needs.proposal_id
        LEFT JOIN pg_catalog.unnest(ids) WITH ORDINALITY AS cause (id, place) ON cause.id OPERATOR(pg_catalog.=) needs.depends_on_id
        LEFT JOIN pg_catalog.unnest(ended) AS root (id) ON root.id OPERATOR(pg_catalog.=) needs.depends_on_id
        WHERE needs.proposal_id OPERATOR(pg_catalog.=) ANY (ids)
        ORDER BY this.place
    LOOP
        roots[edge.place] := least(roots[edge.place], edge.root, roots[edge.cause]);
    END LOOP;
    UPDATE %1$I.action_proposals AS dependant
    SET status = 'cancelled',
        status_reason = 'proposal ' OPERATOR(pg_catalog.||) root.id OPERATOR(pg_catalog.||) ', which it depends on, '
            OPERATOR(pg_catalog.||) CASE WHEN root.status OPERATOR(pg_catalog.=) 'failed' THEN 'failed' ELSE 'was cancelled' END,
        end_code = 'dependency', status_cause = '{"proposal":' OPERATOR(pg_catalog.||) root.id OPERATOR(pg_catalog.||) '}',
        status_changed_by = 'ledger', cancelled_at = pg_catalog.clock_timestamp(),
        status_changed_at = greatest(pg_catalog.clock_timestamp(), CASE WHEN dependant.status_changed_at OPERATOR(pg_catalog.<) '9998-01-01 00:00:00+00'
            THEN dependant.status_changed_at OPERATOR(pg_catalog.+) interval '1 microsecond' END)
    FROM ROWS FROM (pg_catalog.unnest(ids), pg_catalog.unnest(roots)) AS chain (id, root)
    JOIN %1$I.action_proposals AS root ON root.id OPERATOR(pg_catalog.=) chain.root
    WHERE dependant.id OPERATOR(pg_catalog.=) chain.id AND dependant.id OPERATOR(pg_catalog.=) ANY (ids) AND root.id OPERATOR(pg_catalog.=) ANY (ended);
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_tell_created() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    linked bigint[];
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, event_type, to_status, actor, reason, occurred_at, version, details)
    SELECT id, 'proposal_created', status, status_changed_by, reason, pg_catalog.clock_timestamp(), version,
        ('{"digest":"' OPERATOR(pg_catalog.||) content_digest OPERATOR(pg_catalog.||) '"}')::pg_catalog.json
    FROM created;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    linked := ARRAY(SELECT id FROM created WHERE depends_on IS NOT NULL);
    IF pg_catalog.cardinality(linked) OPERATOR(pg_catalog.>) 0 THEN
        PERFORM %1$I.action_proposals_link(linked);
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_tell_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ended bigint[];
BEGIN
    -- The condition must be able to hold where a side is missing (coalesce), or the planner makes an inner join of it.
    INSERT INTO %1$I.action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at, version, details)
    SELECT changed.id,
        CASE
            WHEN changed.status OPERATOR(pg_catalog.<>) before.status THEN 'status_changed'
            WHEN changed.next_retry_at IS NULL THEN 'retry_cancelled'
            ELSE 'retry_scheduled'
        END,
        before.status, changed.status, changed.status_changed_by, changed.status_reason,
        pg_catalog.clock_timestamp(), changed.version,
        CASE WHEN changed.status OPERATOR(pg_catalog.<>) before.status THEN coalesce(
            '{"end_code":"' OPERATOR(pg_catalog.||) changed.end_code OPERATOR(pg_catalog.||) '"'
                OPERATOR(pg_catalog.||) coalesce(',' OPERATOR(pg_catalog.||) pg_catalog.substr(changed.status_cause, 2), '}'),
            changed.status_cause)::pg_catalog.json
        END
    FROM changed FULL JOIN before ON before.id OPERATOR(pg_catalog.=) changed.id
    WHERE changed.status OPERATOR(pg_catalog.<>) before.status
        OR coalesce(changed.next_retry_at, '-infinity') OPERATOR(pg_catalog.<>) coalesce(before.next_retry_at, '-infinity')
    ORDER BY changed.id;
    IF FOUND THEN
        IF pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
        -- Of what had ended badly before nothing is left to cancel.
        ended := ARRAY(
            SELECT id FROM changed
            WHERE status OPERATOR(pg_catalog.=) 'cancelled' OR status OPERATOR(pg_catalog.=) 'failed' AND next_retry_at IS NULL);
        IF pg_catalog.cardinality(ended) OPERATOR(pg_catalog.>) 0 THEN
            PERFORM %1$I.action_proposals_cancel_dependants(ended);
        END IF;
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
END $do$;

DROP TRIGGER IF EXISTS action_proposals_immutable ON action_proposals;

-- As in revision 0004. A digest that is missing is written once.
CREATE TRIGGER action_proposals_immutable
BEFORE UPDATE OF ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by,
    created_at, idempotency_key, priority, scheduled_at, expires_at, max_retries, retry_delay, max_retry_delay,
    workflow_id, depends_on, wait_on_failure,
    requester_id, requester_type, agent_id, run_id, parent_id, call_id, traceparent, content_digest
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
    OR NEW.traceparent IS DISTINCT FROM OLD.traceparent
    OR OLD.content_digest IS NOT NULL AND NEW.content_digest IS DISTINCT FROM OLD.content_digest)
EXECUTE FUNCTION action_ledger_refuse('what was proposed can not be edited');
