"""The database keeps the ledger's promises itself, whoever writes to it.

- CHECKs on what is an enumeration, and columns in which a writer says who acts and why.
- Times in UTC with microseconds, in one form (``YYYY-MM-DD HH:MM:SS.ffffff``, sortable as text and
  read by SQLite's own date functions). Rows of an adopted database are converted: an ISO time with a
  ``T`` and no offset is the predecessor's local time, in the zone that ``-x legacy-timezone=`` names
  (default: the machine's); one with a space is SQLite's own CURRENT_TIMESTAMP and in UTC already.
  JSON is written anew in the ledger's compact form where that loses nothing. What can't be read
  stays as it is. None of this is in the script of ``--sql``, which is for databases without rows.
- ``action_events``, the history, and the triggers that write it, for adopted rows too.
- Triggers for updated_at, immutability, lifecycle, references and append-only.

SQLite can't add constraints to a table, so each table is made anew, filled and renamed, by hand:
Alembic's batch mode would drop triggers and expression indexes on the way and restart AUTOINCREMENT.
PostgreSQL can, and keeps references by its foreign keys; there all of it stands in the SQL beside this
file, and the times and the JSON of adopted rows are of the right form by their types.

Revision: 0002, after 0001
"""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from alembic import context, op

from operator_core.actions.errors import InvalidValue, UnmanagedSchema, WouldLoseData

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

logger = logging.getLogger("operator_core.migrations")

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
CURRENT = sa.text("CURRENT_TIMESTAMP")
NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
NOW_DEFAULT = sa.text(f"({NOW})")
AFTER = "coalesce(max({now}, strftime('%Y-%m-%d %H:%M:%f000', {time}, '+0.001 seconds')), {now})"
UNSAID = (
    "(NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at "
    "OR NEW.status_changed_by IS NULL)"
)

# Of the CHECKs on PostgreSQL, whose times reach farther than Python's.
FIRST_TIME = "1970-01-01 00:00:00+00"
END_OF_TIME = "9999-01-01 00:00:00+00"

STATUSES = "'proposed', 'validated', 'executing', 'completed', 'failed', 'cancelled'"
ACTION_TYPES = "'subject', 'tool', 'workflow'"
EVENT_TYPES = "'proposal_created', 'status_changed', 'record_started', 'record_finished'"

COLUMNS = {
    "tickets": (
        "id, violation_key, invariant_name, store_id, status, held, batch_key, occurrence_count, "
        "first_seen_at, last_seen_at, resolved_at, message, severity, diagnosis, metric_snapshot, "
        "created_at, updated_at"
    ),
    "action_proposals": (
        "id, ticket_id, action_name, action_type, parameters, reason, status, proposed_at, "
        "proposed_by, validated_at, cancelled_at, created_at, updated_at"
    ),
    "action_records": (
        "id, proposal_id, started_at, completed_at, success, error_message, result_data, created_at"
    ),
}

TIMES = {
    "action_proposals": ("proposed_at", "validated_at", "cancelled_at", "created_at", "updated_at"),
    "action_records": ("started_at", "completed_at", "created_at"),
}
JSON = {"action_proposals": "parameters", "action_records": "result_data"}

INDEXES = {
    "idx_tickets_open_violation": "ON tickets (violation_key) WHERE status != 'resolved'",
    "idx_tickets_violation_time": "ON tickets (violation_key, resolved_at)",
    # With id behind, so that the newest of each are read in order on every database.
    "idx_action_proposals_status": "ON action_proposals (status, id)",
    "idx_action_proposals_ticket": "ON action_proposals (ticket_id, id)",
    "idx_action_proposals_action_name": "ON action_proposals (action_name, id)",
    "idx_action_proposals_proposed_by": "ON action_proposals (proposed_by, id)",
    "idx_action_records_proposal": "ON action_records (proposal_id, id)",
    "idx_action_events_proposal": "ON action_events (proposal_id, id)",
}

