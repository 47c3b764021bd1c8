-- Revision 0008 on SQLite: the new objects. The types of events and the trigger of genuine events are changed besides.
--
-- The starts of a limit are numbered without gaps, in the order of their times, with a running total of their amounts. So what is
-- used of a window is the difference of two rows, however many starts are in it, without those that were given back.
--
-- As for halts, the triggers of the proposals are small: they insert what begins into a view, and only the trigger of the view
-- looks for limits. They run after the change, because a new proposal has its id by then.

CREATE TABLE action_limits (
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

CREATE TABLE action_starts (
    limit_id INTEGER NOT NULL,
    place INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    proposal_id INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    total INTEGER NOT NULL,
    given_back_at TEXT,
    CONSTRAINT pk_action_starts PRIMARY KEY (limit_id, place)
);

CREATE UNIQUE INDEX uq_action_proposals_exclusive ON action_proposals (exclusive_key) WHERE status = 'executing' AND exclusive_key IS NOT NULL;

CREATE UNIQUE INDEX uq_action_limits_name ON action_limits (name) WHERE removed_at IS NULL;

CREATE INDEX idx_action_starts_time ON action_starts (limit_id, started_at, place);

CREATE INDEX idx_action_starts_given_back ON action_starts (limit_id, started_at) WHERE given_back_at IS NOT NULL;

CREATE INDEX idx_action_starts_proposal ON action_starts (proposal_id, limit_id, place);

-- What begins: a row is inserted, and none is ever in it.
CREATE VIEW action_limits_asked AS SELECT id AS proposal_id, action_name, agent_id, parameters FROM action_proposals WHERE 0;

-- What is used of each open limit now.
CREATE VIEW action_limits_used AS
SELECT bound.id AS limit_id,
    coalesce((SELECT place FROM action_starts WHERE limit_id = bound.id ORDER BY place DESC LIMIT 1), 0)
        - coalesce((SELECT place FROM action_starts WHERE limit_id = bound.id AND started_at <= strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('-%.3f seconds', bound."window")) ORDER BY started_at DESC, place DESC LIMIT 1), 0)
        - (SELECT count(*) FROM action_starts WHERE limit_id = bound.id AND given_back_at IS NOT NULL AND started_at > strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('-%.3f seconds', bound."window"))) AS starts,
    coalesce((SELECT total FROM action_starts WHERE limit_id = bound.id ORDER BY place DESC LIMIT 1), 0)
        - coalesce((SELECT total FROM action_starts WHERE limit_id = bound.id AND started_at <= strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('-%.3f seconds', bound."window")) ORDER BY started_at DESC, place DESC LIMIT 1), 0)
        - coalesce((SELECT sum(amount) FROM action_starts WHERE limit_id = bound.id AND given_back_at IS NOT NULL AND started_at > strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('-%.3f seconds', bound."window"))), 0) AS spent
FROM action_limits AS bound
WHERE bound.removed_at IS NULL;

-- The events of limits, with their details as JSON: see revision 0005.
CREATE VIEW action_limits_told AS
WITH bounds AS (
    SELECT *, '{"limit":' || id || ',"name":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(name, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"'
        || coalesce(',"action_name":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(action_name, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"', '')
        || coalesce(',"agent_id":"' || (WITH RECURSIVE escaped (code, value) AS (SELECT 1, replace(replace(agent_id, char(92), char(92, 92)), char(34), char(92, 34)) UNION ALL SELECT code + 1, replace(value, char(code), char(92) || 'u00' || (code / 16) || substr('0123456789abcdef', code % 16 + 1, 1)) FROM escaped WHERE code < 32) SELECT value FROM escaped WHERE code = 32) || '"', '')
        || ',"window":' || "window" || coalesce(',"max_starts":' || max_starts, '') || coalesce(',"sum_of":' || sum_of, '') || coalesce(',"max_sum":' || max_sum, '') || '}' AS details
    FROM action_limits)
SELECT id, 'limit_set' AS event_type, set_by AS actor, reason, created_at AS occurred_at, details FROM bounds
UNION ALL
SELECT id, 'limit_removed', removed_by, remove_reason, removed_at, details FROM bounds WHERE removed_at IS NOT NULL;

-- Counts a start under every limit that covers it. A limit of a sum refuses where its integer is missing.
CREATE TRIGGER action_limits_start
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

CREATE TRIGGER action_proposals_counted
AFTER INSERT ON action_proposals
WHEN NEW.status = 'executing' AND EXISTS (SELECT 1 FROM action_limits WHERE removed_at IS NULL)
BEGIN
    INSERT INTO action_limits_asked VALUES (NEW.id, NEW.action_name, NEW.agent_id, NEW.parameters);
END;

CREATE TRIGGER action_proposals_limited
AFTER UPDATE OF status ON action_proposals
WHEN NEW.status = 'executing' AND OLD.status IS NOT 'executing' AND EXISTS (SELECT 1 FROM action_limits WHERE removed_at IS NULL)
BEGIN
    INSERT INTO action_limits_asked VALUES (NEW.id, NEW.action_name, NEW.agent_id, NEW.parameters);
END;

