-- Revision 0002 on PostgreSQL. Statements end at a semicolon before a blank line.
--
-- Every name and operator in a function says its schema. Names without one are columns, and a trigger's own rows
-- (transition tables), which PostgreSQL looks for before any table. So no other schema and no setting of a session changes
-- what a function does. All but the four that run for each row have `search_path = pg_catalog, pg_temp` besides; those
-- four do without it, as it costs a row of a large INSERT a tenth of its time, and they run with the rights of the writer.
--
-- Nothing is decided by a setting or by the text of an actor; settings on the functions pin plans. A plan is kept for the
-- session, made for the statement that came first, often of one row. So a transition table is joined by FULL JOIN, which
-- is never a nested loop, and the functions over lists of ids leave the planner one way, which is linear in the list. They
-- are not compiled (jit) either: their estimated costs are high, and compiling takes longer than running.

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

-- A list of values in a CHECK is read anew, byte by byte, for each statement; a function's body once in a session.
CREATE FUNCTION action_ledger_is_action_type(value text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN value OPERATOR(pg_catalog.=) ANY ('{subject,tool,workflow}'::pg_catalog.text[]);
END $$;

CREATE FUNCTION action_ledger_is_status(value text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN value OPERATOR(pg_catalog.=) ANY ('{proposed,validated,executing,completed,failed,cancelled}'::pg_catalog.text[]);
END $$;

ALTER TABLE action_proposals
    ADD COLUMN status_changed_by TEXT,
    ADD COLUMN status_reason TEXT,
    ADD COLUMN status_changed_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN idempotency_key TEXT,
    ADD COLUMN priority INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN scheduled_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN expires_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN max_retries INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN retry_delay DOUBLE PRECISION NOT NULL DEFAULT 1,
    ADD COLUMN max_retry_delay DOUBLE PRECISION NOT NULL DEFAULT 300,
    ADD COLUMN retry_count INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN next_retry_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN last_error TEXT,
    ADD COLUMN version BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN workflow_id BIGINT,
    ADD COLUMN depends_on JSON,
    ADD COLUMN wait_on_failure BOOLEAN NOT NULL DEFAULT false,
    ADD CONSTRAINT fk_action_proposals_workflow_id_workflows FOREIGN KEY (workflow_id) REFERENCES workflows (id),
    ADD CONSTRAINT ck_action_proposals_action_type CHECK (action_ledger_is_action_type(action_type)),
    ADD CONSTRAINT ck_action_proposals_status CHECK (action_ledger_is_status(status));

ALTER TABLE action_records
    ADD COLUMN started_by TEXT,
    ADD COLUMN completed_by TEXT,
    ADD COLUMN worker TEXT,
    ADD COLUMN lease_expires_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN outcome_unknown BOOLEAN NOT NULL DEFAULT false;

CREATE TABLE action_dependencies (
    proposal_id BIGINT NOT NULL,
    depends_on_id BIGINT NOT NULL,
    CONSTRAINT pk_action_dependencies PRIMARY KEY (proposal_id, depends_on_id),
    CONSTRAINT fk_action_dependencies_proposal_id_action_proposals FOREIGN KEY (proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT fk_action_dependencies_depends_on_id_action_proposals FOREIGN KEY (depends_on_id) REFERENCES action_proposals (id),
    CONSTRAINT ck_action_dependencies_order CHECK (depends_on_id < proposal_id)
);

-- The key of followers. They read what is below the xmin of a snapshot, in the order of (transaction_id, id).
-- An event in flight has a key of at least its own transaction's, so what is below xmin is complete. The triggers
-- write an event when their transaction holds the proposal's row lock: whoever held it before has completed, and
-- the snapshot of each statement at READ COMMITTED sees that, so keys and ids of one proposal grow in the order in which
-- things happened. At REPEATABLE READ and above the snapshot is older. A proposal that was changed since can't be
-- changed or locked there (could not serialize access), so the order of its changes holds too; only two events of
-- records, which change no proposal, may come to followers in another order than that of their ids.
CREATE TABLE action_events (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    proposal_id BIGINT NOT NULL,
    record_id BIGINT,
    event_type TEXT NOT NULL,
    from_status TEXT,
    to_status TEXT,
    success BOOLEAN,
    actor TEXT NOT NULL,
    reason TEXT,
    occurred_at TIMESTAMP WITH TIME ZONE NOT NULL,
    transaction_id BIGINT NOT NULL DEFAULT greatest(pg_current_xact_id()::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1),
    version BIGINT,
    worker TEXT,
    CONSTRAINT pk_action_events PRIMARY KEY (id)
);

-- Adopted rows get the events that say where they came from, older than any transaction to come.
INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at, transaction_id)
SELECT id, 'proposal_created', status, 'migration', 'adopted', clock_timestamp(), 0
FROM action_proposals ORDER BY id;

INSERT INTO action_events (proposal_id, record_id, event_type, actor, reason, occurred_at, transaction_id)
SELECT proposal_id, id, 'record_started', 'migration', 'adopted', clock_timestamp(), 0
FROM action_records ORDER BY id;

INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at, transaction_id)
SELECT proposal_id, id, 'record_finished', success, 'migration', 'adopted', clock_timestamp(), 0
FROM action_records WHERE completed_at IS NOT NULL ORDER BY id;

DROP INDEX idx_action_proposals_status;

DROP INDEX idx_action_proposals_ticket;

DROP INDEX idx_action_records_proposal;

CREATE INDEX idx_action_proposals_status ON action_proposals (status, id);

-- Most proposals have no ticket, and each change of a row writes an entry to each of its indexes.
CREATE INDEX idx_action_proposals_ticket ON action_proposals (ticket_id, id) WHERE ticket_id IS NOT NULL;

CREATE INDEX idx_action_proposals_action_name ON action_proposals (action_name, id);

CREATE INDEX idx_action_proposals_proposed_by ON action_proposals (proposed_by, id);

CREATE UNIQUE INDEX uq_action_proposals_idempotency_key ON action_proposals (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- The planner has no statistics of the expression in the condition, and so no stale ones.
CREATE INDEX idx_action_proposals_due ON action_proposals (status, priority DESC, coalesce(next_retry_at, scheduled_at, created_at), id) WHERE status || '' = 'validated';

CREATE INDEX idx_action_proposals_expires ON action_proposals (status, expires_at) WHERE status IN ('proposed', 'validated') AND expires_at IS NOT NULL;

CREATE INDEX idx_action_proposals_retry ON action_proposals (status, next_retry_at) WHERE status = 'failed' AND next_retry_at IS NOT NULL;

CREATE INDEX idx_action_proposals_workflow ON action_proposals (workflow_id, id) WHERE workflow_id IS NOT NULL;

CREATE INDEX idx_action_records_proposal ON action_records (proposal_id, id);

CREATE INDEX idx_action_records_lease ON action_records (lease_expires_at) WHERE completed_at IS NULL AND lease_expires_at IS NOT NULL;

CREATE INDEX idx_action_events_proposal ON action_events (proposal_id, id);

CREATE INDEX idx_action_events_order ON action_events (transaction_id, id);

CREATE INDEX idx_action_dependencies_needed ON action_dependencies (depends_on_id, proposal_id);

-- Messages begin with the trigger's name, so that a log line says which promise was to be broken.
CREATE FUNCTION action_ledger_refuse() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'integrity_constraint_violation',
        MESSAGE = TG_NAME OPERATOR(pg_catalog.||) ': ' OPERATOR(pg_catalog.||) TG_ARGV[0];
END $$;

CREATE FUNCTION tickets_touch() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at := pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.clock_timestamp()), 'YYYY-MM-DD HH24:MI:SS');
    RETURN NEW;
