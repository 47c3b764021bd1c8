"""The ledger: the database itself enforces its rules, whatever program writes to it.

- Each proposal and record names its actor and reason. Plans, retries, leases, idempotency keys, workflows and
  dependencies have their own columns and tables.
- ``action_events`` is the history; triggers write it. An event names the version of the proposal that it made
  and the execution that it belongs to, so that each version has at most one event.
- Triggers enforce updated_at, immutability, the lifecycle, references and the append-only history. An inserted
  row must have values that the models accept. A proposal that is not due, has expired or waits for another does
  not start. Nothing is executed for a proposal that has ended. Messages begin with the trigger's name.
- Times are in UTC with microseconds, in one form (``YYYY-MM-DD HH:MM:SS.ffffff``), which sorts as text and
  which SQLite's own date functions read. Rows of an adopted database are converted. An ISO time with a ``T``
  and no offset is the predecessor's local time, in the zone that ``-x legacy-timezone=`` names (default: the
  machine's). A time with a space is SQLite's own CURRENT_TIMESTAMP and already in UTC. JSON is rewritten in the
  ledger's compact form if that loses nothing. Unreadable values stay unchanged. The script of ``--sql``
  contains none of these conversions, because it is for databases without rows.

The SQL files beside this one contain the schema. SQLite can't add constraints to a table, so each table is
recreated and filled, by hand: Alembic's batch mode would drop triggers and expression indexes and restart
AUTOINCREMENT. PostgreSQL can add constraints, and its types already give the times and the JSON of adopted rows
the right form.

Revision: 0002, after 0001
"""

import json
import logging
from collections.abc import Iterator
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

HERE = Path(__file__)
PLAIN_SCHEMA = HERE.with_name("0001_plain_schema.sqlite.sql")

NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"

# PostgreSQL's range of times is larger than Python's.
FIRST_TIME = "1970-01-01 00:00:00+00"
END_OF_TIME = "9999-01-01 00:00:00+00"

STATUSES = "'proposed', 'validated', 'executing', 'completed', 'failed', 'cancelled'"
ACTION_TYPES = "'subject', 'tool', 'workflow'"

# The columns of the plain schema, which the upgrade and the downgrade keep.
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


def upgrade() -> None:
    if not context.is_offline_mode():
        _check_values()
    if op.get_context().dialect.name == "postgresql":
        _run(HERE.with_suffix(".postgresql.sql"))
        return
    ledger = HERE.with_suffix(".sqlite.sql")
    _drop_all(PLAIN_SCHEMA, "INDEX", "TRIGGER")
    _set_aside()
    _run(ledger, "TABLE")
    _fill()
    if not context.is_offline_mode():
        for table in TIMES:
            _normalise(table)
    _tell_history()
    _run(ledger, "INDEX", "TRIGGER")


def downgrade() -> None:
    if not context.is_offline_mode():
        _keep_history()
    if op.get_context().dialect.name == "postgresql":
        _run(HERE.with_suffix(".postgresql.down.sql"))
        return
    _drop_all(HERE.with_suffix(".sqlite.sql"), "INDEX", "TRIGGER")
    for table in ("action_events", "action_dependencies"):
        op.drop_table(table)
    _set_aside()
    _run(PLAIN_SCHEMA, "TABLE")
    _fill()
    op.drop_table("workflows")
    _run(PLAIN_SCHEMA, "INDEX", "TRIGGER")


def _keep_history() -> None:
    """Raises `WouldLoseData` if history would be lost that the next upgrade does not write again."""
    if context.get_x_argument(as_dictionary=True).get("discard-history") == "yes":
        return
    used = {"action_events": "actor != 'migration'", "workflows": "id IS NOT NULL"}
    for table, condition in used.items():
        found = op.get_bind().exec_driver_sql(f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1")
        if found.first():
            raise WouldLoseData(table, "discard-history")


# The SQL files


def _run(script: Path, *kinds: str) -> None:
    """Runs the statements of a script, or only those that create objects of these kinds."""
    for statement in _statements(script):
        if not kinds or _made_by(statement)[0] in kinds:
            # A colon does not begin a parameter here.
            op.execute(sa.text(statement.replace(":", "\\:")))


def _drop_all(script: Path, *kinds: str) -> None:
    """Drops the objects of these kinds that a script creates."""
    for statement in _statements(script):
        kind, name = _made_by(statement)
        if kind in kinds:
            op.execute(f"DROP {kind} {name}")


def _statements(script: Path) -> Iterator[str]:
    for statement in script.read_text().split(";\n\n"):
        yield statement.strip().removesuffix(";")


def _made_by(statement: str) -> tuple[str, str]:
    """The kind and the name of the object that a CREATE statement creates."""
    words = [
        word
        for line in statement.splitlines()
        if not line.startswith("--")
        for word in line.split()
    ]
    kind = next(place for place, word in enumerate(words) if word in ("TABLE", "INDEX", "TRIGGER"))
    name = kind + (4 if words[kind + 1 : kind + 4] == ["IF", "NOT", "EXISTS"] else 1)
    return words[kind], words[name]


def _set_aside() -> None:
    """Copies the tables of the plain schema and drops them.

    They are not renamed: SQLite would also rename them in a service's own foreign keys and views.
    """
    op.execute("CREATE TABLE _old_sequence AS SELECT name, seq FROM sqlite_sequence")
    for table, columns in COLUMNS.items():
        op.execute(f"CREATE TABLE _old_{table} AS SELECT {columns} FROM {table}")
    for table in reversed(COLUMNS):
        op.execute(f"DROP TABLE {table}")


def _fill() -> None:
    """Fills the tables again, in the order of their ids."""
    for table, columns in COLUMNS.items():
        op.execute(
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM _old_{table} ORDER BY id"
        )
        # The highest id that the table has ever assigned, maybe to a deleted row.
        op.execute(f"DELETE FROM sqlite_sequence WHERE name = '{table}'")
        op.execute(
            f"INSERT INTO sqlite_sequence (name, seq) SELECT name, seq FROM _old_sequence WHERE name = '{table}'"
        )
    for table in (*COLUMNS, "sequence"):
        op.execute(f"DROP TABLE _old_{table}")


# Adopted rows


def _check_values() -> None:
    """Raises `UnmanagedSchema` for rows that the CHECKs would refuse, because their meaning is unknown."""
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
    """Converts times and JSON of adopted rows to the form that the ledger writes; unreadable values stay."""
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
    # Not astimezone: in the hour that summer time skips, it takes the offset from after the change,
    # and ZoneInfo takes the one from before.
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
    """Writes the first events of adopted rows, with the migration as their actor."""
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
