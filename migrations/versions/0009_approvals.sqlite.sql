-- Revision 0009 on SQLite. Statements end at a semicolon before a blank line. The triggers of proposals and events are changed besides.
--
-- A trigger of the INSERT of a proposal evaluates the rules, and writes its requirements: a snapshot, which later rules don't change.
-- `approval` and `lapses_at` of a proposal only say what its requirements and decisions come to (the view action_approvals), so that a
-- claim needs no other table. Who writes them by hand can only write what is so.

CREATE TABLE action_rules (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    action_name TEXT,
    action_type TEXT,
    agent_id TEXT,
    requester_type TEXT,
    conditions TEXT DEFAULT '[]' NOT NULL,
    effect TEXT DEFAULT 'require' NOT NULL,
    approvals INTEGER DEFAULT 1 NOT NULL,
    roles TEXT,
    approvers TEXT,
    allow_self BOOLEAN DEFAULT 0 NOT NULL,
    allow_agents BOOLEAN DEFAULT 0 NOT NULL,
    decide_within FLOAT,
    valid_for FLOAT,
    covers_retries BOOLEAN DEFAULT 0 NOT NULL,
    valid_from TEXT,
    valid_until TEXT,
    added_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    revoked_at TEXT,
    revoked_by TEXT,
    revoke_reason TEXT
);

