-- Revision 0005 on SQLite: the new objects, and each other one in the place of the one of that name.
--
-- A heavy trigger costs each statement a third more although its condition is false. So the triggers of the proposals are
-- small: they insert what is to begin into a view, and only the trigger of the view looks for a halt that is about it.

CREATE TABLE action_halts (
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

CREATE TABLE action_events (
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
    CONSTRAINT ck_action_events_event_type CHECK (event_type = 'proposal_created' OR event_type = 'status_changed' OR event_type = 'retry_scheduled' OR event_type = 'retry_cancelled' OR event_type = 'record_started' OR event_type = 'record_finished' OR event_type = 'outcome_resolved' OR event_type = 'halted' OR event_type = 'resumed'),
    CONSTRAINT ck_action_events_success CHECK (success IN (0, 1))
);

CREATE INDEX idx_action_halts_open ON action_halts (id) WHERE resumed_at IS NULL;

-- Which agents take part in a run.
CREATE INDEX idx_action_proposals_run_agent ON action_proposals (run_id, agent_id) WHERE run_id IS NOT NULL AND agent_id IS NOT NULL;

-- What is to begin: a row is inserted, and none is ever in it.
CREATE VIEW action_halts_asked AS SELECT action_name, agent_id, run_id, parent_id, 0 AS starts FROM action_proposals WHERE 0;

-- The events of halts, with their details as JSON. Of SQLite's functions for JSON, json_each alone works where trusted_schema
-- is off.
CREATE VIEW action_halts_told AS
WITH halts AS (
    SELECT *, '{"halt":' || id || ',"mode":"' || mode || '"'
        || coalesce(',"action_name":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(action_name, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"', '')
        || coalesce(',"agent_id":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(agent_id, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"', '')
        || coalesce(',"run_id":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(run_id, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"', '') || '}' AS details
    FROM action_halts)
SELECT id, 'halted' AS event_type, halted_by AS actor, reason, created_at AS occurred_at, details FROM halts
UNION ALL
SELECT id, 'resumed', resumed_by, resume_reason, resumed_at, details FROM halts WHERE resumed_at IS NOT NULL;

-- Only a trigger writes an event: no writer chooses its id, which is -1 before the INSERT where SQLite is to choose it,
-- and an event fits the rows that it is about as they are at that moment. Not a CASE: SQLite evaluates both sides of an AND
-- or OR in the value of an expression, and skips the second where it can in a condition.
CREATE TRIGGER action_events_genuine
BEFORE INSERT ON action_events
WHEN (NEW.id = -1 AND NEW.transaction_id = 0 AND (
    NEW.record_id IS NULL AND NEW.success IS NULL AND NEW.worker IS NULL AND (NEW.details IS NULL AND (
        NEW.event_type = 'status_changed' AND NEW.from_status <> NEW.to_status
            AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = NEW.to_status AND version = NEW.version)
            AND (SELECT to_status FROM action_events WHERE proposal_id = NEW.proposal_id AND to_status IS NOT NULL ORDER BY id DESC LIMIT 1) IS NOT NEW.to_status
        OR NEW.event_type = 'proposal_created' AND NEW.from_status IS NULL AND NEW.version = 1
            AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = NEW.to_status AND version = NEW.version)
            AND NOT EXISTS (SELECT 1 FROM action_events WHERE proposal_id = NEW.proposal_id)
        OR (NEW.event_type = 'retry_scheduled' OR NEW.event_type = 'retry_cancelled') AND NEW.from_status = NEW.to_status
            AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = NEW.to_status AND version = NEW.version AND (next_retry_at IS NULL) = (NEW.event_type = 'retry_cancelled')
                AND status_changed_by IS NEW.actor AND status_reason IS NEW.reason)
            AND coalesce((SELECT version FROM action_events WHERE proposal_id = NEW.proposal_id AND to_status IS NOT NULL ORDER BY id DESC LIMIT 1), 0) < NEW.version
            AND NEW.occurred_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'))
        OR NEW.proposal_id IS NULL AND NEW.from_status IS NULL AND NEW.to_status IS NULL AND NEW.version IS NULL
            AND EXISTS (SELECT 1 FROM action_halts_told WHERE id = CAST(substr(NEW.details, 9) AS INTEGER) AND details = NEW.details AND event_type = NEW.event_type AND actor = NEW.actor AND reason = NEW.reason AND occurred_at = NEW.occurred_at)
            AND NOT EXISTS (SELECT 1 FROM action_events WHERE proposal_id IS NULL AND details = NEW.details AND event_type = NEW.event_type))
    OR NEW.record_id IS NOT NULL AND NEW.details IS NULL AND NEW.to_status IS NULL AND NEW.from_status IS NULL AND NEW.version IS NULL
        AND (NEW.event_type = 'record_started' AND NEW.success IS NULL
                AND EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id AND worker IS NEW.worker)
            OR NEW.event_type = 'record_finished'
                AND EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id AND worker IS NEW.worker AND completed_at IS NOT NULL AND success IS NEW.success))
        AND NOT EXISTS (SELECT 1 FROM action_events WHERE record_id = NEW.record_id AND event_type = NEW.event_type))) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_replaced: the history is append-only') WHERE NEW.id <> -1;
    SELECT RAISE(ABORT, 'action_events_genuine: only what has just happened becomes an event');
