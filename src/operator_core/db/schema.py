"""The schema at head as SQLite script text, for programs that create the tables without Alembic.

Generated from the revisions by ``make schema``; do not edit.
"""

from typing import Final

__all__ = ["ACTIONS_SCHEMA_SQL", "SCHEMA_SQL"]

SCHEMA_SQL: Final = """\
CREATE TABLE IF NOT EXISTS tickets (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    violation_key TEXT NOT NULL,
    invariant_name TEXT NOT NULL,
    store_id TEXT,
    status TEXT DEFAULT 'open' NOT NULL,
    held BOOLEAN DEFAULT 0 NOT NULL,
    batch_key TEXT,
    occurrence_count INTEGER DEFAULT 1 NOT NULL,
    first_seen_at TEXT NOT NULL,
    last_seen_at TEXT NOT NULL,
    resolved_at TEXT,
    message TEXT NOT NULL,
    severity TEXT DEFAULT 'warning' NOT NULL,
    diagnosis TEXT,
    metric_snapshot TEXT,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL
);

CREATE INDEX IF NOT EXISTS idx_tickets_open_violation ON tickets (violation_key) WHERE status != 'resolved';

CREATE INDEX IF NOT EXISTS idx_tickets_violation_time ON tickets (violation_key, resolved_at);

CREATE TRIGGER IF NOT EXISTS tickets_updated_at
AFTER UPDATE OF violation_key, invariant_name, store_id, status, held, batch_key, occurrence_count,
    first_seen_at, last_seen_at, resolved_at, message, severity, diagnosis, metric_snapshot ON tickets
WHEN NEW.updated_at IS OLD.updated_at
BEGIN
    UPDATE tickets SET updated_at = CURRENT_TIMESTAMP WHERE id = NEW.id;
END;
"""
"""The table ``tickets``, which another service writes."""