CREATE TABLE action_requirements (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    proposal_id INTEGER NOT NULL,
    rule_id INTEGER,
    name TEXT NOT NULL,
    effect TEXT DEFAULT 'require' NOT NULL,
    approvals INTEGER DEFAULT 1 NOT NULL,
    roles TEXT,
    approvers TEXT,
    allow_self BOOLEAN DEFAULT 0 NOT NULL,
    allow_agents BOOLEAN DEFAULT 0 NOT NULL,
    decide_within FLOAT,
    valid_for FLOAT,
    covers_retries BOOLEAN DEFAULT 0 NOT NULL,
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT fk_action_requirements_proposal_id_action_proposals FOREIGN KEY(proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT fk_action_requirements_rule_id_action_rules FOREIGN KEY(rule_id) REFERENCES action_rules (id)
);

CREATE TABLE action_grants (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    action_name TEXT,
    conditions TEXT DEFAULT '[]' NOT NULL,
    refutations TEXT DEFAULT '[]' NOT NULL,
    roles TEXT DEFAULT '[]' NOT NULL,
    max_uses INTEGER NOT NULL,
    valid_until TEXT NOT NULL,
    granted_by TEXT NOT NULL,
    grantor_key TEXT NOT NULL,
    grantor_type TEXT DEFAULT 'user' NOT NULL,
    reason TEXT NOT NULL,
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    revoked_at TEXT,
    revoked_by TEXT,
    revoke_reason TEXT
);

CREATE TABLE action_decisions (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    proposal_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    decided_by TEXT NOT NULL,
    decider_key TEXT NOT NULL,
    decider_type TEXT DEFAULT 'user' NOT NULL,
    roles TEXT DEFAULT '[]' NOT NULL,
    digest TEXT,
    comment TEXT,
    requirement_id INTEGER,
    grant_id INTEGER,
    withdraws_id INTEGER,
    validates BOOLEAN DEFAULT 1 NOT NULL,
    after_event INTEGER DEFAULT -1 NOT NULL,
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT fk_action_decisions_proposal_id_action_proposals FOREIGN KEY(proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT fk_action_decisions_requirement_id_action_requirements FOREIGN KEY(requirement_id) REFERENCES action_requirements (id),
    CONSTRAINT fk_action_decisions_grant_id_action_grants FOREIGN KEY(grant_id) REFERENCES action_grants (id),
    CONSTRAINT fk_action_decisions_withdraws_id_action_decisions FOREIGN KEY(withdraws_id) REFERENCES action_decisions (id)
);

CREATE INDEX idx_action_rules_open ON action_rules (id) WHERE revoked_at IS NULL;

CREATE INDEX idx_action_requirements_proposal ON action_requirements (proposal_id, id);

CREATE INDEX idx_action_grants_open ON action_grants (id) WHERE revoked_at IS NULL;

CREATE INDEX idx_action_decisions_proposal ON action_decisions (proposal_id, id);

CREATE UNIQUE INDEX uq_action_decisions_withdraws ON action_decisions (withdraws_id) WHERE withdraws_id IS NOT NULL;

CREATE INDEX idx_action_decisions_grant ON action_decisions (grant_id) WHERE grant_id IS NOT NULL;

-- What waits for people, and what they have approved.
CREATE INDEX idx_action_proposals_approval ON action_proposals (approval, id) WHERE approval IS NOT NULL AND status <> 'completed' AND status <> 'cancelled' AND (status <> 'failed' OR next_retry_at IS NOT NULL);

-- For the sweep of each claim.
CREATE INDEX idx_action_proposals_lapses ON action_proposals (status, lapses_at) WHERE lapses_at IS NOT NULL;

CREATE INDEX idx_action_proposals_supersedes ON action_proposals (supersedes_id) WHERE supersedes_id IS NOT NULL;

-- Which approval can count for which requirement now. A start uses an approval up, unless it is known not to have begun.
CREATE VIEW action_votes AS
SELECT decision.proposal_id, decision.id AS decision_id, requirement.id AS requirement_id, decision.decider_key,
    strftime('%Y-%m-%d %H:%M:%f000', decision.created_at, '+' || requirement.valid_for || ' seconds') AS valid_until
FROM action_decisions AS decision
JOIN action_requirements AS requirement ON requirement.proposal_id = decision.proposal_id
JOIN action_proposals AS proposal ON proposal.id = decision.proposal_id
WHERE decision.kind = 'approved' AND requirement.effect = 'require'
    AND decision.digest = proposal.content_digest
    AND (decision.requirement_id IS NULL OR decision.requirement_id = requirement.id)
    AND (requirement.roles IS NULL OR EXISTS (
        SELECT 1 FROM json_each(requirement.roles) AS wanted JOIN json_each(decision.roles) AS claimed ON claimed.value = wanted.value))
    AND (requirement.approvers IS NULL OR EXISTS (SELECT 1 FROM json_each(requirement.approvers) AS named WHERE named.value = decision.decider_key))
    AND (requirement.allow_agents OR decision.decider_type <> 'agent')
    AND (requirement.allow_self OR NOT (
            proposal.requester_id IS NOT NULL AND (CASE WHEN coalesce(decision.decider_key, '') = '' OR coalesce(proposal.requester_id, '') = '' OR decision.decider_key = lower(proposal.requester_id) OR decision.decider_key = (SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'requester_id') THEN 1 ELSE coalesce((SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'requester_id'), '') = '' AND proposal.requester_id GLOB '*[^!-~]*' END)
            OR proposal.agent_id IS NOT NULL AND (CASE WHEN coalesce(decision.decider_key, '') = '' OR coalesce(proposal.agent_id, '') = '' OR decision.decider_key = lower(proposal.agent_id) OR decision.decider_key = (SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'agent_id') THEN 1 ELSE coalesce((SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'agent_id'), '') = '' AND proposal.agent_id GLOB '*[^!-~]*' END)
            OR proposal.proposed_by IS NOT NULL AND (CASE WHEN coalesce(decision.decider_key, '') = '' OR coalesce(proposal.proposed_by, '') = '' OR decision.decider_key = lower(proposal.proposed_by) OR decision.decider_key = (SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'proposed_by') THEN 1 ELSE coalesce((SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'proposed_by'), '') = '' AND proposal.proposed_by GLOB '*[^!-~]*' END)))
    AND NOT EXISTS (SELECT 1 FROM action_decisions AS later WHERE later.withdraws_id = decision.id)
    AND (requirement.valid_for IS NULL OR strftime('%Y-%m-%d %H:%M:%f000', decision.created_at, '+' || requirement.valid_for || ' seconds') > strftime('%Y-%m-%d %H:%M:%f000', 'now'))
    AND (requirement.covers_retries OR (
        SELECT coalesce(sum(event.to_status = 'executing'), 0) <= coalesce(sum(event.to_status = 'failed' AND event.details GLOB '{"end_code":"not_begun"*'), 0)
        FROM action_events AS event WHERE event.proposal_id = decision.proposal_id AND event.id > decision.after_event AND event.to_status IS NOT NULL));

-- What the requirements and decisions of a proposal come to. Each approval counts for at most one requirement, and they are met if any
-- assignment meets them: that is so if, and only if, each set of requirements has as many approvals that fit at least one of them as the
-- set needs (Hall's theorem, P. Hall, On Representatives of Subsets, 1935).
CREATE VIEW action_approvals AS
SELECT proposal_id, met,
    CASE WHEN (status = 'completed' OR status = 'cancelled' OR status = 'executing') AND approval IS NOT NULL THEN approval
        WHEN NOT met THEN 'needed' WHEN approval = 'held' AND status <> 'validated' THEN 'held' ELSE 'given' END AS approval,
    CASE
        WHEN met AND (status = 'validated' OR status = 'proposed' OR status = 'failed') THEN (SELECT min(valid_until) FROM action_votes AS vote WHERE vote.proposal_id = found.proposal_id)
        WHEN status = 'validated' OR status = 'proposed' THEN (
            SELECT min(strftime('%Y-%m-%d %H:%M:%f000', found.created_at, '+' || requirement.decide_within || ' seconds')) FROM action_requirements AS requirement WHERE requirement.proposal_id = found.proposal_id)
    END AS lapses_at
FROM (
    SELECT proposal.id AS proposal_id, proposal.status, proposal.approval, proposal.created_at,
        CASE WHEN NOT EXISTS (SELECT 1 FROM action_decisions AS decision WHERE decision.proposal_id = proposal.id)
            THEN NOT EXISTS (SELECT 1 FROM action_requirements AS requirement WHERE requirement.proposal_id = proposal.id)
        ELSE NOT EXISTS (SELECT 1 FROM action_requirements AS denial WHERE denial.proposal_id = proposal.id AND denial.effect = 'deny')
        AND NOT EXISTS (SELECT 1 FROM action_decisions AS rejection WHERE rejection.proposal_id = proposal.id AND rejection.kind = 'rejected')
        AND NOT EXISTS (
            WITH RECURSIVE
                votes (requirement_id, decider_key) AS MATERIALIZED (
                    SELECT vote.requirement_id, vote.decider_key FROM action_votes AS vote WHERE vote.proposal_id = proposal.id),
                chosen (last, needed, members) AS (
                    SELECT 0, 0, ','
                    UNION ALL
                    SELECT requirement.id, chosen.needed + requirement.approvals, chosen.members || requirement.id || ','
                    FROM chosen JOIN action_requirements AS requirement ON requirement.proposal_id = proposal.id AND requirement.id > chosen.last)
            SELECT 1 FROM chosen
            WHERE chosen.needed > (SELECT count(DISTINCT votes.decider_key) FROM votes WHERE instr(chosen.members, ',' || votes.requirement_id || ','))) END AS met
    FROM action_proposals AS proposal) AS found;

-- Which open halt covers which proposal now.
CREATE VIEW action_halts_covering AS
SELECT proposal.id AS proposal_id, halt.id AS halt_id
FROM action_proposals AS proposal JOIN action_halts AS halt
WHERE halt.resumed_at IS NULL
    AND (halt.valid_from IS NULL OR halt.valid_from <= strftime('%Y-%m-%d %H:%M:%f000', 'now'))
    AND (halt.valid_until IS NULL OR halt.valid_until > strftime('%Y-%m-%d %H:%M:%f000', 'now'))
    AND (halt.run_id IS NULL OR halt.run_id = proposal.run_id)
    AND (halt.action_name IS NULL OR proposal.action_name GLOB replace(halt.action_name, '[', '[[]'))
    AND (halt.agent_id IS NULL OR halt.agent_id = proposal.agent_id
        OR proposal.run_id IS NOT NULL AND EXISTS (SELECT 1 FROM action_proposals AS other WHERE other.run_id = proposal.run_id AND other.agent_id = halt.agent_id)
        OR proposal.run_id IS NULL AND proposal.parent_id IS NOT NULL AND EXISTS (
            WITH RECURSIVE above (parent_id, agent_id) AS (
                SELECT parent_id, agent_id FROM action_proposals WHERE id = proposal.parent_id
                UNION ALL
                SELECT next.parent_id, next.agent_id FROM above JOIN action_proposals AS next ON next.id = above.parent_id)
            SELECT 1 FROM above WHERE above.agent_id = halt.agent_id));

-- Questions: a row is inserted, and none is ever in them.
CREATE VIEW action_approvals_asked AS SELECT id AS proposal_id FROM action_proposals WHERE 0;

CREATE VIEW action_rules_asked AS SELECT id AS proposal_id FROM action_proposals WHERE 0;

CREATE VIEW action_rules_candidates AS SELECT 'rule' AS kind, id AS source_id, id AS proposal_id, parameters, parameters AS conditions, parameters AS refutations FROM action_proposals WHERE 0;

CREATE TRIGGER action_rules_not_deleted
BEFORE DELETE ON action_rules
BEGIN
    SELECT RAISE(ABORT, 'action_rules_not_deleted: rules are never deleted');
END;

CREATE TRIGGER action_rules_not_replaced
BEFORE INSERT ON action_rules
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_rules WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_rules_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_rules_not_replaced: this id is taken');
END;

CREATE TRIGGER action_rules_immutable
BEFORE UPDATE ON action_rules
WHEN OLD.revoked_at IS NOT NULL OR NEW.revoked_at IS NULL
    OR NEW.id IS NOT OLD.id
    OR NEW.name IS NOT OLD.name
    OR NEW.action_name IS NOT OLD.action_name
    OR NEW.action_type IS NOT OLD.action_type
    OR NEW.agent_id IS NOT OLD.agent_id
    OR NEW.requester_type IS NOT OLD.requester_type
    OR NEW.conditions IS NOT OLD.conditions
    OR NEW.effect IS NOT OLD.effect
    OR NEW.approvals IS NOT OLD.approvals
    OR NEW.roles IS NOT OLD.roles
    OR NEW.approvers IS NOT OLD.approvers
    OR NEW.allow_self IS NOT OLD.allow_self
    OR NEW.allow_agents IS NOT OLD.allow_agents
    OR NEW.decide_within IS NOT OLD.decide_within
    OR NEW.valid_for IS NOT OLD.valid_for
    OR NEW.covers_retries IS NOT OLD.covers_retries
    OR NEW.valid_from IS NOT OLD.valid_from
    OR NEW.valid_until IS NOT OLD.valid_until
    OR NEW.added_by IS NOT OLD.added_by
    OR NEW.reason IS NOT OLD.reason
    OR NEW.created_at IS NOT OLD.created_at
BEGIN
    SELECT RAISE(ABORT, 'action_rules_immutable: it is revoked once and never edited');
END;

CREATE TRIGGER action_rules_revoked
AFTER UPDATE ON action_rules
BEGIN
    SELECT RAISE(ABORT, 'action_rules_values: revoked_at is not what the ledger takes') WHERE (NEW.revoked_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: who revokes says why') WHERE NEW.revoked_by IS NULL OR NEW.revoke_reason IS NULL;
    SELECT RAISE(ABORT, 'action_rules_values: revoked_by or revoke_reason is not what the ledger takes')
    FROM (SELECT NEW.revoked_by AS value, 255 AS most UNION ALL SELECT NEW.revoke_reason, 65536)
    WHERE value IS NOT NULL AND (value < x'' AND substr(value, 1, most) = value AND (unicode(value) BETWEEN 33 AND 126 OR trim(value, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    INSERT INTO action_events (event_type, actor, reason, occurred_at, details)
    VALUES ('rule_revoked', NEW.revoked_by, NEW.revoke_reason, strftime('%Y-%m-%d %H:%M:%f000', 'now'), '{"rule":' || NEW.id || '}');
END;

CREATE TRIGGER action_rules_values
AFTER INSERT ON action_rules
BEGIN
    SELECT RAISE(ABORT, 'action_rules_values: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: name, action_name, agent_id, added_by or reason is not what the ledger takes')
    FROM (SELECT NEW.name AS value, 255 AS most UNION ALL SELECT NEW.action_name, 255 UNION ALL SELECT NEW.agent_id, 255 UNION ALL SELECT NEW.added_by, 255 UNION ALL SELECT NEW.reason, 65536)
    WHERE value IS NOT NULL AND (value < x'' AND substr(value, 1, most) = value AND (unicode(value) BETWEEN 33 AND 126 OR trim(value, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: action_type is not what the ledger takes') WHERE (NEW.action_type IS NULL OR NEW.action_type = 'subject' OR NEW.action_type = 'tool' OR NEW.action_type = 'workflow') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: agent_id is not what the ledger takes') WHERE (NEW.agent_id IS NULL OR NEW.agent_id = lower(NEW.agent_id)) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: requester_type is not what the ledger takes') WHERE (NEW.requester_type IS NULL OR NEW.requester_type = 'user' OR NEW.requester_type = 'system' OR NEW.requester_type = 'agent') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: conditions is not what the ledger takes') WHERE (NEW.conditions GLOB '[[]*]' AND length(NEW.conditions) <= 65536 AND (SELECT count(*) FROM json_each(NEW.conditions)) >= 0) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: effect is not what the ledger takes') WHERE (NEW.effect = 'require' OR NEW.effect = 'deny') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: approvals is not what the ledger takes') WHERE (NEW.approvals BETWEEN 1 AND 20 AND CAST(NEW.approvals AS INTEGER) = NEW.approvals) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: roles is not what the ledger takes') WHERE (NEW.roles IS NULL OR NEW.roles GLOB '[[]*]' AND (SELECT count(*) BETWEEN 1 AND 100 AND coalesce(sum(type = 'text' AND value = lower(value) AND length(value) <= 255 AND trim(value) <> ''), 0) = count(*) FROM json_each(NEW.roles))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: approvers is not what the ledger takes') WHERE (NEW.approvers IS NULL OR NEW.approvers GLOB '[[]*]' AND (SELECT count(*) BETWEEN 1 AND 100 AND coalesce(sum(type = 'text' AND value = lower(value) AND length(value) <= 255 AND trim(value) <> ''), 0) = count(*) FROM json_each(NEW.approvers))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: approvers is not what the ledger takes') WHERE (NEW.approvers IS NULL OR (SELECT count(DISTINCT value) FROM json_each(NEW.approvers)) >= NEW.approvals) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: allow_self is not what the ledger takes') WHERE (NEW.allow_self = 0 OR NEW.allow_self = 1) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: allow_agents is not what the ledger takes') WHERE (NEW.allow_agents = 0 OR NEW.allow_agents = 1) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: covers_retries is not what the ledger takes') WHERE (NEW.covers_retries = 0 OR NEW.covers_retries = 1) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: decide_within is not what the ledger takes') WHERE (NEW.decide_within IS NULL OR typeof(NEW.decide_within) <> 'text' AND NEW.decide_within > 0 AND NEW.decide_within <= 31622400) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: valid_for is not what the ledger takes') WHERE (NEW.valid_for IS NULL OR typeof(NEW.valid_for) <> 'text' AND NEW.valid_for > 0 AND NEW.valid_for <= 31622400) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: valid_from is not what the ledger takes') WHERE (NEW.valid_from IS NULL OR NEW.valid_from < '9999' AND NEW.valid_from >= '1970-01-01' AND NEW.valid_from GLOB '????-??-?? ??:??:??.??????' AND julianday(NEW.valid_from) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: valid_until is not what the ledger takes') WHERE (NEW.valid_until IS NULL OR NEW.valid_until < '9999' AND NEW.valid_until >= '1970-01-01' AND NEW.valid_until GLOB '????-??-?? ??:??:??.??????' AND julianday(NEW.valid_until) IS NOT NULL AND (NEW.valid_from IS NULL OR NEW.valid_until > NEW.valid_from)) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: created_at is not what the ledger takes') WHERE (NEW.created_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_rules_values: revoked_at is not what the ledger takes') WHERE (coalesce(NEW.revoked_at, NEW.revoked_by, NEW.revoke_reason) IS NULL) IS NOT TRUE;
    INSERT INTO action_events (event_type, actor, reason, occurred_at, details)
    VALUES ('rule_added', NEW.added_by, NEW.reason, strftime('%Y-%m-%d %H:%M:%f000', 'now'), '{"rule":' || NEW.id || '}');
END;

CREATE TRIGGER action_grants_not_deleted
BEFORE DELETE ON action_grants
BEGIN
    SELECT RAISE(ABORT, 'action_grants_not_deleted: grants are never deleted');
END;

CREATE TRIGGER action_grants_not_replaced
BEFORE INSERT ON action_grants
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_grants WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_grants_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_grants_not_replaced: this id is taken');
END;

CREATE TRIGGER action_grants_immutable
BEFORE UPDATE ON action_grants
WHEN OLD.revoked_at IS NOT NULL OR NEW.revoked_at IS NULL
    OR NEW.id IS NOT OLD.id
    OR NEW.action_name IS NOT OLD.action_name
    OR NEW.conditions IS NOT OLD.conditions
    OR NEW.refutations IS NOT OLD.refutations
    OR NEW.roles IS NOT OLD.roles
    OR NEW.max_uses IS NOT OLD.max_uses
    OR NEW.valid_until IS NOT OLD.valid_until
    OR NEW.granted_by IS NOT OLD.granted_by
    OR NEW.grantor_key IS NOT OLD.grantor_key
    OR NEW.grantor_type IS NOT OLD.grantor_type
    OR NEW.reason IS NOT OLD.reason
    OR NEW.created_at IS NOT OLD.created_at
BEGIN
    SELECT RAISE(ABORT, 'action_grants_immutable: it is revoked once and never edited');
END;

CREATE TRIGGER action_grants_revoked
AFTER UPDATE ON action_grants
BEGIN
    SELECT RAISE(ABORT, 'action_grants_values: revoked_at is not what the ledger takes') WHERE (NEW.revoked_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_grants_values: who revokes says why') WHERE NEW.revoked_by IS NULL OR NEW.revoke_reason IS NULL;
    SELECT RAISE(ABORT, 'action_grants_values: revoked_by or revoke_reason is not what the ledger takes')
    FROM (SELECT NEW.revoked_by AS value, 255 AS most UNION ALL SELECT NEW.revoke_reason, 65536)
    WHERE value IS NOT NULL AND (value < x'' AND substr(value, 1, most) = value AND (unicode(value) BETWEEN 33 AND 126 OR trim(value, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    INSERT INTO action_events (event_type, actor, reason, occurred_at, details)
    VALUES ('grant_revoked', NEW.revoked_by, NEW.revoke_reason, strftime('%Y-%m-%d %H:%M:%f000', 'now'), '{"grant":' || NEW.id || '}');
END;

CREATE TRIGGER action_grants_values
AFTER INSERT ON action_grants
BEGIN
    SELECT RAISE(ABORT, 'action_grants_values: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_grants_values: action_name, granted_by or reason is not what the ledger takes')
    FROM (SELECT NEW.action_name AS value, 255 AS most UNION ALL SELECT NEW.granted_by, 255 UNION ALL SELECT NEW.reason, 65536)
    WHERE value IS NOT NULL AND (value < x'' AND substr(value, 1, most) = value AND (unicode(value) BETWEEN 33 AND 126 OR trim(value, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_grants_values: conditions is not what the ledger takes') WHERE (NEW.conditions GLOB '[[]*]' AND length(NEW.conditions) <= 65536 AND (SELECT count(*) FROM json_each(NEW.conditions)) >= 0) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_grants_values: refutations is not what the ledger takes') WHERE ((NEW.refutations GLOB '[[]*]' AND length(NEW.refutations) <= 65536 AND (SELECT count(*) FROM json_each(NEW.refutations)) >= 0) AND (SELECT count(*) FROM json_each(NEW.refutations)) = (SELECT count(*) FROM json_each(NEW.conditions))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_grants_values: roles is not what the ledger takes') WHERE (NEW.roles GLOB '[[]*]' AND (SELECT count(*) BETWEEN 0 AND 100 AND coalesce(sum(type = 'text' AND value = lower(value) AND length(value) <= 255 AND trim(value) <> ''), 0) = count(*) FROM json_each(NEW.roles))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_grants_values: max_uses is not what the ledger takes') WHERE (NEW.max_uses BETWEEN 1 AND 1000000 AND CAST(NEW.max_uses AS INTEGER) = NEW.max_uses) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_grants_values: valid_until is not what the ledger takes') WHERE (NEW.valid_until < '9999' AND NEW.valid_until >= '1970-01-01' AND NEW.valid_until GLOB '????-??-?? ??:??:??.??????' AND julianday(NEW.valid_until) IS NOT NULL AND NEW.valid_until > NEW.created_at) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_grants_values: grantor_key is not what the ledger takes') WHERE (NEW.grantor_key < x'' AND substr(NEW.grantor_key, 1, 1024) = NEW.grantor_key AND trim(NEW.grantor_key) <> '' AND NEW.grantor_key = lower(NEW.grantor_key) AND (NEW.grantor_key = lower(NEW.granted_by) OR NEW.granted_by GLOB '*[^!-~]*')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_grants_values: grantor_type is not what the ledger takes') WHERE (NEW.grantor_type = 'user' OR NEW.grantor_type = 'system' OR NEW.grantor_type = 'agent') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_grants_values: created_at is not what the ledger takes') WHERE (NEW.created_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_grants_values: revoked_at is not what the ledger takes') WHERE (coalesce(NEW.revoked_at, NEW.revoked_by, NEW.revoke_reason) IS NULL) IS NOT TRUE;
    INSERT INTO action_events (event_type, actor, reason, occurred_at, details)
    VALUES ('grant_added', NEW.granted_by, NEW.reason, strftime('%Y-%m-%d %H:%M:%f000', 'now'), '{"grant":' || NEW.id || '}');
END;

CREATE TRIGGER action_requirements_not_updated
BEFORE UPDATE ON action_requirements
BEGIN
    SELECT RAISE(ABORT, 'action_requirements_not_updated: what was required never changes');
END;

CREATE TRIGGER action_requirements_not_deleted
BEFORE DELETE ON action_requirements
BEGIN
    SELECT RAISE(ABORT, 'action_requirements_not_deleted: what was required never changes');
END;

CREATE TRIGGER action_requirements_not_replaced
BEFORE INSERT ON action_requirements
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_requirements WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_requirements_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_requirements_not_replaced: this id is taken');
END;

CREATE TRIGGER action_requirements_possible
BEFORE INSERT ON action_requirements
BEGIN
    SELECT RAISE(ABORT, 'action_requirements_proposal_exists: no such proposal') WHERE NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id);
    SELECT RAISE(ABORT, 'action_requirements_ended: nothing is required of a proposal that has ended')
    FROM action_proposals WHERE id = NEW.proposal_id AND (status = 'completed' OR status = 'cancelled');
    SELECT RAISE(ABORT, 'action_requirements_rule_exists: no such rule') WHERE NEW.rule_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM action_rules WHERE id = NEW.rule_id);
    SELECT RAISE(ABORT, 'action_requirements_many: a proposal has at most 10 requirements')
    WHERE (SELECT count(*) FROM action_requirements WHERE proposal_id = NEW.proposal_id) >= 10;
    SELECT RAISE(ABORT, 'action_requirements_unsatisfiable: nobody can meet a requirement: its approvers may not approve their own proposal')
    FROM action_proposals AS proposal
    WHERE NEW.effect = 'require' AND NOT NEW.allow_self AND NEW.approvers IS NOT NULL AND proposal.id = NEW.proposal_id
        AND (SELECT count(*) FROM json_each(NEW.approvers) AS named WHERE NOT (
            proposal.requester_id IS NOT NULL AND (CASE WHEN coalesce(named.value, '') = '' OR coalesce(proposal.requester_id, '') = '' OR named.value = lower(proposal.requester_id) OR named.value = (SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'requester_id') THEN 1 ELSE coalesce((SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'requester_id'), '') = '' AND proposal.requester_id GLOB '*[^!-~]*' END)
            OR proposal.agent_id IS NOT NULL AND (CASE WHEN coalesce(named.value, '') = '' OR coalesce(proposal.agent_id, '') = '' OR named.value = lower(proposal.agent_id) OR named.value = (SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'agent_id') THEN 1 ELSE coalesce((SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'agent_id'), '') = '' AND proposal.agent_id GLOB '*[^!-~]*' END)
            OR proposal.proposed_by IS NOT NULL AND (CASE WHEN coalesce(named.value, '') = '' OR coalesce(proposal.proposed_by, '') = '' OR named.value = lower(proposal.proposed_by) OR named.value = (SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'proposed_by') THEN 1 ELSE coalesce((SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'proposed_by'), '') = '' AND proposal.proposed_by GLOB '*[^!-~]*' END))) < NEW.approvals;
END;

CREATE TRIGGER action_requirements_told
AFTER INSERT ON action_requirements
BEGIN
    SELECT RAISE(ABORT, 'action_requirements_values: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: name is not what the ledger takes') WHERE (NEW.name < x'' AND substr(NEW.name, 1, 255) = NEW.name AND (unicode(NEW.name) BETWEEN 33 AND 126 OR trim(NEW.name, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: effect is not what the ledger takes') WHERE (NEW.effect = 'require' OR NEW.effect = 'deny') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: approvals is not what the ledger takes') WHERE (NEW.approvals BETWEEN 1 AND 20 AND CAST(NEW.approvals AS INTEGER) = NEW.approvals) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: roles is not what the ledger takes') WHERE (NEW.roles IS NULL OR NEW.roles GLOB '[[]*]' AND (SELECT count(*) BETWEEN 1 AND 100 AND coalesce(sum(type = 'text' AND value = lower(value) AND length(value) <= 255 AND trim(value) <> ''), 0) = count(*) FROM json_each(NEW.roles))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: approvers is not what the ledger takes') WHERE (NEW.approvers IS NULL OR NEW.approvers GLOB '[[]*]' AND (SELECT count(*) BETWEEN 1 AND 100 AND coalesce(sum(type = 'text' AND value = lower(value) AND length(value) <= 255 AND trim(value) <> ''), 0) = count(*) FROM json_each(NEW.approvers))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: approvers is not what the ledger takes') WHERE (NEW.approvers IS NULL OR (SELECT count(DISTINCT value) FROM json_each(NEW.approvers)) >= NEW.approvals) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: allow_self is not what the ledger takes') WHERE (NEW.allow_self = 0 OR NEW.allow_self = 1) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: allow_agents is not what the ledger takes') WHERE (NEW.allow_agents = 0 OR NEW.allow_agents = 1) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: covers_retries is not what the ledger takes') WHERE (NEW.covers_retries = 0 OR NEW.covers_retries = 1) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: decide_within is not what the ledger takes') WHERE (NEW.decide_within IS NULL OR typeof(NEW.decide_within) <> 'text' AND NEW.decide_within > 0 AND NEW.decide_within <= 31622400) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: valid_for is not what the ledger takes') WHERE (NEW.valid_for IS NULL OR typeof(NEW.valid_for) <> 'text' AND NEW.valid_for > 0 AND NEW.valid_for <= 31622400) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_requirements_values: created_at is not what the ledger takes') WHERE (NEW.created_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    INSERT INTO action_events (proposal_id, event_type, actor, reason, occurred_at, details)
    VALUES (NEW.proposal_id, 'approval_required', 'ledger', NEW.name, strftime('%Y-%m-%d %H:%M:%f000', 'now'), '{"requirement":' || NEW.id || coalesce(',"rule":' || NEW.rule_id, '') || '}');
    INSERT INTO action_approvals_asked VALUES (NEW.proposal_id);
END;

CREATE TRIGGER action_decisions_not_deleted
BEFORE DELETE ON action_decisions
BEGIN
    SELECT RAISE(ABORT, 'action_decisions_not_deleted: decisions are append-only');
END;

CREATE TRIGGER action_decisions_not_updated
BEFORE UPDATE ON action_decisions
WHEN OLD.after_event <> -1 OR NEW.after_event = -1
    OR NEW.id IS NOT OLD.id
    OR NEW.proposal_id IS NOT OLD.proposal_id
    OR NEW.kind IS NOT OLD.kind
    OR NEW.decided_by IS NOT OLD.decided_by
    OR NEW.decider_key IS NOT OLD.decider_key
    OR NEW.decider_type IS NOT OLD.decider_type
    OR NEW.roles IS NOT OLD.roles
    OR NEW.digest IS NOT OLD.digest
    OR NEW.comment IS NOT OLD.comment
    OR NEW.requirement_id IS NOT OLD.requirement_id
    OR NEW.grant_id IS NOT OLD.grant_id
    OR NEW.withdraws_id IS NOT OLD.withdraws_id
    OR NEW.validates IS NOT OLD.validates
    OR NEW.created_at IS NOT OLD.created_at
BEGIN
    SELECT RAISE(ABORT, 'action_decisions_not_updated: decisions are append-only');
END;

CREATE TRIGGER action_decisions_not_replaced
BEFORE INSERT ON action_decisions
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_decisions WHERE id = NEW.id OR withdraws_id = NEW.withdraws_id)
BEGIN
    SELECT RAISE(ABORT, 'action_decisions_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_decisions_not_replaced: this id is taken');
END;

CREATE TRIGGER action_decisions_possible
BEFORE INSERT ON action_decisions
BEGIN
    SELECT RAISE(ABORT, 'action_decisions_proposal_exists: no such proposal') WHERE NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id);
    SELECT RAISE(ABORT, 'action_decisions_too_late: the proposal is executing, has ended, or was rejected')
    FROM action_proposals WHERE id = NEW.proposal_id
        AND (NOT (status = 'proposed' OR status = 'validated' OR status = 'failed')
            OR EXISTS (SELECT 1 FROM action_decisions WHERE proposal_id = NEW.proposal_id AND kind = 'rejected'));
    SELECT RAISE(ABORT, 'action_decisions_other: who approved withdraws the approval')
    WHERE NEW.kind = 'withdrawn' AND NOT EXISTS (
        SELECT 1 FROM action_decisions WHERE id = NEW.withdraws_id AND kind = 'approved' AND proposal_id = NEW.proposal_id AND decider_key = NEW.decider_key);
    SELECT RAISE(ABORT, 'action_decisions_digest: the digest is not that of the proposal')
    FROM action_proposals
    WHERE NEW.kind = 'approved' AND id = NEW.proposal_id
        AND (NEW.digest IS NOT NULL OR EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id)) AND (NEW.digest = content_digest) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_requirement: it is a requirement of another proposal')
    WHERE NEW.requirement_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM action_requirements WHERE id = NEW.requirement_id AND proposal_id = NEW.proposal_id);
    -- A vote in advance that is not needed is not cast: this ends the INSERT of such votes.
    SELECT RAISE(IGNORE) FROM action_approvals WHERE NEW.grant_id IS NOT NULL AND proposal_id = NEW.proposal_id AND met;
    SELECT RAISE(ABORT, 'action_decisions_grant: no such grant')
    WHERE NEW.grant_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM action_grants WHERE id = NEW.grant_id AND grantor_key = NEW.decider_key);
    SELECT RAISE(ABORT, 'action_decisions_undecided: it was not decided in time')
    FROM action_proposals AS proposal JOIN action_requirements AS requirement ON requirement.proposal_id = proposal.id
    WHERE NEW.kind = 'approved' AND proposal.id = NEW.proposal_id
        AND strftime('%Y-%m-%d %H:%M:%f000', iif(proposal.status = 'failed', proposal.status_changed_at, proposal.created_at), '+' || requirement.decide_within || ' seconds') <= strftime('%Y-%m-%d %H:%M:%f000', 'now');
    SELECT RAISE(ABORT, 'action_decisions_repeated: this person has approved it already')
    WHERE NEW.kind = 'approved' AND (
        EXISTS (SELECT 1 FROM action_votes WHERE proposal_id = NEW.proposal_id AND decider_key = NEW.decider_key)
        OR NOT EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id) AND EXISTS (
            SELECT 1 FROM action_decisions AS earlier
            WHERE earlier.proposal_id = NEW.proposal_id AND earlier.kind = 'approved' AND earlier.decider_key = NEW.decider_key
                AND NOT EXISTS (SELECT 1 FROM action_decisions AS later WHERE later.withdraws_id = earlier.id)));