END $$;

CREATE FUNCTION workflows_touch() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at := greatest(pg_catalog.clock_timestamp(), CASE WHEN OLD.updated_at OPERATOR(pg_catalog.<) '9998-01-01 00:00:00+00'
        THEN OLD.updated_at OPERATOR(pg_catalog.+) interval '1 microsecond' END);
    RETURN NEW;
END $$;

-- Whether the ledger can read these parameters: an object, no number that a float can't hold (an integer may
-- have any size), no half of a surrogate pair, not too deep. Only a text that contains something of the kind
-- is looked at closely; one expression for all would take seven times as long as these.
CREATE FUNCTION action_ledger_readable(document json) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
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
        RETURN NOT pg_catalog.jsonb_path_exists(document::pg_catalog.jsonb, '$.**{190 to last}')
            AND NOT pg_catalog.jsonb_path_exists(document::pg_catalog.jsonb, '$.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))');
    EXCEPTION WHEN others THEN
        RETURN false;
    END;
END $$;

-- Whether a text has from one to so many characters, one of which is no white space (Unicode's White_Space).
CREATE FUNCTION action_ledger_is_text(value text, most integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pg_catalog.length(value) OPERATOR(pg_catalog.<=) most
        AND pg_catalog.ltrim(value, E' \t\n\x0b\f\r\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000') OPERATOR(pg_catalog.<>) '';
END $$;

-- Whether these are the ids of at most a thousand proposals, each named once.
CREATE FUNCTION action_ledger_is_list_of_ids(document json) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF document::pg_catalog.text OPERATOR(pg_catalog.!~) '^[ \t\r\n]*\[([ \t\r\n]*[1-9][0-9]{0,18}[ \t\r\n]*(,[ \t\r\n]*[1-9][0-9]{0,18}[ \t\r\n]*)*|[ \t\r\n]*)\][ \t\r\n]*$' THEN
        RETURN false;
    END IF;
    RETURN (
        SELECT pg_catalog.count(*) OPERATOR(pg_catalog.<=) 1000 AND pg_catalog.count(*) OPERATOR(pg_catalog.=) pg_catalog.count(DISTINCT each.id)
            AND coalesce(pg_catalog.max(each.id) OPERATOR(pg_catalog.<) 4611686018427387904, true)
        FROM (
            SELECT element::pg_catalog.text::pg_catalog.numeric AS id
            FROM pg_catalog.json_array_elements(document) AS element
        ) AS each);
END $$;

-- Whether something that a proposal depends on is not completed.
DO $do$
BEGIN
    EXECUTE format($function$
CREATE FUNCTION action_proposals_waits(wanted bigint) RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN (
        SELECT true FROM %1$I.action_dependencies AS edge
        WHERE edge.proposal_id OPERATOR(pg_catalog.=) wanted AND (
            SELECT needed.status OPERATOR(pg_catalog.=) 'completed'
            FROM %1$I.action_proposals AS needed WHERE needed.id OPERATOR(pg_catalog.=) edge.depends_on_id
        ) IS NOT TRUE
        LIMIT 1
    ) IS NOT NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_proposals_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    refused pg_catalog.text;
    broken pg_catalog.text;
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
    END IF;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_proposals_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_proposals" violates check constraint "ck_action_proposals_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_records_guard() RETURNS trigger LANGUAGE plpgsql AS $$
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
    ELSE
        broken := CASE
            WHEN NOT (NEW.id OPERATOR(pg_catalog.>) 0 AND NEW.id OPERATOR(pg_catalog.<) 4611686018427387904) THEN 'id'
            WHEN NOT (pg_catalog.length(NEW.worker) OPERATOR(pg_catalog.<=) 255 AND pg_catalog.ascii(NEW.worker) OPERATOR(pg_catalog.>) 32 AND pg_catalog.ascii(NEW.worker) OPERATOR(pg_catalog.<) 127)
                AND NOT %1$I.action_ledger_is_text(NEW.worker, 255) THEN 'worker'
            WHEN NEW.worker IS NULL AND NEW.lease_expires_at IS NOT NULL THEN 'lease_expires_at'
        END;
    END IF;
    IF NOT least(NEW.started_at, NEW.completed_at, NEW.created_at, NEW.lease_expires_at) OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'
        OR NOT greatest(NEW.started_at, NEW.completed_at, NEW.created_at, NEW.lease_expires_at) OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00' THEN
        broken := 'times';
    ELSIF pg_catalog.length(NEW.error_message) OPERATOR(pg_catalog.>) 1048576 THEN
        broken := 'error_message';
    END IF;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_records_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_records" violates check constraint "ck_action_records_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION workflows_guard() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    broken pg_catalog.text := CASE
        WHEN NOT (NEW.id OPERATOR(pg_catalog.>) 0 AND NEW.id OPERATOR(pg_catalog.<) 4611686018427387904) THEN 'id'
        WHEN NOT %1$I.action_ledger_is_text(NEW.name, 255) THEN 'name'
        WHEN NEW.description IS NOT NULL AND NOT %1$I.action_ledger_is_text(NEW.description, 65536) THEN 'description'
    END;
BEGIN
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_workflows_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "workflows" violates check constraint "ck_workflows_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$$function$, current_schema());
    -- Called with the ids of proposals that were just written: their edges, and the end of those that depend on
    -- something that has ended badly already. What they depend on is locked meanwhile, so that it can't end badly
    -- without seeing them.
    EXECUTE format($function$
CREATE FUNCTION action_proposals_link(ids bigint[]) RETURNS void LANGUAGE plpgsql
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
            status_changed_by = 'ledger', cancelled_at = pg_catalog.clock_timestamp(),
            status_changed_at = greatest(pg_catalog.clock_timestamp(), CASE WHEN status_changed_at OPERATOR(pg_catalog.<) '9998-01-01 00:00:00+00'
                THEN status_changed_at OPERATOR(pg_catalog.+) interval '1 microsecond' END)
        WHERE id OPERATOR(pg_catalog.=) ANY (late) AND NOT wait_on_failure AND (status OPERATOR(pg_catalog.||) '') OPERATOR(pg_catalog.=) ANY ('{proposed,validated}'::pg_catalog.text[]);
    END IF;
END $$$function$, current_schema());
    -- Called with the ids of proposals that have ended badly. All that depends on them, through proposals that are pending
    -- and do not wait, is found, locked, and looked for again, until it is what is locked: one that somebody is just
    -- starting is not cancelled, and what depends on it must not be either; one that somebody has just written to depend
    -- on another is seen once that one is locked. Cancelling them comes here again, and finds nothing left.
    EXECUTE format($function$
CREATE FUNCTION action_proposals_cancel_dependants(ids bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    dependants bigint[];
    locked bigint[] := '{}';
BEGIN
    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) ALL ('{read committed,read uncommitted}'::pg_catalog.text[]) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_proposals_cascade: a proposal fails for good or is cancelled at READ COMMITTED only, where what depends on it by now is seen';
    END IF;
    LOOP
        dependants := ARRAY(
            WITH RECURSIVE reached (id) AS (
                SELECT ended.id FROM pg_catalog.unnest(ids) AS ended (id)
                UNION
                SELECT edge.proposal_id FROM reached
                CROSS JOIN LATERAL (
                    SELECT proposal_id FROM %1$I.action_dependencies
                    WHERE depends_on_id OPERATOR(pg_catalog.=) reached.id AND (
                        SELECT NOT wait_on_failure AND status OPERATOR(pg_catalog.=) ANY ('{proposed,validated}'::pg_catalog.text[])
                        FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) proposal_id)
                    OFFSET 0) AS edge
            )
            SELECT reached.id FROM reached
            EXCEPT SELECT ended.id FROM pg_catalog.unnest(ids) AS ended (id)
            ORDER BY 1);
        EXIT WHEN dependants OPERATOR(pg_catalog.=) locked;
        PERFORM 1 FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) ANY (dependants) ORDER BY id FOR NO KEY UPDATE;
        locked := dependants;
    END LOOP;
    IF pg_catalog.cardinality(locked) OPERATOR(pg_catalog.>) 0 THEN
        PERFORM %1$I.action_proposals_cancel(locked, ids);
    END IF;
END $$$function$, current_schema());
    -- Cancels proposals, ascending and locked, for the sake of others that have ended badly. All of a chain name its
    -- beginning, the first of several: an edge leads to a smaller id, so a cause is known before what it causes.
    EXECUTE format($function$
CREATE FUNCTION action_proposals_cancel(ids bigint[], ended bigint[]) RETURNS void LANGUAGE plpgsql
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
        status_changed_by = 'ledger', cancelled_at = pg_catalog.clock_timestamp(),
        status_changed_at = greatest(pg_catalog.clock_timestamp(), CASE WHEN dependant.status_changed_at OPERATOR(pg_catalog.<) '9998-01-01 00:00:00+00'
            THEN dependant.status_changed_at OPERATOR(pg_catalog.+) interval '1 microsecond' END)
    FROM ROWS FROM (pg_catalog.unnest(ids), pg_catalog.unnest(roots)) AS chain (id, root)
    JOIN %1$I.action_proposals AS root ON root.id OPERATOR(pg_catalog.=) chain.root
    WHERE dependant.id OPERATOR(pg_catalog.=) chain.id AND dependant.id OPERATOR(pg_catalog.=) ANY (ids) AND root.id OPERATOR(pg_catalog.=) ANY (ended);
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_proposals_tell_created() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    linked bigint[];
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, event_type, to_status, actor, reason, occurred_at, version)
    SELECT id, 'proposal_created', status, status_changed_by, reason, pg_catalog.clock_timestamp(), version
    FROM created;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    linked := ARRAY(SELECT id FROM created WHERE depends_on IS NOT NULL);
    IF pg_catalog.cardinality(linked) OPERATOR(pg_catalog.>) 0 THEN
        PERFORM %1$I.action_proposals_link(linked);
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_proposals_tell_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ended bigint[];
BEGIN
    -- The condition must be able to hold where a side is missing (coalesce), or the planner makes an inner join of it.
    INSERT INTO %1$I.action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at, version)
    SELECT changed.id,
        CASE
            WHEN changed.status OPERATOR(pg_catalog.<>) before.status THEN 'status_changed'
            WHEN changed.next_retry_at IS NULL THEN 'retry_cancelled'
            ELSE 'retry_scheduled'
        END,
        before.status, changed.status, changed.status_changed_by, changed.status_reason,
        pg_catalog.clock_timestamp(), changed.version
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
    -- The events of a record come in one order with those of its proposal: its row is locked first, unless this
    -- transaction has written it. In ascending order, as cascades do. An open record is of a proposal that has not ended, by what
    -- is committed by then.
    EXECUTE format($function$
CREATE FUNCTION action_records_tell_started() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
DECLARE
    others bigint[] := ARRAY(
        SELECT id FROM %1$I.action_proposals
        WHERE id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT proposal_id FROM started))
            AND (xmin OPERATOR(pg_catalog.<>) pg_catalog.pg_current_xact_id()::pg_catalog.xid
                OR (status OPERATOR(pg_catalog.||) '') OPERATOR(pg_catalog.=) ANY ('{completed,failed,cancelled}'::pg_catalog.text[])));
