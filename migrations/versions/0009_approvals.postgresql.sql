-- Revision 0009 on PostgreSQL. Statements end at a semicolon before a blank line. The file of conditions goes before it.
--
-- How rules hold for every writer. Before a proposal is written, a trigger asks whether any rule matches it. `approval` then says from
-- the start that approvals are needed. After the statement another trigger writes the requirements of these proposals: a snapshot, which
-- later rules don't change. So a proposal without a match costs one query, and the row of one that only waits is written once.
--
-- The first trigger stands behind a flag, a sequence, because reading one costs a seventh of the cheapest query. A change of a sequence
-- is in no transaction. The flag is down only while its value is the negative of the oid of action_rules, so that a restored copy of the
-- ledger begins with a flag that is up; the first rule or requirement raises it, and nothing takes it down. Up, it is the number of the
-- transaction that added the last rule. By that number, a transaction at REPEATABLE READ or above can tell that its snapshot is older
-- than the rule, and fails to be repeated (40001).
--
-- `approval` and `lapses_at` of a proposal only say what its requirements and decisions come to, so that a claim needs no other
-- table. Nobody sets them: who writes 'asked' makes the guard look again ('hold' says besides that a halt is in the way of the move).
-- The guard itself asks the requirements whenever a proposal is to be validated or started.

CREATE TABLE action_rules (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    action_name TEXT,
    action_type TEXT,
    agent_id TEXT,
    requester_type TEXT,
    conditions JSON NOT NULL DEFAULT '[]',
    effect TEXT NOT NULL DEFAULT 'require',
    approvals INTEGER NOT NULL DEFAULT 1,
    roles JSON,
    approvers JSON,
    allow_self BOOLEAN NOT NULL DEFAULT false,
    allow_agents BOOLEAN NOT NULL DEFAULT false,
    decide_within DOUBLE PRECISION,
    valid_for DOUBLE PRECISION,
    covers_retries BOOLEAN NOT NULL DEFAULT false,
    valid_from TIMESTAMP WITH TIME ZONE,
    valid_until TIMESTAMP WITH TIME ZONE,
    added_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT statement_timestamp(),
    revoked_at TIMESTAMP WITH TIME ZONE,
    revoked_by TEXT,
    revoke_reason TEXT,
    CONSTRAINT pk_action_rules PRIMARY KEY (id)
);

CREATE INDEX idx_action_rules_open ON action_rules (id) WHERE revoked_at IS NULL;

CREATE SEQUENCE action_rules_flag AS BIGINT MINVALUE -9223372036854775808 OWNED BY action_rules.name;

SELECT setval('action_rules_flag', -('action_rules'::regclass::oid::bigint));