# Messages begin with the trigger's name, so that a log line says which promise was to be broken.
TRIGGERS = {
    # Not for updated_at alone, so that a connection with recursive_triggers does not go round.
    "tickets_updated_at": """
AFTER UPDATE OF violation_key, invariant_name, store_id, status, held, batch_key, occurrence_count,
    first_seen_at, last_seen_at, resolved_at, message, severity, diagnosis, metric_snapshot ON tickets
WHEN NEW.updated_at IS OLD.updated_at
BEGIN
    UPDATE tickets SET updated_at = CURRENT_TIMESTAMP WHERE id = NEW.id;
END""",
    # Foreign keys are off in SQLite unless each connection asks for them; these triggers are not.
    "tickets_referenced": """
BEFORE DELETE ON tickets
WHEN EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'tickets_referenced: a proposal refers to this ticket');
END""",
    "tickets_renumbered": """
BEFORE UPDATE ON tickets
WHEN NEW.id IS NOT OLD.id AND EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'tickets_renumbered: a proposal refers to this ticket');
END""",
    "action_proposals_ticket_exists": """
BEFORE INSERT ON action_proposals
WHEN NEW.ticket_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM tickets WHERE id = NEW.ticket_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_ticket_exists: no such ticket');
END""",
    # INSERT OR REPLACE deletes without asking a delete trigger.
    "action_proposals_not_replaced": """
BEFORE INSERT ON action_proposals
WHEN EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_not_replaced: this id is taken');
END""",
    "action_proposals_not_deleted": """
BEFORE DELETE ON action_proposals
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_not_deleted: proposals are never deleted');
END""",
    "action_proposals_immutable": """
BEFORE UPDATE OF ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by,
    created_at ON action_proposals
WHEN NEW.ticket_id IS NOT OLD.ticket_id
    OR NEW.action_name IS NOT OLD.action_name
    OR NEW.action_type IS NOT OLD.action_type
    OR NEW.parameters IS NOT OLD.parameters
    OR NEW.reason IS NOT OLD.reason
    OR NEW.proposed_at IS NOT OLD.proposed_at
    OR NEW.proposed_by IS NOT OLD.proposed_by
    OR NEW.created_at IS NOT OLD.created_at
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END""",
    # Of no column in particular: an id can be set by its other names, rowid and oid.
    "action_proposals_not_renumbered": """
BEFORE UPDATE ON action_proposals
WHEN NEW.id IS NOT OLD.id
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_not_renumbered: an id never changes');
END""",
    # IS NOT TRUE, not NOT: under UPDATE OR REPLACE a NULL would become the column's default.
    "action_proposals_lifecycle": """
BEFORE UPDATE OF status ON action_proposals
WHEN NEW.status IS NOT OLD.status
    AND (OLD.status = 'proposed' AND NEW.status IN ('validated', 'cancelled')
        OR OLD.status = 'validated' AND NEW.status IN ('executing', 'cancelled')
        OR OLD.status = 'executing' AND NEW.status IN ('completed', 'failed', 'cancelled')
        OR OLD.status = 'failed' AND NEW.status = 'validated') IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_lifecycle: the lifecycle has no such step');
END""",
    # A row with the id -1 would be in the way of all that follow: in a BEFORE INSERT trigger, -1
    # stands for the id that SQLite has yet to choose.
    "action_proposals_created": f"""
AFTER INSERT ON action_proposals
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_created: an id is positive') WHERE NEW.id < 1;
    INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at)
    VALUES (NEW.id, 'proposal_created', NEW.status, coalesce(NEW.status_changed_by, 'raw SQL'),
        NEW.reason, {NOW});
    UPDATE action_proposals SET status_changed_by = 'raw SQL', status_changed_at = {NOW}
    WHERE NEW.status_changed_by IS NULL AND id = NEW.id;
END""",
    # Whoever moves the status and does not move status_changed_at has not said who acts. When it
    # happened is never the writer's to say.
    "action_proposals_status_changed": f"""
AFTER UPDATE OF status ON action_proposals
WHEN NEW.status IS NOT OLD.status
BEGIN
    INSERT INTO action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at)
    VALUES (NEW.id, 'status_changed', OLD.status, NEW.status,
        iif({UNSAID}, 'raw SQL', NEW.status_changed_by),
        iif({UNSAID}, NULL, NEW.status_reason),
        {NOW});
    UPDATE action_proposals
    SET status_changed_by = 'raw SQL', status_reason = NULL,
        status_changed_at = {AFTER.format(now=NOW, time="OLD.status_changed_at")}
    WHERE {UNSAID} AND id = NEW.id;
END""",
    # The two triggers above fill in 'raw SQL'; that is no change of its own, and must not move a
    # time that the writer set. A time that can't be read gives way to the clock.
    "action_proposals_updated_at": f"""
AFTER UPDATE ON action_proposals
WHEN NOT NEW.updated_at > OLD.updated_at
    AND NOT (NEW.status_changed_by IS 'raw SQL' AND NEW.status IS OLD.status
        AND NEW.status_changed_at IS NOT OLD.status_changed_at)
BEGIN
    UPDATE action_proposals
    SET updated_at = {AFTER.format(now=NOW, time="OLD.updated_at")}
    WHERE id = NEW.id;
END""",
    "action_records_proposal_exists": """
BEFORE INSERT ON action_records
WHEN NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id)
BEGIN
    SELECT RAISE(ABORT, 'action_records_proposal_exists: no such proposal');
END""",
    "action_records_not_replaced": """
BEFORE INSERT ON action_records
WHEN EXISTS (SELECT 1 FROM action_records WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_records_not_replaced: this id is taken');
END""",
    "action_records_not_deleted": """
BEFORE DELETE ON action_records
BEGIN
    SELECT RAISE(ABORT, 'action_records_not_deleted: records are never deleted');
END""",
    "action_records_outcome_dated": """
BEFORE INSERT ON action_records
WHEN (NEW.success IS NULL) IS NOT (NEW.completed_at IS NULL)
BEGIN
    SELECT RAISE(ABORT, 'action_records_outcome_dated: an outcome and its completed_at go together');
END""",
    "action_records_immutable": """
BEFORE UPDATE ON action_records
WHEN OLD.completed_at IS NOT NULL
    OR NEW.id IS NOT OLD.id
    OR NEW.proposal_id IS NOT OLD.proposal_id
    OR NEW.started_at IS NOT OLD.started_at
    OR NEW.started_by IS NOT OLD.started_by
    OR NEW.created_at IS NOT OLD.created_at
    OR (NEW.success IS NULL) IS NOT (NEW.completed_at IS NULL)
BEGIN
    SELECT RAISE(ABORT, 'action_records_immutable: an execution is ended once and never edited');
END""",
    "action_records_started": f"""
AFTER INSERT ON action_records
BEGIN
    SELECT RAISE(ABORT, 'action_records_started: an id is positive') WHERE NEW.id < 1;
    INSERT INTO action_events (proposal_id, record_id, event_type, actor, occurred_at)
    VALUES (NEW.proposal_id, NEW.id, 'record_started', coalesce(NEW.started_by, 'raw SQL'), {NOW});
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
    SELECT NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
        coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, {NOW}
    WHERE NEW.completed_at IS NOT NULL;
END""",
    "action_records_finished": f"""
AFTER UPDATE OF completed_at ON action_records
WHEN OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL
BEGIN
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
    VALUES (NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
        coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, {NOW});
END""",
    "action_events_not_updated": """
BEFORE UPDATE ON action_events
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_updated: the history is append-only');
END""",
    "action_events_not_deleted": """
BEFORE DELETE ON action_events
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_deleted: the history is append-only');
END""",
    "action_events_not_replaced": """
BEFORE INSERT ON action_events
WHEN EXISTS (SELECT 1 FROM action_events WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_replaced: the history is append-only');
END""",
    "action_events_rows_exist": """
AFTER INSERT ON action_events
WHEN NEW.id < 1
    OR NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id)
    OR NEW.record_id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id)
BEGIN
    SELECT RAISE(ABORT, 'action_events_rows_exist: no such proposal or record, or no positive id');
END""",
}