BEGIN
    IF pg_catalog.cardinality(others) OPERATOR(pg_catalog.>) 0 THEN
        PERFORM 1 FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) ANY (others) ORDER BY id FOR NO KEY UPDATE;
        PERFORM 1 FROM %1$I.action_proposals
        WHERE id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT proposal_id FROM started WHERE completed_at IS NULL))
            AND (status OPERATOR(pg_catalog.||) '') OPERATOR(pg_catalog.=) ANY ('{completed,failed,cancelled}'::pg_catalog.text[]);
        IF FOUND THEN
            RAISE EXCEPTION USING
                ERRCODE = 'integrity_constraint_violation',
                MESSAGE = 'action_records_proposal_ended: an execution starts before its proposal has ended';
        END IF;
    END IF;
    INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at, worker)
    SELECT proposal_id, id, event_type, success, actor, reason, pg_catalog.clock_timestamp(), worker
    FROM (
        SELECT proposal_id, id, 'record_started' AS event_type, NULL::pg_catalog.bool AS success,
            coalesce(started_by, 'raw SQL') AS actor, NULL AS reason, worker
        FROM started
        UNION ALL
        SELECT proposal_id, id, 'record_finished', success, coalesce(completed_by, 'raw SQL'), error_message, worker
        FROM started WHERE completed_at IS NOT NULL
    ) AS told;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_records_tell_finished() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