END;

CREATE TRIGGER action_decisions_acted
AFTER INSERT ON action_decisions
BEGIN
    SELECT RAISE(ABORT, 'action_decisions_values: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: kind is not what the ledger takes') WHERE (NEW.kind = 'approved' OR NEW.kind = 'rejected' OR NEW.kind = 'withdrawn') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: decided_by or comment is not what the ledger takes')
    FROM (SELECT NEW.decided_by AS value, 255 AS most UNION ALL SELECT NEW.comment, 65536)
    WHERE value IS NOT NULL AND (value < x'' AND substr(value, 1, most) = value AND (unicode(value) BETWEEN 33 AND 126 OR trim(value, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: decider_key is not what the ledger takes') WHERE (NEW.decider_key < x'' AND substr(NEW.decider_key, 1, 1024) = NEW.decider_key AND trim(NEW.decider_key) <> '' AND NEW.decider_key = lower(NEW.decider_key) AND (NEW.decider_key = lower(NEW.decided_by) OR NEW.decided_by GLOB '*[^!-~]*')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: decider_type is not what the ledger takes') WHERE (NEW.decider_type = 'user' OR NEW.decider_type = 'system' OR NEW.decider_type = 'agent') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: roles is not what the ledger takes') WHERE (NEW.roles GLOB '[[]*]' AND (SELECT count(*) BETWEEN 0 AND 100 AND coalesce(sum(type = 'text' AND value = lower(value) AND length(value) <= 255 AND trim(value) <> ''), 0) = count(*) FROM json_each(NEW.roles))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: digest is not what the ledger takes') WHERE (NEW.digest IS NULL OR NEW.digest < x'' AND length(NEW.digest) = 68 AND NEW.digest GLOB 'oc1:*' AND substr(NEW.digest, 5) NOT GLOB '*[^0-9a-f]*') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: comment is not what the ledger takes') WHERE (NEW.comment IS NOT NULL OR NEW.kind = 'approved') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: withdraws_id is not what the ledger takes') WHERE ((NEW.withdraws_id IS NOT NULL) = (NEW.kind = 'withdrawn')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: requirement_id is not what the ledger takes') WHERE (NEW.kind = 'approved' OR coalesce(NEW.requirement_id, NEW.grant_id) IS NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: validates is not what the ledger takes') WHERE (NEW.validates = 0 OR NEW.validates = 1) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: after_event is not what the ledger takes') WHERE (NEW.after_event = -1) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_decisions_values: created_at is not what the ledger takes') WHERE (NEW.created_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    UPDATE action_decisions SET after_event = coalesce((SELECT max(id) FROM action_events WHERE proposal_id = NEW.proposal_id), 0) WHERE id = NEW.id;
    SELECT RAISE(ABORT, 'action_decisions_not_eligible: this person may not give an approval that is required')
    WHERE NEW.kind = 'approved' AND EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id) AND NOT EXISTS (SELECT 1 FROM action_votes WHERE proposal_id = NEW.proposal_id AND decision_id = NEW.id);
    INSERT INTO action_events (proposal_id, event_type, actor, reason, occurred_at, details)
    VALUES (NEW.proposal_id, iif(NEW.kind = 'withdrawn', 'approval_withdrawn', NEW.kind), NEW.decided_by, NEW.comment, strftime('%Y-%m-%d %H:%M:%f000', 'now'), '{"decision":' || NEW.id || coalesce(',"digest":"' || NEW.digest || '"', '') || coalesce(',"requirement":' || NEW.requirement_id, '') || coalesce(',"grant":' || NEW.grant_id, '') || coalesce(',"withdraws":' || NEW.withdraws_id, '') || '}');
    UPDATE action_proposals
    SET status = 'cancelled', end_code = 'rejected', cancelled_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
        status_changed_by = NEW.decided_by, status_reason = NEW.comment, status_cause = '{"decision":' || NEW.id || '}',
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE NEW.kind = 'rejected' AND id = NEW.proposal_id AND status <> 'failed';
    UPDATE action_proposals
    SET next_retry_at = NULL, status_changed_by = NEW.decided_by, status_reason = NEW.comment,
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE NEW.kind = 'rejected' AND id = NEW.proposal_id AND status = 'failed' AND next_retry_at IS NOT NULL;
    INSERT INTO action_approvals_asked SELECT NEW.proposal_id WHERE EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id);
    UPDATE action_proposals
    SET status = 'validated', validated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'), next_retry_at = NULL, end_code = NULL,
        retry_count = retry_count + iif(status = 'failed', 1, 0),
        status_changed_by = NEW.decided_by, status_reason = 'approved', status_cause = '{"decision":' || NEW.id || '}',
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE NEW.kind = 'approved' AND NEW.validates AND id = NEW.proposal_id AND approval = 'given'
        AND (status = 'proposed' OR status = 'failed' AND next_retry_at IS NOT NULL)
        AND NOT EXISTS (SELECT 1 FROM action_halts_covering WHERE proposal_id = NEW.proposal_id);
    -- What is left is held by a halt, and moves when it is resumed.
    UPDATE action_proposals SET approval = 'held'
    WHERE NEW.kind = 'approved' AND NEW.validates AND id = NEW.proposal_id AND approval = 'given'
        AND (status = 'proposed' OR status = 'failed' AND next_retry_at IS NOT NULL);