ACTIONS_SCHEMA_SQL: Final = """\
CREATE TABLE IF NOT EXISTS action_records (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    proposal_id INTEGER NOT NULL,
    started_at TEXT,
    completed_at TEXT,
    success BOOLEAN,
    error_message TEXT,
    result_data TEXT,
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    started_by TEXT,
    completed_by TEXT,
    worker TEXT,
    lease_expires_at TEXT,
    outcome_unknown BOOLEAN DEFAULT 0 NOT NULL, halt_seen_at TEXT,
    CONSTRAINT fk_action_records_proposal_id_action_proposals FOREIGN KEY(proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT ck_action_records_success CHECK (success IN (0, 1))
);

CREATE TABLE IF NOT EXISTS workflows (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    description TEXT,
    ticket_id INTEGER,
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT fk_workflows_ticket_id_tickets FOREIGN KEY(ticket_id) REFERENCES tickets (id)
);

CREATE TABLE IF NOT EXISTS action_dependencies (
    proposal_id INTEGER NOT NULL,
    depends_on_id INTEGER NOT NULL,
    CONSTRAINT pk_action_dependencies PRIMARY KEY (proposal_id, depends_on_id),
    CONSTRAINT fk_action_dependencies_proposal_id_action_proposals FOREIGN KEY(proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT fk_action_dependencies_depends_on_id_action_proposals FOREIGN KEY(depends_on_id) REFERENCES action_proposals (id),
    CONSTRAINT ck_action_dependencies_order CHECK (depends_on_id < proposal_id)
);

CREATE TABLE IF NOT EXISTS action_proposals (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    ticket_id INTEGER,
    action_name TEXT NOT NULL,
    action_type TEXT DEFAULT 'subject' NOT NULL,
    parameters TEXT NOT NULL,
    reason TEXT NOT NULL,
    status TEXT DEFAULT 'proposed' NOT NULL,
    proposed_at TEXT NOT NULL,
    proposed_by TEXT DEFAULT 'agent' NOT NULL,
    validated_at TEXT,
    cancelled_at TEXT,
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    status_changed_by TEXT,
    status_reason TEXT,
    status_changed_at TEXT,
    idempotency_key TEXT,
    priority INTEGER DEFAULT 0 NOT NULL,
    scheduled_at TEXT,
    expires_at TEXT,
    max_retries INTEGER DEFAULT 0 NOT NULL,
    retry_delay FLOAT DEFAULT 1 NOT NULL,
    max_retry_delay FLOAT DEFAULT 300 NOT NULL,
    retry_count INTEGER DEFAULT 0 NOT NULL,
    next_retry_at TEXT,
    last_error TEXT,
    version INTEGER DEFAULT 1 NOT NULL,
    workflow_id INTEGER,
    depends_on TEXT,
    wait_on_failure BOOLEAN DEFAULT 0 NOT NULL, requester_id TEXT, requester_type TEXT, agent_id TEXT, run_id TEXT, parent_id INTEGER, call_id TEXT, traceparent TEXT, end_code TEXT, status_cause TEXT, content_digest TEXT, exclusive_key TEXT, approval TEXT, lapses_at TEXT, identity_keys TEXT, supersedes_id INTEGER,
    CONSTRAINT fk_action_proposals_ticket_id_tickets FOREIGN KEY(ticket_id) REFERENCES tickets (id),
    CONSTRAINT ck_action_proposals_action_type CHECK (action_type = 'subject' OR action_type = 'tool' OR action_type = 'workflow'),
    CONSTRAINT ck_action_proposals_status CHECK (status = 'proposed' OR status = 'validated' OR status = 'executing' OR status = 'completed' OR status = 'failed' OR status = 'cancelled')
);

CREATE TABLE IF NOT EXISTS action_halts (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    mode TEXT NOT NULL,
    action_name TEXT,
    agent_id TEXT,
    run_id TEXT,
    halted_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    valid_from TEXT,
    valid_until TEXT,
    cancels BOOLEAN DEFAULT 0 NOT NULL,
    resumed_at TEXT,
    resumed_by TEXT,
    resume_reason TEXT
);

CREATE TABLE IF NOT EXISTS outcome_resolutions (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    record_id INTEGER NOT NULL,
    proposal_id INTEGER NOT NULL,
    succeeded BOOLEAN NOT NULL,
    resolved_by TEXT NOT NULL,
    evidence TEXT NOT NULL,
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT fk_outcome_resolutions_record_id_action_records FOREIGN KEY(record_id) REFERENCES action_records (id),
    CONSTRAINT fk_outcome_resolutions_proposal_id_action_proposals FOREIGN KEY(proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT ck_outcome_resolutions_succeeded CHECK (succeeded IN (0, 1))
);

CREATE TABLE IF NOT EXISTS action_limits (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    action_name TEXT,
    agent_id TEXT,
    "window" FLOAT NOT NULL,
    max_starts INTEGER,
    sum_of TEXT,
    max_sum INTEGER,
    set_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    removed_at TEXT,
    removed_by TEXT,
    remove_reason TEXT
);

CREATE TABLE IF NOT EXISTS action_starts (
    limit_id INTEGER NOT NULL,
    place INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    proposal_id INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    total INTEGER NOT NULL,
    given_back_at TEXT,
    CONSTRAINT pk_action_starts PRIMARY KEY (limit_id, place)
);

CREATE TABLE IF NOT EXISTS action_events (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    proposal_id INTEGER,
    record_id INTEGER,
    event_type TEXT NOT NULL,
    from_status TEXT,
    to_status TEXT,
    success BOOLEAN,
    actor TEXT NOT NULL,
    reason TEXT,
    occurred_at TEXT NOT NULL,
    transaction_id INTEGER DEFAULT 0 NOT NULL,
    version INTEGER,
    worker TEXT,
    details TEXT,
    CONSTRAINT fk_action_events_proposal_id_action_proposals FOREIGN KEY(proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT fk_action_events_record_id_action_records FOREIGN KEY(record_id) REFERENCES action_records (id),
    CONSTRAINT ck_action_events_success CHECK (success IN (0, 1))
);

CREATE TABLE IF NOT EXISTS action_rules (
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

CREATE TABLE IF NOT EXISTS action_requirements (
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

CREATE TABLE IF NOT EXISTS action_grants (
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

CREATE TABLE IF NOT EXISTS action_decisions (
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

CREATE INDEX IF NOT EXISTS idx_action_records_proposal ON action_records (proposal_id, id);

CREATE INDEX IF NOT EXISTS idx_action_records_lease ON action_records (lease_expires_at) WHERE completed_at IS NULL AND lease_expires_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_dependencies_needed ON action_dependencies (depends_on_id, proposal_id);

CREATE INDEX IF NOT EXISTS idx_action_proposals_status ON action_proposals (status, id);

CREATE INDEX IF NOT EXISTS idx_action_proposals_ticket ON action_proposals (ticket_id, id) WHERE ticket_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_action_name ON action_proposals (action_name, id);

CREATE INDEX IF NOT EXISTS idx_action_proposals_proposed_by ON action_proposals (proposed_by, id);

CREATE UNIQUE INDEX IF NOT EXISTS uq_action_proposals_idempotency_key ON action_proposals (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_due ON action_proposals (status, priority DESC, coalesce(next_retry_at, scheduled_at, created_at), id) WHERE status = 'validated';

CREATE INDEX IF NOT EXISTS idx_action_proposals_expires ON action_proposals (status, expires_at) WHERE status IN ('proposed', 'validated') AND expires_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_retry ON action_proposals (status, next_retry_at) WHERE status = 'failed' AND next_retry_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_workflow ON action_proposals (workflow_id, id) WHERE workflow_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_run ON action_proposals (run_id, id) WHERE run_id IS NOT NULL;

CREATE UNIQUE INDEX IF NOT EXISTS uq_action_proposals_call ON action_proposals (run_id, call_id) WHERE run_id IS NOT NULL AND call_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_parent ON action_proposals (parent_id, id) WHERE parent_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_agent ON action_proposals (agent_id, id) WHERE agent_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_requester ON action_proposals (requester_id, id) WHERE requester_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_halts_open ON action_halts (id) WHERE resumed_at IS NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_run_agent ON action_proposals (run_id, agent_id) WHERE run_id IS NOT NULL AND agent_id IS NOT NULL;

CREATE UNIQUE INDEX IF NOT EXISTS uq_outcome_resolutions_record_id ON outcome_resolutions (record_id);

CREATE INDEX IF NOT EXISTS idx_action_records_unknown ON action_records (id) WHERE outcome_unknown = 1;

CREATE INDEX IF NOT EXISTS idx_action_proposals_end_code ON action_proposals (end_code, id) WHERE end_code IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_events_proposal ON action_events (proposal_id, id);

CREATE INDEX IF NOT EXISTS idx_action_events_record ON action_events (record_id) WHERE record_id IS NOT NULL;

CREATE UNIQUE INDEX IF NOT EXISTS uq_action_proposals_exclusive ON action_proposals (exclusive_key) WHERE status = 'executing' AND exclusive_key IS NOT NULL;

CREATE UNIQUE INDEX IF NOT EXISTS uq_action_limits_name ON action_limits (name) WHERE removed_at IS NULL;

CREATE INDEX IF NOT EXISTS idx_action_starts_time ON action_starts (limit_id, started_at, place);

CREATE INDEX IF NOT EXISTS idx_action_starts_given_back ON action_starts (limit_id, started_at) WHERE given_back_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_starts_proposal ON action_starts (proposal_id, limit_id, place);

CREATE INDEX IF NOT EXISTS idx_action_rules_open ON action_rules (id) WHERE revoked_at IS NULL;

CREATE INDEX IF NOT EXISTS idx_action_requirements_proposal ON action_requirements (proposal_id, id);

CREATE INDEX IF NOT EXISTS idx_action_grants_open ON action_grants (id) WHERE revoked_at IS NULL;

CREATE INDEX IF NOT EXISTS idx_action_decisions_proposal ON action_decisions (proposal_id, id);

CREATE UNIQUE INDEX IF NOT EXISTS uq_action_decisions_withdraws ON action_decisions (withdraws_id) WHERE withdraws_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_decisions_grant ON action_decisions (grant_id) WHERE grant_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_approval ON action_proposals (approval, id) WHERE approval IS NOT NULL AND status <> 'completed' AND status <> 'cancelled' AND (status <> 'failed' OR next_retry_at IS NOT NULL);

CREATE INDEX IF NOT EXISTS idx_action_proposals_lapses ON action_proposals (status, lapses_at) WHERE lapses_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_supersedes ON action_proposals (supersedes_id) WHERE supersedes_id IS NOT NULL;

CREATE VIEW IF NOT EXISTS action_halts_asked AS SELECT action_name, agent_id, run_id, parent_id, 0 AS starts FROM action_proposals WHERE 0;

CREATE VIEW IF NOT EXISTS action_halts_told AS
WITH halts AS (
    SELECT *, '{"halt":' || id || ',"mode":"' || mode || '"'
        || coalesce(',"action_name":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(action_name, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"', '')
        || coalesce(',"agent_id":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(agent_id, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"', '')
        || coalesce(',"run_id":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(run_id, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"', '') || '}' AS details
    FROM action_halts)
SELECT id, 'halted' AS event_type, halted_by AS actor, reason, created_at AS occurred_at, details FROM halts
UNION ALL
SELECT id, 'resumed', resumed_by, resume_reason, resumed_at, details FROM halts WHERE resumed_at IS NOT NULL;

CREATE VIEW IF NOT EXISTS action_limits_asked AS SELECT id AS proposal_id, action_name, agent_id, parameters FROM action_proposals WHERE 0;

CREATE VIEW IF NOT EXISTS action_limits_used AS
SELECT bound.id AS limit_id,
    coalesce((SELECT place FROM action_starts WHERE limit_id = bound.id ORDER BY place DESC LIMIT 1), 0)
        - coalesce((SELECT place FROM action_starts WHERE limit_id = bound.id AND started_at <= strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('-%.3f seconds', bound."window")) ORDER BY started_at DESC, place DESC LIMIT 1), 0)
        - (SELECT count(*) FROM action_starts WHERE limit_id = bound.id AND given_back_at IS NOT NULL AND started_at > strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('-%.3f seconds', bound."window"))) AS starts,
    coalesce((SELECT total FROM action_starts WHERE limit_id = bound.id ORDER BY place DESC LIMIT 1), 0)
        - coalesce((SELECT total FROM action_starts WHERE limit_id = bound.id AND started_at <= strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('-%.3f seconds', bound."window")) ORDER BY started_at DESC, place DESC LIMIT 1), 0)
        - coalesce((SELECT sum(amount) FROM action_starts WHERE limit_id = bound.id AND given_back_at IS NOT NULL AND started_at > strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('-%.3f seconds', bound."window"))), 0) AS spent
FROM action_limits AS bound
WHERE bound.removed_at IS NULL;

CREATE VIEW IF NOT EXISTS action_limits_told AS
WITH bounds AS (
    SELECT *, '{"limit":' || id || ',"name":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(name, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"'
        || coalesce(',"action_name":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(action_name, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"', '')
        || coalesce(',"agent_id":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(agent_id, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"', '')
        || ',"window":' || "window" || coalesce(',"max_starts":' || max_starts, '') || coalesce(',"sum_of":' || sum_of, '') || coalesce(',"max_sum":' || max_sum, '') || '}' AS details
    FROM action_limits)
SELECT id, 'limit_set' AS event_type, set_by AS actor, reason, created_at AS occurred_at, details FROM bounds
UNION ALL
SELECT id, 'limit_removed', removed_by, remove_reason, removed_at, details FROM bounds WHERE removed_at IS NOT NULL;

CREATE VIEW IF NOT EXISTS action_votes AS
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

CREATE VIEW IF NOT EXISTS action_approvals AS
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

CREATE VIEW IF NOT EXISTS action_halts_covering AS
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

CREATE VIEW IF NOT EXISTS action_approvals_asked AS SELECT id AS proposal_id FROM action_proposals WHERE 0;

CREATE VIEW IF NOT EXISTS action_rules_asked AS SELECT id AS proposal_id FROM action_proposals WHERE 0;

CREATE VIEW IF NOT EXISTS action_rules_candidates AS SELECT 'rule' AS kind, id AS source_id, id AS proposal_id, parameters, parameters AS conditions, parameters AS refutations FROM action_proposals WHERE 0;

CREATE VIEW IF NOT EXISTS action_approvals_looked_up AS SELECT id AS proposal_id, 0 AS asked, approval, lapses_at FROM action_proposals WHERE 0;

CREATE VIEW IF NOT EXISTS action_approvals_found AS
SELECT id AS proposal_id, 0 AS asked, approval AS is_approval, lapses_at AS is_lapses_at, approval, lapses_at FROM action_proposals WHERE 0;

CREATE TRIGGER IF NOT EXISTS action_records_not_deleted
BEFORE DELETE ON action_records
BEGIN
    SELECT RAISE(ABORT, 'action_records_not_deleted: records are never deleted');
END;

CREATE TRIGGER IF NOT EXISTS action_records_outcome_dated
BEFORE INSERT ON action_records
WHEN (NEW.success IS NULL AND NOT NEW.outcome_unknown) IS NOT (NEW.completed_at IS NULL) OR NEW.outcome_unknown AND NEW.success IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'action_records_outcome_dated: an outcome and its completed_at go together');
END;

CREATE TRIGGER IF NOT EXISTS action_records_immutable
BEFORE UPDATE ON action_records
WHEN OLD.completed_at IS NOT NULL
    OR NEW.id IS NOT OLD.id
    OR NEW.proposal_id IS NOT OLD.proposal_id
    OR NEW.started_at IS NOT OLD.started_at
    OR NEW.started_by IS NOT OLD.started_by
    OR NEW.created_at IS NOT OLD.created_at
    OR NEW.worker IS NOT OLD.worker
    OR (NEW.success IS NULL AND NOT NEW.outcome_unknown) IS NOT (NEW.completed_at IS NULL)
    OR NEW.outcome_unknown AND NEW.success IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'action_records_immutable: an execution is ended once and never edited');
END;

CREATE TRIGGER IF NOT EXISTS action_dependencies_not_updated
BEFORE UPDATE ON action_dependencies
BEGIN
    SELECT RAISE(ABORT, 'action_dependencies_not_updated: what was proposed can not be edited');
END;

CREATE TRIGGER IF NOT EXISTS action_dependencies_not_deleted
BEFORE DELETE ON action_dependencies
BEGIN
    SELECT RAISE(ABORT, 'action_dependencies_not_deleted: what was proposed can not be edited');
END;

CREATE TRIGGER IF NOT EXISTS workflows_not_deleted
BEFORE DELETE ON workflows
BEGIN
    SELECT RAISE(ABORT, 'workflows_not_deleted: workflows are never deleted');
END;

CREATE TRIGGER IF NOT EXISTS action_dependencies_with_proposal
BEFORE INSERT ON action_dependencies
WHEN NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id)
    OR EXISTS (SELECT 1 FROM action_events WHERE proposal_id = NEW.proposal_id)
BEGIN
    SELECT RAISE(ABORT, 'action_dependencies_with_proposal: what was proposed can not be edited');
END;

CREATE TRIGGER IF NOT EXISTS action_records_proposal_exists
BEFORE INSERT ON action_records
WHEN (SELECT NEW.completed_at IS NOT NULL OR status = 'executing' OR status = 'validated' OR status = 'proposed'
    FROM action_proposals WHERE id = NEW.proposal_id) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_records_proposal_exists: no such proposal')
    WHERE NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id);
    SELECT RAISE(ABORT, 'action_records_proposal_ended: nothing is executed for a proposal that has ended');
END;

CREATE TRIGGER IF NOT EXISTS action_records_not_replaced
BEFORE INSERT ON action_records
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_records WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_records_started: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_records_not_replaced: this id is taken')
    WHERE EXISTS (SELECT 1 FROM action_records WHERE id = NEW.id);
END;

CREATE TRIGGER IF NOT EXISTS action_records_started
AFTER INSERT ON action_records
BEGIN
    INSERT INTO action_events (proposal_id, record_id, event_type, actor, occurred_at, worker)
    VALUES (NEW.proposal_id, NEW.id, 'record_started', coalesce(NEW.started_by, 'raw SQL'), strftime('%Y-%m-%d %H:%M:%f000', 'now'), NEW.worker);
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at, worker)
    SELECT NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
        coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, strftime('%Y-%m-%d %H:%M:%f000', 'now'), NEW.worker
    WHERE NEW.completed_at IS NOT NULL;
END;

CREATE TRIGGER IF NOT EXISTS action_records_finished
AFTER UPDATE OF completed_at ON action_records
WHEN OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL
BEGIN
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at, worker)
    VALUES (NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
        coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, strftime('%Y-%m-%d %H:%M:%f000', 'now'), NEW.worker);
END;

CREATE TRIGGER IF NOT EXISTS action_records_values
AFTER INSERT ON action_records
WHEN (NEW.id >= 1
    AND (NEW.worker IS NULL OR NEW.worker < x'' AND substr(NEW.worker, 1, 255) = NEW.worker AND (unicode(NEW.worker) BETWEEN 33 AND 126 OR trim(NEW.worker, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.lease_expires_at IS NULL OR NEW.worker IS NOT NULL AND (NEW.lease_expires_at = NEW.created_at OR NEW.lease_expires_at < '9999' AND NEW.lease_expires_at >= '1970-01-01' AND NEW.lease_expires_at GLOB '????-*' AND julianday(NEW.lease_expires_at) IS NOT NULL))
    AND (NEW.error_message IS NULL OR NEW.error_message < x'' AND substr(NEW.error_message, 1, 1048576) = NEW.error_message)
    AND (NEW.started_by IS NULL OR NEW.started_by < x'' AND substr(NEW.started_by, 1, 255) = NEW.started_by AND (unicode(NEW.started_by) BETWEEN 33 AND 126 OR trim(NEW.started_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.completed_by IS NULL OR NEW.completed_by < x'' AND substr(NEW.completed_by, 1, 255) = NEW.completed_by AND (unicode(NEW.completed_by) BETWEEN 33 AND 126 OR trim(NEW.completed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.outcome_unknown = 0 OR NEW.outcome_unknown = 1)
    AND (NEW.created_at < '9999' AND NEW.created_at >= '1970-01-01' AND NEW.created_at GLOB '????-*' AND julianday(NEW.created_at) IS NOT NULL)
    AND (NEW.started_at IS NULL OR NEW.started_at = NEW.created_at OR NEW.started_at < '9999' AND NEW.started_at >= '1970-01-01' AND NEW.started_at GLOB '????-*' AND julianday(NEW.started_at) IS NOT NULL)
    AND (NEW.completed_at IS NULL OR NEW.completed_at = NEW.created_at OR NEW.completed_at < '9999' AND NEW.completed_at >= '1970-01-01' AND NEW.completed_at GLOB '????-*' AND julianday(NEW.completed_at) IS NOT NULL)) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_records_started: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_records_values: worker is not what the ledger takes') WHERE (NEW.worker IS NULL OR NEW.worker < x'' AND substr(NEW.worker, 1, 255) = NEW.worker AND (unicode(NEW.worker) BETWEEN 33 AND 126 OR trim(NEW.worker, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_records_values: lease_expires_at is not what the ledger takes') WHERE (NEW.lease_expires_at IS NULL OR NEW.worker IS NOT NULL AND (NEW.lease_expires_at = NEW.created_at OR NEW.lease_expires_at < '9999' AND NEW.lease_expires_at >= '1970-01-01' AND NEW.lease_expires_at GLOB '????-*' AND julianday(NEW.lease_expires_at) IS NOT NULL)) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_records_values: error_message is not what the ledger takes') WHERE (NEW.error_message IS NULL OR NEW.error_message < x'' AND substr(NEW.error_message, 1, 1048576) = NEW.error_message) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_records_values: started_by is not what the ledger takes') WHERE (NEW.started_by IS NULL OR NEW.started_by < x'' AND substr(NEW.started_by, 1, 255) = NEW.started_by AND (unicode(NEW.started_by) BETWEEN 33 AND 126 OR trim(NEW.started_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_records_values: completed_by is not what the ledger takes') WHERE (NEW.completed_by IS NULL OR NEW.completed_by < x'' AND substr(NEW.completed_by, 1, 255) = NEW.completed_by AND (unicode(NEW.completed_by) BETWEEN 33 AND 126 OR trim(NEW.completed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_records_values: outcome_unknown is not what the ledger takes') WHERE (NEW.outcome_unknown = 0 OR NEW.outcome_unknown = 1) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_records_values: created_at is not what the ledger takes') WHERE (NEW.created_at < '9999' AND NEW.created_at >= '1970-01-01' AND NEW.created_at GLOB '????-*' AND julianday(NEW.created_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_records_values: started_at is not what the ledger takes') WHERE (NEW.started_at IS NULL OR NEW.started_at = NEW.created_at OR NEW.started_at < '9999' AND NEW.started_at >= '1970-01-01' AND NEW.started_at GLOB '????-*' AND julianday(NEW.started_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_records_values: completed_at is not what the ledger takes') WHERE (NEW.completed_at IS NULL OR NEW.completed_at = NEW.created_at OR NEW.completed_at < '9999' AND NEW.completed_at >= '1970-01-01' AND NEW.completed_at GLOB '????-*' AND julianday(NEW.completed_at) IS NOT NULL) IS NOT TRUE;
END;

CREATE TRIGGER IF NOT EXISTS workflows_not_replaced
BEFORE INSERT ON workflows
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM workflows WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'workflows_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'workflows_not_replaced: this id is taken')
    WHERE EXISTS (SELECT 1 FROM workflows WHERE id = NEW.id);
END;

CREATE TRIGGER IF NOT EXISTS workflows_ticket_exists
BEFORE INSERT ON workflows
WHEN NEW.ticket_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM tickets WHERE id = NEW.ticket_id)
BEGIN
    SELECT RAISE(ABORT, 'workflows_ticket_exists: no such ticket');
END;

CREATE TRIGGER IF NOT EXISTS workflows_immutable
BEFORE UPDATE ON workflows
WHEN NEW.id IS NOT OLD.id
    OR NEW.name IS NOT OLD.name
    OR NEW.description IS NOT OLD.description
    OR NEW.ticket_id IS NOT OLD.ticket_id
    OR NEW.created_at IS NOT OLD.created_at
BEGIN
    SELECT RAISE(ABORT, 'workflows_immutable: what was proposed can not be edited');
END;

CREATE TRIGGER IF NOT EXISTS workflows_updated_at
AFTER UPDATE ON workflows
WHEN (NEW.updated_at IS OLD.updated_at OR (NEW.updated_at > OLD.updated_at) IS NOT TRUE
            AND coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')) > OLD.updated_at)
BEGIN
    UPDATE workflows SET updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')) WHERE id = NEW.id;
END;

CREATE TRIGGER IF NOT EXISTS workflows_values
AFTER INSERT ON workflows
WHEN (NEW.id >= 1
    AND (NEW.ticket_id IS NULL OR (NEW.ticket_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.ticket_id AS INTEGER) = NEW.ticket_id))
    AND (NEW.name < x'' AND substr(NEW.name, 1, 255) = NEW.name AND (unicode(NEW.name) BETWEEN 33 AND 126 OR trim(NEW.name, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.description IS NULL OR NEW.description < x'' AND substr(NEW.description, 1, 65536) = NEW.description AND (unicode(NEW.description) BETWEEN 33 AND 126 OR trim(NEW.description, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.created_at < '9999' AND NEW.created_at >= '1970-01-01' AND NEW.created_at GLOB '????-*' AND julianday(NEW.created_at) IS NOT NULL)
    AND (NEW.updated_at = NEW.created_at OR NEW.updated_at < '9999' AND NEW.updated_at >= '1970-01-01' AND NEW.updated_at GLOB '????-*' AND julianday(NEW.updated_at) IS NOT NULL)) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'workflows_values: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'workflows_values: ticket_id is not what the ledger takes') WHERE (NEW.ticket_id IS NULL OR (NEW.ticket_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.ticket_id AS INTEGER) = NEW.ticket_id)) IS NOT TRUE;
    SELECT RAISE(ABORT, 'workflows_values: name is not what the ledger takes') WHERE (NEW.name < x'' AND substr(NEW.name, 1, 255) = NEW.name AND (unicode(NEW.name) BETWEEN 33 AND 126 OR trim(NEW.name, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'workflows_values: description is not what the ledger takes') WHERE (NEW.description IS NULL OR NEW.description < x'' AND substr(NEW.description, 1, 65536) = NEW.description AND (unicode(NEW.description) BETWEEN 33 AND 126 OR trim(NEW.description, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'workflows_values: created_at is not what the ledger takes') WHERE (NEW.created_at < '9999' AND NEW.created_at >= '1970-01-01' AND NEW.created_at GLOB '????-*' AND julianday(NEW.created_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'workflows_values: updated_at is not what the ledger takes') WHERE (NEW.updated_at = NEW.created_at OR NEW.updated_at < '9999' AND NEW.updated_at >= '1970-01-01' AND NEW.updated_at GLOB '????-*' AND julianday(NEW.updated_at) IS NOT NULL) IS NOT TRUE;
END;

CREATE TRIGGER IF NOT EXISTS tickets_referenced
BEFORE DELETE ON tickets
WHEN EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id = OLD.id)
    OR EXISTS (SELECT 1 FROM workflows WHERE ticket_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'tickets_referenced: a proposal or a workflow refers to this ticket');
END;

CREATE TRIGGER IF NOT EXISTS tickets_renumbered
BEFORE UPDATE ON tickets
WHEN NEW.id IS NOT OLD.id
    AND (EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id IN (OLD.id, NEW.id))
        OR EXISTS (SELECT 1 FROM workflows WHERE ticket_id IN (OLD.id, NEW.id)))
BEGIN
    SELECT RAISE(ABORT, 'tickets_renumbered: a proposal or a workflow refers to this ticket');
END;

CREATE TRIGGER IF NOT EXISTS tickets_not_replaced
BEFORE INSERT ON tickets
WHEN EXISTS (SELECT 1 FROM tickets WHERE id = NEW.id)
    AND (EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id = NEW.id)
        OR EXISTS (SELECT 1 FROM workflows WHERE ticket_id = NEW.id))
BEGIN
    SELECT RAISE(ABORT, 'tickets_not_replaced: a proposal or a workflow refers to this ticket');
END;

CREATE TRIGGER IF NOT EXISTS action_halts_refuse
INSTEAD OF INSERT ON action_halts_asked
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_halted: a halt is open')
    FROM action_halts AS halt
    WHERE halt.resumed_at IS NULL AND (NEW.starts OR halt.mode = 'halted')
        AND (halt.valid_from IS NULL OR halt.valid_from <= strftime('%Y-%m-%d %H:%M:%f000', 'now'))
        AND (halt.valid_until IS NULL OR halt.valid_until > strftime('%Y-%m-%d %H:%M:%f000', 'now'))
        AND (halt.run_id IS NULL OR halt.run_id = NEW.run_id)
        AND (halt.action_name IS NULL OR NEW.action_name GLOB replace(halt.action_name, '[', '[[]'))
        AND (halt.agent_id IS NULL OR halt.agent_id = NEW.agent_id
            OR NEW.run_id IS NOT NULL AND EXISTS (SELECT 1 FROM action_proposals AS other WHERE other.run_id = NEW.run_id AND other.agent_id = halt.agent_id)
            OR NEW.run_id IS NULL AND NEW.parent_id IS NOT NULL AND EXISTS (
                WITH RECURSIVE above (parent_id, agent_id) AS (
                    SELECT parent_id, agent_id FROM action_proposals WHERE id = NEW.parent_id
                    UNION ALL
                    SELECT next.parent_id, next.agent_id FROM above JOIN action_proposals AS next ON next.id = above.parent_id)
                SELECT 1 FROM above WHERE above.agent_id = halt.agent_id));
END;

CREATE TRIGGER IF NOT EXISTS action_halts_not_deleted
BEFORE DELETE ON action_halts
BEGIN
    SELECT RAISE(ABORT, 'action_halts_not_deleted: halts are never deleted');
END;

CREATE TRIGGER IF NOT EXISTS action_halts_not_replaced
BEFORE INSERT ON action_halts
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_halts WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_halts_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_halts_not_replaced: this id is taken');
END;

CREATE TRIGGER IF NOT EXISTS action_halts_immutable
BEFORE UPDATE ON action_halts
WHEN OLD.resumed_at IS NOT NULL OR NEW.resumed_at IS NULL
    OR NEW.id IS NOT OLD.id
    OR NEW.mode IS NOT OLD.mode
    OR NEW.action_name IS NOT OLD.action_name
    OR NEW.agent_id IS NOT OLD.agent_id
    OR NEW.run_id IS NOT OLD.run_id
    OR NEW.halted_by IS NOT OLD.halted_by
    OR NEW.reason IS NOT OLD.reason
    OR NEW.created_at IS NOT OLD.created_at
    OR NEW.valid_from IS NOT OLD.valid_from
    OR NEW.valid_until IS NOT OLD.valid_until
    OR NEW.cancels IS NOT OLD.cancels
BEGIN
    SELECT RAISE(ABORT, 'action_halts_immutable: a halt is resumed once and never edited');
END;

CREATE TRIGGER IF NOT EXISTS action_halts_resumed
AFTER UPDATE ON action_halts
BEGIN
    SELECT RAISE(ABORT, 'action_halts_values: resumed_at is not what the ledger takes') WHERE (NEW.resumed_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: resumed_by is not what the ledger takes') WHERE (NEW.resumed_by < x'' AND substr(NEW.resumed_by, 1, 255) = NEW.resumed_by AND (unicode(NEW.resumed_by) BETWEEN 33 AND 126 OR trim(NEW.resumed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: resume_reason is not what the ledger takes') WHERE (NEW.resume_reason < x'' AND substr(NEW.resume_reason, 1, 65536) = NEW.resume_reason AND (unicode(NEW.resume_reason) BETWEEN 33 AND 126 OR trim(NEW.resume_reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    INSERT INTO action_events (event_type, actor, reason, occurred_at, details)
    SELECT event_type, actor, reason, occurred_at, details FROM action_halts_told WHERE id = NEW.id AND event_type = 'resumed';
END;

CREATE TRIGGER IF NOT EXISTS action_halts_values
AFTER INSERT ON action_halts
BEGIN
    SELECT RAISE(ABORT, 'action_halts_values: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: mode is not what the ledger takes') WHERE ((NEW.mode = 'observe' OR NEW.mode = 'halted')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: action_name is not what the ledger takes') WHERE ((NEW.action_name IS NULL OR NEW.action_name < x'' AND substr(NEW.action_name, 1, 255) = NEW.action_name AND (unicode(NEW.action_name) BETWEEN 33 AND 126 OR trim(NEW.action_name, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: agent_id is not what the ledger takes') WHERE ((NEW.agent_id IS NULL OR NEW.agent_id < x'' AND substr(NEW.agent_id, 1, 255) = NEW.agent_id AND (unicode(NEW.agent_id) BETWEEN 33 AND 126 OR trim(NEW.agent_id, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: run_id is not what the ledger takes') WHERE ((NEW.run_id IS NULL OR NEW.run_id < x'' AND substr(NEW.run_id, 1, 255) = NEW.run_id AND (unicode(NEW.run_id) BETWEEN 33 AND 126 OR trim(NEW.run_id, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: halted_by is not what the ledger takes') WHERE ((NEW.halted_by < x'' AND substr(NEW.halted_by, 1, 255) = NEW.halted_by AND (unicode(NEW.halted_by) BETWEEN 33 AND 126 OR trim(NEW.halted_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: reason is not what the ledger takes') WHERE ((NEW.reason < x'' AND substr(NEW.reason, 1, 65536) = NEW.reason AND (unicode(NEW.reason) BETWEEN 33 AND 126 OR trim(NEW.reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: created_at is not what the ledger takes') WHERE (NEW.created_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: valid_from is not what the ledger takes') WHERE ((NEW.valid_from IS NULL OR NEW.valid_from < '9999' AND NEW.valid_from >= '1970-01-01' AND NEW.valid_from GLOB '????-??-?? ??:??:??.??????' AND julianday(NEW.valid_from) IS NOT NULL)) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: valid_until is not what the ledger takes') WHERE ((NEW.valid_until IS NULL OR NEW.valid_until < '9999' AND NEW.valid_until >= '1970-01-01' AND NEW.valid_until GLOB '????-??-?? ??:??:??.??????' AND julianday(NEW.valid_until) IS NOT NULL AND NEW.valid_until > coalesce(NEW.valid_from, NEW.created_at))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: cancels is not what the ledger takes') WHERE ((NEW.cancels = 0 OR NEW.cancels = 1)) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: resumed_at is not what the ledger takes') WHERE (coalesce(NEW.resumed_at, NEW.resumed_by, NEW.resume_reason) IS NULL) IS NOT TRUE;
    INSERT INTO action_events (event_type, actor, reason, occurred_at, details)
    SELECT event_type, actor, reason, occurred_at, details FROM action_halts_told WHERE id = NEW.id AND event_type = 'halted';
END;

CREATE TRIGGER IF NOT EXISTS outcome_resolutions_not_updated
BEFORE UPDATE ON outcome_resolutions
BEGIN
    SELECT RAISE(ABORT, 'outcome_resolutions_not_updated: an outcome is resolved once');
END;

CREATE TRIGGER IF NOT EXISTS outcome_resolutions_not_deleted
BEFORE DELETE ON outcome_resolutions
BEGIN
    SELECT RAISE(ABORT, 'outcome_resolutions_not_deleted: an outcome is resolved once');
END;

CREATE TRIGGER IF NOT EXISTS outcome_resolutions_not_replaced
BEFORE INSERT ON outcome_resolutions
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM outcome_resolutions WHERE id = NEW.id OR record_id = NEW.record_id)
BEGIN
    SELECT RAISE(ABORT, 'outcome_resolutions_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'outcome_resolutions_not_replaced: an outcome is resolved once');
END;

CREATE TRIGGER IF NOT EXISTS outcome_resolutions_unknown
BEFORE INSERT ON outcome_resolutions
WHEN NOT EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id AND outcome_unknown = 1)
BEGIN
    SELECT RAISE(ABORT, 'outcome_resolutions_unknown: only an unknown outcome is resolved');
END;

CREATE TRIGGER IF NOT EXISTS outcome_resolutions_event
AFTER INSERT ON outcome_resolutions
BEGIN
    SELECT RAISE(ABORT, 'outcome_resolutions_values: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'outcome_resolutions_values: resolved_by is not what the ledger takes') WHERE (NEW.resolved_by < x'' AND substr(NEW.resolved_by, 1, 255) = NEW.resolved_by AND (unicode(NEW.resolved_by) BETWEEN 33 AND 126 OR trim(NEW.resolved_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'outcome_resolutions_values: evidence is not what the ledger takes') WHERE (NEW.evidence < x'' AND substr(NEW.evidence, 1, 65536) = NEW.evidence AND (unicode(NEW.evidence) BETWEEN 33 AND 126 OR trim(NEW.evidence, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'outcome_resolutions_values: created_at is not what the ledger takes') WHERE (NEW.created_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at, worker)
    SELECT NEW.proposal_id, NEW.record_id, 'outcome_resolved', NEW.succeeded, NEW.resolved_by, NEW.evidence, strftime('%Y-%m-%d %H:%M:%f000', 'now'), worker
    FROM action_records WHERE id = NEW.record_id;
    UPDATE action_proposals
    SET status = 'completed', status_changed_by = NEW.resolved_by, status_reason = NEW.evidence, next_retry_at = NULL,
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE NEW.succeeded AND id = NEW.proposal_id AND status = 'failed'
        AND NEW.record_id = (SELECT max(id) FROM action_records WHERE proposal_id = NEW.proposal_id);
END;

CREATE TRIGGER IF NOT EXISTS action_events_not_updated
BEFORE UPDATE ON action_events
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_updated: the history is append-only');
END;

CREATE TRIGGER IF NOT EXISTS action_events_not_deleted
BEFORE DELETE ON action_events
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_deleted: the history is append-only');
END;

CREATE TRIGGER IF NOT EXISTS action_limits_start
INSTEAD OF INSERT ON action_limits_asked
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_limit_reached: a limit is reached')
    FROM action_limits AS bound JOIN action_limits_used AS used ON used.limit_id = bound.id
    WHERE bound.removed_at IS NULL AND (bound.action_name IS NULL OR NEW.action_name GLOB replace(bound.action_name, '[', '[[]')) AND (bound.agent_id IS NULL OR coalesce(NEW.agent_id, '') = '' OR lower(NEW.agent_id) = lower(bound.agent_id) OR NEW.agent_id GLOB '*[^!-~]*')
        AND (used.starts >= bound.max_starts OR bound.sum_of IS NOT NULL AND (used.spent >= bound.max_sum OR coalesce((SELECT CASE WHEN walked.depth = walked.steps AND walked.visited = walked.steps + 1 AND walked.type = 'integer' AND typeof(walked.value) = 'integer' AND walked.value >= 0 THEN walked.value END
            FROM (
                WITH RECURSIVE walk (depth, type, value) AS (
                    SELECT 0, 'object', NEW.parameters
                    UNION ALL
                    SELECT walk.depth + 1, member.type, member.value
                    FROM walk
                    CROSS JOIN json_each(bound.sum_of) AS step ON +step.key = walk.depth
                    CROSS JOIN json_each(CASE WHEN walk.type = 'object' OR walk.type = 'array' THEN walk.value END) AS member ON +member.key IS step.value)
                SELECT max(walk.depth) AS depth, count(*) AS visited, walk.type, walk.value, (SELECT count(*) FROM json_each(bound.sum_of)) AS steps FROM walk) AS walked) > bound.max_sum - used.spent, 1)));
    INSERT INTO action_starts (limit_id, place, started_at, proposal_id, amount, total)
    SELECT counted.id, counted.place + 1, max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), counted.started_at), NEW.proposal_id, counted.amount, counted.total + counted.amount
    FROM (
        SELECT bound.id, coalesce((SELECT place FROM action_starts WHERE limit_id = bound.id ORDER BY place DESC LIMIT 1), 0) AS place, coalesce((SELECT started_at FROM action_starts WHERE limit_id = bound.id ORDER BY place DESC LIMIT 1), '') AS started_at,
            coalesce((SELECT total FROM action_starts WHERE limit_id = bound.id ORDER BY place DESC LIMIT 1), 0) AS total,
            CASE WHEN bound.sum_of IS NULL THEN 0 ELSE (SELECT CASE WHEN walked.depth = walked.steps AND walked.visited = walked.steps + 1 AND walked.type = 'integer' AND typeof(walked.value) = 'integer' AND walked.value >= 0 THEN walked.value END
                FROM (
                    WITH RECURSIVE walk (depth, type, value) AS (
                        SELECT 0, 'object', NEW.parameters
                        UNION ALL
                        SELECT walk.depth + 1, member.type, member.value
                        FROM walk
                        CROSS JOIN json_each(bound.sum_of) AS step ON +step.key = walk.depth
                        CROSS JOIN json_each(CASE WHEN walk.type = 'object' OR walk.type = 'array' THEN walk.value END) AS member ON +member.key IS step.value)
                    SELECT max(walk.depth) AS depth, count(*) AS visited, walk.type, walk.value, (SELECT count(*) FROM json_each(bound.sum_of)) AS steps FROM walk) AS walked) END AS amount
        FROM action_limits AS bound
        WHERE bound.removed_at IS NULL AND (bound.action_name IS NULL OR NEW.action_name GLOB replace(bound.action_name, '[', '[[]')) AND (bound.agent_id IS NULL OR coalesce(NEW.agent_id, '') = '' OR lower(NEW.agent_id) = lower(bound.agent_id) OR NEW.agent_id GLOB '*[^!-~]*')) AS counted;
END;

CREATE TRIGGER IF NOT EXISTS action_limits_not_deleted
BEFORE DELETE ON action_limits
BEGIN
    SELECT RAISE(ABORT, 'action_limits_not_deleted: limits are never deleted');
END;

CREATE TRIGGER IF NOT EXISTS action_limits_not_replaced
BEFORE INSERT ON action_limits
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_limits WHERE id = NEW.id)
    OR EXISTS (SELECT 1 FROM action_limits WHERE name = NEW.name AND removed_at IS NULL)
BEGIN
    SELECT RAISE(ABORT, 'action_limits_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_limits_not_replaced: this id is taken') WHERE EXISTS (SELECT 1 FROM action_limits WHERE id = NEW.id);
    SELECT RAISE(ABORT, 'action_limits_not_replaced: an open limit has this name');
END;

CREATE TRIGGER IF NOT EXISTS action_limits_immutable
BEFORE UPDATE ON action_limits
WHEN OLD.removed_at IS NOT NULL OR NEW.removed_at IS NULL
    OR NEW.id IS NOT OLD.id
    OR NEW.name IS NOT OLD.name
    OR NEW.action_name IS NOT OLD.action_name
    OR NEW.agent_id IS NOT OLD.agent_id
    OR NEW."window" IS NOT OLD."window"
    OR NEW.max_starts IS NOT OLD.max_starts
    OR NEW.sum_of IS NOT OLD.sum_of
    OR NEW.max_sum IS NOT OLD.max_sum
    OR NEW.set_by IS NOT OLD.set_by
    OR NEW.reason IS NOT OLD.reason
    OR NEW.created_at IS NOT OLD.created_at
BEGIN
    SELECT RAISE(ABORT, 'action_limits_immutable: a limit is removed once and never edited');
END;

CREATE TRIGGER IF NOT EXISTS action_limits_removed
AFTER UPDATE ON action_limits
BEGIN
    SELECT RAISE(ABORT, 'action_limits_values: removed_at is not what the ledger takes') WHERE (NEW.removed_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: removed_by is not what the ledger takes') WHERE ((NEW.removed_by < x'' AND substr(NEW.removed_by, 1, 255) = NEW.removed_by AND (unicode(NEW.removed_by) BETWEEN 33 AND 126 OR trim(NEW.removed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: remove_reason is not what the ledger takes') WHERE ((NEW.remove_reason < x'' AND substr(NEW.remove_reason, 1, 65536) = NEW.remove_reason AND (unicode(NEW.remove_reason) BETWEEN 33 AND 126 OR trim(NEW.remove_reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    INSERT INTO action_events (event_type, actor, reason, occurred_at, details)
    SELECT event_type, actor, reason, occurred_at, details FROM action_limits_told WHERE id = NEW.id AND event_type = 'limit_removed';
END;

CREATE TRIGGER IF NOT EXISTS action_limits_values
AFTER INSERT ON action_limits
BEGIN
    SELECT RAISE(ABORT, 'action_limits_values: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: name is not what the ledger takes') WHERE ((NEW.name < x'' AND substr(NEW.name, 1, 255) = NEW.name AND (unicode(NEW.name) BETWEEN 33 AND 126 OR trim(NEW.name, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: action_name is not what the ledger takes') WHERE ((NEW.action_name IS NULL OR NEW.action_name < x'' AND substr(NEW.action_name, 1, 255) = NEW.action_name AND (unicode(NEW.action_name) BETWEEN 33 AND 126 OR trim(NEW.action_name, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: agent_id is not what the ledger takes') WHERE ((NEW.agent_id IS NULL OR NEW.agent_id < x'' AND substr(NEW.agent_id, 1, 255) = NEW.agent_id AND (unicode(NEW.agent_id) BETWEEN 33 AND 126 OR trim(NEW.agent_id, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: window is not what the ledger takes') WHERE ((typeof(NEW."window") = 'real' OR typeof(NEW."window") = 'integer') AND NEW."window" >= 0.001 AND NEW."window" <= 31622400) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: max_starts is not what the ledger takes') WHERE (NEW.max_starts IS NULL OR typeof(NEW.max_starts) = 'integer' AND NEW.max_starts BETWEEN 1 AND 1000000000) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: max_sum is not what the ledger takes') WHERE (NEW.max_sum IS NULL OR typeof(NEW.max_sum) = 'integer' AND NEW.max_sum BETWEEN 1 AND 1000000000000000) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: max_sum is not what the ledger takes') WHERE (coalesce(NEW.max_starts, NEW.max_sum) IS NOT NULL AND (NEW.max_sum IS NULL) = (NEW.sum_of IS NULL)) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: sum_of is not what the ledger takes') WHERE (NEW.sum_of IS NULL OR NEW.sum_of < x'' AND NEW.sum_of GLOB '[[]*' AND (SELECT count(*) BETWEEN 1 AND 16 AND min(CASE type WHEN 'text' THEN length(value) <= 1000 WHEN 'integer' THEN value BETWEEN 0 AND 2147483647 ELSE 0 END) FROM json_each(NEW.sum_of))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: set_by is not what the ledger takes') WHERE ((NEW.set_by < x'' AND substr(NEW.set_by, 1, 255) = NEW.set_by AND (unicode(NEW.set_by) BETWEEN 33 AND 126 OR trim(NEW.set_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: reason is not what the ledger takes') WHERE ((NEW.reason < x'' AND substr(NEW.reason, 1, 65536) = NEW.reason AND (unicode(NEW.reason) BETWEEN 33 AND 126 OR trim(NEW.reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: created_at is not what the ledger takes') WHERE (NEW.created_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: a new limit is not removed') WHERE coalesce(NEW.removed_at, NEW.removed_by, NEW.remove_reason) IS NOT NULL;
    INSERT INTO action_events (event_type, actor, reason, occurred_at, details)
    SELECT event_type, actor, reason, occurred_at, details FROM action_limits_told WHERE id = NEW.id AND event_type = 'limit_set';
    INSERT INTO action_starts (limit_id, place, started_at, proposal_id, amount, total)
    SELECT NEW.id, row_number() OVER earlier, started.occurred_at, started.proposal_id, started.amount, sum(started.amount) OVER earlier
    FROM (
        SELECT event.id, event.occurred_at, event.proposal_id,
            CASE WHEN NEW.sum_of IS NULL THEN 0 ELSE min(coalesce((SELECT CASE WHEN walked.depth = walked.steps AND walked.visited = walked.steps + 1 AND walked.type = 'integer' AND typeof(walked.value) = 'integer' AND walked.value >= 0 THEN walked.value END
                FROM (
                    WITH RECURSIVE walk (depth, type, value) AS (
                        SELECT 0, 'object', proposal.parameters
                        UNION ALL
                        SELECT walk.depth + 1, member.type, member.value
                        FROM walk
                        CROSS JOIN json_each(NEW.sum_of) AS step ON +step.key = walk.depth
                        CROSS JOIN json_each(CASE WHEN walk.type = 'object' OR walk.type = 'array' THEN walk.value END) AS member ON +member.key IS step.value)
                    SELECT max(walk.depth) AS depth, count(*) AS visited, walk.type, walk.value, (SELECT count(*) FROM json_each(NEW.sum_of)) AS steps FROM walk) AS walked), 0), NEW.max_sum) END AS amount
        FROM action_events AS event JOIN action_proposals AS proposal ON proposal.id = event.proposal_id
        WHERE event.to_status = 'executing' AND event.occurred_at > strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('-%.3f seconds', NEW."window"))
            AND (NEW.action_name IS NULL OR proposal.action_name GLOB replace(NEW.action_name, '[', '[[]')) AND (NEW.agent_id IS NULL OR coalesce(proposal.agent_id, '') = '' OR lower(proposal.agent_id) = lower(NEW.agent_id) OR proposal.agent_id GLOB '*[^!-~]*')
            AND coalesce((
                SELECT next.to_status = 'failed' AND next.details GLOB '{"end_code":"not_begun"*' FROM action_events AS next
                WHERE next.proposal_id = event.proposal_id AND next.id > event.id AND next.from_status = 'executing'
                ORDER BY next.id LIMIT 1), 0) = 0) AS started
    WINDOW earlier AS (ORDER BY started.occurred_at, started.id);
END;

CREATE TRIGGER IF NOT EXISTS action_starts_not_deleted
BEFORE DELETE ON action_starts
BEGIN
    SELECT RAISE(ABORT, 'action_starts_not_deleted: starts are never deleted');
END;

CREATE TRIGGER IF NOT EXISTS action_starts_counted
BEFORE INSERT ON action_starts
WHEN (typeof(NEW.amount) = 'integer' AND NEW.amount >= 0 AND typeof(NEW.total) = 'integer' AND NEW.given_back_at IS NULL
    AND EXISTS (SELECT 1 FROM action_limits WHERE id = NEW.limit_id AND removed_at IS NULL)
    AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id)
    AND NEW.place = coalesce((SELECT place FROM action_starts WHERE limit_id = NEW.limit_id ORDER BY place DESC LIMIT 1), 0) + 1
    AND NEW.total = coalesce((SELECT total FROM action_starts WHERE limit_id = NEW.limit_id ORDER BY place DESC LIMIT 1), 0) + NEW.amount
    AND NEW.started_at >= coalesce((SELECT started_at FROM action_starts WHERE limit_id = NEW.limit_id ORDER BY place DESC LIMIT 1), '')
    AND NEW.started_at <= max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), coalesce((SELECT started_at FROM action_starts WHERE limit_id = NEW.limit_id ORDER BY place DESC LIMIT 1), ''))
    AND NEW.started_at GLOB '????-??-?? ??:??:??.??????') IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_starts_counted: only what starts is counted');
END;

CREATE TRIGGER IF NOT EXISTS action_starts_returned
BEFORE UPDATE ON action_starts
WHEN (NEW.limit_id = OLD.limit_id AND NEW.place = OLD.place AND NEW.started_at = OLD.started_at AND NEW.proposal_id = OLD.proposal_id
    AND NEW.amount = OLD.amount AND NEW.total = OLD.total AND OLD.given_back_at IS NULL AND NEW.given_back_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')
    AND NEW.place = (SELECT max(last.place) FROM action_starts AS last WHERE last.proposal_id = NEW.proposal_id AND last.limit_id = NEW.limit_id)
    AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = 'failed' AND end_code = 'not_begun')) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_starts_returned: only what was not begun is given back');
END;

CREATE TRIGGER IF NOT EXISTS action_rules_not_deleted
BEFORE DELETE ON action_rules
BEGIN
    SELECT RAISE(ABORT, 'action_rules_not_deleted: rules are never deleted');
END;

CREATE TRIGGER IF NOT EXISTS action_rules_not_replaced
BEFORE INSERT ON action_rules
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_rules WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_rules_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_rules_not_replaced: this id is taken');
END;

CREATE TRIGGER IF NOT EXISTS action_rules_immutable
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

CREATE TRIGGER IF NOT EXISTS action_rules_revoked
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

CREATE TRIGGER IF NOT EXISTS action_rules_values
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

CREATE TRIGGER IF NOT EXISTS action_grants_not_deleted
BEFORE DELETE ON action_grants
BEGIN
    SELECT RAISE(ABORT, 'action_grants_not_deleted: grants are never deleted');
END;

CREATE TRIGGER IF NOT EXISTS action_grants_not_replaced
BEFORE INSERT ON action_grants
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_grants WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_grants_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_grants_not_replaced: this id is taken');
END;

CREATE TRIGGER IF NOT EXISTS action_grants_immutable
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

CREATE TRIGGER IF NOT EXISTS action_grants_revoked
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

CREATE TRIGGER IF NOT EXISTS action_grants_values
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

CREATE TRIGGER IF NOT EXISTS action_requirements_not_updated
BEFORE UPDATE ON action_requirements
BEGIN
    SELECT RAISE(ABORT, 'action_requirements_not_updated: what was required never changes');
END;

CREATE TRIGGER IF NOT EXISTS action_requirements_not_deleted
BEFORE DELETE ON action_requirements
BEGIN
    SELECT RAISE(ABORT, 'action_requirements_not_deleted: what was required never changes');
END;

CREATE TRIGGER IF NOT EXISTS action_requirements_not_replaced
BEFORE INSERT ON action_requirements
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_requirements WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_requirements_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_requirements_not_replaced: this id is taken');
END;

CREATE TRIGGER IF NOT EXISTS action_requirements_possible
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

CREATE TRIGGER IF NOT EXISTS action_requirements_told
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

CREATE TRIGGER IF NOT EXISTS action_decisions_not_deleted
BEFORE DELETE ON action_decisions
BEGIN
    SELECT RAISE(ABORT, 'action_decisions_not_deleted: decisions are append-only');
END;

CREATE TRIGGER IF NOT EXISTS action_decisions_not_updated
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

CREATE TRIGGER IF NOT EXISTS action_decisions_not_replaced
BEFORE INSERT ON action_decisions
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_decisions WHERE id = NEW.id OR withdraws_id = NEW.withdraws_id)
BEGIN
    SELECT RAISE(ABORT, 'action_decisions_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_decisions_not_replaced: this id is taken');
END;

CREATE TRIGGER IF NOT EXISTS action_decisions_possible
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

CREATE TRIGGER IF NOT EXISTS action_rules_apply
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

CREATE TRIGGER IF NOT EXISTS action_rules_match
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
                                    AND NOT (instr(NEW.parameters, '\\u') AND (instr(NEW.parameters, '\\u0000') OR NEW.parameters GLOB '*\\u[dD][89a-fA-F]*'))
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

CREATE TRIGGER IF NOT EXISTS action_events_genuine
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

CREATE TRIGGER IF NOT EXISTS action_approvals_ask
INSTEAD OF INSERT ON action_approvals_asked
BEGIN
    INSERT INTO action_approvals_looked_up VALUES (NEW.proposal_id, 1, NULL, NULL);
END;

CREATE TRIGGER IF NOT EXISTS action_approvals_look_up
INSTEAD OF INSERT ON action_approvals_looked_up
BEGIN
    INSERT INTO action_approvals_found
    SELECT NEW.proposal_id, NEW.asked, NEW.approval, NEW.lapses_at, found.approval, found.lapses_at
    FROM action_approvals AS found WHERE found.proposal_id = NEW.proposal_id;
END;

CREATE TRIGGER IF NOT EXISTS action_approvals_become
INSTEAD OF INSERT ON action_approvals_found
WHEN NEW.asked
BEGIN
    UPDATE action_proposals SET approval = NEW.approval, lapses_at = NEW.lapses_at
    WHERE id = NEW.proposal_id AND (approval IS NOT NEW.approval OR lapses_at IS NOT NEW.lapses_at);
END;

CREATE TRIGGER IF NOT EXISTS action_approvals_compare
INSTEAD OF INSERT ON action_approvals_found
WHEN NEW.asked IS NOT 1
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_kept: the ledger keeps approval and lapses_at')
    WHERE NOT ((NEW.is_approval IS NEW.approval OR NEW.is_approval = 'held' AND NEW.approval = 'given') AND NEW.is_lapses_at IS NEW.lapses_at
            AND (EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id)
                OR EXISTS (SELECT 1 FROM action_decisions WHERE proposal_id = NEW.proposal_id AND kind = 'rejected')));
END;

CREATE TRIGGER IF NOT EXISTS action_decisions_acted
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
    INSERT INTO action_approvals_asked SELECT NEW.proposal_id WHERE EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id)
        OR NEW.kind = 'rejected' AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = 'failed');
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

CREATE TRIGGER IF NOT EXISTS action_proposals_ticket_exists
BEFORE INSERT ON action_proposals
WHEN NEW.ticket_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM tickets WHERE id = NEW.ticket_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_ticket_exists: no such ticket');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_not_deleted
BEFORE DELETE ON action_proposals
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_not_deleted: proposals are never deleted');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_workflow_exists
BEFORE INSERT ON action_proposals
WHEN NEW.workflow_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM workflows WHERE id = NEW.workflow_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_workflow_exists: no such workflow');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_not_replaced
BEFORE INSERT ON action_proposals
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.id)
    OR NEW.idempotency_key IS NOT NULL
        AND EXISTS (SELECT 1 FROM action_proposals WHERE idempotency_key = NEW.idempotency_key)
    OR NEW.call_id IS NOT NULL AND NEW.run_id IS NOT NULL
        AND EXISTS (SELECT 1 FROM action_proposals WHERE run_id = NEW.run_id AND call_id = NEW.call_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_created: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_proposals_not_replaced: this id is taken')
    WHERE EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.id);
    SELECT RAISE(ABORT, 'action_proposals_not_replaced: an idempotency key is unique, and this one is taken')
    WHERE EXISTS (SELECT 1 FROM action_proposals WHERE idempotency_key = NEW.idempotency_key);
    SELECT RAISE(ABORT, 'action_proposals_not_replaced: a call has one proposal in its run, and there is one')
    WHERE EXISTS (SELECT 1 FROM action_proposals WHERE run_id = NEW.run_id AND call_id = NEW.call_id);
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_put_back
AFTER UPDATE OF status ON action_proposals
WHEN OLD.status = 'failed' AND NEW.status = 'validated' AND NEW.depends_on IS NOT NULL
    AND NOT NEW.wait_on_failure AND EXISTS (
        SELECT 1 FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
        WHERE proposal_id = NEW.id AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL))
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        status_reason = iif(id = NEW.id, 'a proposal that it depends on has failed or was cancelled',
            'proposal ' || NEW.id || ', which it depends on, was cancelled'),
        end_code = 'dependency',
        status_cause = '{"proposal":' || iif(id <> NEW.id, NEW.id, (
            SELECT min(depends_on_id) FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
            WHERE proposal_id = NEW.id AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL))) || '}',
        status_changed_by = 'ledger',
        cancelled_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE id IN (
        WITH RECURSIVE behind (id) AS (
            SELECT NEW.id
            UNION
            SELECT proposal_id FROM behind JOIN action_dependencies ON depends_on_id = behind.id
                JOIN action_proposals AS next ON next.id = proposal_id
            WHERE NOT next.wait_on_failure AND next.status IN ('proposed', 'validated'))
        SELECT id FROM behind);
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_cascade
AFTER UPDATE OF status, next_retry_at ON action_proposals
WHEN (NEW.status = 'cancelled' OR NEW.status = 'failed' AND NEW.next_retry_at IS NULL)
    AND NOT (OLD.status = 'cancelled' OR OLD.status = 'failed' AND OLD.next_retry_at IS NULL)
    AND EXISTS (SELECT 1 FROM action_dependencies WHERE depends_on_id = NEW.id)
    AND NOT (NEW.status = 'cancelled' AND NEW.depends_on IS NOT NULL AND NOT NEW.wait_on_failure
        AND (OLD.status = 'proposed' OR OLD.status = 'validated') AND EXISTS (
        SELECT 1 FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
        WHERE proposal_id = NEW.id AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL)))
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        status_reason = 'proposal ' || NEW.id || ', which it depends on, ' || iif(NEW.status = 'failed', 'failed', 'was cancelled'),
        end_code = 'dependency',
        status_cause = '{"proposal":' || NEW.id || '}',
        status_changed_by = 'ledger',
        cancelled_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE id <> NEW.id AND id IN (
        WITH RECURSIVE behind (id) AS (
            SELECT NEW.id
            UNION
            SELECT proposal_id FROM behind JOIN action_dependencies ON depends_on_id = behind.id
                JOIN action_proposals AS next ON next.id = proposal_id
            WHERE NOT next.wait_on_failure AND next.status IN ('proposed', 'validated'))
        SELECT id FROM behind);
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_changed
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

CREATE TRIGGER IF NOT EXISTS action_proposals_updated_at
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

CREATE TRIGGER IF NOT EXISTS action_proposals_guarded
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

CREATE TRIGGER IF NOT EXISTS action_proposals_retries
BEFORE UPDATE OF retry_count ON action_proposals
WHEN NEW.retry_count IS NOT OLD.retry_count
    AND (NEW.retry_count = OLD.retry_count + 1 AND OLD.status = 'failed' AND NEW.status = 'validated') IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_retries: retry_count goes up by one, with a retry');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_lifecycle
BEFORE UPDATE OF status ON action_proposals
WHEN NEW.status IS NOT OLD.status
    AND ((OLD.status = 'proposed' AND (NEW.status = 'validated' OR NEW.status = 'cancelled')
        OR OLD.status = 'validated' AND (NEW.status = 'executing' OR NEW.status = 'cancelled')
        OR OLD.status = 'executing'
            AND (NEW.status = 'completed' OR NEW.status = 'failed' OR NEW.status = 'cancelled')
        OR OLD.status = 'failed' AND NEW.status = 'validated'
        OR CASE WHEN OLD.status = 'failed' AND NEW.status = 'completed' THEN (
            SELECT event_type = 'outcome_resolved' AND success AND record_id = (SELECT max(id) FROM action_records WHERE proposal_id = OLD.id)
            FROM action_events WHERE proposal_id = OLD.id ORDER BY id DESC LIMIT 1) END) IS NOT TRUE
        OR NEW.status = 'executing' AND (NEW.scheduled_at IS NOT NULL OR NEW.expires_at IS NOT NULL OR NEW.depends_on IS NOT NULL)
        OR NEW.end_code IS NOT NULL AND ((NEW.status = 'cancelled' OR NEW.status = 'failed') IS NOT TRUE AND NEW.end_code IS NOT OLD.end_code OR (NEW.end_code = 'failed' OR NEW.end_code = 'cancelled' OR NEW.end_code = 'denied' OR NEW.end_code = 'rejected' OR NEW.end_code = 'withdrawn' OR NEW.end_code = 'undecided' OR NEW.end_code = 'expired' OR NEW.end_code = 'approval_expired' OR NEW.end_code = 'halted' OR NEW.end_code = 'superseded' OR NEW.end_code = 'dependency' OR NEW.end_code = 'outcome_unknown' OR NEW.end_code = 'limit' OR NEW.end_code = 'not_begun' OR NEW.end_code = 'tampered') IS NOT TRUE)
        OR NEW.status_cause IS NOT NULL AND (NEW.status_cause < x'' AND (NEW.status_cause GLOB '{"rule":*' OR NEW.status_cause GLOB '{"decision":*' OR NEW.status_cause GLOB '{"grant":*' OR NEW.status_cause GLOB '{"halt":*' OR NEW.status_cause GLOB '{"limit":*' OR NEW.status_cause GLOB '{"proposal":*') AND CAST(substr(NEW.status_cause, instr(NEW.status_cause, ':') + 1) AS INTEGER) BETWEEN 1 AND 4611686018427387903 AND NEW.status_cause = substr(NEW.status_cause, 1, instr(NEW.status_cause, ':')) || CAST(substr(NEW.status_cause, instr(NEW.status_cause, ':') + 1) AS INTEGER) || '}') IS NOT TRUE)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_lifecycle: the lifecycle has no such step') WHERE (OLD.status = 'proposed' AND (NEW.status = 'validated' OR NEW.status = 'cancelled')
        OR OLD.status = 'validated' AND (NEW.status = 'executing' OR NEW.status = 'cancelled')
        OR OLD.status = 'executing'
            AND (NEW.status = 'completed' OR NEW.status = 'failed' OR NEW.status = 'cancelled')
        OR OLD.status = 'failed' AND NEW.status = 'validated'
        OR CASE WHEN OLD.status = 'failed' AND NEW.status = 'completed' THEN (
            SELECT event_type = 'outcome_resolved' AND success AND record_id = (SELECT max(id) FROM action_records WHERE proposal_id = OLD.id)
            FROM action_events WHERE proposal_id = OLD.id ORDER BY id DESC LIMIT 1) END) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_attributed: an end code belongs to a move to cancelled or failed')
    WHERE NEW.end_code IS NOT NULL AND (NEW.status = 'cancelled' OR NEW.status = 'failed') IS NOT TRUE AND NEW.end_code IS NOT OLD.end_code;
    SELECT RAISE(ABORT, 'action_proposals_values: end_code is not what the ledger takes')
    WHERE NEW.end_code IS NOT NULL AND (NEW.end_code = 'failed' OR NEW.end_code = 'cancelled' OR NEW.end_code = 'denied' OR NEW.end_code = 'rejected' OR NEW.end_code = 'withdrawn' OR NEW.end_code = 'undecided' OR NEW.end_code = 'expired' OR NEW.end_code = 'approval_expired' OR NEW.end_code = 'halted' OR NEW.end_code = 'superseded' OR NEW.end_code = 'dependency' OR NEW.end_code = 'outcome_unknown' OR NEW.end_code = 'limit' OR NEW.end_code = 'not_begun' OR NEW.end_code = 'tampered') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: status_cause is not what the ledger takes')
    WHERE NEW.status_cause IS NOT NULL AND (NEW.status_cause < x'' AND (NEW.status_cause GLOB '{"rule":*' OR NEW.status_cause GLOB '{"decision":*' OR NEW.status_cause GLOB '{"grant":*' OR NEW.status_cause GLOB '{"halt":*' OR NEW.status_cause GLOB '{"limit":*' OR NEW.status_cause GLOB '{"proposal":*') AND CAST(substr(NEW.status_cause, instr(NEW.status_cause, ':') + 1) AS INTEGER) BETWEEN 1 AND 4611686018427387903 AND NEW.status_cause = substr(NEW.status_cause, 1, instr(NEW.status_cause, ':')) || CAST(substr(NEW.status_cause, instr(NEW.status_cause, ':') + 1) AS INTEGER) || '}') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_not_due: it is scheduled for later') WHERE NEW.scheduled_at > strftime('%Y-%m-%d %H:%M:%f000', 'now');
    SELECT RAISE(ABORT, 'action_proposals_expired: it was not started in time') WHERE NEW.expires_at <= strftime('%Y-%m-%d %H:%M:%f000', 'now');
    SELECT RAISE(ABORT, 'action_proposals_dependency_pending: what it depends on is not completed')
    FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
    WHERE proposal_id = NEW.id AND needed.status <> 'completed';
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_created
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

CREATE TRIGGER IF NOT EXISTS action_proposals_linked
AFTER INSERT ON action_proposals
WHEN NEW.depends_on IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_values: depends_on is not what the ledger takes')
    WHERE NOT NEW.depends_on < x'';
    SELECT RAISE(ABORT, 'action_proposals_values: depends_on is not what the ledger takes')
    FROM (SELECT count(*) AS given, count(DISTINCT value) AS known, group_concat(value) AS ids FROM json_each(NEW.depends_on))
    WHERE given > 1000 OR given <> known OR '[' || coalesce(ids, '') || ']' <> replace(replace(replace(replace(NEW.depends_on, char(9), ''), char(10), ''), char(13), ''), char(32), '');
    SELECT RAISE(ABORT, 'action_proposals_created: no such proposal to depend on')
    FROM json_each(NEW.depends_on)
    WHERE type IS NOT 'integer' OR value >= NEW.id OR value NOT IN (SELECT id FROM action_proposals);
    INSERT INTO action_dependencies (proposal_id, depends_on_id)
    SELECT NEW.id, value FROM json_each(NEW.depends_on);
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_values
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

CREATE TRIGGER IF NOT EXISTS action_proposals_immutable
BEFORE UPDATE OF ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by,
    created_at, idempotency_key, priority, scheduled_at, expires_at, max_retries, retry_delay, max_retry_delay, workflow_id, depends_on, wait_on_failure,
    requester_id, requester_type, agent_id, run_id, parent_id, call_id, traceparent, content_digest ON action_proposals
WHEN NEW.ticket_id IS NOT OLD.ticket_id
    OR NEW.action_name IS NOT OLD.action_name
    OR NEW.action_type IS NOT OLD.action_type
    OR NEW.parameters IS NOT OLD.parameters
    OR NEW.reason IS NOT OLD.reason
    OR NEW.proposed_at IS NOT OLD.proposed_at
    OR NEW.proposed_by IS NOT OLD.proposed_by
    OR NEW.created_at IS NOT OLD.created_at
    OR NEW.idempotency_key IS NOT OLD.idempotency_key
    OR NEW.priority IS NOT OLD.priority
    OR NEW.scheduled_at IS NOT OLD.scheduled_at
    OR NEW.expires_at IS NOT OLD.expires_at
    OR NEW.max_retries IS NOT OLD.max_retries
    OR NEW.retry_delay IS NOT OLD.retry_delay
    OR NEW.max_retry_delay IS NOT OLD.max_retry_delay
    OR NEW.workflow_id IS NOT OLD.workflow_id
    OR NEW.depends_on IS NOT OLD.depends_on
    OR NEW.wait_on_failure IS NOT OLD.wait_on_failure
    OR NEW.requester_id IS NOT OLD.requester_id
    OR NEW.requester_type IS NOT OLD.requester_type
    OR NEW.agent_id IS NOT OLD.agent_id
    OR NEW.run_id IS NOT OLD.run_id
    OR NEW.parent_id IS NOT OLD.parent_id
    OR NEW.call_id IS NOT OLD.call_id
    OR NEW.traceparent IS NOT OLD.traceparent
    OR NEW.content_digest IS NOT OLD.content_digest AND (OLD.content_digest IS NULL AND NEW.content_digest < x'' AND length(CAST(NEW.content_digest AS BLOB)) = 68 AND NEW.content_digest GLOB 'oc1:[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]') IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_values: content_digest is not what the ledger takes')
    WHERE OLD.content_digest IS NULL AND (NEW.content_digest < x'' AND length(CAST(NEW.content_digest AS BLOB)) = 68 AND NEW.content_digest GLOB 'oc1:[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]') IS FALSE;
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_parent_exists
BEFORE INSERT ON action_proposals
WHEN NEW.parent_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.parent_id AND run_id IS NEW.run_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_parent_exists: no such proposal') WHERE NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.parent_id);
    SELECT RAISE(ABORT, 'action_proposals_parent_run: a proposal belongs to the run of its parent');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_origin
AFTER INSERT ON action_proposals
WHEN coalesce(NEW.run_id, NEW.agent_id, NEW.requester_id, NEW.requester_type, NEW.call_id, NEW.traceparent, NEW.parent_id) IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_values: requester_id, agent_id, run_id or call_id is not what the ledger takes')
    FROM (SELECT NEW.requester_id AS value UNION ALL SELECT NEW.agent_id UNION ALL SELECT NEW.run_id UNION ALL SELECT NEW.call_id)
    WHERE value IS NOT NULL AND (value < x'' AND substr(value, 1, 255) = value AND (unicode(value) BETWEEN 33 AND 126 OR trim(value, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: requester_type is not what the ledger takes')
    WHERE (NEW.requester_type IS NULL OR NEW.requester_type = 'user' OR NEW.requester_type = 'system' OR NEW.requester_type = 'agent') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: parent_id is not what the ledger takes')
    WHERE (NEW.parent_id IS NULL OR NEW.parent_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.parent_id AS INTEGER) = NEW.parent_id) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: traceparent is not what the ledger takes')
    WHERE (NEW.traceparent IS NULL OR NEW.traceparent < x'' AND length(CAST(NEW.traceparent AS BLOB)) = 55 AND NEW.traceparent NOT GLOB '*[^0-9a-f-]*' AND NEW.traceparent GLOB '??-*-????????????????-??' AND substr(NEW.traceparent, 36, 1) = '-' AND length(replace(NEW.traceparent, '-', '')) = 52 AND NEW.traceparent NOT GLOB 'ff*' AND NEW.traceparent NOT GLOB '???00000000000000000000000000000000*' AND NEW.traceparent NOT GLOB '*-0000000000000000-*') IS NOT TRUE;
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_halted
BEFORE INSERT ON action_proposals
WHEN NEW.status <> 'completed' AND NEW.status <> 'cancelled' AND EXISTS (SELECT 1 FROM action_halts WHERE resumed_at IS NULL)
BEGIN
    INSERT INTO action_halts_asked
    VALUES (NEW.action_name, NEW.agent_id, NEW.run_id, NEW.parent_id, NEW.status = 'validated' OR NEW.status = 'executing');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_held
BEFORE UPDATE OF status ON action_proposals
WHEN (NEW.status = 'executing' OR NEW.status = 'validated') AND NEW.status IS NOT OLD.status
    AND (OLD.approval IS NOT NULL OR EXISTS (SELECT 1 FROM action_halts WHERE resumed_at IS NULL))
BEGIN
    INSERT INTO action_halts_asked VALUES (OLD.action_name, OLD.agent_id, OLD.run_id, OLD.parent_id, 1);
    SELECT RAISE(ABORT, 'action_proposals_approval_required: an approval is missing')
    FROM action_approvals WHERE OLD.approval IS NOT NULL AND proposal_id = OLD.id AND NOT met;
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_counted
AFTER INSERT ON action_proposals
WHEN NEW.status = 'executing' AND EXISTS (SELECT 1 FROM action_limits WHERE removed_at IS NULL)
BEGIN
    INSERT INTO action_limits_asked VALUES (NEW.id, NEW.action_name, NEW.agent_id, NEW.parameters);
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_limited
AFTER UPDATE OF status ON action_proposals
WHEN NEW.status = 'executing' AND OLD.status IS NOT 'executing' AND EXISTS (SELECT 1 FROM action_limits WHERE removed_at IS NULL)
BEGIN
    INSERT INTO action_limits_asked VALUES (NEW.id, NEW.action_name, NEW.agent_id, NEW.parameters);
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_given_back
AFTER UPDATE OF status ON action_proposals
WHEN NEW.status = 'failed' AND OLD.status = 'executing' AND NEW.end_code = 'not_begun'
    AND EXISTS (SELECT 1 FROM action_starts WHERE proposal_id = NEW.id)
BEGIN
    UPDATE action_starts SET given_back_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')
    WHERE proposal_id = NEW.id AND given_back_at IS NULL
        AND place = (SELECT max(last.place) FROM action_starts AS last WHERE last.proposal_id = NEW.id AND last.limit_id = action_starts.limit_id)
        AND EXISTS (SELECT 1 FROM action_limits AS bound WHERE bound.id = action_starts.limit_id AND bound.removed_at IS NULL);
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_exclusive
BEFORE UPDATE OF status ON action_proposals
WHEN NEW.status = 'executing' AND OLD.exclusive_key IS NOT NULL AND OLD.status IS NOT 'executing'
    AND EXISTS (SELECT 1 FROM action_proposals WHERE exclusive_key = OLD.exclusive_key AND status = 'executing')
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_exclusive_busy: a proposal with the same exclusive key is executing');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_exclusive_created
BEFORE INSERT ON action_proposals
WHEN NEW.exclusive_key IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_values: exclusive_key is not what the ledger takes') WHERE (NEW.exclusive_key < x'' AND substr(NEW.exclusive_key, 1, 255) = NEW.exclusive_key AND (unicode(NEW.exclusive_key) BETWEEN 33 AND 126 OR trim(NEW.exclusive_key, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_exclusive_busy: a proposal with the same exclusive key is executing')
    WHERE NEW.status = 'executing' AND EXISTS (SELECT 1 FROM action_proposals WHERE exclusive_key = NEW.exclusive_key AND status = 'executing');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_exclusive_fixed
BEFORE UPDATE OF exclusive_key ON action_proposals
WHEN NEW.exclusive_key IS NOT OLD.exclusive_key
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_supersedes
BEFORE INSERT ON action_proposals
WHEN NEW.supersedes_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.supersedes_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_supersedes: no such proposal');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_linked_once
BEFORE UPDATE OF supersedes_id, identity_keys ON action_proposals
WHEN NEW.supersedes_id IS NOT OLD.supersedes_id OR OLD.identity_keys IS NOT NULL AND NEW.identity_keys IS NOT OLD.identity_keys
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_approval_kept
BEFORE UPDATE OF approval, lapses_at ON action_proposals
WHEN NEW.approval IS NOT OLD.approval OR NEW.lapses_at IS NOT OLD.lapses_at
BEGIN
    INSERT INTO action_approvals_looked_up VALUES (OLD.id, 0, NEW.approval, NEW.lapses_at);
END;
"""
"""The ledger's own tables, and triggers on tickets: run after `SCHEMA_SQL`."""
