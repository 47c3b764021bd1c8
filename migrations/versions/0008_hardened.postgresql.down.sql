-- What undoes revision 0008 on PostgreSQL. Statements end at a semicolon before a blank line.

-- Revision 0007 has no word for these; whoever keeps them was refused before.
ALTER TABLE action_events DISABLE TRIGGER USER;

DELETE FROM action_events WHERE event_type IN ('retry_scheduled', 'retry_cancelled');

ALTER TABLE action_events ENABLE TRIGGER USER;

DROP TRIGGER action_dependencies_linked ON action_dependencies;

DROP TRIGGER action_proposals_retries ON action_proposals;

DROP TRIGGER workflows_immutable ON workflows;

DROP TRIGGER workflows_guard ON workflows;

CREATE OR REPLACE FUNCTION action_ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'integrity_constraint_violation',
        MESSAGE = TG_NAME || ': ' || TG_ARGV[0];
END $$;

CREATE OR REPLACE FUNCTION tickets_touch() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    NEW.updated_at := to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS');
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION workflows_touch() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    NEW.updated_at := greatest(clock_timestamp(),
        CASE WHEN OLD.updated_at < '9998-01-01 00:00:00+00' THEN OLD.updated_at + interval '1 microsecond' END);
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION action_ledger_readable(document json) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    said pg_catalog.text := document;
BEGIN
    IF pg_catalog.json_typeof(document) OPERATOR(pg_catalog.<>) 'object' THEN
        RETURN false;
    ELSIF said OPERATOR(pg_catalog.!~) '[eE][+]?[0-9]{3}'
        AND (pg_catalog.strpos(said, '\u') OPERATOR(pg_catalog.=) 0 OR said OPERATOR(pg_catalog.!~) '\\u[dD][89a-fA-F]')
        AND (pg_catalog.length(said) OPERATOR(pg_catalog.<) 300
            OR said OPERATOR(pg_catalog.!~) '[0-9]{250}[0-9]{50}[0-9]*[.eE]'
            AND pg_catalog.length(pg_catalog.translate(said, '[{', '')) OPERATOR(pg_catalog.+) 190
                OPERATOR(pg_catalog.>) pg_catalog.length(said)) THEN
        RETURN true;
    END IF;
    BEGIN
        RETURN NOT pg_catalog.jsonb_path_exists(document::jsonb, '$.**{190 to last}')
            AND NOT pg_catalog.jsonb_path_exists(document::jsonb, '$.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))');
    EXCEPTION WHEN others THEN
        RETURN false;
    END;
END $$;

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