OLD_TRIGGERS = {
    f"{table}_updated_at": f"""
AFTER UPDATE ON {table}
BEGIN
    UPDATE {table} SET updated_at = CURRENT_TIMESTAMP WHERE id = NEW.id;
END"""
    for table in ("tickets", "action_proposals")
}
OLD_INDEXES = {
    "idx_tickets_open_violation": "ON tickets (violation_key) WHERE status != 'resolved'",
    "idx_tickets_violation_time": "ON tickets (violation_key, resolved_at)",
    "idx_action_proposals_status": "ON action_proposals (status)",
    "idx_action_proposals_ticket": "ON action_proposals (ticket_id)",
    "idx_action_records_proposal": "ON action_records (proposal_id)",
}


def upgrade() -> None:
    if not context.is_offline_mode():
        _check_values()
    if op.get_context().dialect.name == "postgresql":
        _run_postgresql(".postgresql.sql")
        return
    _make_tickets("_new_tickets")
    _make_proposals("_new_action_proposals")
    _make_records("_new_action_records")
    for table in COLUMNS:
        _swap(table)
    op.create_table(
        "action_events",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("proposal_id", BIGINT, nullable=False),
        sa.Column("record_id", BIGINT),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("from_status", sa.Text),
        sa.Column("to_status", sa.Text),
        sa.Column("success", sa.Boolean),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("occurred_at", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_action_events"),
        sa.ForeignKeyConstraint(
            ["proposal_id"],
            ["action_proposals.id"],
            name="fk_action_events_proposal_id_action_proposals",
        ),
        sa.ForeignKeyConstraint(
            ["record_id"], ["action_records.id"], name="fk_action_events_record_id_action_records"
        ),
        sa.CheckConstraint(
            f"event_type IN ({EVENT_TYPES})", name=op.f("ck_action_events_event_type")
        ),
        sa.CheckConstraint("success IN (0, 1)", name=op.f("ck_action_events_success")),
        sqlite_autoincrement=True,
    )
    if not context.is_offline_mode():
        for table in TIMES:
            _normalise(table)
    _tell_history()
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX {name} {definition}")
    for name, definition in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name}{definition}")