DECLARE
    others bigint[] := ARRAY(
        SELECT id FROM %1$I.action_proposals
        WHERE id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT proposal_id FROM changed WHERE completed_at IS NOT NULL))
            AND xmin OPERATOR(pg_catalog.<>) pg_catalog.pg_current_xact_id()::pg_catalog.xid);
BEGIN
    IF pg_catalog.cardinality(others) OPERATOR(pg_catalog.>) 0 THEN
        PERFORM 1 FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) ANY (others) ORDER BY id FOR NO KEY UPDATE;
    END IF;
    -- What has ended is never changed again, so that each of these was open before.
    INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at, worker)
    SELECT proposal_id, id, 'record_finished', success, coalesce(completed_by, 'raw SQL'), error_message,
        pg_catalog.clock_timestamp(), worker
    FROM changed WHERE completed_at IS NOT NULL;
    IF FOUND AND pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    RETURN NULL;
END $$$function$, current_schema());
END $do$;

REVOKE EXECUTE ON FUNCTION action_proposals_link, action_proposals_cancel_dependants, action_proposals_cancel,
    action_proposals_tell_created, action_proposals_tell_changed, action_records_tell_started, action_records_tell_finished
FROM PUBLIC;

CREATE TRIGGER tickets_updated_at
BEFORE UPDATE ON tickets FOR EACH ROW
WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at)
EXECUTE FUNCTION tickets_touch();

