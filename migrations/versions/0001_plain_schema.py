"""The plain schema: tickets, proposals and records, as the first services had them.

Databases that have these tables already are adopted: what exists is checked, column by column, and
kept with every row; what is missing is made. A table that differs from the known shape in any column,
or that carries an index or a trigger that the next revision would drop, is refused before anything is
written, because the difference may be data that someone needs.

Revision: 0001, the first
"""

from typing import Any

import sqlalchemy as sa
from alembic import context, op

from operator_core.actions.errors import UnmanagedSchema, WouldLoseData

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
CURRENT = sa.text("CURRENT_TIMESTAMP")

# name: (may be NULL, default); every table has `id` before them.
SHAPES = {
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

INDEXES = {
    "idx_tickets_open_violation": (
        "tickets",
        "ON tickets (violation_key) WHERE status != 'resolved'",
    ),
    "idx_tickets_violation_time": ("tickets", "ON tickets (violation_key, resolved_at)"),
    "idx_action_proposals_status": ("action_proposals", "ON action_proposals (status)"),
    "idx_action_proposals_ticket": ("action_proposals", "ON action_proposals (ticket_id)"),
    "idx_action_records_proposal": ("action_records", "ON action_records (proposal_id)"),
}

TRIGGERS = {
    f"{table}_updated_at": (
        table,
        f"""AFTER UPDATE ON {table}
BEGIN
    UPDATE {table} SET updated_at = CURRENT_TIMESTAMP WHERE id = NEW.id;
END""",
    )
    for table in ("tickets", "action_proposals")
}


def upgrade() -> None:
    existing = set() if context.is_offline_mode() else _adopt()
    if "tickets" not in existing:
        op.create_table(
            "tickets",
            sa.Column("id", BIGINT, primary_key=True),
            sa.Column("violation_key", sa.Text, nullable=False),
            sa.Column("invariant_name", sa.Text, nullable=False),
            sa.Column("store_id", sa.Text),
            sa.Column("status", sa.Text, nullable=False, server_default="open"),
            sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false()),
            sa.Column("batch_key", sa.Text),
            sa.Column("occurrence_count", sa.Integer, nullable=False, server_default=sa.text("1")),
            sa.Column("first_seen_at", sa.Text, nullable=False),
            sa.Column("last_seen_at", sa.Text, nullable=False),
            sa.Column("resolved_at", sa.Text),
            sa.Column("message", sa.Text, nullable=False),
            sa.Column("severity", sa.Text, nullable=False, server_default="warning"),
            sa.Column("diagnosis", sa.Text),
            sa.Column("metric_snapshot", sa.Text),
            sa.Column("created_at", sa.Text, nullable=False, server_default=CURRENT),
            sa.Column("updated_at", sa.Text, nullable=False, server_default=CURRENT),
            sqlite_autoincrement=True,
        )
    if "action_proposals" not in existing:
        op.create_table(
            "action_proposals",
            sa.Column("id", BIGINT, primary_key=True),
            sa.Column(
                "ticket_id",
                BIGINT,
                sa.ForeignKey("tickets.id", name="fk_action_proposals_ticket_id_tickets"),
            ),
            sa.Column("action_name", sa.Text, nullable=False),
            sa.Column("action_type", sa.Text, nullable=False, server_default="subject"),
            sa.Column("parameters", sa.Text, nullable=False),
            sa.Column("reason", sa.Text, nullable=False),
            sa.Column("status", sa.Text, nullable=False, server_default="proposed"),
            sa.Column("proposed_at", sa.Text, nullable=False),
            sa.Column("proposed_by", sa.Text, nullable=False, server_default="agent"),
            sa.Column("validated_at", sa.Text),
            sa.Column("cancelled_at", sa.Text),
            sa.Column("created_at", sa.Text, nullable=False, server_default=CURRENT),
            sa.Column("updated_at", sa.Text, nullable=False, server_default=CURRENT),
            sqlite_autoincrement=True,
        )
    if "action_records" not in existing:
        op.create_table(
            "action_records",
            sa.Column("id", BIGINT, primary_key=True),
            sa.Column(
                "proposal_id",
                BIGINT,
                sa.ForeignKey(
                    "action_proposals.id", name="fk_action_records_proposal_id_action_proposals"
                ),
                nullable=False,
            ),
            sa.Column("started_at", sa.Text),
            sa.Column("completed_at", sa.Text),
            sa.Column("success", sa.Boolean),
            sa.Column("error_message", sa.Text),
            sa.Column("result_data", sa.Text),
            sa.Column("created_at", sa.Text, nullable=False, server_default=CURRENT),
            sqlite_autoincrement=True,
        )
    for name, (_, definition) in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} {definition}")
    for name, (_, definition) in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER IF NOT EXISTS {name} {definition}")


def _adopt() -> set[str]:
    """The tables that exist already; raises UnmanagedSchema if one is not as it should be."""
    bind = op.get_bind()
    found = {
        (kind, name): table
        for kind, name, table in bind.exec_driver_sql(
            "SELECT type, name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'"
        )
    }
    existing = {name for kind, name in found if kind == "table" and name in SHAPES}
    # SQLite's names don't differ by case, and a view stands where a table would.
    differences = [
        f"there is a {kind} {name}"
        for kind, name in sorted(found)
        if kind in ("table", "view") and name.lower() in {*SHAPES, "action_events"} - existing
    ]
    for table in sorted(existing):
        columns = {
            name: (not_null == 0, default)
            for _, name, _, not_null, default, _, _ in bind.exec_driver_sql(
                f"PRAGMA table_xinfo({table})"
            )
        }
        if _primary_key(table) != [("id", "INTEGER")]:
            differences.append(f"{table}.id is not its INTEGER PRIMARY KEY")
        if any(origin == "u" for _, _, _, origin, _ in _indexes(table)):
            differences.append(f"{table} has a UNIQUE constraint")
        for name in sorted(columns.keys() | SHAPES[table].keys()):
            if name not in columns:
                differences.append(f"{table} has no column {name}")
            elif name not in SHAPES[table]:
                differences.append(f"{table} has a column {name}")
            elif name != "id" and columns[name] != SHAPES[table][name]:
                differences.append(f"{table}.{name} has another default or nullability")
    for (kind, name), table in sorted(found.items()):
        known = {"index": INDEXES, "trigger": TRIGGERS}.get(kind)
        if known is not None and (
            name not in known if table in existing else name in known and known[name][0] != table
        ):
            differences.append(f"{table} has the {kind} {name}")
    if differences:
        raise UnmanagedSchema(differences)
    return existing


def _primary_key(table: str) -> list[tuple[str, str]]:
    columns = op.get_bind().exec_driver_sql(f"PRAGMA table_info({table})")
    return [(name, kind.upper()) for _, name, kind, _, _, position in columns if position]


def _indexes(table: str) -> list[Any]:
    return list(op.get_bind().exec_driver_sql(f"PRAGMA index_list({table})"))


def downgrade() -> None:
    if not context.is_offline_mode():
        discard = context.get_x_argument(as_dictionary=True).get("discard-data") == "yes"
        for table in SHAPES:
            if not discard and op.get_bind().exec_driver_sql(f"SELECT 1 FROM {table}").first():
                raise WouldLoseData(table, "discard-data")
    for table in ("action_records", "action_proposals", "tickets"):
        op.drop_table(table)
