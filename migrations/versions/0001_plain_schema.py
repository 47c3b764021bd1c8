"""The plain schema: tickets, proposals and records, as the first services had them.

Databases that have these tables already are adopted: what exists is checked, column by column, and
kept with every row; what is missing is made. A table that differs from the known shape in any column,
or that carries an index or a trigger that the next revision would drop, is refused before anything is
written, because the difference may be data that someone needs.

On PostgreSQL the tables stand in the SQL beside this file; there, tables of ours without a version are
adopted only if they are exactly as this revision makes them.

Revision: 0001, the first
"""

from pathlib import Path
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


# As `_postgresql_catalogue` reads what the SQL beside this file makes.
POSTGRESQL = (
    "action_proposals fk_action_proposals_ticket_id_tickets FOREIGN KEY (ticket_id) REFERENCES tickets(id)",
    "action_proposals index CREATE INDEX idx_action_proposals_status USING btree (status)",
    "action_proposals index CREATE INDEX idx_action_proposals_ticket USING btree (ticket_id)",
    "action_proposals of kind r",
    "action_proposals pk_action_proposals PRIMARY KEY (id)",
    "action_proposals.action_name text NOT NULL",
    "action_proposals.action_type text NOT NULL DEFAULT 'subject'::text",
    "action_proposals.cancelled_at timestamp with time zone",
    "action_proposals.created_at timestamp with time zone NOT NULL DEFAULT statement_timestamp()",
    "action_proposals.id bigint NOT NULL ALWAYS",
    "action_proposals.parameters json NOT NULL",
    "action_proposals.proposed_at timestamp with time zone NOT NULL",
    "action_proposals.proposed_by text NOT NULL DEFAULT 'agent'::text",
    "action_proposals.reason text NOT NULL",
    "action_proposals.status text NOT NULL DEFAULT 'proposed'::text",
    "action_proposals.ticket_id bigint",
    "action_proposals.updated_at timestamp with time zone NOT NULL DEFAULT statement_timestamp()",
    "action_proposals.validated_at timestamp with time zone",
    "action_records fk_action_records_proposal_id_action_proposals FOREIGN KEY (proposal_id) REFERENCES action_proposals(id)",
    "action_records index CREATE INDEX idx_action_records_proposal USING btree (proposal_id)",
    "action_records of kind r",
    "action_records pk_action_records PRIMARY KEY (id)",
    "action_records.completed_at timestamp with time zone",
    "action_records.created_at timestamp with time zone NOT NULL DEFAULT statement_timestamp()",
    "action_records.error_message text",
    "action_records.id bigint NOT NULL ALWAYS",
    "action_records.proposal_id bigint NOT NULL",
    "action_records.result_data json",
    "action_records.started_at timestamp with time zone",
    "action_records.success boolean",
    "tickets index CREATE INDEX idx_tickets_open_violation USING btree (violation_key) WHERE (status <> 'resolved'::text)",
    "tickets index CREATE INDEX idx_tickets_violation_time USING btree (violation_key, resolved_at)",
    "tickets of kind r",
    "tickets pk_tickets PRIMARY KEY (id)",
    "tickets.batch_key text",
    "tickets.created_at text NOT NULL DEFAULT to_char((clock_timestamp() AT TIME ZONE 'UTC'::text), 'YYYY-MM-DD HH24:MI:SS'::text)",
    "tickets.diagnosis text",
    "tickets.first_seen_at text NOT NULL",
    "tickets.held boolean NOT NULL DEFAULT false",
    "tickets.id bigint NOT NULL BY DEFAULT",
    "tickets.invariant_name text NOT NULL",
    "tickets.last_seen_at text NOT NULL",
    "tickets.message text NOT NULL",
    "tickets.metric_snapshot text",
    "tickets.occurrence_count integer NOT NULL DEFAULT 1",
    "tickets.resolved_at text",
    "tickets.severity text NOT NULL DEFAULT 'warning'::text",
    "tickets.status text NOT NULL DEFAULT 'open'::text",
    "tickets.store_id text",
    "tickets.updated_at text NOT NULL DEFAULT to_char((clock_timestamp() AT TIME ZONE 'UTC'::text), 'YYYY-MM-DD HH24:MI:SS'::text)",
    "tickets.violation_key text NOT NULL",
)


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _upgrade_postgresql()
        return
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


def _upgrade_postgresql() -> None:
    if not context.is_offline_mode() and (found := _postgresql_catalogue()):
        differences = [f"missing or different: {each}" for each in POSTGRESQL if each not in found]
        differences += [f"there is {each}" for each in found if each not in POSTGRESQL]
        if differences:
            raise UnmanagedSchema(differences)
        return
    for statement in Path(__file__).with_suffix(".postgresql.sql").read_text().split(";\n\n"):
        # A colon is no parameter here.
        op.execute(sa.text(statement.strip().rstrip(";").replace(":", "\\:")))


def _postgresql_catalogue() -> list[str]:
    """What there is of our names in the schema, and all that belongs to it, a line each."""
    names = ", ".join(f"'{name}'" for name in (*SHAPES, "action_events"))
    query = f"""
        WITH ours AS (
            SELECT oid, relname FROM pg_class
            WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relname IN ({names}))
        SELECT relname || ' of kind ' || relkind::text FROM ours JOIN pg_class USING (oid, relname)
        UNION ALL
        SELECT concat_ws(' ', relname || '.' || attname, format_type(atttypid, atttypmod),
            CASE WHEN attnotnull THEN 'NOT NULL' END,
            CASE attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' END,
            CASE WHEN attgenerated != '' THEN 'GENERATED' END,
            'DEFAULT ' || pg_get_expr(adbin, adrelid))
        FROM ours JOIN pg_attribute ON attrelid = ours.oid
            LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT concat_ws(' ', relname, conname, pg_get_constraintdef(pg_constraint.oid))
        FROM ours JOIN pg_constraint ON conrelid = ours.oid WHERE contype != 'n'
        UNION ALL
        SELECT relname || ' index ' || regexp_replace(pg_get_indexdef(indexrelid), ' ON .* USING', ' USING')
        FROM ours JOIN pg_index ON indrelid = ours.oid WHERE NOT indisprimary
        UNION ALL
        SELECT relname || ' trigger ' || tgname
        FROM ours JOIN pg_trigger ON tgrelid = ours.oid WHERE NOT tgisinternal
        UNION ALL
        SELECT relname || ' rule ' || rulename
        FROM ours JOIN pg_rewrite ON ev_class = ours.oid WHERE rulename != '_RETURN'
        UNION ALL
        SELECT relname || ' row security' FROM ours JOIN pg_class USING (oid, relname) WHERE relrowsecurity
        """
    return sorted(op.get_bind().execute(sa.text(query.replace(":", "\\:"))).scalars())


def downgrade() -> None:
    if not context.is_offline_mode():
        discard = context.get_x_argument(as_dictionary=True).get("discard-data") == "yes"
        for table in SHAPES:
            if not discard and op.get_bind().exec_driver_sql(f"SELECT 1 FROM {table}").first():
                raise WouldLoseData(table, "discard-data")
    for table in ("action_records", "action_proposals", "tickets"):
        op.drop_table(table)