END;

CREATE TRIGGER action_approvals_ask
INSTEAD OF INSERT ON action_approvals_asked
BEGIN
    UPDATE action_proposals SET approval = found.approval, lapses_at = found.lapses_at
    FROM (SELECT approval, lapses_at FROM action_approvals WHERE proposal_id = NEW.proposal_id) AS found
    WHERE id = NEW.proposal_id AND (action_proposals.approval IS NOT found.approval OR action_proposals.lapses_at IS NOT found.lapses_at);
END;

CREATE TRIGGER action_rules_apply
INSTEAD OF INSERT ON action_rules_asked
BEGIN
    INSERT INTO action_rules_candidates
    SELECT 'rule', rule.id, proposal.id, proposal.parameters, rule.conditions, '[]'
    FROM action_proposals AS proposal CROSS JOIN action_rules AS rule
    WHERE proposal.id = NEW.proposal_id AND proposal.status <> 'completed' AND proposal.status <> 'cancelled' AND rule.revoked_at IS NULL
        AND (rule.valid_from IS NULL OR rule.valid_from <= strftime('%Y-%m-%d %H:%M:%f000', 'now'))
        AND (rule.valid_until IS NULL OR rule.valid_until > strftime('%Y-%m-%d %H:%M:%f000', 'now'))
        AND (rule.action_type IS NULL OR rule.action_type = proposal.action_type)
        AND (rule.requester_type IS NULL OR proposal.requester_type IS NULL OR rule.requester_type = proposal.requester_type)
        AND (rule.action_name IS NULL OR coalesce(proposal.action_name GLOB replace(rule.action_name, '[', '[[]'), 1))
        AND (rule.agent_id IS NULL OR CASE WHEN coalesce(rule.agent_id, '') = '' OR coalesce(proposal.agent_id, '') = '' OR rule.agent_id = lower(proposal.agent_id) OR rule.agent_id = (SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'agent_id') THEN 1 ELSE coalesce((SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'agent_id'), '') = '' AND proposal.agent_id GLOB '*[^!-~]*' END)
    ORDER BY rule.id;
    SELECT RAISE(ABORT, 'action_proposals_approval_required: a rule asks for an approval first')
    FROM action_proposals AS proposal
    WHERE proposal.id = NEW.proposal_id AND (proposal.status = 'validated' OR proposal.status = 'executing')
        AND EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id)
        AND NOT EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id AND effect = 'deny');
    UPDATE action_proposals
    SET status = 'cancelled', end_code = 'denied', cancelled_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'), status_changed_by = 'ledger',
        status_reason = 'rule ' || (SELECT min(rule_id) FROM action_requirements WHERE proposal_id = NEW.proposal_id AND effect = 'deny') || ' denies it',
        status_cause = '{"rule":' || (SELECT min(rule_id) FROM action_requirements WHERE proposal_id = NEW.proposal_id AND effect = 'deny') || '}',
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE id = NEW.proposal_id AND status <> 'failed'
        AND EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id AND effect = 'deny');
    -- Votes that were given in advance.
    INSERT INTO action_rules_candidates
    SELECT 'grant', a_grant.id, proposal.id, proposal.parameters, a_grant.conditions, a_grant.refutations
    FROM action_proposals AS proposal CROSS JOIN action_grants AS a_grant
    WHERE proposal.id = NEW.proposal_id AND proposal.status = 'proposed' AND proposal.approval IS NOT NULL AND proposal.content_digest IS NOT NULL
        AND a_grant.revoked_at IS NULL AND a_grant.valid_until > strftime('%Y-%m-%d %H:%M:%f000', 'now')
        AND (SELECT count(*) FROM action_decisions WHERE grant_id = a_grant.id) < a_grant.max_uses
        AND coalesce(proposal.action_name GLOB replace(a_grant.action_name, '[', '[[]'), 1)
        AND EXISTS (SELECT 1 FROM action_requirements AS requirement WHERE requirement.proposal_id = proposal.id AND requirement.effect = 'require'
            AND (requirement.roles IS NULL OR EXISTS (SELECT 1 FROM json_each(requirement.roles) AS wanted JOIN json_each(a_grant.roles) AS claimed ON claimed.value = wanted.value))
            AND (requirement.approvers IS NULL OR EXISTS (SELECT 1 FROM json_each(requirement.approvers) AS named WHERE named.value = a_grant.grantor_key))
            AND (requirement.allow_agents OR a_grant.grantor_type <> 'agent')
            AND (requirement.allow_self OR NOT (
            proposal.requester_id IS NOT NULL AND (CASE WHEN coalesce(a_grant.grantor_key, '') = '' OR coalesce(proposal.requester_id, '') = '' OR a_grant.grantor_key = lower(proposal.requester_id) OR a_grant.grantor_key = (SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'requester_id') THEN 1 ELSE coalesce((SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'requester_id'), '') = '' AND proposal.requester_id GLOB '*[^!-~]*' END)
            OR proposal.agent_id IS NOT NULL AND (CASE WHEN coalesce(a_grant.grantor_key, '') = '' OR coalesce(proposal.agent_id, '') = '' OR a_grant.grantor_key = lower(proposal.agent_id) OR a_grant.grantor_key = (SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'agent_id') THEN 1 ELSE coalesce((SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'agent_id'), '') = '' AND proposal.agent_id GLOB '*[^!-~]*' END)
            OR proposal.proposed_by IS NOT NULL AND (CASE WHEN coalesce(a_grant.grantor_key, '') = '' OR coalesce(proposal.proposed_by, '') = '' OR a_grant.grantor_key = lower(proposal.proposed_by) OR a_grant.grantor_key = (SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'proposed_by') THEN 1 ELSE coalesce((SELECT value FROM json_each(proposal.identity_keys) WHERE key = 'proposed_by'), '') = '' AND proposal.proposed_by GLOB '*[^!-~]*' END))))
    ORDER BY a_grant.id;
