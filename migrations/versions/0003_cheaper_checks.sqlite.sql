-- Revision 0003 on SQLite: each object in the place of the one of that name in revision 0002.

CREATE TABLE action_proposals (
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
    wait_on_failure BOOLEAN DEFAULT 0 NOT NULL,
    CONSTRAINT fk_action_proposals_ticket_id_tickets FOREIGN KEY(ticket_id) REFERENCES tickets (id),
    CONSTRAINT ck_action_proposals_action_type CHECK (action_type = 'subject' OR action_type = 'tool' OR action_type = 'workflow'),
    CONSTRAINT ck_action_proposals_status CHECK (status = 'proposed' OR status = 'validated' OR status = 'executing' OR status = 'completed' OR status = 'failed' OR status = 'cancelled')
);

CREATE TABLE action_events (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    proposal_id INTEGER NOT NULL,
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
    CONSTRAINT fk_action_events_proposal_id_action_proposals FOREIGN KEY(proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT fk_action_events_record_id_action_records FOREIGN KEY(record_id) REFERENCES action_records (id),
    CONSTRAINT ck_action_events_event_type CHECK (event_type = 'proposal_created' OR event_type = 'status_changed' OR event_type = 'retry_scheduled' OR event_type = 'retry_cancelled' OR event_type = 'record_started' OR event_type = 'record_finished'),
    CONSTRAINT ck_action_events_success CHECK (success IN (0, 1))
);

CREATE INDEX idx_action_proposals_ticket ON action_proposals (ticket_id, id) WHERE ticket_id IS NOT NULL;

-- Only a trigger writes an event: no writer chooses its id, which is -1 before the INSERT where SQLite is to choose it,
-- and an event fits the rows that it is about as they are at that moment. Not a CASE: SQLite evaluates both sides of an AND
-- or OR in the value of an expression, and skips the second where it can in a condition.
CREATE TRIGGER action_events_genuine
BEFORE INSERT ON action_events
WHEN (NEW.id = -1 AND NEW.transaction_id = 0 AND (
    NEW.record_id IS NULL AND NEW.success IS NULL AND NEW.worker IS NULL AND (
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
    OR NEW.record_id IS NOT NULL AND NEW.to_status IS NULL AND NEW.from_status IS NULL AND NEW.version IS NULL
        AND (NEW.event_type = 'record_started' AND NEW.success IS NULL
                AND EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id AND worker IS NEW.worker)
            OR NEW.event_type = 'record_finished'
                AND EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id AND worker IS NEW.worker AND completed_at IS NOT NULL AND success IS NEW.success))
        AND NOT EXISTS (SELECT 1 FROM action_events WHERE record_id = NEW.record_id AND event_type = NEW.event_type))) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_replaced: the history is append-only') WHERE NEW.id <> -1;
    SELECT RAISE(ABORT, 'action_events_genuine: only what has just happened becomes an event');
END;