def _run_postgresql(suffix: str) -> None:
    for statement in Path(__file__).with_suffix(suffix).read_text().split(";\n\n"):
        # A colon is no parameter here.
        op.execute(sa.text(statement.strip().rstrip(";").replace(":", "\\:")))


def _make_tickets(name: str) -> None:
    op.create_table(
        name,
        sa.Column("id", BIGINT, nullable=False),
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
        sa.PrimaryKeyConstraint("id", name="pk_tickets"),
        sqlite_autoincrement=True,
    )


def _make_proposals(name: str) -> None:
    op.create_table(
        name,
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("ticket_id", BIGINT),
        sa.Column("action_name", sa.Text, nullable=False),
        sa.Column("action_type", sa.Text, nullable=False, server_default="subject"),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="proposed"),
        sa.Column("proposed_at", sa.Text, nullable=False),
        sa.Column("proposed_by", sa.Text, nullable=False, server_default="agent"),
        sa.Column("validated_at", sa.Text),
        sa.Column("cancelled_at", sa.Text),
        sa.Column("created_at", sa.Text, nullable=False, server_default=NOW_DEFAULT),
        sa.Column("updated_at", sa.Text, nullable=False, server_default=NOW_DEFAULT),
        sa.Column("status_changed_by", sa.Text),
        sa.Column("status_reason", sa.Text),
        sa.Column("status_changed_at", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_action_proposals"),
        sa.ForeignKeyConstraint(
            ["ticket_id"], ["tickets.id"], name="fk_action_proposals_ticket_id_tickets"
        ),
        sa.CheckConstraint(
            f"action_type IN ({ACTION_TYPES})", name=op.f("ck_action_proposals_action_type")
        ),
        sa.CheckConstraint(f"status IN ({STATUSES})", name=op.f("ck_action_proposals_status")),
        sqlite_autoincrement=True,
    )


