-- Revision 0001 on SQLite. Statements end at a semicolon before a blank line.

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
    created_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT fk_action_proposals_ticket_id_tickets FOREIGN KEY(ticket_id) REFERENCES tickets (id)
);

CREATE TABLE IF NOT EXISTS action_records (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    proposal_id INTEGER NOT NULL,
    started_at TEXT,
    completed_at TEXT,
    success BOOLEAN,
    error_message TEXT,
    result_data TEXT,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT fk_action_records_proposal_id_action_proposals FOREIGN KEY(proposal_id) REFERENCES action_proposals (id)
);

CREATE INDEX IF NOT EXISTS idx_tickets_open_violation ON tickets (violation_key) WHERE status != 'resolved';

CREATE INDEX IF NOT EXISTS idx_tickets_violation_time ON tickets (violation_key, resolved_at);

CREATE INDEX IF NOT EXISTS idx_action_proposals_status ON action_proposals (status);

CREATE INDEX IF NOT EXISTS idx_action_proposals_ticket ON action_proposals (ticket_id);

CREATE INDEX IF NOT EXISTS idx_action_records_proposal ON action_records (proposal_id);

CREATE TRIGGER IF NOT EXISTS tickets_updated_at AFTER UPDATE ON tickets
BEGIN
    UPDATE tickets SET updated_at = CURRENT_TIMESTAMP WHERE id = NEW.id;
END;

CREATE TRIGGER IF NOT EXISTS action_proposals_updated_at AFTER UPDATE ON action_proposals
BEGIN
    UPDATE action_proposals SET updated_at = CURRENT_TIMESTAMP WHERE id = NEW.id;
END;