CREATE TRIGGER action_proposals_not_deleted
BEFORE DELETE OR TRUNCATE ON action_proposals FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('proposals are never deleted');

CREATE TRIGGER action_proposals_guard
BEFORE INSERT OR UPDATE ON action_proposals FOR EACH ROW
EXECUTE FUNCTION action_proposals_guard();

-- json has no equality of its own, and its text is what was proposed.
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

CREATE TRIGGER action_proposals_not_renumbered
BEFORE UPDATE OF id ON action_proposals FOR EACH ROW
WHEN (NEW.id IS DISTINCT FROM OLD.id)
EXECUTE FUNCTION action_ledger_refuse('an id never changes');

-- Of the statement and not of each row: a thousand proposals are one INSERT of a thousand events.
CREATE TRIGGER action_proposals_created
AFTER INSERT ON action_proposals REFERENCING NEW TABLE AS created FOR EACH STATEMENT
EXECUTE FUNCTION action_proposals_tell_created();

CREATE TRIGGER action_proposals_status_changed
AFTER UPDATE ON action_proposals REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT
EXECUTE FUNCTION action_proposals_tell_changed();

CREATE TRIGGER action_records_not_deleted
BEFORE DELETE OR TRUNCATE ON action_records FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('records are never deleted');

CREATE TRIGGER action_records_guard
BEFORE INSERT OR UPDATE ON action_records FOR EACH ROW
EXECUTE FUNCTION action_records_guard();