END;

-- The conditions of a rule or a grant decide about a proposal that fits otherwise. What can't be evaluated matches. That is the safe side for
-- a rule, but no consent: so for a grant, what refutes its conditions must not match.
CREATE TRIGGER action_rules_match
INSTEAD OF INSERT ON action_rules_candidates
BEGIN
    SELECT RAISE(IGNORE)
    FROM (SELECT NEW.conditions AS conditions, 1 AS wanted WHERE NEW.conditions <> '[]' UNION ALL SELECT value, 0 FROM json_each(NEW.refutations)) AS asked
    WHERE asked.wanted <> (NOT EXISTS (
        SELECT 1 FROM json_each(asked.conditions) AS listed
        WHERE NOT coalesce((
            SELECT (
                SELECT CASE
                    WHEN found.depth = 0 AND found.value IS NULL OR found.visited <> found.depth + 1 THEN NULL
                    WHEN condition.op = 'exists' THEN found.depth = condition.steps
                    WHEN found.depth <> condition.steps THEN NULL
                    ELSE (
                        SELECT max(CASE
                            WHEN condition.op = 'prefix' THEN CASE WHEN found.kind = 'text' AND operand.type = 'text'
                                THEN substr(found.value, 1, length(operand.value)) = operand.value END
                            WHEN found.kind = 'text' AND operand.type = 'text'
                                OR found.kind = 'number' AND operand.type = 'integer' AND typeof(found.value) = 'integer' AND typeof(operand.value) = 'integer'
                                THEN instr(condition.signs, CASE WHEN found.value = operand.value THEN '=' WHEN found.value < operand.value THEN '<' ELSE '>' END) > 0
                            WHEN found.kind = 'number' AND (operand.type = 'integer' OR operand.type = 'real')
                                THEN instr(condition.signs, CASE
                                    WHEN operand.type = 'integer' AND typeof(operand.value) = 'real' OR abs(operand.value * 1.0) >= 1e308 THEN ''
                                    WHEN found.value * 1.0 = operand.value * 1.0 THEN '='
                                    WHEN abs(found.value * 0.5 - operand.value * 0.5) <= 5e-14 * max(abs(found.value * 1.0), abs(operand.value * 1.0)) THEN ''
                                    WHEN found.value * 1.0 < operand.value * 1.0 THEN '<'
                                    ELSE '>' END) > 0
                            WHEN found.kind = 'other' AND (operand.type = found.type OR operand.type = 'true' AND found.type = 'false' OR operand.type = 'false' AND found.type = 'true')
                                THEN CASE condition.signs WHEN '=' THEN operand.type = found.type WHEN '<>' THEN operand.type <> found.type END END)
                        FROM json_each(CASE WHEN condition.op <> 'in' THEN listed.value WHEN condition.type = 'array' THEN condition.value END) AS operand
                        WHERE condition.op = 'in' OR operand.key = 'value') END
                FROM (
                    SELECT walked.depth, walked.visited, walked.type,
                        CASE walked.type
                            WHEN 'text' THEN 'text'
                            WHEN 'integer' THEN CASE typeof(walked.value) WHEN 'integer' THEN 'number' END
                            WHEN 'real' THEN CASE WHEN abs(walked.value) < 1e308 THEN 'number' END
                            WHEN 'true' THEN 'other' WHEN 'false' THEN 'other' WHEN 'null' THEN 'other' END AS kind,
                        CASE WHEN walked.type = 'real' AND abs(walked.value) < 1e-300 THEN 0.0 ELSE walked.value END AS value
                    FROM (
                        WITH RECURSIVE walk (depth, type, value) AS (
                            SELECT 0, 'object', (
                                SELECT CASE WHEN document.type = 'object' AND (document.value = NEW.parameters
                                    OR replace(replace(replace(replace(document.value, ' ', ''), char(9), ''), char(10), ''), char(13), '')
                                        = replace(replace(replace(replace(NEW.parameters, ' ', ''), char(9), ''), char(10), ''), char(13), ''))
                                    THEN document.value END
                                FROM json_tree(CASE WHEN typeof(NEW.parameters) = 'text'
                                    AND NOT (instr(NEW.parameters, '\u') AND (instr(NEW.parameters, '\u0000') OR NEW.parameters GLOB '*\u[dD][89a-fA-F]*'))
                                    AND NOT (length(NEW.parameters) >= 5000 AND NEW.parameters GLOB '*[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]*')
                                    THEN NEW.parameters END) AS document
                                LIMIT 1)
                            UNION ALL
                            SELECT walk.depth + 1, member.type, member.value
                            FROM walk
                            CROSS JOIN json_each(condition.path) AS step ON +step.key = walk.depth
                            CROSS JOIN json_each(CASE WHEN walk.type = 'object' OR walk.type = 'array' THEN walk.value END) AS member ON +member.key IS step.value)
                        SELECT max(walk.depth) AS depth, count(*) AS visited, walk.type, walk.value FROM walk) AS walked) AS found)
            FROM (
                SELECT parts.op, parts.path, parts.type, parts.value, (SELECT count(*) FROM json_each(parts.path)) AS steps,
                    CASE parts.op WHEN 'eq' THEN '=' WHEN 'in' THEN '=' WHEN 'ne' THEN '<>' WHEN 'lt' THEN '<' WHEN 'le' THEN '<='
                        WHEN 'gt' THEN '>' WHEN 'ge' THEN '>=' END AS signs
                FROM (
                    SELECT max(CASE part.key WHEN 'op' THEN part.value END) AS op,
                        max(CASE WHEN part.key = 'path' AND part.type = 'array' THEN part.value END) AS path,
                        max(CASE part.key WHEN 'value' THEN part.type END) AS type,
                        max(CASE part.key WHEN 'value' THEN part.value END) AS value
                    FROM json_each(CASE listed.type WHEN 'object' THEN listed.value END) AS part) AS parts) AS condition), 1)));
    INSERT INTO action_requirements (proposal_id, rule_id, name, effect, approvals, roles, approvers, allow_self, allow_agents, decide_within, valid_for, covers_retries)
    SELECT NEW.proposal_id, id, name, effect, approvals, roles, approvers, allow_self, allow_agents, decide_within, valid_for, covers_retries FROM action_rules WHERE NEW.kind = 'rule' AND id = NEW.source_id;
    INSERT INTO action_decisions (proposal_id, kind, decided_by, decider_key, decider_type, roles, digest, comment, grant_id)
    SELECT NEW.proposal_id, 'approved', granted_by, grantor_key, grantor_type, roles, (SELECT content_digest FROM action_proposals WHERE id = NEW.proposal_id), reason, id
    FROM action_grants WHERE NEW.kind = 'grant' AND id = NEW.source_id
        AND NOT EXISTS (SELECT 1 FROM action_votes WHERE proposal_id = NEW.proposal_id AND decider_key = grantor_key);
