-- Revision 0008 on PostgreSQL. Statements end at a semicolon before a blank line.
--
-- How a limit holds for every writer. The guard of the proposals counts a start wherever something begins, under an advisory
-- lock of each limit that covers it, which lasts until the end of the transaction. It does so behind a flag, a sequence, as
-- for halts: down only while its value is the negative of the oid of action_limits, so that a restored copy of the ledger begins with
-- a flag that is up. The first limit raises it before it is written, and it stays up. Its value is the number of the transaction that
-- wrote the last limit. By that number, a transaction at REPEATABLE READ or above can tell that its snapshot is older than the
-- limit, and fails to be repeated (40001).
--
-- The starts of a limit are numbered without gaps, in the order of their times, with a running total of their amounts. So what is
-- used of a window is the difference of two rows, however many starts are in it, without those that were given back.
--
-- Advisory locks: (7302915, oid of action_limits) is held by a writer of limits. The hashes of the id of a limit and of an
-- exclusive key, both with that oid as the seed, are held by who starts something. A claim waits little for them: it passes
-- over what others are starting.

ALTER TABLE action_proposals ADD COLUMN exclusive_key TEXT;

-- Written so that the planner has no statistics of the status, and does not read all that is executing.
CREATE UNIQUE INDEX uq_action_proposals_exclusive ON action_proposals (exclusive_key) WHERE status || '' = 'executing' AND exclusive_key IS NOT NULL;

CREATE TABLE action_limits (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    action_name TEXT,
    agent_id TEXT,
    "window" DOUBLE PRECISION NOT NULL,
    max_starts BIGINT,
    sum_of JSON,
    max_sum BIGINT,
    set_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT statement_timestamp(),
    removed_at TIMESTAMP WITH TIME ZONE,
    removed_by TEXT,
    remove_reason TEXT,
    CONSTRAINT pk_action_limits PRIMARY KEY (id)
);

CREATE UNIQUE INDEX uq_action_limits_name ON action_limits (name) WHERE removed_at IS NULL;

CREATE TABLE action_starts (
    limit_id BIGINT NOT NULL,
    place BIGINT NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    proposal_id BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    total BIGINT NOT NULL,
    given_back_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_action_starts PRIMARY KEY (limit_id, place)
);

CREATE INDEX idx_action_starts_time ON action_starts (limit_id, started_at, place);

CREATE INDEX idx_action_starts_given_back ON action_starts (limit_id, started_at) WHERE given_back_at IS NOT NULL;

CREATE INDEX idx_action_starts_proposal ON action_starts (proposal_id, limit_id, place);

-- What begins, or gives a start back: a row is inserted, and none is ever in it. Its trigger has the rights that writers lack.
CREATE VIEW action_limits_asked AS
SELECT id AS proposal_id, action_name, agent_id, parameters, exclusive_key, false AS gives_back FROM action_proposals WHERE false;

CREATE SEQUENCE action_governance_flag AS BIGINT MINVALUE -9223372036854775808 OWNED BY action_limits.name;

SELECT setval('action_governance_flag', -('action_limits'::regclass::oid::bigint));

DO $do$
DECLARE
    limits text := quote_ident(current_schema()) || '.action_limits';
    flag text := quote_ident(current_schema()) || '.action_governance_flag';
