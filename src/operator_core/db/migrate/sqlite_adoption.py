"""Recognises a predecessor's SQLite tables that are the plain schema of revision 0001."""

from typing import Any, Final

from sqlalchemy import Connection

from operator_core.actions.errors import UnmanagedSchema

__all__ = ["check_adoptable"]

# Name of the column: (may be NULL, default).
_SHAPES: Final = {
    "tickets": {
        "id": (True, None),
        "violation_key": (False, None),
        "invariant_name": (False, None),
        "store_id": (True, None),
        "status": (False, "'open'"),
        "held": (False, "0"),
        "batch_key": (True, None),
        "occurrence_count": (False, "1"),
        "first_seen_at": (False, None),
        "last_seen_at": (False, None),
        "resolved_at": (True, None),
        "message": (False, None),
        "severity": (False, "'warning'"),
        "diagnosis": (True, None),
        "metric_snapshot": (True, None),
        "created_at": (False, "CURRENT_TIMESTAMP"),
        "updated_at": (False, "CURRENT_TIMESTAMP"),
    },
    "action_proposals": {
        "id": (True, None),
        "ticket_id": (True, None),
        "action_name": (False, None),
        "action_type": (False, "'subject'"),
        "parameters": (False, None),
        "reason": (False, None),
        "status": (False, "'proposed'"),
        "proposed_at": (False, None),
        "proposed_by": (False, "'agent'"),
        "validated_at": (True, None),
        "cancelled_at": (True, None),
        "created_at": (False, "CURRENT_TIMESTAMP"),
        "updated_at": (False, "CURRENT_TIMESTAMP"),
    },
    "action_records": {
        "id": (True, None),
        "proposal_id": (False, None),
        "started_at": (True, None),
        "completed_at": (True, None),
        "success": (True, None),
        "error_message": (True, None),
        "result_data": (True, None),
        "created_at": (False, "CURRENT_TIMESTAMP"),
    },
}

_INDEXES: Final = {
    "idx_tickets_open_violation": (
        "tickets",
        "ON tickets (violation_key) WHERE status != 'resolved'",
    ),
    "idx_tickets_violation_time": ("tickets", "ON tickets (violation_key, resolved_at)"),
    "idx_action_proposals_status": ("action_proposals", "ON action_proposals (status)"),
    "idx_action_proposals_ticket": ("action_proposals", "ON action_proposals (ticket_id)"),
    "idx_action_records_proposal": ("action_records", "ON action_records (proposal_id)"),
}

_TRIGGERS: Final = {
    f"{table}_updated_at": (
        table,
        f"""AFTER UPDATE ON {table}
BEGIN
    UPDATE {table} SET updated_at = CURRENT_TIMESTAMP WHERE id = NEW.id;
END""",
    )
    for table in ("tickets", "action_proposals")
}


def check_adoptable(conn: Connection) -> None:
    """Raises `UnmanagedSchema` unless each existing table is as in the plain schema."""
    found = {
        (kind, name): table
        for kind, name, table in conn.exec_driver_sql(
            "SELECT type, name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'"
        )
    }
    existing = {name for kind, name in found if kind == "table" and name in _SHAPES}
    # SQLite's names are case-insensitive, and a view takes the place of a table.
    differences = [
        f"there is a {kind} {name}"
        for kind, name in sorted(found)
        if kind in ("table", "view") and name.lower() in {*_SHAPES, "action_events"} - existing
    ]
    for table in sorted(existing):
        columns = {
            name: (not_null == 0, default)
            for _, name, _, not_null, default, _, _ in conn.exec_driver_sql(
                f"PRAGMA table_xinfo({table})"
            )
        }
        if _primary_key(conn, table) != [("id", "INTEGER")]:
            differences.append(f"{table}.id is not its INTEGER PRIMARY KEY")
        if any(origin == "u" for _, _, _, origin, _ in _indexes(conn, table)):
            differences.append(f"{table} has a UNIQUE constraint")
        for name in sorted(columns.keys() | _SHAPES[table].keys()):
            if name not in columns:
                differences.append(f"{table} has no column {name}")
            elif name not in _SHAPES[table]:
                differences.append(f"{table} has a column {name}")
            elif name != "id" and columns[name] != _SHAPES[table][name]:
                differences.append(f"{table}.{name} has another default or nullability")
    for (kind, name), table in sorted(found.items()):
        known = {"index": _INDEXES, "trigger": _TRIGGERS}.get(kind)
        if known is not None and (
            name not in known if table in existing else name in known and known[name][0] != table
        ):
            differences.append(f"{table} has the {kind} {name}")
    if differences:
        raise UnmanagedSchema(differences)


def _primary_key(conn: Connection, table: str) -> list[tuple[str, str]]:
    columns = conn.exec_driver_sql(f"PRAGMA table_info({table})")
    return [(name, kind.upper()) for _, name, kind, _, _, position in columns if position]


def _indexes(conn: Connection, table: str) -> list[Any]:
    return list(conn.exec_driver_sql(f"PRAGMA index_list({table})"))