END;

CREATE TRIGGER action_proposals_supersedes
BEFORE INSERT ON action_proposals
WHEN NEW.supersedes_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.supersedes_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_supersedes: no such proposal');
END;

CREATE TRIGGER action_proposals_linked_once
BEFORE UPDATE OF supersedes_id, identity_keys ON action_proposals
WHEN NEW.supersedes_id IS NOT OLD.supersedes_id OR OLD.identity_keys IS NOT NULL AND NEW.identity_keys IS NOT OLD.identity_keys
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END;

CREATE TRIGGER action_proposals_approval_kept
BEFORE UPDATE OF approval, lapses_at ON action_proposals
WHEN NEW.approval IS NOT OLD.approval OR NEW.lapses_at IS NOT OLD.lapses_at
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_kept: the ledger keeps approval and lapses_at')
    WHERE NOT EXISTS (
        SELECT 1 FROM action_approvals AS found
        WHERE found.proposal_id = OLD.id AND (found.approval IS NEW.approval OR NEW.approval = 'held' AND found.approval = 'given') AND found.lapses_at IS NEW.lapses_at
            AND EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = OLD.id));
END;

CREATE TRIGGER action_events_genuine
BEFORE INSERT ON action_events
WHEN (NEW.id = -1 AND NEW.transaction_id = 0 AND (
    NEW.record_id IS NULL AND NEW.success IS NULL AND NEW.worker IS NULL AND (
        NEW.event_type = 'status_changed' AND NEW.from_status <> NEW.to_status
            AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = NEW.to_status AND version = NEW.version
                AND NEW.details IS iif(end_code IS NULL, status_cause, '{"end_code":"' || end_code || '"' || coalesce(',' || substr(status_cause, 2), '}')))
            AND (SELECT to_status FROM action_events WHERE proposal_id = NEW.proposal_id AND to_status IS NOT NULL ORDER BY id DESC LIMIT 1) IS NOT NEW.to_status
        OR NEW.event_type = 'proposal_created' AND NEW.from_status IS NULL AND NEW.version = 1
            AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = NEW.to_status AND version = NEW.version
                AND NEW.details IS '{"digest":"' || content_digest || '"}')
            AND NOT EXISTS (SELECT 1 FROM action_events WHERE proposal_id = NEW.proposal_id)
        OR (NEW.event_type = 'retry_scheduled' OR NEW.event_type = 'retry_cancelled') AND NEW.details IS NULL AND NEW.from_status = NEW.to_status
            AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = NEW.to_status AND version = NEW.version AND (next_retry_at IS NULL) = (NEW.event_type = 'retry_cancelled')
                AND status_changed_by IS NEW.actor AND status_reason IS NEW.reason)
            AND coalesce((SELECT version FROM action_events WHERE proposal_id = NEW.proposal_id AND to_status IS NOT NULL ORDER BY id DESC LIMIT 1), 0) < NEW.version
            AND NEW.occurred_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')
        OR NEW.proposal_id IS NOT NULL AND NEW.from_status IS NULL AND NEW.to_status IS NULL AND NEW.version IS NULL
            AND (NEW.event_type = 'approval_required' AND NEW.actor = 'ledger'
                    AND EXISTS (SELECT 1 FROM action_requirements AS requirement WHERE id = CAST(substr(NEW.details, 16) AS INTEGER) AND proposal_id = NEW.proposal_id AND name = NEW.reason AND '{"requirement":' || requirement.id || coalesce(',"rule":' || requirement.rule_id, '') || '}' = NEW.details)
                OR EXISTS (SELECT 1 FROM action_decisions AS decision WHERE id = CAST(substr(NEW.details, 13) AS INTEGER) AND proposal_id = NEW.proposal_id AND decided_by = NEW.actor AND comment IS NEW.reason AND '{"decision":' || decision.id || coalesce(',"digest":"' || decision.digest || '"', '') || coalesce(',"requirement":' || decision.requirement_id, '') || coalesce(',"grant":' || decision.grant_id, '') || coalesce(',"withdraws":' || decision.withdraws_id, '') || '}' = NEW.details
                    AND iif(kind = 'withdrawn', 'approval_withdrawn', kind) = NEW.event_type))
            AND NOT EXISTS (SELECT 1 FROM action_events WHERE proposal_id = NEW.proposal_id AND details = NEW.details AND event_type = NEW.event_type)
        OR NEW.proposal_id IS NULL AND NEW.from_status IS NULL AND NEW.to_status IS NULL AND NEW.version IS NULL
            AND (NEW.event_type = 'rule_added' AND EXISTS (SELECT 1 FROM action_rules WHERE id = CAST(substr(NEW.details, 9) AS INTEGER) AND added_by = NEW.actor AND reason = NEW.reason AND '{"rule":' || id || '}' = NEW.details)
                OR NEW.event_type = 'rule_revoked' AND EXISTS (SELECT 1 FROM action_rules WHERE id = CAST(substr(NEW.details, 9) AS INTEGER) AND revoked_by = NEW.actor AND revoke_reason = NEW.reason AND '{"rule":' || id || '}' = NEW.details)
                OR NEW.event_type = 'grant_added' AND EXISTS (SELECT 1 FROM action_grants WHERE id = CAST(substr(NEW.details, 10) AS INTEGER) AND granted_by = NEW.actor AND reason = NEW.reason AND '{"grant":' || id || '}' = NEW.details)
                OR NEW.event_type = 'grant_revoked' AND EXISTS (SELECT 1 FROM action_grants WHERE id = CAST(substr(NEW.details, 10) AS INTEGER) AND revoked_by = NEW.actor AND revoke_reason = NEW.reason AND '{"grant":' || id || '}' = NEW.details))
            AND NOT EXISTS (SELECT 1 FROM action_events WHERE proposal_id IS NULL AND details = NEW.details AND event_type = NEW.event_type)
        OR NEW.proposal_id IS NULL AND NEW.from_status IS NULL AND NEW.to_status IS NULL AND NEW.version IS NULL
            AND (EXISTS (SELECT 1 FROM action_halts_told WHERE id = CAST(substr(NEW.details, 9) AS INTEGER) AND details = NEW.details AND event_type = NEW.event_type AND actor = NEW.actor AND reason = NEW.reason AND occurred_at = NEW.occurred_at)
                OR EXISTS (SELECT 1 FROM action_limits_told WHERE id = CAST(substr(NEW.details, 10) AS INTEGER) AND details = NEW.details AND event_type = NEW.event_type AND actor = NEW.actor AND reason = NEW.reason AND occurred_at = NEW.occurred_at))
            AND NOT EXISTS (SELECT 1 FROM action_events WHERE proposal_id IS NULL AND details = NEW.details AND event_type = NEW.event_type))
    OR NEW.record_id IS NOT NULL AND NEW.details IS NULL AND NEW.to_status IS NULL AND NEW.from_status IS NULL AND NEW.version IS NULL
        AND (NEW.event_type = 'record_started' AND NEW.success IS NULL
                AND EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id AND worker IS NEW.worker)
            OR NEW.event_type = 'outcome_resolved'
                AND EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND worker IS NEW.worker)
                AND EXISTS (SELECT 1 FROM outcome_resolutions WHERE record_id = NEW.record_id AND proposal_id = NEW.proposal_id AND succeeded = NEW.success AND resolved_by = NEW.actor AND evidence = NEW.reason)
            OR NEW.event_type = 'record_finished'
                AND EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id AND worker IS NEW.worker AND completed_at IS NOT NULL AND success IS NEW.success))
        AND NOT EXISTS (SELECT 1 FROM action_events WHERE record_id = NEW.record_id AND event_type = NEW.event_type))) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_replaced: the history is append-only') WHERE NEW.id <> -1;
    SELECT RAISE(ABORT, 'action_events_genuine: only what has just happened becomes an event');