END;

CREATE TRIGGER action_halts_refuse
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

CREATE TRIGGER action_proposals_halted
BEFORE INSERT ON action_proposals
WHEN NEW.status <> 'completed' AND NEW.status <> 'cancelled' AND EXISTS (SELECT 1 FROM action_halts WHERE resumed_at IS NULL)
BEGIN
    INSERT INTO action_halts_asked
    VALUES (NEW.action_name, NEW.agent_id, NEW.run_id, NEW.parent_id, NEW.status = 'validated' OR NEW.status = 'executing');
END;

CREATE TRIGGER action_proposals_held
BEFORE UPDATE OF status ON action_proposals
WHEN (NEW.status = 'executing' OR NEW.status = 'validated') AND NEW.status IS NOT OLD.status
    AND EXISTS (SELECT 1 FROM action_halts WHERE resumed_at IS NULL)
BEGIN
    INSERT INTO action_halts_asked VALUES (OLD.action_name, OLD.agent_id, OLD.run_id, OLD.parent_id, 1);
END;

CREATE TRIGGER action_halts_not_deleted
BEFORE DELETE ON action_halts
BEGIN
    SELECT RAISE(ABORT, 'action_halts_not_deleted: halts are never deleted');
END;

CREATE TRIGGER action_halts_not_replaced
BEFORE INSERT ON action_halts
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_halts WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_halts_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_halts_not_replaced: this id is taken');
END;

CREATE TRIGGER action_halts_immutable
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

CREATE TRIGGER action_halts_resumed
AFTER UPDATE ON action_halts
BEGIN
    SELECT RAISE(ABORT, 'action_halts_values: resumed_at is not what the ledger takes') WHERE (NEW.resumed_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: resumed_by is not what the ledger takes') WHERE (NEW.resumed_by < x'' AND substr(NEW.resumed_by, 1, 255) = NEW.resumed_by AND (unicode(NEW.resumed_by) BETWEEN 33 AND 126 OR trim(NEW.resumed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_halts_values: resume_reason is not what the ledger takes') WHERE (NEW.resume_reason < x'' AND substr(NEW.resume_reason, 1, 65536) = NEW.resume_reason AND (unicode(NEW.resume_reason) BETWEEN 33 AND 126 OR trim(NEW.resume_reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    INSERT INTO action_events (event_type, actor, reason, occurred_at, details)
    SELECT event_type, actor, reason, occurred_at, details FROM action_halts_told WHERE id = NEW.id AND event_type = 'resumed';
END;

CREATE TRIGGER action_halts_values
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