CREATE TABLE action_requirements (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    proposal_id BIGINT NOT NULL,
    rule_id BIGINT,
    name TEXT NOT NULL,
    effect TEXT NOT NULL DEFAULT 'require',
    approvals INTEGER NOT NULL DEFAULT 1,
    roles JSON,
    approvers JSON,
    allow_self BOOLEAN NOT NULL DEFAULT false,
    allow_agents BOOLEAN NOT NULL DEFAULT false,
    decide_within DOUBLE PRECISION,
    valid_for DOUBLE PRECISION,
    covers_retries BOOLEAN NOT NULL DEFAULT false,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT statement_timestamp(),
    CONSTRAINT pk_action_requirements PRIMARY KEY (id),
    CONSTRAINT fk_action_requirements_proposal_id_action_proposals FOREIGN KEY (proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT fk_action_requirements_rule_id_action_rules FOREIGN KEY (rule_id) REFERENCES action_rules (id)
);

CREATE INDEX idx_action_requirements_proposal ON action_requirements (proposal_id, id);

CREATE TABLE action_grants (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    action_name TEXT,
    conditions JSON NOT NULL DEFAULT '[]',
    refutations JSON NOT NULL DEFAULT '[]',
    roles JSON NOT NULL DEFAULT '[]',
    max_uses INTEGER NOT NULL,
    valid_until TIMESTAMP WITH TIME ZONE NOT NULL,
    granted_by TEXT NOT NULL,
    grantor_key TEXT NOT NULL,
    grantor_type TEXT NOT NULL DEFAULT 'user',
    reason TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT statement_timestamp(),
    revoked_at TIMESTAMP WITH TIME ZONE,
    revoked_by TEXT,
    revoke_reason TEXT,
    CONSTRAINT pk_action_grants PRIMARY KEY (id)
);

CREATE INDEX idx_action_grants_open ON action_grants (id) WHERE revoked_at IS NULL;

CREATE TABLE action_decisions (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    proposal_id BIGINT NOT NULL,
    kind TEXT NOT NULL,
    decided_by TEXT NOT NULL,
    decider_key TEXT NOT NULL,
    decider_type TEXT NOT NULL DEFAULT 'user',
    roles JSON NOT NULL DEFAULT '[]',
    digest TEXT,
    comment TEXT,
    requirement_id BIGINT,
    grant_id BIGINT,
    withdraws_id BIGINT,
    validates BOOLEAN NOT NULL DEFAULT true,
    after_event BIGINT NOT NULL DEFAULT -1,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT statement_timestamp(),
    CONSTRAINT pk_action_decisions PRIMARY KEY (id),
    CONSTRAINT fk_action_decisions_proposal_id_action_proposals FOREIGN KEY (proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT fk_action_decisions_requirement_id_action_requirements FOREIGN KEY (requirement_id) REFERENCES action_requirements (id),
    CONSTRAINT fk_action_decisions_grant_id_action_grants FOREIGN KEY (grant_id) REFERENCES action_grants (id),
    CONSTRAINT fk_action_decisions_withdraws_id_action_decisions FOREIGN KEY (withdraws_id) REFERENCES action_decisions (id)
);

CREATE INDEX idx_action_decisions_proposal ON action_decisions (proposal_id, id);

CREATE UNIQUE INDEX uq_action_decisions_withdraws ON action_decisions (withdraws_id) WHERE withdraws_id IS NOT NULL;

CREATE INDEX idx_action_decisions_grant ON action_decisions (grant_id) WHERE grant_id IS NOT NULL;

ALTER TABLE action_proposals
    ADD COLUMN approval TEXT,
    ADD COLUMN lapses_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN identity_keys JSON,
    ADD COLUMN supersedes_id BIGINT,
    ADD CONSTRAINT fk_action_proposals_supersedes_id_action_proposals FOREIGN KEY (supersedes_id) REFERENCES action_proposals (id);

-- What waits for people, and what they have approved.
CREATE INDEX idx_action_proposals_approval ON action_proposals (approval, id) WHERE approval IS NOT NULL AND status <> 'completed' AND status <> 'cancelled' AND (status <> 'failed' OR next_retry_at IS NOT NULL);

-- For the sweep of each claim.
CREATE INDEX idx_action_proposals_lapses ON action_proposals (status, lapses_at) WHERE lapses_at IS NOT NULL;

CREATE INDEX idx_action_proposals_supersedes ON action_proposals (supersedes_id) WHERE supersedes_id IS NOT NULL;

-- Whether this is a list of at most a hundred names, in lower case as far as SQL can tell: identities are compared normalised.
CREATE FUNCTION action_ledger_is_list_of_names(document json) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pg_catalog.json_typeof(document) OPERATOR(pg_catalog.=) 'array' AND pg_catalog.json_array_length(document) OPERATOR(pg_catalog.<=) 100 AND NOT EXISTS (
        SELECT 1 FROM pg_catalog.json_array_elements(document) AS each (name)
        WHERE pg_catalog.json_typeof(each.name) OPERATOR(pg_catalog.<>) 'string' OR pg_catalog.length(each.name OPERATOR(pg_catalog.#>>) '{}') OPERATOR(pg_catalog.>) 255 OR pg_catalog.btrim(each.name OPERATOR(pg_catalog.#>>) '{}') OPERATOR(pg_catalog.=) ''
            OR (each.name OPERATOR(pg_catalog.#>>) '{}') OPERATOR(pg_catalog.<>) pg_catalog.lower((each.name OPERATOR(pg_catalog.#>>) '{}') COLLATE pg_catalog."C"));
EXCEPTION WHEN others THEN
    -- An escape that is no character.
    RETURN false;
END $$;

-- Whether a key can be the normalised form of an identity. For printable ASCII without spaces that is lower case; of others, SQL can't tell.
CREATE FUNCTION action_ledger_is_key(key text, identity text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pg_catalog.length(key) OPERATOR(pg_catalog.<=) 1024 AND pg_catalog.btrim(key) OPERATOR(pg_catalog.<>) '' AND key OPERATOR(pg_catalog.=) pg_catalog.lower(key COLLATE pg_catalog."C")
        AND (key OPERATOR(pg_catalog.=) pg_catalog.lower(identity COLLATE pg_catalog."C") OR identity OPERATOR(pg_catalog.~) ('[^!-~]' COLLATE pg_catalog."C"));
END $$;

DO $do$
BEGIN
    -- Whether so many approvals by these roles and approvers are possible; NULL stands for any.
    EXECUTE format($function$
CREATE FUNCTION action_requirements_possible(approvals integer, roles json, approvers json) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named bigint;
BEGIN
    IF NOT (approvals OPERATOR(pg_catalog.>=) 1 AND approvals OPERATOR(pg_catalog.<=) 20) THEN
        RETURN false;
    END IF;
    IF roles IS NOT NULL THEN
        IF NOT %1$I.action_ledger_is_list_of_names(roles) OR pg_catalog.json_array_length(roles) OPERATOR(pg_catalog.=) 0 THEN
            RETURN false;
        END IF;
    END IF;
    IF approvers IS NOT NULL THEN
        IF NOT %1$I.action_ledger_is_list_of_names(approvers) THEN
            RETURN false;
        END IF;
        named := (SELECT pg_catalog.count(DISTINCT each.name) FROM pg_catalog.json_array_elements_text(approvers) AS each (name));
        RETURN named OPERATOR(pg_catalog.>=) approvals;
    END IF;
    RETURN true;
END $$$function$, current_schema());
    -- Whether a decider is the requester, the agent or the proposer, or may be: an identity whose key SQL can't tell is anybody's.
    EXECUTE format($function$
CREATE FUNCTION action_requirements_excludes(key text, requester text, agent text, proposer text, keys json) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (requester IS NOT NULL AND %1$I.action_ledger_identity_matches(key, requester, keys OPERATOR(pg_catalog.->>) 'requester_id'))
        OR (agent IS NOT NULL AND %1$I.action_ledger_identity_matches(key, agent, keys OPERATOR(pg_catalog.->>) 'agent_id'))
        OR (proposer IS NOT NULL AND %1$I.action_ledger_identity_matches(key, proposer, keys OPERATOR(pg_catalog.->>) 'proposed_by'));
END $$$function$, current_schema());
END $do$;

-- Which approval can count for which requirement now.
CREATE VIEW action_votes AS
SELECT decision.proposal_id, decision.id AS decision_id, requirement.id AS requirement_id, decision.decider_key,
    decision.created_at + requirement.valid_for * interval '1 second' AS valid_until
FROM action_decisions AS decision
JOIN action_requirements AS requirement ON requirement.proposal_id = decision.proposal_id
JOIN action_proposals AS proposal ON proposal.id = decision.proposal_id
WHERE decision.kind = 'approved' AND requirement.effect = 'require'
    AND decision.digest = proposal.content_digest
    AND (decision.requirement_id IS NULL OR decision.requirement_id = requirement.id)
    AND (requirement.roles IS NULL OR EXISTS (
        SELECT 1 FROM json_array_elements_text(requirement.roles) AS wanted (role) JOIN json_array_elements_text(decision.roles) AS claimed (role) ON claimed.role = wanted.role))
    AND (requirement.approvers IS NULL OR EXISTS (SELECT 1 FROM json_array_elements_text(requirement.approvers) AS named (key) WHERE named.key = decision.decider_key))
    AND (requirement.allow_agents OR decision.decider_type <> 'agent')
    AND (requirement.allow_self OR NOT action_requirements_excludes(decision.decider_key, proposal.requester_id, proposal.agent_id, proposal.proposed_by, proposal.identity_keys))
    AND NOT EXISTS (SELECT 1 FROM action_decisions AS later WHERE later.withdraws_id = decision.id)
    AND (requirement.valid_for IS NULL OR decision.created_at + requirement.valid_for * interval '1 second' > statement_timestamp())
    -- A start uses an approval up, unless it is known not to have begun.
    AND (requirement.covers_retries OR (
        SELECT count(*) FILTER (WHERE event.to_status = 'executing') <= count(*) FILTER (WHERE event.to_status = 'failed' AND event.details ->> 'end_code' = 'not_begun')
        FROM action_events AS event WHERE event.proposal_id = decision.proposal_id AND event.id > decision.after_event AND event.to_status IS NOT NULL));

DO $do$
DECLARE
    rules text := quote_ident(current_schema()) || '.action_rules';
    flag text := quote_ident(current_schema()) || '.action_rules_flag';
    -- Whether a rule matches a new proposal: asked before it is written, and again for the requirements.
    fits text := format($fits$rule.revoked_at IS NULL
            AND (rule.valid_from IS NULL OR rule.valid_from OPERATOR(pg_catalog.<=) pg_catalog.statement_timestamp())
            AND (rule.valid_until IS NULL OR rule.valid_until OPERATOR(pg_catalog.>) pg_catalog.statement_timestamp())
            AND (rule.action_type IS NULL OR rule.action_type OPERATOR(pg_catalog.=) new.action_type)
            AND (rule.requester_type IS NULL OR new.requester_type IS NULL OR rule.requester_type OPERATOR(pg_catalog.=) new.requester_type)
            AND (rule.action_name IS NULL OR new.action_name OPERATOR(pg_catalog.~~) (pg_catalog.translate(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
                rule.action_name, '\', '\\'), '%%', '\%%'), '_', '\_'), '*?', '%%_') COLLATE pg_catalog."C"))
            AND (rule.agent_id IS NULL OR %1$I.action_ledger_identity_matches(rule.agent_id, new.agent_id, new.identity_keys OPERATOR(pg_catalog.->>) 'agent_id'))
            AND (rule.conditions::pg_catalog.text OPERATOR(pg_catalog.=) '[]' OR %1$I.action_ledger_condition_matches(new.parameters, rule.conditions))$fits$, current_schema());
BEGIN
    -- Whether the requirements of a proposal are met. Each approval counts for at most one of them, and they are met if any assignment
    -- meets them: that is so if, and only if, each set of requirements has as many approvals that fit at least one of them as the set
    -- needs (Hall's theorem, P. Hall, On Representatives of Subsets, 1935).
    EXECUTE format($function$
CREATE FUNCTION action_requirements_met(of_proposal bigint) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids bigint[];
    needs bigint[];
    votes bigint[];
    needed bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM %1$I.action_decisions WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal) THEN
        RETURN NOT EXISTS (SELECT 1 FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal);
    ELSIF EXISTS (SELECT 1 FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal AND effect OPERATOR(pg_catalog.=) 'deny')
        OR EXISTS (SELECT 1 FROM %1$I.action_decisions WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal AND kind OPERATOR(pg_catalog.=) 'rejected') THEN
        RETURN false;
    END IF;
    ids := ARRAY(SELECT id FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal ORDER BY id);
    needs := ARRAY(SELECT approvals FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal ORDER BY id);
    votes := ARRAY(
        SELECT pg_catalog.bit_or(1::bigint OPERATOR(pg_catalog.<<) (pg_catalog.array_position(ids, requirement_id) OPERATOR(pg_catalog.-) 1)) FROM %1$I.action_votes
        WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal GROUP BY decider_key);
    FOR chosen IN 1 .. (1 OPERATOR(pg_catalog.<<) pg_catalog.cardinality(ids)) OPERATOR(pg_catalog.-) 1 LOOP
        needed := 0;
        FOR place IN 1 .. pg_catalog.cardinality(ids) LOOP
            IF (chosen OPERATOR(pg_catalog.&) (1 OPERATOR(pg_catalog.<<) (place OPERATOR(pg_catalog.-) 1))) OPERATOR(pg_catalog.<>) 0 THEN
                needed := needed OPERATOR(pg_catalog.+) needs[place];
            END IF;
        END LOOP;
        IF (SELECT pg_catalog.count(*) FROM pg_catalog.unnest(votes) AS vote (mask) WHERE (vote.mask OPERATOR(pg_catalog.&) chosen) OPERATOR(pg_catalog.<>) 0) OPERATOR(pg_catalog.<) needed THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END $$$function$, current_schema());
    -- When a proposal in this status is cancelled unless something is decided or started: NULL for never.
    EXECUTE format($function$
CREATE FUNCTION action_requirements_lapse(of_proposal bigint, of_status text, met boolean, since timestamp with time zone) RETURNS timestamp with time zone LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF met AND of_status OPERATOR(pg_catalog.=) ANY ('{proposed,validated,failed}'::pg_catalog.text[]) THEN
        RETURN (SELECT pg_catalog.min(valid_until) FROM %1$I.action_votes WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal);
    ELSIF of_status OPERATOR(pg_catalog.=) 'validated' OR of_status OPERATOR(pg_catalog.=) 'proposed' THEN
        RETURN (
            SELECT pg_catalog.min(since OPERATOR(pg_catalog.+) (decide_within OPERATOR(pg_catalog.*) '1 second'::pg_catalog.interval)) FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal);
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_rules_guard() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    broken text;
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        IF OLD.revoked_at IS NOT NULL OR NEW.revoked_at IS NULL
            OR (pg_catalog.to_jsonb(NEW) OPERATOR(pg_catalog.-) '{revoked_at,revoked_by,revoke_reason}'::pg_catalog.text[])
                OPERATOR(pg_catalog.<>) (pg_catalog.to_jsonb(OLD) OPERATOR(pg_catalog.-) '{revoked_at,revoked_by,revoke_reason}'::pg_catalog.text[]) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'integrity_constraint_violation',
                MESSAGE = TG_TABLE_NAME OPERATOR(pg_catalog.||) '_immutable: it is revoked once and never edited';
        END IF;
        NEW.revoked_at := pg_catalog.clock_timestamp();
        broken := CASE
            WHEN NOT coalesce(%1$I.action_ledger_is_text(NEW.revoked_by, 255), false) THEN 'revoked_by'
            WHEN NOT coalesce(%1$I.action_ledger_is_text(NEW.revoke_reason, 65536), false) THEN 'revoke_reason'
        END;
    ELSE
        IF pg_catalog.setval(%3$L::pg_catalog.regclass, pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8) IS NULL THEN END IF;
        NEW.created_at := pg_catalog.clock_timestamp();
        broken := CASE
            WHEN NOT (NEW.id OPERATOR(pg_catalog.>) 0 AND NEW.id OPERATOR(pg_catalog.<) 4611686018427387904) THEN 'id'
            WHEN NOT %1$I.action_ledger_is_text(NEW.name, 255) THEN 'name'
            WHEN NOT %1$I.action_ledger_is_text(NEW.action_name, 255) THEN 'action_name'
            WHEN NEW.action_type OPERATOR(pg_catalog.<>) ALL ('{subject,tool,workflow}'::pg_catalog.text[]) THEN 'action_type'
            WHEN NEW.agent_id OPERATOR(pg_catalog.<>) pg_catalog.lower(NEW.agent_id COLLATE pg_catalog."C") OR NOT %1$I.action_ledger_is_text(NEW.agent_id, 255) THEN 'agent_id'
            WHEN NEW.requester_type OPERATOR(pg_catalog.<>) ALL ('{user,system,agent}'::pg_catalog.text[]) THEN 'requester_type'
            WHEN pg_catalog.json_typeof(NEW.conditions) OPERATOR(pg_catalog.<>) 'array' OR pg_catalog.length(NEW.conditions::pg_catalog.text) OPERATOR(pg_catalog.>) 65536 THEN 'conditions'
            WHEN NEW.effect OPERATOR(pg_catalog.<>) ALL ('{require,deny}'::pg_catalog.text[]) THEN 'effect'
            WHEN NOT %1$I.action_requirements_possible(NEW.approvals, NEW.roles, NEW.approvers) THEN 'approvers'
            WHEN NOT (NEW.decide_within OPERATOR(pg_catalog.>) 0 AND NEW.decide_within OPERATOR(pg_catalog.<=) 31622400) THEN 'decide_within'
            WHEN NOT (NEW.valid_for OPERATOR(pg_catalog.>) 0 AND NEW.valid_for OPERATOR(pg_catalog.<=) 31622400) THEN 'valid_for'
            WHEN NOT least(NEW.valid_from, NEW.valid_until) OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00'
                OR NOT greatest(NEW.valid_from, NEW.valid_until) OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00'
                OR NEW.valid_until OPERATOR(pg_catalog.<=) NEW.valid_from THEN 'times'
            WHEN NOT %1$I.action_ledger_is_text(NEW.added_by, 255) THEN 'added_by'
            WHEN NOT %1$I.action_ledger_is_text(NEW.reason, 65536) THEN 'reason'
            WHEN coalesce(NEW.revoked_at::pg_catalog.text, NEW.revoked_by, NEW.revoke_reason) IS NOT NULL THEN 'revoked'
        END;
    END IF;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_rules_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_rules" violates check constraint "ck_action_rules_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$$function$, current_schema(), rules, flag);
    EXECUTE format($function$
CREATE FUNCTION action_rules_tell() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO %1$I.action_events (event_type, actor, reason, occurred_at, details)
    VALUES (
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN 'rule_added' ELSE 'rule_revoked' END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN NEW.added_by ELSE NEW.revoked_by END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN NEW.reason ELSE NEW.revoke_reason END,
        pg_catalog.clock_timestamp(), ('{"rule":' OPERATOR(pg_catalog.||) NEW.id OPERATOR(pg_catalog.||) '}')::pg_catalog.json);
    IF pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    RETURN NULL;
END $$$function$, current_schema());
    -- Says of a new proposal that approvals are needed, if a rule matches it. It refuses what has begun without them.
    EXECUTE format($function$
CREATE FUNCTION action_rules_ask() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newest bigint := pg_catalog.pg_sequence_last_value(%3$L::pg_catalog.regclass);
    matched bigint;
    denied boolean;
    soonest double precision;
BEGIN
    IF NEW.status OPERATOR(pg_catalog.=) 'completed' OR NEW.status OPERATOR(pg_catalog.=) 'cancelled' THEN
        RETURN NEW;
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
                MESSAGE = 'action_rules_ask: a rule was written after this transaction began';
        END IF;
    END IF;
    SELECT pg_catalog.min(rule.id), pg_catalog.bool_or(rule.effect OPERATOR(pg_catalog.=) 'deny'), pg_catalog.min(rule.decide_within) INTO matched, denied, soonest
    FROM %1$I.action_rules AS rule WHERE %4$s;
    IF matched IS NULL THEN
        RETURN NEW;
    ELSIF NOT denied AND NEW.status OPERATOR(pg_catalog.=) ANY ('{validated,executing}'::pg_catalog.text[]) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_proposals_approval_required: rule ' OPERATOR(pg_catalog.||) matched OPERATOR(pg_catalog.||) ' asks for an approval first';
    END IF;
    NEW.approval := 'needed';
    IF NEW.status OPERATOR(pg_catalog.=) ANY ('{proposed,validated}'::pg_catalog.text[]) THEN
        NEW.lapses_at := NEW.created_at OPERATOR(pg_catalog.+) (soonest OPERATOR(pg_catalog.*) '1 second'::pg_catalog.interval);
    END IF;
    RETURN NEW;
END $$$function$, current_schema(), rules, flag, fits);
    -- Writes what the rules require of new proposals, and cancels those that are denied. In a loop, because PostgreSQL would plan a join
    -- with the array anew each time.
    EXECUTE format($function$
CREATE FUNCTION action_rules_apply(ids bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked bigint;
    new record;
    denial bigint;
    granted boolean := EXISTS (SELECT 1 FROM %1$I.action_grants WHERE revoked_at IS NULL);
BEGIN
    FOREACH asked IN ARRAY ids LOOP
        SELECT * INTO new FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) asked;
        INSERT INTO %1$I.action_requirements (proposal_id, rule_id, name, effect, approvals, roles, approvers, allow_self, allow_agents, decide_within, valid_for, covers_retries)
        SELECT new.id, rule.id, rule.name, rule.effect, rule.approvals, rule.roles, rule.approvers, rule.allow_self, rule.allow_agents, rule.decide_within, rule.valid_for, rule.covers_retries
        FROM %1$I.action_rules AS rule WHERE %3$s ORDER BY rule.id;
        IF NOT FOUND THEN
            -- Its rules have been revoked since it was written.
            UPDATE %1$I.action_proposals SET approval = 'asked' WHERE id OPERATOR(pg_catalog.=) asked;
            CONTINUE;
        END IF;
        denial := (SELECT pg_catalog.min(rule_id) FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) asked AND effect OPERATOR(pg_catalog.=) 'deny');
        IF denial IS NOT NULL AND new.status OPERATOR(pg_catalog.<>) 'failed' THEN
            UPDATE %1$I.action_proposals
            SET status = 'cancelled', status_changed_by = 'ledger', end_code = 'denied', cancelled_at = pg_catalog.clock_timestamp(),
                status_reason = 'rule ' OPERATOR(pg_catalog.||) denial OPERATOR(pg_catalog.||) ' denies it', status_cause = '{"rule":' OPERATOR(pg_catalog.||) denial OPERATOR(pg_catalog.||) '}',
                status_changed_at = greatest(pg_catalog.clock_timestamp(), status_changed_at OPERATOR(pg_catalog.+) '1 microsecond'::pg_catalog.interval)
            WHERE id OPERATOR(pg_catalog.=) asked;
        ELSIF granted THEN
            PERFORM %1$I.action_grants_use(asked);
        END IF;
    END LOOP;
END $$$function$, current_schema(), rules, fits);
    EXECUTE format($function$
CREATE FUNCTION action_requirements_guard() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_proposal record;
    broken text := CASE
        WHEN NOT (NEW.id OPERATOR(pg_catalog.>) 0 AND NEW.id OPERATOR(pg_catalog.<) 4611686018427387904) THEN 'id'
        WHEN NOT %1$I.action_ledger_is_text(NEW.name, 255) THEN 'name'
        WHEN NEW.effect OPERATOR(pg_catalog.<>) ALL ('{require,deny}'::pg_catalog.text[]) THEN 'effect'
        WHEN NOT %1$I.action_requirements_possible(NEW.approvals, NEW.roles, NEW.approvers) THEN 'approvers'
        WHEN NOT (NEW.decide_within OPERATOR(pg_catalog.>) 0 AND NEW.decide_within OPERATOR(pg_catalog.<=) 31622400) THEN 'decide_within'
        WHEN NOT (NEW.valid_for OPERATOR(pg_catalog.>) 0 AND NEW.valid_for OPERATOR(pg_catalog.<=) 31622400) THEN 'valid_for'
    END;
BEGIN
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_requirements_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_requirements" violates check constraint "ck_action_requirements_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    -- A row of a rule finds it raised.
    IF (pg_catalog.pg_sequence_last_value(%3$L::pg_catalog.regclass) OPERATOR(pg_catalog.>) 0) IS NOT TRUE THEN
        IF pg_catalog.setval(%3$L::pg_catalog.regclass, 1) IS NULL THEN END IF;
    END IF;
    NEW.created_at := pg_catalog.clock_timestamp();
    SELECT id, status, requester_id, agent_id, proposed_by, identity_keys INTO of_proposal FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) NEW.proposal_id FOR NO KEY UPDATE;
    IF of_proposal.status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_requirements_ended: nothing is required of a proposal that has ended';
    ELSIF (SELECT pg_catalog.count(*) FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id) OPERATOR(pg_catalog.>=) 10 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_requirements_many: a proposal has at most 10 requirements';
    ELSIF NEW.effect OPERATOR(pg_catalog.=) 'require' AND NOT NEW.allow_self AND NEW.approvers IS NOT NULL AND (
        SELECT pg_catalog.count(*) FROM pg_catalog.json_array_elements_text(NEW.approvers) AS named (key)
        WHERE NOT %1$I.action_requirements_excludes(named.key, of_proposal.requester_id, of_proposal.agent_id, of_proposal.proposed_by, of_proposal.identity_keys)
    ) OPERATOR(pg_catalog.<) NEW.approvals THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_requirements_unsatisfiable: nobody can meet the requirement ' OPERATOR(pg_catalog.||) NEW.name OPERATOR(pg_catalog.||) ': its approvers may not approve their own proposal';
    END IF;
    RETURN NEW;
END $$$function$, current_schema(), rules, flag);
    EXECUTE format($function$
CREATE FUNCTION action_requirements_tell() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids bigint[] := ARRAY(SELECT DISTINCT proposal_id FROM added ORDER BY 1);
BEGIN
    INSERT INTO %1$I.action_events (proposal_id, event_type, actor, reason, occurred_at, details)
    SELECT proposal_id, 'approval_required', 'ledger', name, pg_catalog.clock_timestamp(),
        ('{"requirement":' OPERATOR(pg_catalog.||) id OPERATOR(pg_catalog.||) coalesce(',"rule":' OPERATOR(pg_catalog.||) rule_id, '') OPERATOR(pg_catalog.||) '}')::pg_catalog.json
    FROM added ORDER BY id;
    -- A new proposal says already what its rules come to.
    IF EXISTS (
        SELECT 1 FROM added JOIN %1$I.action_proposals AS proposal ON proposal.id OPERATOR(pg_catalog.=) added.proposal_id
        WHERE (proposal.approval OPERATOR(pg_catalog.=) 'needed') IS NOT TRUE
            OR coalesce(proposal.lapses_at::pg_catalog.text, added.decide_within::pg_catalog.text) IS NOT NULL
                AND coalesce(proposal.lapses_at, 'infinity') OPERATOR(pg_catalog.<>) coalesce(%1$I.action_requirements_lapse(proposal.id, proposal.status, false, proposal.created_at), 'infinity'))
    THEN
        UPDATE %1$I.action_proposals SET approval = 'asked' WHERE id OPERATOR(pg_catalog.=) ANY (ids);
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_decisions_guard() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_proposal record;
    withdrawn record;
    refused text;
    required boolean;
    broken text := CASE
        WHEN NOT (NEW.id OPERATOR(pg_catalog.>) 0 AND NEW.id OPERATOR(pg_catalog.<) 4611686018427387904) THEN 'id'
        WHEN NEW.kind OPERATOR(pg_catalog.<>) ALL ('{approved,rejected,withdrawn}'::pg_catalog.text[]) THEN 'kind'
        WHEN NOT %1$I.action_ledger_is_text(NEW.decided_by, 255) THEN 'decided_by'
        WHEN NOT %1$I.action_ledger_is_key(NEW.decider_key, NEW.decided_by) THEN 'decider_key'
        WHEN NEW.decider_type OPERATOR(pg_catalog.<>) ALL ('{user,system,agent}'::pg_catalog.text[]) THEN 'decider_type'
        WHEN NOT %1$I.action_ledger_is_list_of_names(NEW.roles) THEN 'roles'
        WHEN NEW.digest OPERATOR(pg_catalog.!~) '^oc1:[0-9a-f]{64}$' THEN 'digest'
        WHEN NOT %1$I.action_ledger_is_text(NEW.comment, 65536) THEN 'comment'
        WHEN (NEW.withdraws_id IS NOT NULL) OPERATOR(pg_catalog.<>) (NEW.kind OPERATOR(pg_catalog.=) 'withdrawn') THEN 'withdraws_id'
        WHEN NEW.kind OPERATOR(pg_catalog.<>) 'approved' AND (NEW.requirement_id IS NOT NULL OR NEW.grant_id IS NOT NULL) THEN 'requirement_id'
        WHEN NEW.kind OPERATOR(pg_catalog.<>) 'approved' AND NEW.comment IS NULL THEN 'comment'
    END;
BEGIN
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_decisions_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_decisions" violates check constraint "ck_action_decisions_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    -- Decisions about a proposal come in turn.
    SELECT * INTO of_proposal FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) NEW.proposal_id FOR NO KEY UPDATE;
    IF of_proposal.id IS NULL THEN
        -- The foreign key says so.
        RETURN NEW;
    END IF;
    NEW.created_at := pg_catalog.clock_timestamp();
    NEW.after_event := coalesce((SELECT pg_catalog.max(id) FROM %1$I.action_events WHERE proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id), 0);
    required := EXISTS (SELECT 1 FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id);
    IF of_proposal.status OPERATOR(pg_catalog.<>) ALL ('{proposed,validated,failed}'::pg_catalog.text[]) THEN
        refused := 'too_late: the proposal is ' OPERATOR(pg_catalog.||) of_proposal.status;
    ELSIF EXISTS (SELECT 1 FROM %1$I.action_decisions WHERE proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id AND kind OPERATOR(pg_catalog.=) 'rejected') THEN
        refused := 'too_late: the proposal was rejected';
    ELSIF NEW.kind OPERATOR(pg_catalog.=) 'withdrawn' THEN
        SELECT * INTO withdrawn FROM %1$I.action_decisions WHERE id OPERATOR(pg_catalog.=) NEW.withdraws_id;
        IF (withdrawn.kind OPERATOR(pg_catalog.=) 'approved' AND withdrawn.proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id AND withdrawn.decider_key OPERATOR(pg_catalog.=) NEW.decider_key) IS NOT TRUE THEN
            refused := 'other: who approved withdraws the approval';
        END IF;
    ELSIF NEW.kind OPERATOR(pg_catalog.=) 'approved' THEN
        IF NEW.digest OPERATOR(pg_catalog.<>) of_proposal.content_digest OR (NEW.digest IS NOT NULL OR required) AND (NEW.digest IS NULL OR of_proposal.content_digest IS NULL) THEN
            refused := 'digest: the digest is not that of the proposal';
        ELSIF NEW.requirement_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM %1$I.action_requirements WHERE id OPERATOR(pg_catalog.=) NEW.requirement_id AND proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id) THEN
            refused := 'requirement: it is a requirement of another proposal';
        ELSIF NEW.grant_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM %1$I.action_grants WHERE id OPERATOR(pg_catalog.=) NEW.grant_id AND grantor_key OPERATOR(pg_catalog.=) NEW.decider_key) THEN
            refused := 'grant: no such grant';
        ELSIF EXISTS (SELECT 1 FROM %1$I.action_requirements
            WHERE proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id AND NEW.created_at OPERATOR(pg_catalog.>=) ((CASE WHEN of_proposal.status OPERATOR(pg_catalog.=) 'failed' THEN of_proposal.status_changed_at ELSE of_proposal.created_at END)
                OPERATOR(pg_catalog.+) (decide_within OPERATOR(pg_catalog.*) '1 second'::pg_catalog.interval))) THEN
            refused := 'undecided: it was not decided in time';
        ELSIF EXISTS (SELECT 1 FROM %1$I.action_votes WHERE proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id AND decider_key OPERATOR(pg_catalog.=) NEW.decider_key)
            OR NOT required AND EXISTS (
                SELECT 1 FROM %1$I.action_decisions AS earlier
                WHERE earlier.proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id AND earlier.kind OPERATOR(pg_catalog.=) 'approved' AND earlier.decider_key OPERATOR(pg_catalog.=) NEW.decider_key
                    AND NOT EXISTS (SELECT 1 FROM %1$I.action_decisions AS later WHERE later.withdraws_id OPERATOR(pg_catalog.=) earlier.id)) THEN
            refused := 'repeated: this person has approved it already';
        END IF;
    END IF;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_decisions_' OPERATOR(pg_catalog.||) refused;
    END IF;
    RETURN NEW;
END $$$function$, current_schema());
    -- What a decision brings about. A move that a halt refuses is made when it is resumed.
    EXECUTE format($function$
CREATE FUNCTION action_decisions_act() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_proposal record;
    required boolean := EXISTS (SELECT 1 FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id);
BEGIN
    IF NEW.kind OPERATOR(pg_catalog.=) 'approved' AND required AND NOT EXISTS (SELECT 1 FROM %1$I.action_votes WHERE decision_id OPERATOR(pg_catalog.=) NEW.id) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_decisions_not_eligible: ' OPERATOR(pg_catalog.||) NEW.decided_by OPERATOR(pg_catalog.||) ' may not give an approval that is required';
    END IF;
    INSERT INTO %1$I.action_events (proposal_id, event_type, actor, reason, occurred_at, details)
    VALUES (NEW.proposal_id, CASE NEW.kind WHEN 'withdrawn' THEN 'approval_withdrawn' ELSE NEW.kind END, NEW.decided_by, NEW.comment, pg_catalog.clock_timestamp(),
        ('{"decision":' OPERATOR(pg_catalog.||) NEW.id OPERATOR(pg_catalog.||) coalesce(',"digest":"' OPERATOR(pg_catalog.||) NEW.digest OPERATOR(pg_catalog.||) '"', '') OPERATOR(pg_catalog.||) coalesce(',"requirement":' OPERATOR(pg_catalog.||) NEW.requirement_id, '')
            OPERATOR(pg_catalog.||) coalesce(',"grant":' OPERATOR(pg_catalog.||) NEW.grant_id, '') OPERATOR(pg_catalog.||) coalesce(',"withdraws":' OPERATOR(pg_catalog.||) NEW.withdraws_id, '') OPERATOR(pg_catalog.||) '}')::pg_catalog.json);
    IF pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    IF NEW.kind OPERATOR(pg_catalog.=) 'rejected' THEN
        UPDATE %1$I.action_proposals
        SET status = 'cancelled', end_code = 'rejected', cancelled_at = pg_catalog.clock_timestamp(),
            status_changed_by = NEW.decided_by, status_reason = NEW.comment, status_cause = '{"decision":' OPERATOR(pg_catalog.||) NEW.id OPERATOR(pg_catalog.||) '}',
            status_changed_at = greatest(pg_catalog.clock_timestamp(), status_changed_at OPERATOR(pg_catalog.+) '1 microsecond'::pg_catalog.interval)
        WHERE id OPERATOR(pg_catalog.=) NEW.proposal_id AND status OPERATOR(pg_catalog.<>) 'failed';
        UPDATE %1$I.action_proposals
        SET next_retry_at = NULL, status_changed_by = NEW.decided_by, status_reason = NEW.comment,
            status_changed_at = greatest(pg_catalog.clock_timestamp(), status_changed_at OPERATOR(pg_catalog.+) '1 microsecond'::pg_catalog.interval)
        WHERE id OPERATOR(pg_catalog.=) NEW.proposal_id AND status OPERATOR(pg_catalog.=) 'failed' AND next_retry_at IS NOT NULL;
    END IF;
    IF required THEN
        UPDATE %1$I.action_proposals SET approval = 'asked' WHERE id OPERATOR(pg_catalog.=) NEW.proposal_id;
    END IF;
    SELECT * INTO of_proposal FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) NEW.proposal_id;
    IF NEW.kind OPERATOR(pg_catalog.=) 'approved' AND NEW.validates AND required AND of_proposal.approval OPERATOR(pg_catalog.=) 'given'
        AND (of_proposal.status OPERATOR(pg_catalog.=) 'proposed' OR of_proposal.status OPERATOR(pg_catalog.=) 'failed' AND of_proposal.next_retry_at IS NOT NULL) THEN
        PERFORM %1$I.action_decisions_validate(NEW.proposal_id, NEW.decided_by, NEW.id);
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_decisions_validate(of_proposal bigint, by_whom text, decision bigint) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    BEGIN
        UPDATE %1$I.action_proposals
        SET status = 'validated', validated_at = pg_catalog.clock_timestamp(), next_retry_at = NULL, end_code = NULL,
            retry_count = retry_count OPERATOR(pg_catalog.+) CASE WHEN status OPERATOR(pg_catalog.=) 'failed' THEN 1 ELSE 0 END,
            status_changed_by = by_whom, status_reason = 'approved', status_cause = '{"decision":' OPERATOR(pg_catalog.||) decision OPERATOR(pg_catalog.||) '}',
            status_changed_at = greatest(pg_catalog.clock_timestamp(), status_changed_at OPERATOR(pg_catalog.+) '1 microsecond'::pg_catalog.interval)
        WHERE id OPERATOR(pg_catalog.=) of_proposal;
    EXCEPTION WHEN integrity_constraint_violation THEN
        IF pg_catalog.strpos(SQLERRM, 'action_proposals_halted') OPERATOR(pg_catalog.<>) 1 THEN
            RAISE;
        END IF;
        UPDATE %1$I.action_proposals SET approval = 'hold' WHERE id OPERATOR(pg_catalog.=) of_proposal;
    END;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_grants_guard() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    broken text;
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        IF pg_catalog.to_jsonb(NEW) OPERATOR(pg_catalog.=) pg_catalog.to_jsonb(OLD) AND pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.>) 1 THEN
            -- It is used.
            RETURN NEW;
        ELSIF OLD.revoked_at IS NOT NULL OR NEW.revoked_at IS NULL
            OR (pg_catalog.to_jsonb(NEW) OPERATOR(pg_catalog.-) '{revoked_at,revoked_by,revoke_reason}'::pg_catalog.text[])
                OPERATOR(pg_catalog.<>) (pg_catalog.to_jsonb(OLD) OPERATOR(pg_catalog.-) '{revoked_at,revoked_by,revoke_reason}'::pg_catalog.text[]) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'integrity_constraint_violation',
                MESSAGE = TG_TABLE_NAME OPERATOR(pg_catalog.||) '_immutable: it is revoked once and never edited';
        END IF;
        NEW.revoked_at := pg_catalog.clock_timestamp();
        broken := CASE
            WHEN NOT coalesce(%1$I.action_ledger_is_text(NEW.revoked_by, 255), false) THEN 'revoked_by'
            WHEN NOT coalesce(%1$I.action_ledger_is_text(NEW.revoke_reason, 65536), false) THEN 'revoke_reason'
        END;
    ELSE
        NEW.created_at := pg_catalog.clock_timestamp();
        broken := CASE
            WHEN NOT (NEW.id OPERATOR(pg_catalog.>) 0 AND NEW.id OPERATOR(pg_catalog.<) 4611686018427387904) THEN 'id'
            WHEN NOT %1$I.action_ledger_is_text(NEW.action_name, 255) THEN 'action_name'
            WHEN pg_catalog.json_typeof(NEW.conditions) OPERATOR(pg_catalog.<>) 'array' OR pg_catalog.length(NEW.conditions::pg_catalog.text) OPERATOR(pg_catalog.>) 65536 THEN 'conditions'
            WHEN pg_catalog.json_typeof(NEW.refutations) OPERATOR(pg_catalog.<>) 'array'
                OR pg_catalog.json_array_length(NEW.refutations) OPERATOR(pg_catalog.<>) pg_catalog.json_array_length(NEW.conditions) THEN 'refutations'
            WHEN NOT %1$I.action_ledger_is_list_of_names(NEW.roles) THEN 'roles'
            WHEN NOT (NEW.max_uses OPERATOR(pg_catalog.>=) 1 AND NEW.max_uses OPERATOR(pg_catalog.<=) 1000000) THEN 'max_uses'
            WHEN NOT (NEW.valid_until OPERATOR(pg_catalog.>) NEW.created_at AND NEW.valid_until OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00') THEN 'valid_until'
            WHEN NOT %1$I.action_ledger_is_text(NEW.granted_by, 255) THEN 'granted_by'
            WHEN NOT %1$I.action_ledger_is_key(NEW.grantor_key, NEW.granted_by) THEN 'grantor_key'
            WHEN NEW.grantor_type OPERATOR(pg_catalog.<>) ALL ('{user,system,agent}'::pg_catalog.text[]) THEN 'grantor_type'
            WHEN NOT %1$I.action_ledger_is_text(NEW.reason, 65536) THEN 'reason'
            WHEN coalesce(NEW.revoked_at::pg_catalog.text, NEW.revoked_by, NEW.revoke_reason) IS NOT NULL THEN 'revoked'
        END;
    END IF;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_action_grants_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "action_grants" violates check constraint "ck_action_grants_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    END IF;
    RETURN NEW;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION action_grants_tell() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' AND NEW.revoked_at IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO %1$I.action_events (event_type, actor, reason, occurred_at, details)
    VALUES (
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN 'grant_added' ELSE 'grant_revoked' END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN NEW.granted_by ELSE NEW.revoked_by END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN NEW.reason ELSE NEW.revoke_reason END,
        pg_catalog.clock_timestamp(), ('{"grant":' OPERATOR(pg_catalog.||) NEW.id OPERATOR(pg_catalog.||) '}')::pg_catalog.json);
    IF pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    RETURN NULL;
END $$$function$, current_schema());
    -- Casts the votes that were given in advance, for a new proposal. Each grant is locked, so that it has no more uses than it says. A vote
    -- that could not count, or that the requirements no longer need, is not cast.
    EXECUTE format($function$
CREATE FUNCTION action_grants_use(of_proposal bigint) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new record;
    given record;
BEGIN
    SELECT * INTO new FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) of_proposal;
    IF new.content_digest IS NULL OR new.status OPERATOR(pg_catalog.<>) 'proposed' THEN
        RETURN;
    END IF;
    FOR given IN
        SELECT * FROM %1$I.action_grants AS a_grant
        WHERE a_grant.revoked_at IS NULL AND a_grant.valid_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
            AND (a_grant.action_name IS NULL OR new.action_name OPERATOR(pg_catalog.~~) (pg_catalog.translate(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
                a_grant.action_name, '\', '\\'), '%%', '\%%'), '_', '\_'), '*?', '%%_') COLLATE pg_catalog."C"))
            -- What can't be evaluated is no consent: a condition holds if it matches, and what refutes it does not.
            AND (a_grant.conditions::pg_catalog.text OPERATOR(pg_catalog.=) '[]' OR %1$I.action_ledger_condition_matches(new.parameters, a_grant.conditions))
            AND NOT EXISTS (
                SELECT 1 FROM pg_catalog.json_array_elements(a_grant.refutations) AS refuting (conditions)
                WHERE %1$I.action_ledger_condition_matches(new.parameters, refuting.conditions))
        ORDER BY a_grant.id FOR NO KEY UPDATE
    LOOP
        EXIT WHEN %1$I.action_requirements_met(of_proposal);
        -- The row changes, so that a transaction whose snapshot is older than the last use fails to be repeated (40001).
        UPDATE %1$I.action_grants SET reason = reason WHERE id OPERATOR(pg_catalog.=) given.id;
        CONTINUE WHEN (SELECT pg_catalog.count(*) FROM %1$I.action_decisions WHERE grant_id OPERATOR(pg_catalog.=) given.id) OPERATOR(pg_catalog.>=) given.max_uses;
        BEGIN
            INSERT INTO %1$I.action_decisions (proposal_id, kind, decided_by, decider_key, decider_type, roles, digest, comment, grant_id)
            VALUES (of_proposal, 'approved', given.granted_by, given.grantor_key, given.grantor_type, given.roles, new.content_digest, given.reason, given.id);
        EXCEPTION WHEN integrity_constraint_violation THEN
            -- Who gave it may not approve this proposal, or has done so.
        END;
    END LOOP;
END $$$function$, current_schema());
END $do$;

DO $do$
DECLARE
    halts text := quote_ident(current_schema()) || '.action_halts';
    halts_flag text := quote_ident(current_schema()) || '.action_halts_flag';
    limits text := quote_ident(current_schema()) || '.action_limits';
    limits_flag text := quote_ident(current_schema()) || '.action_governance_flag';
    rules text := quote_ident(current_schema()) || '.action_rules';
    flag text := quote_ident(current_schema()) || '.action_rules_flag';
BEGIN
    -- As in the revision before, with the question about approvals.
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    asked pg_catalog.text;
    met pg_catalog.bool;
    refused pg_catalog.text;
    broken pg_catalog.text;
    in_parents_run pg_catalog.bool;
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        IF coalesce(NEW.approval, OLD.approval) IS NOT NULL OR NEW.lapses_at IS NOT NULL THEN
            IF NEW.approval OPERATOR(pg_catalog.=) 'asked' OR NEW.approval OPERATOR(pg_catalog.=) 'hold' THEN
                -- What the requirements and decisions come to is no change of the proposal.
                asked := NEW.approval;
                NEW := OLD;
                IF NOT EXISTS (SELECT 1 FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) OLD.id) THEN
                    NEW.approval := NULL;
                    NEW.lapses_at := NULL;
                ELSIF NEW.status OPERATOR(pg_catalog.<>) ALL ('{completed,cancelled}'::pg_catalog.text[])
                    AND (NEW.status OPERATOR(pg_catalog.<>) 'executing' OR NEW.approval IS NULL) THEN
                    met := %1$I.action_requirements_met(OLD.id);
                    NEW.approval := CASE WHEN NOT met THEN 'needed' WHEN asked OPERATOR(pg_catalog.=) 'hold' OR OLD.approval OPERATOR(pg_catalog.=) 'held' THEN 'held' ELSE 'given' END;
                    NEW.lapses_at := %1$I.action_requirements_lapse(OLD.id, OLD.status, met, OLD.created_at);
                END IF;
                RETURN NEW;
            ELSIF (NEW.approval OPERATOR(pg_catalog.=) OLD.approval OR NEW.approval IS NULL AND OLD.approval IS NULL) IS NOT TRUE
                OR (NEW.lapses_at OPERATOR(pg_catalog.=) OLD.lapses_at OR NEW.lapses_at IS NULL AND OLD.lapses_at IS NULL) IS NOT TRUE THEN
                refused := 'kept: the triggers keep approval and lapses_at';
            END IF;
        END IF;
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
                IF refused IS NULL AND NEW.status OPERATOR(pg_catalog.=) 'executing' AND (NEW.exclusive_key IS NOT NULL OR (pg_catalog.pg_sequence_last_value(%5$L::pg_catalog.regclass) OPERATOR(pg_catalog.=) (OPERATOR(pg_catalog.-) (%4$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int8)) IS NOT TRUE) THEN
                    INSERT INTO %1$I.action_limits_asked VALUES (NEW.id, NEW.action_name, NEW.agent_id, NEW.parameters, NEW.exclusive_key, False);
                END IF;
            ELSIF OLD.status OPERATOR(pg_catalog.=) 'executing' AND NEW.status OPERATOR(pg_catalog.=) 'failed' AND NEW.end_code OPERATOR(pg_catalog.=) 'not_begun' THEN
                INSERT INTO %1$I.action_limits_asked VALUES (NEW.id, NEW.action_name, NEW.agent_id, NEW.parameters, NEW.exclusive_key, True);
            END IF;
            IF refused IS NULL AND OLD.approval IS NOT NULL AND NEW.status OPERATOR(pg_catalog.<>) OLD.status THEN
                NEW.lapses_at := NULL;
                IF NEW.status OPERATOR(pg_catalog.=) 'executing' OR NEW.status OPERATOR(pg_catalog.=) 'validated' THEN
                    IF NOT %1$I.action_requirements_met(OLD.id) THEN
                        refused := 'approval_required: an approval is missing';
                    ELSE
                        NEW.approval := 'given';
                        NEW.lapses_at := %1$I.action_requirements_lapse(OLD.id, NEW.status, true, OLD.created_at);
                    END IF;
                ELSIF NEW.status OPERATOR(pg_catalog.=) 'failed' AND (NEW.end_code OPERATOR(pg_catalog.=) 'not_begun') IS NOT TRUE
                    AND EXISTS (SELECT 1 FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) OLD.id AND NOT covers_retries) THEN
                    -- Its start has used the approvals up.
                    NEW.approval := 'needed';
                ELSIF NEW.status OPERATOR(pg_catalog.=) 'failed' THEN
                    NEW.lapses_at := %1$I.action_requirements_lapse(OLD.id, NEW.status, true, OLD.created_at);
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
        IF NEW.approval IS NOT NULL OR NEW.lapses_at IS NOT NULL THEN
            NEW.approval := NULL;
            NEW.lapses_at := NULL;
        END IF;
        broken := CASE
            WHEN NEW.identity_keys IS NOT NULL AND pg_catalog.json_typeof(NEW.identity_keys) OPERATOR(pg_catalog.<>) 'object' THEN 'identity_keys'
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
            WHEN NEW.exclusive_key IS NOT NULL AND NOT %1$I.action_ledger_is_text(NEW.exclusive_key, 255) THEN 'exclusive_key'
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
            IF refused IS NULL AND NEW.status OPERATOR(pg_catalog.=) 'executing' AND (NEW.exclusive_key IS NOT NULL OR (pg_catalog.pg_sequence_last_value(%5$L::pg_catalog.regclass) OPERATOR(pg_catalog.=) (OPERATOR(pg_catalog.-) (%4$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int8)) IS NOT TRUE) THEN
                INSERT INTO %1$I.action_limits_asked VALUES (NEW.id, NEW.action_name, NEW.agent_id, NEW.parameters, NEW.exclusive_key, False);
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
END $$$function$, current_schema(), halts, halts_flag, limits, limits_flag);
    -- As in the revision before, with the rules.
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION action_proposals_tell_created() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    linked bigint[];
    ruled bigint[];
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
    IF (pg_catalog.pg_sequence_last_value(%3$L::pg_catalog.regclass) OPERATOR(pg_catalog.=) (OPERATOR(pg_catalog.-) (%2$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int8)) IS NOT TRUE THEN
        ruled := ARRAY(SELECT id FROM created WHERE approval IS NOT NULL);
        IF pg_catalog.cardinality(ruled) OPERATOR(pg_catalog.>) 0 THEN
            PERFORM %1$I.action_rules_apply(ruled);
        END IF;
    END IF;
    RETURN NULL;
END $$$function$, current_schema(), rules, flag);
END $do$;

-- Roles that may write proposals already need no new grant for it, or for asking about approvals.
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
        EXECUTE format('GRANT SELECT ON action_requirements, action_decisions, action_votes, action_rules_flag TO %s', CASE WHEN writer::oid = 0 THEN 'PUBLIC' ELSE writer::text END);
    END LOOP;
END $do$;

REVOKE EXECUTE ON FUNCTION action_rules_guard, action_rules_tell, action_rules_ask, action_rules_apply, action_requirements_guard, action_requirements_tell, action_decisions_guard, action_decisions_act, action_decisions_validate, action_grants_tell, action_grants_use FROM PUBLIC;

-- After the guard, by its name.
CREATE TRIGGER action_proposals_ruled
BEFORE INSERT ON action_proposals FOR EACH ROW
WHEN ((pg_sequence_last_value('action_rules_flag'::regclass) = -('action_rules'::regclass::oid::bigint)) IS NOT TRUE)
EXECUTE FUNCTION action_rules_ask();

CREATE TRIGGER action_rules_guard
BEFORE INSERT OR UPDATE ON action_rules FOR EACH ROW
EXECUTE FUNCTION action_rules_guard();

CREATE TRIGGER action_rules_told
AFTER INSERT OR UPDATE ON action_rules FOR EACH ROW
EXECUTE FUNCTION action_rules_tell();

CREATE TRIGGER action_rules_not_deleted
BEFORE DELETE OR TRUNCATE ON action_rules FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('rules are never deleted');

CREATE TRIGGER action_requirements_guard
BEFORE INSERT ON action_requirements FOR EACH ROW
EXECUTE FUNCTION action_requirements_guard();

CREATE TRIGGER action_requirements_told
AFTER INSERT ON action_requirements REFERENCING NEW TABLE AS added FOR EACH STATEMENT
EXECUTE FUNCTION action_requirements_tell();

CREATE TRIGGER action_requirements_not_updated
BEFORE UPDATE ON action_requirements FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('what was required never changes');

CREATE TRIGGER action_requirements_not_deleted
BEFORE DELETE OR TRUNCATE ON action_requirements FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('what was required never changes');

CREATE TRIGGER action_decisions_guard
BEFORE INSERT ON action_decisions FOR EACH ROW
EXECUTE FUNCTION action_decisions_guard();

CREATE TRIGGER action_decisions_acted
AFTER INSERT ON action_decisions FOR EACH ROW
EXECUTE FUNCTION action_decisions_act();

CREATE TRIGGER action_decisions_not_updated
BEFORE UPDATE ON action_decisions FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('decisions are append-only');

CREATE TRIGGER action_decisions_not_deleted
BEFORE DELETE OR TRUNCATE ON action_decisions FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('decisions are append-only');

CREATE TRIGGER action_grants_guard
BEFORE INSERT OR UPDATE ON action_grants FOR EACH ROW
EXECUTE FUNCTION action_grants_guard();

CREATE TRIGGER action_grants_told
AFTER INSERT OR UPDATE ON action_grants FOR EACH ROW
EXECUTE FUNCTION action_grants_tell();

CREATE TRIGGER action_grants_not_deleted
BEFORE DELETE OR TRUNCATE ON action_grants FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('grants are never deleted');

-- As those of revision 0002, for the new columns. An identity's keys and a digest are filled once, by who has computed them.
CREATE TRIGGER action_proposals_linked_once
BEFORE UPDATE OF supersedes_id, identity_keys ON action_proposals FOR EACH ROW
WHEN (NEW.supersedes_id IS DISTINCT FROM OLD.supersedes_id
    OR OLD.identity_keys IS NOT NULL AND NEW.identity_keys::text IS DISTINCT FROM OLD.identity_keys::text)
EXECUTE FUNCTION action_ledger_refuse('what was proposed can not be edited');