END;

CREATE TRIGGER action_proposals_created
AFTER INSERT ON action_proposals
BEGIN
    UPDATE action_proposals
    SET status_changed_by = coalesce(NEW.status_changed_by, 'raw SQL'),
        status_changed_at = iif(NEW.status_changed_by IS NULL, strftime('%Y-%m-%d %H:%M:%f000', 'now'), NEW.status_changed_at),
        end_code = iif((NEW.status = 'cancelled' OR NEW.status = 'failed'), NEW.status, NULL)
    WHERE (NEW.status_changed_by IS NULL OR (NEW.status = 'cancelled' OR NEW.status = 'failed') AND NEW.end_code IS NULL) AND id = NEW.id;
    INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at, version, details)
    VALUES (NEW.id, 'proposal_created', NEW.status, coalesce(NEW.status_changed_by, 'raw SQL'),
        NEW.reason, strftime('%Y-%m-%d %H:%M:%f000', 'now'), 1, '{"digest":"' || NEW.content_digest || '"}');
    UPDATE action_proposals
    SET status = 'cancelled', status_reason = 'a proposal that it depends on has failed or was cancelled',
        end_code = 'dependency',
        status_cause = '{"proposal":' || (
            SELECT min(depends_on_id) FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
            WHERE proposal_id = NEW.id AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL)) || '}',
        status_changed_by = 'ledger',
        cancelled_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE id = NEW.id AND NEW.depends_on IS NOT NULL AND NOT NEW.wait_on_failure
        AND NEW.status IN ('proposed', 'validated') AND EXISTS (
        SELECT 1 FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
        WHERE proposal_id = NEW.id AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL));
    INSERT INTO action_rules_asked
    SELECT NEW.id WHERE NEW.status <> 'completed' AND NEW.status <> 'cancelled' AND EXISTS (SELECT 1 FROM action_rules WHERE revoked_at IS NULL);
END;

CREATE TRIGGER action_proposals_changed
AFTER UPDATE OF status, next_retry_at ON action_proposals
WHEN NEW.status IS NOT OLD.status OR NEW.next_retry_at IS NOT OLD.next_retry_at
BEGIN
    UPDATE action_proposals
    SET status_changed_by = iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), 'raw SQL', NEW.status_changed_by),
        status_reason = iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), NULL, NEW.status_reason),
        status_changed_at = iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')), NEW.status_changed_at),
        updated_at = iif(NEW.updated_at > OLD.updated_at, NEW.updated_at, coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now'))),
        version = OLD.version + 1,
        end_code = iif((NEW.status = 'cancelled' OR NEW.status = 'failed'), coalesce(NEW.end_code, NEW.status), NULL),
        status_cause = iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL) OR NEW.status_cause IS OLD.status_cause, NULL, NEW.status_cause)
    WHERE NEW.status IS NOT OLD.status
        AND (NEW.version IS NOT OLD.version + 1 OR (NEW.updated_at > OLD.updated_at) IS NOT TRUE OR (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL)
            OR NEW.end_code IS NOT iif((NEW.status = 'cancelled' OR NEW.status = 'failed'), coalesce(NEW.end_code, NEW.status), NULL)
            OR NEW.status_cause IS NOT NULL AND NEW.status_cause IS OLD.status_cause)
        AND id = NEW.id;
    INSERT INTO action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at, version, details)
    VALUES (NEW.id,
        CASE WHEN NEW.status IS NOT OLD.status THEN 'status_changed'
            WHEN NEW.next_retry_at IS NULL THEN 'retry_cancelled' ELSE 'retry_scheduled' END,
        OLD.status, NEW.status,
        iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), 'raw SQL', NEW.status_changed_by),
        iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), NULL, NEW.status_reason),
        strftime('%Y-%m-%d %H:%M:%f000', 'now'), OLD.version + 1,
        CASE WHEN NEW.status IS NOT OLD.status THEN
            iif((NEW.status = 'cancelled' OR NEW.status = 'failed'), '{"end_code":"' || coalesce(NEW.end_code, NEW.status) || '"' || coalesce(',' || substr(iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL) OR NEW.status_cause IS OLD.status_cause, NULL, NEW.status_cause), 2), '}'),
                iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL) OR NEW.status_cause IS OLD.status_cause, NULL, NEW.status_cause)) END);
    INSERT INTO action_approvals_asked SELECT NEW.id WHERE NEW.approval IS NOT NULL AND NEW.status IS NOT OLD.status;
END;

CREATE TRIGGER action_proposals_held
BEFORE UPDATE OF status ON action_proposals
WHEN (NEW.status = 'executing' OR NEW.status = 'validated') AND NEW.status IS NOT OLD.status
    AND (OLD.approval IS NOT NULL OR EXISTS (SELECT 1 FROM action_halts WHERE resumed_at IS NULL))
BEGIN
    INSERT INTO action_halts_asked VALUES (OLD.action_name, OLD.agent_id, OLD.run_id, OLD.parent_id, 1);
    SELECT RAISE(ABORT, 'action_proposals_approval_required: an approval is missing')
    FROM action_approvals WHERE OLD.approval IS NOT NULL AND proposal_id = OLD.id AND NOT met;
END;