def _make_records(name: str) -> None:
    op.create_table(
        name,
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("proposal_id", BIGINT, nullable=False),
        sa.Column("started_at", sa.Text),
        sa.Column("completed_at", sa.Text),
        sa.Column("success", sa.Boolean),
        sa.Column("error_message", sa.Text),
        sa.Column("result_data", sa.Text),
        sa.Column("created_at", sa.Text, nullable=False, server_default=NOW_DEFAULT),
        sa.Column("started_by", sa.Text),
        sa.Column("completed_by", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_action_records"),
        sa.ForeignKeyConstraint(
            ["proposal_id"],
            ["action_proposals.id"],
            name="fk_action_records_proposal_id_action_proposals",
        ),
        sa.CheckConstraint("success IN (0, 1)", name=op.f("ck_action_records_success")),
        sqlite_autoincrement=True,
    )


def _swap(table: str) -> None:
    columns = COLUMNS[table]
    op.execute(f"INSERT INTO _new_{table} ({columns}) SELECT {columns} FROM {table} ORDER BY id")
    # The highest id that the table ever gave, which may be of a row that is gone.
    op.execute(f"DELETE FROM sqlite_sequence WHERE name = '_new_{table}'")
    op.execute(
        "INSERT INTO sqlite_sequence (name, seq) "
        f"SELECT '_new_{table}', seq FROM sqlite_sequence WHERE name = '{table}'"
    )
    op.execute(f"DROP TABLE {table}")
    op.execute(f"ALTER TABLE _new_{table} RENAME TO {table}")


def _check_values() -> None:
    """Raises UnmanagedSchema for rows that the CHECKs would refuse: their meaning is not known."""
    bind = op.get_bind()
    rules = [
        ("action_proposals", "id", "id > 0"),
        ("action_proposals", "action_type", f"action_type IN ({ACTION_TYPES})"),
        ("action_proposals", "status", f"status IN ({STATUSES})"),
        ("action_records", "id", "id > 0"),
        ("action_records", "success", "success IN (true, false)"),
    ]
    if bind.dialect.name == "postgresql":
        rules += [
            (table, column, f"{column} >= '{FIRST_TIME}' AND {column} < '{END_OF_TIME}'")
            for table, columns in TIMES.items()
            for column in columns
        ]
    differences = [
        f"{table} row {row_id} has {'no positive id' if column == 'id' else 'an unknown ' + column}"
        for table, column, allowed in rules
        for (row_id,) in bind.exec_driver_sql(
            f"SELECT id FROM {table} WHERE NOT ({allowed}) LIMIT 10"
        )
    ]
    if differences:
        raise UnmanagedSchema(differences)


def _normalise(table: str) -> None:
    """Times and JSON of adopted rows in the form that the ledger writes; unreadable ones stay."""
    bind = op.get_bind()
    zone = _legacy_zone()
    columns = (*TIMES[table], JSON[table])
    read = sa.text(
        f"SELECT id, {', '.join(columns)} FROM {table} WHERE id > :after ORDER BY id LIMIT 1000"
    )
    write = sa.text(
        f"UPDATE {table} SET {', '.join(f'{name} = :{name}' for name in columns)} WHERE id = :id"
    )
    after, adopted = -1, 0
    while rows := bind.execute(read, {"after": after}).all():
        after = rows[-1].id
        changed = []
        for row in rows:
            values = {
                name: _utc(value, zone, f"{table} row {row.id}: {name}")
                for name, value in zip(TIMES[table], row[1:], strict=False)
            }
            values[JSON[table]] = _compact(row[-1])
            if tuple(values.values()) != tuple(row[1:]):
                changed.append({"id": row.id, **values})
        if changed:
            bind.execute(write, changed)
            adopted += len(changed)
    if adopted:
        read_as = "this machine's local time" if zone is None else f"time of {zone}"
        logger.warning("adopted %d rows of %s, naive times read as %s", adopted, table, read_as)


def _legacy_zone() -> ZoneInfo | None:
    name = context.get_x_argument(as_dictionary=True).get("legacy-timezone")
    try:
        return None if name is None else ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise InvalidValue("legacy-timezone", "is not the name of a time zone") from None


def _utc(value: object, zone: ZoneInfo | None, what: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            if "T" not in value.upper():
                time = time.replace(tzinfo=UTC)
            elif zone is not None:
                time = time.replace(tzinfo=zone)
            else:
                time = _machine_time(time)
        return time.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    except (ValueError, OverflowError, OSError):
        logger.warning("%s is no time and stays as it is", what)
        return value


def _machine_time(time: datetime) -> datetime:
    # Not astimezone: it reads an hour that summer time left out with the offset from after it,
    # where ZoneInfo takes the one from before.
    whole = datetime.fromtimestamp(time.replace(microsecond=0).timestamp(), UTC)
    return whole.replace(microsecond=time.microsecond)


def _compact(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value, object_pairs_hook=_unique, parse_constant=_refuse)
        text = json.dumps(found, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (ValueError, RecursionError):
        return value
    return text if type(found) is dict else value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _refuse(_: str) -> None:
    raise ValueError


def _tell_history() -> None:
    """Adopted rows get the events that say where they came from."""
    told = f"'migration', 'adopted', {NOW}"
    op.execute(
        "INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at) "
        f"SELECT id, 'proposal_created', status, {told} FROM action_proposals ORDER BY id"
    )
    op.execute(
        "INSERT INTO action_events (proposal_id, record_id, event_type, actor, reason, occurred_at) "
        f"SELECT proposal_id, id, 'record_started', {told} FROM action_records ORDER BY id"
    )
    op.execute(
        "INSERT INTO action_events "
        "(proposal_id, record_id, event_type, success, actor, reason, occurred_at) "
        f"SELECT proposal_id, id, 'record_finished', success, {told} FROM action_records "
        "WHERE completed_at IS NOT NULL ORDER BY id"
    )


def downgrade() -> None:
    if not context.is_offline_mode():
        discard = context.get_x_argument(as_dictionary=True).get("discard-history") == "yes"
        told = "SELECT 1 FROM action_events WHERE actor != 'migration' LIMIT 1"
        if not discard and op.get_bind().exec_driver_sql(told).first():
            raise WouldLoseData("action_events", "discard-history")
    if op.get_context().dialect.name == "postgresql":
        _run_postgresql(".postgresql.down.sql")
        return
    for name in TRIGGERS:
        op.execute(f"DROP TRIGGER {name}")
    op.drop_table("action_events")
    _make_tickets("_new_tickets")
    _make_plain_proposals("_new_action_proposals")
    _make_plain_records("_new_action_records")
    for table in COLUMNS:
        _swap(table)
    for name, definition in OLD_INDEXES.items():
        op.execute(f"CREATE INDEX {name} {definition}")
    for name, definition in OLD_TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name}{definition}")


def _make_plain_proposals(name: str) -> None:
    op.create_table(
        name,
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


def _make_plain_records(name: str) -> None:
    op.create_table(
        name,
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