BEGIN
    -- Whether no limit has ever been set.
    EXECUTE format($function$
CREATE FUNCTION action_limits_quiet() RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (pg_catalog.pg_sequence_last_value(%2$L::pg_catalog.regclass) OPERATOR(pg_catalog.=) (OPERATOR(pg_catalog.-) (%1$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int8)) IS TRUE;
END $$$function$, limits, flag);
    -- The keys of advisory locks.
    EXECUTE format($function$
CREATE FUNCTION action_limits_lock(kind text, what text) RETURNS bigint LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pg_catalog.hashtextextended(kind OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) what, (%1$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int8);
END $$$function$, limits);
    -- What is used of a limit now.
    EXECUTE format($function$
CREATE FUNCTION action_limits_used(of_limit bigint, length double precision, OUT starts bigint, OUT spent bigint) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    since timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(0, 0, 0, 0, 0, 0, length);
    earlier bigint;
    earlier_total bigint;
    returned bigint;
    returned_amount bigint;
BEGIN
    SELECT of.place, of.total INTO starts, spent FROM %1$I.action_starts AS of
    WHERE of.limit_id OPERATOR(pg_catalog.=) of_limit ORDER BY of.place DESC LIMIT 1;
    IF starts IS NULL THEN
        starts := 0;
        spent := 0;
        RETURN;
    END IF;
    SELECT of.place, of.total INTO earlier, earlier_total FROM %1$I.action_starts AS of
    WHERE of.limit_id OPERATOR(pg_catalog.=) of_limit AND of.started_at OPERATOR(pg_catalog.<=) since ORDER BY of.started_at DESC, of.place DESC LIMIT 1;
    SELECT pg_catalog.count(*), pg_catalog.sum(of.amount) INTO returned, returned_amount FROM %1$I.action_starts AS of
    WHERE of.limit_id OPERATOR(pg_catalog.=) of_limit AND of.given_back_at IS NOT NULL AND of.started_at OPERATOR(pg_catalog.>) since;
    starts := starts OPERATOR(pg_catalog.-) coalesce(earlier, 0) OPERATOR(pg_catalog.-) returned;
    spent := spent OPERATOR(pg_catalog.-) coalesce(earlier_total, 0) OPERATOR(pg_catalog.-) coalesce(returned_amount, 0);
END $$$function$, current_schema());
    -- Counts a start; the lock of the limit is held.
    EXECUTE format($function$
CREATE FUNCTION action_limits_count(of_limit bigint, proposal bigint, amount bigint) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    newest bigint;
    newest_total bigint;
    at timestamptz;
BEGIN
    SELECT of.place, of.total, of.started_at INTO newest, newest_total, at FROM %1$I.action_starts AS of
    WHERE of.limit_id OPERATOR(pg_catalog.=) of_limit ORDER BY of.place DESC LIMIT 1;
    BEGIN
        -- The clock may have been set back.
        INSERT INTO %1$I.action_starts (limit_id, place, started_at, proposal_id, amount, total)
        VALUES (of_limit, coalesce(newest, 0) OPERATOR(pg_catalog.+) 1, greatest(pg_catalog.clock_timestamp(), at), proposal, amount, coalesce(newest_total, 0) OPERATOR(pg_catalog.+) amount);
    EXCEPTION WHEN unique_violation THEN
        RAISE EXCEPTION USING
            ERRCODE = 'serialization_failure',
            MESSAGE = 'action_limits_count: another transaction has started something under this limit';
    END;
END $$$function$, current_schema());
    -- Counts the start of a proposal under every limit that covers it, and takes its exclusive key; or gives its last start back.
    EXECUTE format($function$
CREATE FUNCTION action_limits_start() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    newest bigint := pg_catalog.pg_sequence_last_value(%3$L::pg_catalog.regclass);
    held bigint[] := '{}';
    wanted bigint[];
    covering bigint;
    applied record;
    used record;
    amount bigint;
BEGIN
    IF pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.<) 2 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_starts_counted: only the triggers count starts and give them back';
    END IF;
    IF NEW.gives_back THEN
        UPDATE %1$I.action_starts AS start SET given_back_at = pg_catalog.clock_timestamp()
        WHERE start.proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id AND start.given_back_at IS NULL
            AND start.place OPERATOR(pg_catalog.=) (
                SELECT pg_catalog.max(last.place) FROM %1$I.action_starts AS last
                WHERE last.proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id AND last.limit_id OPERATOR(pg_catalog.=) start.limit_id)
            AND EXISTS (SELECT 1 FROM %1$I.action_limits AS bound WHERE bound.id OPERATOR(pg_catalog.=) start.limit_id AND bound.removed_at IS NULL);
        RETURN NULL;
    END IF;
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
                MESSAGE = 'action_limits_start: a limit was written after this transaction began';
        END IF;
    END IF;
    IF NEW.exclusive_key IS NOT NULL THEN
        IF pg_catalog.pg_advisory_xact_lock(%1$I.action_limits_lock('key', NEW.exclusive_key)) IS NULL THEN END IF;
        IF EXISTS (SELECT 1 FROM %1$I.action_proposals WHERE exclusive_key OPERATOR(pg_catalog.=) NEW.exclusive_key AND (status OPERATOR(pg_catalog.||) '') OPERATOR(pg_catalog.=) 'executing') THEN
            RAISE EXCEPTION USING
                ERRCODE = 'integrity_constraint_violation',
                MESSAGE = 'action_proposals_exclusive_busy: a proposal with the same exclusive key is executing';
        END IF;
    END IF;
    -- In ascending order. A limit may have been set or replaced while this waited.
    LOOP
        wanted := ARRAY(
            SELECT id FROM %1$I.action_limits
            WHERE removed_at IS NULL AND %1$I.action_limits_covers(action_name, agent_id, NEW.action_name, NEW.agent_id) ORDER BY id);
        EXIT WHEN wanted OPERATOR(pg_catalog.<@) held;
        FOREACH covering IN ARRAY wanted LOOP
            IF pg_catalog.pg_advisory_xact_lock(%1$I.action_limits_lock('limit', covering::pg_catalog.text)) IS NULL THEN END IF;
        END LOOP;
        held := wanted;
    END LOOP;
    FOR applied IN SELECT * FROM %1$I.action_limits WHERE id OPERATOR(pg_catalog.=) ANY (wanted) ORDER BY id LOOP
        SELECT * INTO used FROM %1$I.action_limits_used(applied.id, applied."window");
        amount := CASE WHEN applied.sum_of IS NULL THEN 0 ELSE %1$I.action_limits_amount(NEW.parameters, applied.sum_of) END;
        IF amount IS NULL OR used.starts OPERATOR(pg_catalog.>=) applied.max_starts OR used.spent OPERATOR(pg_catalog.>=) applied.max_sum
            OR amount OPERATOR(pg_catalog.>) (applied.max_sum OPERATOR(pg_catalog.-) used.spent) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'integrity_constraint_violation',
                MESSAGE = 'action_proposals_limit_reached: limit ' OPERATOR(pg_catalog.||) applied.id OPERATOR(pg_catalog.||)
                    CASE WHEN amount IS NULL THEN ' needs an integer in the parameters' ELSE ' is reached' END;
        END IF;
        PERFORM %1$I.action_limits_count(applied.id, NEW.proposal_id, amount);
    END LOOP;
    RETURN NULL;
END $$$function$, current_schema(), limits, flag);
    -- Those of the proposals of a claim, in its order, that may start together. It holds the locks that their starts need.
    EXECUTE format($function$
CREATE FUNCTION action_limits_admitted(ids bigint[]) RETURNS bigint[] LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    admitted bigint[] := '{}';
    kept bigint[];
    keys text[] := '{}';
    held bigint[] := '{}';
    busy bigint[] := '{}';
    wanted bigint[];
    covering bigint;
    given record;
    applied record;
    used record;
    started bigint;
    spent bigint;
    patience timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) '50 milliseconds'::pg_catalog.interval;
