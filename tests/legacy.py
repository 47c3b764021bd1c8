"""A small database as the predecessor wrote them: its tables, no version, naive local times."""

from pathlib import Path

from operator_core.db.sql.sqlite_library import dbapi

SCHEMA = """
CREATE TABLE tickets (
    id INTEGER PRIMARY KEY AUTOINCREMENT, violation_key TEXT NOT NULL, invariant_name TEXT NOT NULL,
    store_id TEXT, status TEXT NOT NULL DEFAULT 'open', held BOOLEAN NOT NULL DEFAULT 0, batch_key TEXT,
    occurrence_count INTEGER NOT NULL DEFAULT 1, first_seen_at TEXT NOT NULL, last_seen_at TEXT NOT NULL,
    resolved_at TEXT, message TEXT NOT NULL, severity TEXT NOT NULL DEFAULT 'warning', diagnosis TEXT,
    metric_snapshot TEXT, created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE action_proposals (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ticket_id INTEGER, action_name TEXT NOT NULL,
    action_type TEXT NOT NULL DEFAULT 'subject', parameters TEXT NOT NULL, reason TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'proposed', proposed_at TEXT NOT NULL,
    proposed_by TEXT NOT NULL DEFAULT 'agent', validated_at TEXT, cancelled_at TEXT,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, FOREIGN KEY (ticket_id) REFERENCES tickets(id)
);
CREATE TABLE action_records (
    id INTEGER PRIMARY KEY AUTOINCREMENT, proposal_id INTEGER NOT NULL, started_at TEXT,
    completed_at TEXT, success INTEGER, error_message TEXT, result_data TEXT,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (proposal_id) REFERENCES action_proposals(id)
);
"""


def make_legacy(path: Path) -> None:
    """Writes it to `path`."""
    connection = dbapi.connect(path)
    connection.executescript(SCHEMA)
    connection.execute(
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
        "VALUES ('transfer_leader', '{\"region_id\": 7}', 'hot', '2026-07-01T12:00:00.123456')"
    )
    connection.commit()
    connection.close()