CREATE TRIGGER action_records_immutable
BEFORE UPDATE OF id, proposal_id, started_at, started_by, created_at, worker ON action_records FOR EACH ROW
WHEN (NEW.id IS DISTINCT FROM OLD.id
    OR NEW.proposal_id IS DISTINCT FROM OLD.proposal_id
    OR NEW.started_at IS DISTINCT FROM OLD.started_at
    OR NEW.started_by IS DISTINCT FROM OLD.started_by
    OR NEW.created_at IS DISTINCT FROM OLD.created_at
    OR NEW.worker IS DISTINCT FROM OLD.worker)
EXECUTE FUNCTION action_ledger_refuse('an execution is ended once and never edited');

CREATE TRIGGER action_records_started
AFTER INSERT ON action_records REFERENCING NEW TABLE AS started FOR EACH STATEMENT
EXECUTE FUNCTION action_records_tell_started();

CREATE TRIGGER action_records_finished
AFTER UPDATE ON action_records REFERENCING NEW TABLE AS changed FOR EACH STATEMENT
EXECUTE FUNCTION action_records_tell_finished();

CREATE TRIGGER action_events_not_updated
BEFORE UPDATE ON action_events FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('the history is append-only');

CREATE TRIGGER action_events_not_deleted
BEFORE DELETE OR TRUNCATE ON action_events FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('the history is append-only');