BEGIN
    FOR given IN
        SELECT proposal.id, proposal.exclusive_key
        FROM pg_catalog.unnest(ids) WITH ORDINALITY AS listed (id, place) JOIN %1$I.action_proposals AS proposal ON proposal.id OPERATOR(pg_catalog.=) listed.id
        ORDER BY listed.place
    LOOP
        IF given.exclusive_key IS NOT NULL THEN
            CONTINUE WHEN given.exclusive_key OPERATOR(pg_catalog.=) ANY (keys);
            CONTINUE WHEN NOT pg_catalog.pg_try_advisory_xact_lock(%1$I.action_limits_lock('key', given.exclusive_key));
            CONTINUE WHEN EXISTS (
                SELECT 1 FROM %1$I.action_proposals AS other
                WHERE other.exclusive_key OPERATOR(pg_catalog.=) given.exclusive_key AND (other.status OPERATOR(pg_catalog.||) '') OPERATOR(pg_catalog.=) 'executing');
            keys := keys OPERATOR(pg_catalog.||) given.exclusive_key;
        END IF;
        admitted := admitted OPERATOR(pg_catalog.||) given.id;
    END LOOP;
    LOOP
        wanted := ARRAY(
            SELECT bound.id FROM %1$I.action_limits AS bound
            WHERE bound.removed_at IS NULL AND EXISTS (
                SELECT 1 FROM %1$I.action_proposals AS proposal
                WHERE proposal.id OPERATOR(pg_catalog.=) ANY (admitted)
                    AND %1$I.action_limits_covers(bound.action_name, bound.agent_id, proposal.action_name, proposal.agent_id))
            ORDER BY bound.id);
        EXIT WHEN wanted OPERATOR(pg_catalog.<@) (held OPERATOR(pg_catalog.||) busy);
        FOREACH covering IN ARRAY wanted LOOP
            CONTINUE WHEN covering OPERATOR(pg_catalog.=) ANY (held) OR covering OPERATOR(pg_catalog.=) ANY (busy);
            WHILE NOT pg_catalog.pg_try_advisory_xact_lock(%1$I.action_limits_lock('limit', covering::pg_catalog.text)) LOOP
                IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) patience THEN
                    busy := busy OPERATOR(pg_catalog.||) covering;
                    EXIT;
                END IF;
                IF pg_catalog.pg_sleep(0.0005) IS NULL THEN END IF;
            END LOOP;
            held := held OPERATOR(pg_catalog.||) covering;
        END LOOP;
    END LOOP;
    FOR applied IN SELECT * FROM %1$I.action_limits AS bound WHERE bound.id OPERATOR(pg_catalog.=) ANY (wanted) ORDER BY bound.id LOOP
        SELECT * INTO used FROM %1$I.action_limits_used(applied.id, applied."window");
        started := used.starts;
        spent := used.spent;
        kept := '{}';
        FOR given IN
            SELECT proposal.id, %1$I.action_limits_covers(applied.action_name, applied.agent_id, proposal.action_name, proposal.agent_id) AS covered,
                CASE WHEN applied.sum_of IS NULL THEN 0 ELSE %1$I.action_limits_amount(proposal.parameters, applied.sum_of) END AS amount
            FROM pg_catalog.unnest(admitted) WITH ORDINALITY AS listed (id, place) JOIN %1$I.action_proposals AS proposal ON proposal.id OPERATOR(pg_catalog.=) listed.id
            ORDER BY listed.place
        LOOP
            IF given.covered THEN
                CONTINUE WHEN applied.id OPERATOR(pg_catalog.=) ANY (busy) OR given.amount IS NULL
                    OR started OPERATOR(pg_catalog.>=) applied.max_starts OR spent OPERATOR(pg_catalog.>=) applied.max_sum
                    OR given.amount OPERATOR(pg_catalog.>) (applied.max_sum OPERATOR(pg_catalog.-) spent);
                started := started OPERATOR(pg_catalog.+) 1;
                spent := spent OPERATOR(pg_catalog.+) given.amount;
            END IF;
            kept := kept OPERATOR(pg_catalog.||) given.id;
        END LOOP;
        admitted := kept;
    END LOOP;
    RETURN admitted;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_limits_guard() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    broken text;
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        IF OLD.removed_at IS NOT NULL OR NEW.removed_at IS NULL
            OR (pg_catalog.to_jsonb(NEW) OPERATOR(pg_catalog.-) '{removed_at,removed_by,remove_reason}'::pg_catalog.text[])
                OPERATOR(pg_catalog.<>) (pg_catalog.to_jsonb(OLD) OPERATOR(pg_catalog.-) '{removed_at,removed_by,remove_reason}'::pg_catalog.text[]) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'integrity_constraint_violation',
                MESSAGE = 'action_limits_immutable: a limit is removed once and never edited';
        END IF;
        -- What is starting under it is committed before a limit that replaces it counts.
        IF pg_catalog.pg_advisory_xact_lock(%1$I.action_limits_lock('limit', OLD.id::pg_catalog.text)) IS NULL THEN END IF;
        NEW.removed_at := pg_catalog.clock_timestamp();
        broken := CASE
            WHEN NOT coalesce(%1$I.action_ledger_is_text(NEW.removed_by, 255), false) THEN 'removed_by'
            WHEN NOT coalesce(%1$I.action_ledger_is_text(NEW.remove_reason, 65536), false) THEN 'remove_reason'
        END;
    ELSE
        IF pg_catalog.pg_advisory_xact_lock(7302915, (%2$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int4) IS NULL THEN END IF;
        IF pg_catalog.setval(%3$L::pg_catalog.regclass, pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8) IS NULL THEN END IF;
        NEW.created_at := pg_catalog.clock_timestamp();
        broken := CASE
            WHEN NOT (NEW.id OPERATOR(pg_catalog.>) 0 AND NEW.id OPERATOR(pg_catalog.<) 4611686018427387904) THEN 'id'
            WHEN NOT %1$I.action_ledger_is_text(NEW.name, 255) THEN 'name'
            WHEN NOT %1$I.action_ledger_is_text(NEW.action_name, 255) THEN 'action_name'
            WHEN NOT %1$I.action_ledger_is_text(NEW.agent_id, 255) THEN 'agent_id'
            -- NaN is greater than any number.
            WHEN NOT (NEW."window" OPERATOR(pg_catalog.>=) 0.001 AND NEW."window" OPERATOR(pg_catalog.<=) 31622400) THEN 'window'
            WHEN NOT (NEW.max_starts OPERATOR(pg_catalog.>=) 1 AND NEW.max_starts OPERATOR(pg_catalog.<=) 1000000000) THEN 'max_starts'
            WHEN NOT (NEW.max_sum OPERATOR(pg_catalog.>=) 1 AND NEW.max_sum OPERATOR(pg_catalog.<=) 1000000000000000) THEN 'max_sum'
            WHEN coalesce(NEW.max_starts, NEW.max_sum) IS NULL OR (NEW.max_sum IS NULL) OPERATOR(pg_catalog.<>) (NEW.sum_of IS NULL) THEN 'max_sum'
            WHEN NOT %1$I.action_limits_is_path(NEW.sum_of) THEN 'sum_of'
            WHEN NOT %1$I.action_ledger_is_text(NEW.set_by, 255) THEN 'set_by'
            WHEN NOT %1$I.action_ledger_is_text(NEW.reason, 65536) THEN 'reason'
            WHEN coalesce(NEW.removed_at::pg_catalog.text, NEW.removed_by, NEW.remove_reason) IS NOT NULL THEN 'removed'
        END;
    END IF;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_limits_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_limits" violates check constraint "ck_action_limits_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$$function$, current_schema(), limits, flag);
    -- Tells of a limit. A limit that is set counts what has started in its window before, from the history; an amount that can't
    -- be read is zero there.
    EXECUTE format($function$
CREATE FUNCTION action_limits_tell() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO %1$I.action_events (event_type, actor, reason, occurred_at, details)
    VALUES (
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN 'limit_set' ELSE 'limit_removed' END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN NEW.set_by ELSE NEW.removed_by END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN NEW.reason ELSE NEW.remove_reason END,
        pg_catalog.clock_timestamp(),
        pg_catalog.json_strip_nulls(pg_catalog.json_build_object(
            'limit', NEW.id, 'name', NEW.name, 'action_name', NEW.action_name, 'agent_id', NEW.agent_id, 'window', NEW."window",
            'max_starts', NEW.max_starts, 'sum_of', NEW.sum_of, 'max_sum', NEW.max_sum)));
    IF pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
        INSERT INTO %1$I.action_starts (limit_id, place, started_at, proposal_id, amount, total)
        SELECT NEW.id, pg_catalog.row_number() OVER earlier, started.occurred_at, started.proposal_id, started.amount,
            pg_catalog.sum(started.amount) OVER earlier
        FROM (
            SELECT event.id, event.occurred_at, event.proposal_id,
                CASE WHEN NEW.sum_of IS NULL THEN 0 ELSE least(coalesce(%1$I.action_limits_amount(proposal.parameters, NEW.sum_of), 0), NEW.max_sum) END AS amount
            FROM %1$I.action_events AS event JOIN %1$I.action_proposals AS proposal ON proposal.id OPERATOR(pg_catalog.=) event.proposal_id
            WHERE event.to_status OPERATOR(pg_catalog.=) 'executing'
                AND event.occurred_at OPERATOR(pg_catalog.>) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(0, 0, 0, 0, 0, 0, NEW."window"))
                AND %1$I.action_limits_covers(NEW.action_name, NEW.agent_id, proposal.action_name, proposal.agent_id)
                AND NOT %1$I.action_limits_unbegun(event.proposal_id, event.id)
        ) AS started
        WINDOW earlier AS (ORDER BY started.occurred_at, started.id);
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
    -- Whether the start that an event tells of is known not to have begun.
    EXECUTE format($function$
CREATE FUNCTION action_limits_unbegun(proposal bigint, start bigint) RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN coalesce((
        SELECT event.to_status OPERATOR(pg_catalog.=) 'failed' AND (event.details OPERATOR(pg_catalog.->>) 'end_code') OPERATOR(pg_catalog.=) 'not_begun'
        FROM %1$I.action_events AS event
        WHERE event.proposal_id OPERATOR(pg_catalog.=) proposal AND event.id OPERATOR(pg_catalog.>) start AND event.from_status OPERATOR(pg_catalog.=) 'executing'
        ORDER BY event.id LIMIT 1), false);
END $$$function$, current_schema());
END $do$;