CREATE OR REPLACE FUNCTION action_records_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    undated pg_catalog.bool := ((NEW.success IS NULL AND NOT NEW.outcome_unknown) OPERATOR(pg_catalog.=) (NEW.completed_at IS NULL)) IS NOT TRUE
        OR NEW.outcome_unknown AND NEW.success IS NOT NULL;
    broken pg_catalog.text;
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        IF undated OR OLD.completed_at IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'integrity_constraint_violation',
                MESSAGE = 'action_records_immutable: an execution is ended once and never edited';
        END IF;
    ELSIF undated THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_records_outcome_dated: an outcome and its completed_at go together';
    END IF;
    broken := CASE
        WHEN NOT NEW.id OPERATOR(pg_catalog.>) 0 THEN 'id'
        WHEN NOT least(NEW.started_at, NEW.completed_at, NEW.created_at, NEW.lease_expires_at) OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'
            OR NOT greatest(NEW.started_at, NEW.completed_at, NEW.created_at, NEW.lease_expires_at) OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00' THEN 'times'
    END;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_records_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_records" violates check constraint "ck_action_records_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION action_proposals_link(ids bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    late bigint[];
BEGIN
    INSERT INTO action_dependencies (proposal_id, depends_on_id)
    SELECT DISTINCT id, needed::text::bigint
    FROM action_proposals, json_array_elements(depends_on) AS needed
    WHERE id = ANY (ids) AND depends_on IS NOT NULL;
    PERFORM 1 FROM action_proposals
    WHERE id = ANY (ARRAY(SELECT depends_on_id FROM action_dependencies WHERE proposal_id = ANY (ids)))
    ORDER BY id FOR SHARE;
    late := ARRAY(
        SELECT given.id FROM unnest(ids) AS given (id)
        WHERE (
            SELECT 1 FROM action_dependencies
            WHERE proposal_id = given.id AND (
                SELECT needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL
                FROM action_proposals needed WHERE needed.id = depends_on_id)
            LIMIT 1) = 1);
    IF cardinality(late) > 0 THEN
        UPDATE action_proposals
        SET status = 'cancelled', status_reason = 'a proposal that it depends on has failed or was cancelled',
            status_changed_by = 'ledger', status_changed_at = clock_timestamp(), cancelled_at = clock_timestamp()
        WHERE id = ANY (late) AND NOT wait_on_failure AND status || '' IN ('proposed', 'validated');
    END IF;
END $$;

CREATE OR REPLACE FUNCTION action_proposals_cancel_dependants(ids bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    mine text := pg_current_xact_id()::text || ' ';
    queue text := current_setting('operator_core.cascade', true);
    dependants bigint[];
BEGIN
    IF starts_with(queue, mine) THEN
        PERFORM set_config('operator_core.cascade', mine || (substr(queue, length(mine) + 1)::bigint[] || ids)::text, true);
        RETURN;
    END IF;
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_proposals_cascade: a proposal fails for good or is cancelled at READ COMMITTED only, where what depends on it by now is seen';
    END IF;
    LOOP
        dependants := ARRAY(
            SELECT edge.proposal_id FROM unnest(ids) AS ended (id)
            CROSS JOIN LATERAL (SELECT proposal_id FROM action_dependencies WHERE depends_on_id = ended.id OFFSET 0) AS edge);
        EXIT WHEN cardinality(dependants) = 0;
        PERFORM set_config('operator_core.cascade', mine || '{}', true);
        UPDATE action_proposals
        SET status = 'cancelled',
            -- All of a chain name its beginning.
            status_reason = (
                SELECT CASE
                    WHEN cause.status_changed_by = 'ledger' AND cause.status_reason LIKE 'proposal %, which it depends on, %' THEN cause.status_reason
                    ELSE 'proposal ' || cause.id || ', which it depends on, ' || CASE cause.status WHEN 'failed' THEN 'failed' ELSE 'was cancelled' END
                END
                FROM action_proposals cause
                WHERE cause.id = (
                    SELECT min(depends_on_id) FROM action_dependencies
                    WHERE proposal_id = action_proposals.id AND depends_on_id = ANY (ids))),
            status_changed_by = 'ledger', cancelled_at = clock_timestamp(),
            status_changed_at = greatest(clock_timestamp(),
                CASE WHEN status_changed_at < '9998-01-01 00:00:00+00' THEN status_changed_at + interval '1 microsecond' END)
        WHERE id = ANY (dependants) AND NOT wait_on_failure AND status || '' IN ('proposed', 'validated');
        ids := substr(current_setting('operator_core.cascade'), length(mine) + 1)::bigint[];
    END LOOP;
    PERFORM set_config('operator_core.cascade', '', true);
END $$;

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
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_records_tell_started() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
    SELECT proposal_id, id, event_type, success, actor, reason, pg_catalog.clock_timestamp()
    FROM (
        SELECT proposal_id, id, 'record_started' AS event_type, NULL::pg_catalog.bool AS success,
            coalesce(started_by, 'raw SQL') AS actor, NULL AS reason
        FROM started
        UNION ALL
        SELECT proposal_id, id, 'record_finished', success, coalesce(completed_by, 'raw SQL'), error_message
        FROM started WHERE completed_at IS NOT NULL
    ) AS told;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_records_tell_finished() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
    -- What has ended is never changed again, so that each of these was open before.
    INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
    SELECT proposal_id, id, 'record_finished', success, coalesce(completed_by, 'raw SQL'), error_message,
        pg_catalog.clock_timestamp()
    FROM changed WHERE completed_at IS NOT NULL;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    RETURN NULL;
END $$$function$, current_schema());
END $do$;

DROP FUNCTION action_proposals_cancel, action_proposals_waits, workflows_guard, action_ledger_is_list_of_ids, action_ledger_is_text;

ALTER TABLE action_events ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id()::text::bigint;

ALTER TABLE action_events
    DROP COLUMN version,
    DROP COLUMN worker;