-- Nobody writes the history but the triggers of the rows that it is about, which have them at hand, and those rows are
-- never deleted or renumbered: so action_events has neither foreign keys nor checks, which would cost more than writing it.
CREATE TRIGGER action_events_told
BEFORE INSERT ON action_events FOR EACH STATEMENT
WHEN (pg_trigger_depth() < 1)
EXECUTE FUNCTION action_ledger_refuse('only the triggers write the history');

CREATE TRIGGER action_dependencies_not_changed
BEFORE UPDATE OR DELETE OR TRUNCATE ON action_dependencies FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('what was proposed can not be edited');

CREATE TRIGGER workflows_not_deleted
BEFORE DELETE OR TRUNCATE ON workflows FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('workflows are never deleted');

CREATE TRIGGER workflows_updated_at
BEFORE UPDATE ON workflows FOR EACH ROW
WHEN (NOT NEW.updated_at > OLD.updated_at)
EXECUTE FUNCTION workflows_touch();

CREATE TRIGGER action_proposals_retries
BEFORE UPDATE OF retry_count ON action_proposals FOR EACH ROW
WHEN (NEW.retry_count <> OLD.retry_count
    AND NOT (NEW.retry_count = OLD.retry_count + 1 AND OLD.status = 'failed' AND NEW.status = 'validated'))
EXECUTE FUNCTION action_ledger_refuse('a retry is counted when a failed proposal is validated again');

CREATE TRIGGER workflows_guard
BEFORE INSERT ON workflows FOR EACH ROW
EXECUTE FUNCTION workflows_guard();

CREATE TRIGGER workflows_immutable
BEFORE UPDATE OF id, name, description, ticket_id, created_at ON workflows FOR EACH ROW
WHEN (NEW.id IS DISTINCT FROM OLD.id
    OR NEW.name IS DISTINCT FROM OLD.name
    OR NEW.description IS DISTINCT FROM OLD.description
    OR NEW.ticket_id IS DISTINCT FROM OLD.ticket_id
    OR NEW.created_at IS DISTINCT FROM OLD.created_at)
EXECUTE FUNCTION action_ledger_refuse('a workflow never changes');

CREATE TRIGGER action_dependencies_linked
BEFORE INSERT ON action_dependencies FOR EACH STATEMENT
WHEN (pg_trigger_depth() < 1)
EXECUTE FUNCTION action_ledger_refuse('a proposal says what it depends on, and a trigger writes it down');