-- Whether a limit of this action and agent is about a proposal. In a pattern, * is any text and ? any character. Identities are
-- compared in lower case. A proposal that names no agent is covered, as is one whose agent has other letters than printable
-- ASCII, which can't be compared here.
CREATE FUNCTION action_limits_covers(of_action text, of_agent text, action text, agent text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (of_action IS NULL OR (action COLLATE "C" OPERATOR(pg_catalog.~~) pg_catalog.translate(
            pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(of_action, '\', '\\'), '%', '\%'), '_', '\_'), '*?', '%_')) IS NOT FALSE)
        AND (of_agent IS NULL OR coalesce(agent, '') OPERATOR(pg_catalog.=) ''
            OR pg_catalog.lower(agent COLLATE "C") OPERATOR(pg_catalog.=) pg_catalog.lower(of_agent COLLATE "C")
            OR agent OPERATOR(pg_catalog.~) ('[^!-~]' COLLATE "C"));
END $$;

-- The integer at a path of the parameters, from 0 to 2^63 - 1; NULL if there is none, or if the path is not clear.
CREATE FUNCTION action_limits_amount(parameters json, path json) RETURNS bigint LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found json := parameters;
    step json;
    times bigint;
    value text;
    amount bigint;
BEGIN
    FOR depth IN 0 .. pg_catalog.json_array_length(path) OPERATOR(pg_catalog.-) 1 LOOP
        step := path OPERATOR(pg_catalog.->) depth;
        IF pg_catalog.json_typeof(found) OPERATOR(pg_catalog.=) 'object' AND pg_catalog.json_typeof(step) OPERATOR(pg_catalog.=) 'string' THEN
            SELECT pg_catalog.count(*), (pg_catalog.array_agg(member.value))[1] INTO times, found
            FROM pg_catalog.json_each(found) AS member
            WHERE member.key OPERATOR(pg_catalog.=) ((step OPERATOR(pg_catalog.#>>) '{}') COLLATE "C");
            IF times OPERATOR(pg_catalog.<>) 1 THEN
                RETURN NULL;
            END IF;
        ELSIF pg_catalog.json_typeof(found) OPERATOR(pg_catalog.=) 'array' AND pg_catalog.json_typeof(step) OPERATOR(pg_catalog.=) 'number' THEN
            found := found OPERATOR(pg_catalog.->) (step OPERATOR(pg_catalog.#>>) '{}')::pg_catalog.int4;
        ELSE
            RETURN NULL;
        END IF;
    END LOOP;
    value := found OPERATOR(pg_catalog.#>>) '{}';
    IF pg_catalog.json_typeof(found) OPERATOR(pg_catalog.=) 'number' AND value OPERATOR(pg_catalog.~) '^[0-9]{1,19}$' THEN
        amount := value;
    END IF;
    RETURN amount;
EXCEPTION WHEN others THEN
    RETURN NULL;
END $$;

CREATE FUNCTION action_limits_is_path(path json) RETURNS boolean LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN path IS NULL OR pg_catalog.json_typeof(path) OPERATOR(pg_catalog.=) 'array'
        AND pg_catalog.json_array_length(path) OPERATOR(pg_catalog.>) 0 AND pg_catalog.json_array_length(path) OPERATOR(pg_catalog.<=) 16
        AND NOT EXISTS (
            SELECT 1 FROM pg_catalog.json_array_elements(path) AS step (value)
            WHERE NOT (pg_catalog.json_typeof(step.value) OPERATOR(pg_catalog.=) 'string' AND pg_catalog.length(step.value OPERATOR(pg_catalog.#>>) '{}') OPERATOR(pg_catalog.<=) 1000
                OR pg_catalog.json_typeof(step.value) OPERATOR(pg_catalog.=) 'number' AND (step.value OPERATOR(pg_catalog.#>>) '{}') OPERATOR(pg_catalog.~) '^[0-9]{1,10}$'));
EXCEPTION WHEN others THEN
    RETURN false;
END $$;

REVOKE EXECUTE ON FUNCTION action_limits_start, action_limits_guard, action_limits_tell, action_limits_unbegun, action_limits_count FROM PUBLIC;

CREATE TRIGGER action_limits_start
INSTEAD OF INSERT ON action_limits_asked FOR EACH ROW
EXECUTE FUNCTION action_limits_start();

CREATE TRIGGER action_proposals_exclusive_fixed
BEFORE UPDATE OF exclusive_key ON action_proposals FOR EACH ROW
WHEN (NEW.exclusive_key IS DISTINCT FROM OLD.exclusive_key)
EXECUTE FUNCTION action_ledger_refuse('what was proposed can not be edited');

CREATE TRIGGER action_limits_guard
BEFORE INSERT OR UPDATE ON action_limits FOR EACH ROW
EXECUTE FUNCTION action_limits_guard();

CREATE TRIGGER action_limits_told
AFTER INSERT OR UPDATE ON action_limits FOR EACH ROW
EXECUTE FUNCTION action_limits_tell();

CREATE TRIGGER action_limits_not_deleted
BEFORE DELETE OR TRUNCATE ON action_limits FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('limits are never deleted');

CREATE TRIGGER action_starts_not_deleted
BEFORE DELETE OR TRUNCATE ON action_starts FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('starts are never deleted');

CREATE TRIGGER action_starts_counted
BEFORE INSERT OR UPDATE ON action_starts FOR EACH STATEMENT
WHEN (pg_trigger_depth() < 1)
EXECUTE FUNCTION action_ledger_refuse('only the triggers count starts and give them back');

-- Roles that may write proposals already need no new grant for it, or for asking about limits.
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
        EXECUTE format('GRANT SELECT ON action_limits, action_starts, action_governance_flag TO %s', CASE WHEN writer::oid = 0 THEN 'PUBLIC' ELSE writer::text END);
        EXECUTE format('GRANT INSERT ON action_limits_asked TO %s', CASE WHEN writer::oid = 0 THEN 'PUBLIC' ELSE writer::text END);
    END LOOP;
END $do$;
