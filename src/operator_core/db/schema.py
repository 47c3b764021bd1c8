"""The schema at head as SQLite script text, for whoever makes tables without Alembic.

Generated from the revisions by ``make schema``; do not edit.
"""

from typing import Final

__all__ = ["ACTIONS_SCHEMA_SQL", "SCHEMA_SQL"]

SCHEMA_SQL: Final = """\
CREATE TABLE IF NOT EXISTS "tickets" (
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
"""The neighbour's table, ``tickets``."""

ACTIONS_SCHEMA_SQL: Final = """\
CREATE TABLE IF NOT EXISTS "action_proposals" (
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
    status_changed_at TEXT, idempotency_key TEXT, priority INTEGER DEFAULT 0 NOT NULL, scheduled_at TEXT, expires_at TEXT, max_retries INTEGER DEFAULT 0 NOT NULL, retry_delay FLOAT DEFAULT 1 NOT NULL, max_retry_delay FLOAT DEFAULT 300 NOT NULL, retry_count INTEGER DEFAULT 0 NOT NULL, next_retry_at TEXT, last_error TEXT, version INTEGER DEFAULT 1 NOT NULL, workflow_id INTEGER, depends_on TEXT, wait_on_failure BOOLEAN DEFAULT 0 NOT NULL, 
    CONSTRAINT fk_action_proposals_ticket_id_tickets FOREIGN KEY(ticket_id) REFERENCES tickets (id), 
    CONSTRAINT ck_action_proposals_action_type CHECK (action_type IN ('subject', 'tool', 'workflow')), 
    CONSTRAINT ck_action_proposals_status CHECK (status IN ('proposed', 'validated', 'executing', 'completed', 'failed', 'cancelled'))
);

CREATE TABLE IF NOT EXISTS "action_records" (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
    proposal_id INTEGER NOT NULL, 
    started_at TEXT, 
    completed_at TEXT, 
    success BOOLEAN, 
    error_message TEXT, 
    result_data TEXT, 
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
    started_by TEXT, 
    completed_by TEXT, worker TEXT, lease_expires_at TEXT, outcome_unknown BOOLEAN DEFAULT 0 NOT NULL, 
    CONSTRAINT fk_action_records_proposal_id_action_proposals FOREIGN KEY(proposal_id) REFERENCES action_proposals (id), 
    CONSTRAINT ck_action_records_success CHECK (success IN (0, 1))
);

CREATE TABLE IF NOT EXISTS action_events (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
    proposal_id INTEGER NOT NULL, 
    record_id INTEGER, 
    event_type TEXT NOT NULL, 
    from_status TEXT, 
    to_status TEXT, 
    success BOOLEAN, 
    actor TEXT NOT NULL, 
    reason TEXT, 
    occurred_at TEXT NOT NULL, transaction_id INTEGER DEFAULT 0 NOT NULL, 
    CONSTRAINT fk_action_events_proposal_id_action_proposals FOREIGN KEY(proposal_id) REFERENCES action_proposals (id), 
    CONSTRAINT fk_action_events_record_id_action_records FOREIGN KEY(record_id) REFERENCES action_records (id), 
    CONSTRAINT ck_action_events_event_type CHECK (event_type IN ('proposal_created', 'status_changed', 'record_started', 'record_finished')), 
    CONSTRAINT ck_action_events_success CHECK (success IN (0, 1))
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

CREATE INDEX IF NOT EXISTS idx_action_proposals_status ON action_proposals (status, id);

CREATE INDEX IF NOT EXISTS idx_action_proposals_ticket ON action_proposals (ticket_id, id);

CREATE INDEX IF NOT EXISTS idx_action_proposals_action_name ON action_proposals (action_name, id);

CREATE INDEX IF NOT EXISTS idx_action_proposals_proposed_by ON action_proposals (proposed_by, id);

CREATE INDEX IF NOT EXISTS idx_action_records_proposal ON action_records (proposal_id, id);

CREATE INDEX IF NOT EXISTS idx_action_events_proposal ON action_events (proposal_id, id);

CREATE UNIQUE INDEX IF NOT EXISTS uq_action_proposals_idempotency_key ON action_proposals (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_due ON action_proposals (status, priority DESC, coalesce(next_retry_at, scheduled_at, created_at), id) WHERE status = 'validated';

CREATE INDEX IF NOT EXISTS idx_action_proposals_expires ON action_proposals (status, expires_at) WHERE status IN ('proposed', 'validated') AND expires_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_proposals_retry ON action_proposals (status, next_retry_at) WHERE status = 'failed' AND next_retry_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_records_lease ON action_records (lease_expires_at) WHERE completed_at IS NULL AND lease_expires_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_action_dependencies_needed ON action_dependencies (depends_on_id, proposal_id);

CREATE INDEX IF NOT EXISTS idx_action_proposals_workflow ON action_proposals (workflow_id, id) WHERE workflow_id IS NOT NULL;

CREATE TRIGGER IF NOT EXISTS tickets_referenced
BEFORE DELETE ON tickets
WHEN EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'tickets_referenced: a proposal refers to this ticket');
END;

CREATE TRIGGER IF NOT EXISTS tickets_renumbered
BEFORE UPDATE ON tickets
WHEN NEW.id IS NOT OLD.id AND EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'tickets_renumbered: a proposal refers to this ticket');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_ticket_exists
BEFORE INSERT ON action_proposals
WHEN NEW.ticket_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM tickets WHERE id = NEW.ticket_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_ticket_exists: no such ticket');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_not_replaced
BEFORE INSERT ON action_proposals
WHEN EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_not_replaced: this id is taken');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_not_deleted
BEFORE DELETE ON action_proposals
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_not_deleted: proposals are never deleted');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_not_renumbered
BEFORE UPDATE ON action_proposals
WHEN NEW.id IS NOT OLD.id
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_not_renumbered: an id never changes');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_lifecycle
BEFORE UPDATE OF status ON action_proposals
WHEN NEW.status IS NOT OLD.status
    AND (OLD.status = 'proposed' AND NEW.status IN ('validated', 'cancelled')
        OR OLD.status = 'validated' AND NEW.status IN ('executing', 'cancelled')
        OR OLD.status = 'executing' AND NEW.status IN ('completed', 'failed', 'cancelled')
        OR OLD.status = 'failed' AND NEW.status = 'validated') IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_lifecycle: the lifecycle has no such step');
END;

CREATE TRIGGER IF NOT EXISTS action_records_proposal_exists
BEFORE INSERT ON action_records
WHEN NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id)
BEGIN
    SELECT RAISE(ABORT, 'action_records_proposal_exists: no such proposal');
END;

CREATE TRIGGER IF NOT EXISTS action_records_not_replaced
BEFORE INSERT ON action_records
WHEN EXISTS (SELECT 1 FROM action_records WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_records_not_replaced: this id is taken');
END;

CREATE TRIGGER IF NOT EXISTS action_records_not_deleted
BEFORE DELETE ON action_records
BEGIN
    SELECT RAISE(ABORT, 'action_records_not_deleted: records are never deleted');
END;

CREATE TRIGGER IF NOT EXISTS action_records_started
AFTER INSERT ON action_records
BEGIN
    SELECT RAISE(ABORT, 'action_records_started: an id is positive') WHERE NEW.id < 1;
    INSERT INTO action_events (proposal_id, record_id, event_type, actor, occurred_at)
    VALUES (NEW.proposal_id, NEW.id, 'record_started', coalesce(NEW.started_by, 'raw SQL'), strftime('%Y-%m-%d %H:%M:%f000', 'now'));
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
    SELECT NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
        coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, strftime('%Y-%m-%d %H:%M:%f000', 'now')
    WHERE NEW.completed_at IS NOT NULL;
END;

CREATE TRIGGER IF NOT EXISTS action_records_finished
AFTER UPDATE OF completed_at ON action_records
WHEN OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL
BEGIN
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
    VALUES (NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
        coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, strftime('%Y-%m-%d %H:%M:%f000', 'now'));
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

CREATE TRIGGER IF NOT EXISTS action_events_not_replaced
BEFORE INSERT ON action_events
WHEN EXISTS (SELECT 1 FROM action_events WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_replaced: the history is append-only');
END;

CREATE TRIGGER IF NOT EXISTS action_events_rows_exist
AFTER INSERT ON action_events
WHEN NEW.id < 1
    OR NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id)
    OR NEW.record_id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id)
BEGIN
    SELECT RAISE(ABORT, 'action_events_rows_exist: no such proposal or record, or no positive id');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_updated_at
AFTER UPDATE ON action_proposals
WHEN (NOT NEW.updated_at > OLD.updated_at OR NEW.version IS NOT OLD.version + 1)
    AND NOT (NEW.status_changed_by IS 'raw SQL' AND NEW.status IS OLD.status
        AND NEW.status_changed_at IS NOT OLD.status_changed_at AND NEW.version IS OLD.version)
BEGIN
    UPDATE action_proposals
    SET updated_at = iif(NEW.updated_at > OLD.updated_at, NEW.updated_at, coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now'))),
        version = OLD.version + 1
    WHERE id = NEW.id;
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

CREATE TRIGGER IF NOT EXISTS action_proposals_workflow_exists
BEFORE INSERT ON action_proposals
WHEN NEW.workflow_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM workflows WHERE id = NEW.workflow_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_workflow_exists: no such workflow');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_cascade
AFTER UPDATE OF status, next_retry_at ON action_proposals
WHEN (NEW.status = 'cancelled' OR NEW.status = 'failed' AND NEW.next_retry_at IS NULL)
    AND NOT (OLD.status = 'cancelled' OR OLD.status = 'failed' AND OLD.next_retry_at IS NULL)
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        status_reason = 'proposal ' || NEW.id || ', which it depends on, ' || iif(NEW.status = 'failed', 'failed', 'was cancelled'),
        status_changed_by = 'ledger',
        cancelled_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE id IN (
        WITH RECURSIVE behind (id) AS (
            SELECT proposal_id FROM action_dependencies JOIN action_proposals AS next ON next.id = proposal_id
            WHERE depends_on_id = NEW.id AND NOT next.wait_on_failure AND next.status IN ('proposed', 'validated')
            UNION
            SELECT proposal_id FROM behind JOIN action_dependencies ON depends_on_id = behind.id
                JOIN action_proposals AS next ON next.id = proposal_id
            WHERE NOT next.wait_on_failure AND next.status IN ('proposed', 'validated'))
        SELECT id FROM behind);
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

CREATE TRIGGER IF NOT EXISTS workflows_not_replaced
BEFORE INSERT ON workflows
WHEN EXISTS (SELECT 1 FROM workflows WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'workflows_not_replaced: this id is taken');
END;

CREATE TRIGGER IF NOT EXISTS workflows_not_deleted
BEFORE DELETE ON workflows
BEGIN
    SELECT RAISE(ABORT, 'workflows_not_deleted: workflows are never deleted');
END;

CREATE TRIGGER IF NOT EXISTS workflows_updated_at
AFTER UPDATE ON workflows
WHEN NOT NEW.updated_at > OLD.updated_at
BEGIN
    UPDATE workflows
    SET updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now'))
    WHERE id = NEW.id;
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_created
AFTER INSERT ON action_proposals
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_created: an id is positive') WHERE NEW.id < 1;
    INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at)
    VALUES (NEW.id, 'proposal_created', NEW.status, coalesce(NEW.status_changed_by, 'raw SQL'),
        NEW.reason, strftime('%Y-%m-%d %H:%M:%f000', 'now'));
    UPDATE action_proposals SET status_changed_by = 'raw SQL', status_changed_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')
    WHERE NEW.status_changed_by IS NULL AND id = NEW.id;
    SELECT RAISE(ABORT, 'action_proposals_created: no such proposal to depend on')
    FROM json_each(NEW.depends_on)
    WHERE type IS NOT 'integer' OR value >= NEW.id OR value NOT IN (SELECT id FROM action_proposals);
    INSERT INTO action_dependencies (proposal_id, depends_on_id)
    SELECT DISTINCT NEW.id, value FROM json_each(NEW.depends_on);
    UPDATE action_proposals
    SET status = 'cancelled', status_reason = 'a proposal that it depends on has failed or was cancelled',
        status_changed_by = 'ledger',
        cancelled_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE id = NEW.id AND NEW.depends_on IS NOT NULL AND NOT wait_on_failure
        AND status IN ('proposed', 'validated')
        AND EXISTS (
            SELECT 1 FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
            WHERE proposal_id = NEW.id
                AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL));
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_immutable
BEFORE UPDATE OF ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by,
    created_at, idempotency_key, priority, scheduled_at, expires_at, max_retries, retry_delay, max_retry_delay, workflow_id, depends_on, wait_on_failure ON action_proposals
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
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_status_changed
AFTER UPDATE OF status ON action_proposals
WHEN NEW.status IS NOT OLD.status
BEGIN
    INSERT INTO action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at)
    VALUES (NEW.id, 'status_changed', OLD.status, NEW.status,
        iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), 'raw SQL', NEW.status_changed_by),
        iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), NULL, NEW.status_reason),
        strftime('%Y-%m-%d %H:%M:%f000', 'now'));
    UPDATE action_proposals
    SET status_changed_by = 'raw SQL', status_reason = NULL,
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now'))
    WHERE (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL) AND id = NEW.id;
END;
"""
"""The ledger's own tables, and triggers on tickets: run after `SCHEMA_SQL`."""