CREATE TRIGGER action_proposals_updated_at
AFTER UPDATE ON action_proposals
WHEN NEW.version IS NOT OLD.version + 1 AND NEW.status IS OLD.status AND NEW.approval IS OLD.approval AND NEW.lapses_at IS OLD.lapses_at AND OLD.status IS (
        SELECT to_status FROM action_events WHERE proposal_id = OLD.id AND to_status IS NOT NULL
        ORDER BY id DESC LIMIT 1)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_updated_at: the ledger counts the versions')
    WHERE NEW.version IS NOT OLD.version;
    UPDATE action_proposals
    SET updated_at = iif(NEW.updated_at > OLD.updated_at, NEW.updated_at, coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now'))), version = OLD.version + 1
    WHERE id = NEW.id;
END;

CREATE TRIGGER action_proposals_guarded
BEFORE UPDATE ON action_proposals
WHEN NEW.id IS NOT OLD.id
    OR NEW.status IS OLD.status
        AND (NEW.end_code IS NOT OLD.end_code OR NEW.status_cause IS NOT OLD.status_cause OR NEW.version <> OLD.version AND (NEW.version <> OLD.version + 1 OR (NEW.updated_at IS OLD.updated_at OR (NEW.updated_at > OLD.updated_at) IS NOT TRUE
            AND coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')) > OLD.updated_at))
            OR NEW.version IS OLD.version AND NEW.updated_at > OLD.updated_at
            OR NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.version IS OLD.version OR (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL))
            OR NEW.next_retry_at IS OLD.next_retry_at AND (NEW.status_changed_by IS NOT OLD.status_changed_by OR NEW.status_reason IS NOT OLD.status_reason OR NEW.status_changed_at IS NOT OLD.status_changed_at))
        AND OLD.status IS (
        SELECT to_status FROM action_events WHERE proposal_id = OLD.id AND to_status IS NOT NULL
        ORDER BY id DESC LIMIT 1)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_not_renumbered: an id never changes') WHERE NEW.id IS NOT OLD.id;
    SELECT RAISE(ABORT, 'action_proposals_attributed: who acts and why is said with what is done')
    WHERE NEW.end_code IS NOT OLD.end_code OR NEW.status_cause IS NOT OLD.status_cause
        OR NEW.next_retry_at IS OLD.next_retry_at AND (NEW.status_changed_by IS NOT OLD.status_changed_by OR NEW.status_reason IS NOT OLD.status_reason OR NEW.status_changed_at IS NOT OLD.status_changed_at);
    UPDATE action_proposals
    SET id = NEW.id, ticket_id = NEW.ticket_id, action_name = NEW.action_name, action_type = NEW.action_type, parameters = NEW.parameters, reason = NEW.reason, status = NEW.status, proposed_at = NEW.proposed_at, proposed_by = NEW.proposed_by, validated_at = NEW.validated_at, cancelled_at = NEW.cancelled_at, created_at = NEW.created_at, idempotency_key = NEW.idempotency_key, priority = NEW.priority, scheduled_at = NEW.scheduled_at, expires_at = NEW.expires_at, max_retries = NEW.max_retries, retry_delay = NEW.retry_delay, max_retry_delay = NEW.max_retry_delay, retry_count = NEW.retry_count, next_retry_at = NEW.next_retry_at, last_error = NEW.last_error, workflow_id = NEW.workflow_id, depends_on = NEW.depends_on, wait_on_failure = NEW.wait_on_failure, requester_id = NEW.requester_id, requester_type = NEW.requester_type, agent_id = NEW.agent_id, run_id = NEW.run_id, parent_id = NEW.parent_id, call_id = NEW.call_id, traceparent = NEW.traceparent, content_digest = NEW.content_digest, approval = NEW.approval, lapses_at = NEW.lapses_at, identity_keys = NEW.identity_keys, supersedes_id = NEW.supersedes_id,
        status_changed_by = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), 'raw SQL', NEW.status_changed_by),
        status_reason = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), NULL, NEW.status_reason),
        status_changed_at = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')), NEW.status_changed_at),
        updated_at = iif(NEW.updated_at > OLD.updated_at, NEW.updated_at, coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now'))),
        version = OLD.version + 1
    WHERE id = OLD.id;
    SELECT RAISE(IGNORE);
END;

CREATE TRIGGER action_proposals_values
AFTER INSERT ON action_proposals
WHEN (NEW.id >= 1
    AND (NEW.ticket_id IS NULL OR (NEW.ticket_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.ticket_id AS INTEGER) = NEW.ticket_id))
    AND (NEW.workflow_id IS NULL OR (NEW.workflow_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.workflow_id AS INTEGER) = NEW.workflow_id))
    AND (NEW.action_name < x'' AND substr(NEW.action_name, 1, 255) = NEW.action_name AND (unicode(NEW.action_name) BETWEEN 33 AND 126 OR trim(NEW.action_name, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.reason < x'' AND substr(NEW.reason, 1, 65536) = NEW.reason AND (unicode(NEW.reason) BETWEEN 33 AND 126 OR trim(NEW.reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.proposed_by < x'' AND substr(NEW.proposed_by, 1, 255) = NEW.proposed_by AND (unicode(NEW.proposed_by) BETWEEN 33 AND 126 OR trim(NEW.proposed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.idempotency_key IS NULL OR NEW.idempotency_key < x'' AND substr(NEW.idempotency_key, 1, 255) = NEW.idempotency_key AND (unicode(NEW.idempotency_key) BETWEEN 33 AND 126 OR trim(NEW.idempotency_key, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.status_changed_by IS NULL OR NEW.status_changed_by < x'' AND substr(NEW.status_changed_by, 1, 255) = NEW.status_changed_by AND (unicode(NEW.status_changed_by) BETWEEN 33 AND 126 OR trim(NEW.status_changed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.status_reason IS NULL OR NEW.status_reason < x'' AND substr(NEW.status_reason, 1, 65536) = NEW.status_reason AND (unicode(NEW.status_reason) BETWEEN 33 AND 126 OR trim(NEW.status_reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.priority BETWEEN -32768 AND 32767 AND CAST(NEW.priority AS INTEGER) = NEW.priority)
    AND (NEW.max_retries BETWEEN 0 AND 1000 AND CAST(NEW.max_retries AS INTEGER) = NEW.max_retries)
    AND (NEW.retry_delay BETWEEN 0 AND 604800)
    AND (NEW.max_retry_delay BETWEEN 0 AND 604800)
    AND (NEW.wait_on_failure = 0 OR NEW.wait_on_failure = 1)
    AND (NEW.proposed_at = NEW.created_at OR NEW.proposed_at < '9999' AND NEW.proposed_at >= '1970-01-01' AND NEW.proposed_at GLOB '????-*' AND julianday(NEW.proposed_at) IS NOT NULL)
    AND (NEW.created_at < '9999' AND NEW.created_at >= '1970-01-01' AND NEW.created_at GLOB '????-*' AND julianday(NEW.created_at) IS NOT NULL)
    AND (NEW.updated_at = NEW.created_at OR NEW.updated_at < '9999' AND NEW.updated_at >= '1970-01-01' AND NEW.updated_at GLOB '????-*' AND julianday(NEW.updated_at) IS NOT NULL)
    AND (NEW.status_changed_at IS NULL OR NEW.status_changed_at = NEW.created_at OR NEW.status_changed_at < '9999' AND NEW.status_changed_at >= '1970-01-01' AND NEW.status_changed_at GLOB '????-*' AND julianday(NEW.status_changed_at) IS NOT NULL)
    AND (NEW.validated_at IS NULL OR NEW.validated_at = NEW.created_at OR NEW.validated_at < '9999' AND NEW.validated_at >= '1970-01-01' AND NEW.validated_at GLOB '????-*' AND julianday(NEW.validated_at) IS NOT NULL)
    AND (NEW.cancelled_at IS NULL OR NEW.cancelled_at = NEW.created_at OR NEW.cancelled_at < '9999' AND NEW.cancelled_at >= '1970-01-01' AND NEW.cancelled_at GLOB '????-*' AND julianday(NEW.cancelled_at) IS NOT NULL)
    AND (NEW.scheduled_at IS NULL OR NEW.scheduled_at = NEW.created_at OR NEW.scheduled_at < '9999' AND NEW.scheduled_at >= '1970-01-01' AND NEW.scheduled_at GLOB '????-*' AND julianday(NEW.scheduled_at) IS NOT NULL)
    AND (NEW.expires_at IS NULL OR NEW.expires_at = NEW.created_at OR NEW.expires_at < '9999' AND NEW.expires_at >= '1970-01-01' AND NEW.expires_at GLOB '????-*' AND julianday(NEW.expires_at) IS NOT NULL)
    AND (NEW.content_digest IS NULL OR NEW.content_digest < x'' AND length(CAST(NEW.content_digest AS BLOB)) = 68 AND NEW.content_digest GLOB 'oc1:[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]')
    AND NEW.status_cause IS NULL AND (NEW.end_code IS NULL OR NEW.end_code = NEW.status AND (NEW.status = 'cancelled' OR NEW.status = 'failed'))
    AND (NEW.version = 1 AND NEW.retry_count = 0 AND NEW.next_retry_at IS NULL AND NEW.last_error IS NULL AND NEW.approval IS NULL AND NEW.lapses_at IS NULL AND (NEW.identity_keys IS NULL OR NEW.identity_keys GLOB '{*}' AND (SELECT count(*) FROM json_each(NEW.identity_keys) WHERE type IS NOT 'text') = 0))) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_created: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: ticket_id is not what the ledger takes') WHERE (NEW.ticket_id IS NULL OR (NEW.ticket_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.ticket_id AS INTEGER) = NEW.ticket_id)) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: workflow_id is not what the ledger takes') WHERE (NEW.workflow_id IS NULL OR (NEW.workflow_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.workflow_id AS INTEGER) = NEW.workflow_id)) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: action_name is not what the ledger takes') WHERE (NEW.action_name < x'' AND substr(NEW.action_name, 1, 255) = NEW.action_name AND (unicode(NEW.action_name) BETWEEN 33 AND 126 OR trim(NEW.action_name, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: reason is not what the ledger takes') WHERE (NEW.reason < x'' AND substr(NEW.reason, 1, 65536) = NEW.reason AND (unicode(NEW.reason) BETWEEN 33 AND 126 OR trim(NEW.reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: proposed_by is not what the ledger takes') WHERE (NEW.proposed_by < x'' AND substr(NEW.proposed_by, 1, 255) = NEW.proposed_by AND (unicode(NEW.proposed_by) BETWEEN 33 AND 126 OR trim(NEW.proposed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: idempotency_key is not what the ledger takes') WHERE (NEW.idempotency_key IS NULL OR NEW.idempotency_key < x'' AND substr(NEW.idempotency_key, 1, 255) = NEW.idempotency_key AND (unicode(NEW.idempotency_key) BETWEEN 33 AND 126 OR trim(NEW.idempotency_key, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: status_changed_by is not what the ledger takes') WHERE (NEW.status_changed_by IS NULL OR NEW.status_changed_by < x'' AND substr(NEW.status_changed_by, 1, 255) = NEW.status_changed_by AND (unicode(NEW.status_changed_by) BETWEEN 33 AND 126 OR trim(NEW.status_changed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: status_reason is not what the ledger takes') WHERE (NEW.status_reason IS NULL OR NEW.status_reason < x'' AND substr(NEW.status_reason, 1, 65536) = NEW.status_reason AND (unicode(NEW.status_reason) BETWEEN 33 AND 126 OR trim(NEW.status_reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: priority is not what the ledger takes') WHERE (NEW.priority BETWEEN -32768 AND 32767 AND CAST(NEW.priority AS INTEGER) = NEW.priority) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: max_retries is not what the ledger takes') WHERE (NEW.max_retries BETWEEN 0 AND 1000 AND CAST(NEW.max_retries AS INTEGER) = NEW.max_retries) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: retry_delay is not what the ledger takes') WHERE (NEW.retry_delay BETWEEN 0 AND 604800) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: max_retry_delay is not what the ledger takes') WHERE (NEW.max_retry_delay BETWEEN 0 AND 604800) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: wait_on_failure is not what the ledger takes') WHERE (NEW.wait_on_failure = 0 OR NEW.wait_on_failure = 1) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: proposed_at is not what the ledger takes') WHERE (NEW.proposed_at = NEW.created_at OR NEW.proposed_at < '9999' AND NEW.proposed_at >= '1970-01-01' AND NEW.proposed_at GLOB '????-*' AND julianday(NEW.proposed_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: created_at is not what the ledger takes') WHERE (NEW.created_at < '9999' AND NEW.created_at >= '1970-01-01' AND NEW.created_at GLOB '????-*' AND julianday(NEW.created_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: updated_at is not what the ledger takes') WHERE (NEW.updated_at = NEW.created_at OR NEW.updated_at < '9999' AND NEW.updated_at >= '1970-01-01' AND NEW.updated_at GLOB '????-*' AND julianday(NEW.updated_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: status_changed_at is not what the ledger takes') WHERE (NEW.status_changed_at IS NULL OR NEW.status_changed_at = NEW.created_at OR NEW.status_changed_at < '9999' AND NEW.status_changed_at >= '1970-01-01' AND NEW.status_changed_at GLOB '????-*' AND julianday(NEW.status_changed_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: validated_at is not what the ledger takes') WHERE (NEW.validated_at IS NULL OR NEW.validated_at = NEW.created_at OR NEW.validated_at < '9999' AND NEW.validated_at >= '1970-01-01' AND NEW.validated_at GLOB '????-*' AND julianday(NEW.validated_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: cancelled_at is not what the ledger takes') WHERE (NEW.cancelled_at IS NULL OR NEW.cancelled_at = NEW.created_at OR NEW.cancelled_at < '9999' AND NEW.cancelled_at >= '1970-01-01' AND NEW.cancelled_at GLOB '????-*' AND julianday(NEW.cancelled_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: scheduled_at is not what the ledger takes') WHERE (NEW.scheduled_at IS NULL OR NEW.scheduled_at = NEW.created_at OR NEW.scheduled_at < '9999' AND NEW.scheduled_at >= '1970-01-01' AND NEW.scheduled_at GLOB '????-*' AND julianday(NEW.scheduled_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: expires_at is not what the ledger takes') WHERE (NEW.expires_at IS NULL OR NEW.expires_at = NEW.created_at OR NEW.expires_at < '9999' AND NEW.expires_at >= '1970-01-01' AND NEW.expires_at GLOB '????-*' AND julianday(NEW.expires_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: content_digest is not what the ledger takes') WHERE (NEW.content_digest IS NULL OR NEW.content_digest < x'' AND length(CAST(NEW.content_digest AS BLOB)) = 68 AND NEW.content_digest GLOB 'oc1:[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_attributed: an end code or a cause belongs to a move') WHERE NEW.status_cause IS NOT NULL OR (NEW.end_code IS NULL OR NEW.end_code = NEW.status AND (NEW.status = 'cancelled' OR NEW.status = 'failed')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_kept: the ledger keeps version, retry_count, next_retry_at, last_error, approval and lapses_at') WHERE (NEW.version = 1 AND NEW.retry_count = 0 AND NEW.next_retry_at IS NULL AND NEW.last_error IS NULL AND NEW.approval IS NULL AND NEW.lapses_at IS NULL AND (NEW.identity_keys IS NULL OR NEW.identity_keys GLOB '{*}' AND (SELECT count(*) FROM json_each(NEW.identity_keys) WHERE type IS NOT 'text') = 0)) IS NOT TRUE;
END;