-- What was not begun gives its start back.
CREATE TRIGGER action_proposals_given_back
AFTER UPDATE OF status ON action_proposals
WHEN NEW.status = 'failed' AND OLD.status = 'executing' AND NEW.end_code = 'not_begun'
    AND EXISTS (SELECT 1 FROM action_starts WHERE proposal_id = NEW.id)
BEGIN
    UPDATE action_starts SET given_back_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')
    WHERE proposal_id = NEW.id AND given_back_at IS NULL
        AND place = (SELECT max(last.place) FROM action_starts AS last WHERE last.proposal_id = NEW.id AND last.limit_id = action_starts.limit_id)
        AND EXISTS (SELECT 1 FROM action_limits AS bound WHERE bound.id = action_starts.limit_id AND bound.removed_at IS NULL);
END;

-- Before the change: OR REPLACE would delete the proposal that holds the key.
CREATE TRIGGER action_proposals_exclusive
BEFORE UPDATE OF status ON action_proposals
WHEN NEW.status = 'executing' AND OLD.exclusive_key IS NOT NULL AND OLD.status IS NOT 'executing'
    AND EXISTS (SELECT 1 FROM action_proposals WHERE exclusive_key = OLD.exclusive_key AND status = 'executing')
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_exclusive_busy: a proposal with the same exclusive key is executing');
END;

CREATE TRIGGER action_proposals_exclusive_created
BEFORE INSERT ON action_proposals
WHEN NEW.exclusive_key IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_values: exclusive_key is not what the ledger takes') WHERE (NEW.exclusive_key < x'' AND substr(NEW.exclusive_key, 1, 255) = NEW.exclusive_key AND (unicode(NEW.exclusive_key) BETWEEN 33 AND 126 OR trim(NEW.exclusive_key, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_exclusive_busy: a proposal with the same exclusive key is executing')
    WHERE NEW.status = 'executing' AND EXISTS (SELECT 1 FROM action_proposals WHERE exclusive_key = NEW.exclusive_key AND status = 'executing');
END;

CREATE TRIGGER action_proposals_exclusive_fixed
BEFORE UPDATE OF exclusive_key ON action_proposals
WHEN NEW.exclusive_key IS NOT OLD.exclusive_key
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END;

CREATE TRIGGER action_limits_not_deleted
BEFORE DELETE ON action_limits
BEGIN
    SELECT RAISE(ABORT, 'action_limits_not_deleted: limits are never deleted');
END;

CREATE TRIGGER action_limits_not_replaced
BEFORE INSERT ON action_limits
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_limits WHERE id = NEW.id)
    OR EXISTS (SELECT 1 FROM action_limits WHERE name = NEW.name AND removed_at IS NULL)
BEGIN
    SELECT RAISE(ABORT, 'action_limits_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_limits_not_replaced: this id is taken') WHERE EXISTS (SELECT 1 FROM action_limits WHERE id = NEW.id);
    SELECT RAISE(ABORT, 'action_limits_not_replaced: an open limit has this name');
END;

CREATE TRIGGER action_limits_immutable
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

CREATE TRIGGER action_limits_removed
AFTER UPDATE ON action_limits
BEGIN
    SELECT RAISE(ABORT, 'action_limits_values: removed_at is not what the ledger takes') WHERE (NEW.removed_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: removed_by is not what the ledger takes') WHERE ((NEW.removed_by < x'' AND substr(NEW.removed_by, 1, 255) = NEW.removed_by AND (unicode(NEW.removed_by) BETWEEN 33 AND 126 OR trim(NEW.removed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_limits_values: remove_reason is not what the ledger takes') WHERE ((NEW.remove_reason < x'' AND substr(NEW.remove_reason, 1, 65536) = NEW.remove_reason AND (unicode(NEW.remove_reason) BETWEEN 33 AND 126 OR trim(NEW.remove_reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))) IS NOT TRUE;
    INSERT INTO action_events (event_type, actor, reason, occurred_at, details)
    SELECT event_type, actor, reason, occurred_at, details FROM action_limits_told WHERE id = NEW.id AND event_type = 'limit_removed';
END;

-- A limit that is set counts what has started in its window before, from the history; an amount that can't be read is zero there.
CREATE TRIGGER action_limits_values
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

CREATE TRIGGER action_starts_not_deleted
BEFORE DELETE ON action_starts
BEGIN
    SELECT RAISE(ABORT, 'action_starts_not_deleted: starts are never deleted');
END;

-- A start is the next of its limit, and all but its amount follows from the one before it: an invented one can only leave less.
CREATE TRIGGER action_starts_counted
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

CREATE TRIGGER action_starts_returned
BEFORE UPDATE ON action_starts
WHEN (NEW.limit_id = OLD.limit_id AND NEW.place = OLD.place AND NEW.started_at = OLD.started_at AND NEW.proposal_id = OLD.proposal_id
    AND NEW.amount = OLD.amount AND NEW.total = OLD.total AND OLD.given_back_at IS NULL AND NEW.given_back_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')
    AND NEW.place = (SELECT max(last.place) FROM action_starts AS last WHERE last.proposal_id = NEW.proposal_id AND last.limit_id = NEW.limit_id)
    AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = 'failed' AND end_code = 'not_begun')) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_starts_returned: only what was not begun is given back');
END;
