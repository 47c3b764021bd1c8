"""The stop: halts and freezes, which the database enforces for every writer.

- ``action_halts`` has a row for each halt. While one is open, the guards of the proposals refuse what it covers. A halt is
  resumed once and never edited. The SQL files beside this one describe how the guards ask about it.
- The history also tells of halts. So an event may be about no proposal, and has ``details``. SQLite can't change a column or a
  CHECK, so the table of events is made again and filled, as in revision 0003.
- ``action_records.halt_seen_at`` tells that the worker of an execution has learned of a halt.

Indexes and triggers of other programs on the events are kept, except by the script of ``--sql``, which can't see them.

Revision: 0005, after 0004
"""

import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import UnmanagedSchema, WouldLoseData

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SQLITE_CONSTRAINT = 19

HERE = Path(__file__)
BEFORE = tuple(
    HERE.with_name(name) for name in ("0002_ledger.sqlite.sql", "0003_cheaper_checks.sqlite.sql")
)
ON_SERVER_BEFORE = HERE.with_name("0004_origin.postgresql.sql")

EVENTS = "action_events"

CREATE = re.compile(
    r"^CREATE (?:UNIQUE )?(TABLE|INDEX|TRIGGER|VIEW) (\w+)(?:.*? ON (\w+))?",
    re.DOTALL | re.MULTILINE,
)


class Object(NamedTuple):
    kind: str
    name: str
    table: str
    sql: str


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _run(_statements(HERE.with_suffix(".postgresql.sql")))
        return
    before, new = _objects(*BEFORE), _objects(HERE.with_suffix(".sqlite.sql"))
    op.execute("ALTER TABLE action_records ADD COLUMN halt_seen_at TEXT")
    _run([new["action_halts"].sql])
    # The new condition of the events reads the view, which reads the new table.
    of_events = {name: each for name, each in before.items() if each.table == EVENTS}
    _run(each.sql for each in new.values() if each.kind == "VIEW")
    _rebuild_events(of_events | {name: new[name] for name in of_events if name in new}, ", NULL")
    _run(
        each.sql
        for each in new.values()
        if each.kind in ("INDEX", "TRIGGER") and each.table != EVENTS
    )


def downgrade() -> None:
    if not context.is_offline_mode():
        _keep_halts()
    if op.get_context().dialect.name == "postgresql":
        _downgrade_server()
        return
    before, new = _objects(*BEFORE), _objects(HERE.with_suffix(".sqlite.sql"))
    _run(
        f"DROP {each.kind} {each.name}"
        for each in new.values()
        if each.kind in ("INDEX", "TRIGGER") and each.table not in (EVENTS, "action_halts_asked")
    )
    _rebuild_events({name: each for name, each in before.items() if each.table == EVENTS}, None)
    _run(f"DROP VIEW {each.name}" for each in new.values() if each.kind == "VIEW")
    op.execute("DROP TABLE action_halts")
    op.execute("ALTER TABLE action_records DROP COLUMN halt_seen_at")


def _downgrade_server() -> None:
    guard = re.search(
        r"CREATE OR REPLACE FUNCTION action_proposals_guard\(\).*?\$\$(?=\$function\$)",
        ON_SERVER_BEFORE.read_text(),
        re.DOTALL,
    )
    assert guard is not None
    _run(
        [
            f"DO $do$ BEGIN EXECUTE format($function${guard[0]}$function$, current_schema()); END $do$",
            "DROP TABLE action_halts",
            "DROP FUNCTION action_halts_guard, action_halts_tell, action_halts_settle, "
            "action_halts_refusal, action_halts_covers",
            "DROP INDEX idx_action_proposals_run_agent",
            "ALTER TABLE action_records DROP COLUMN halt_seen_at",
            # No other rows are about no proposal.
            "ALTER TABLE action_events DISABLE TRIGGER action_events_not_deleted",
            "DELETE FROM action_events WHERE proposal_id IS NULL",
            "ALTER TABLE action_events ENABLE TRIGGER action_events_not_deleted",
            "ALTER TABLE action_events DROP COLUMN details, ALTER COLUMN proposal_id SET NOT NULL",
        ]
    )


def _keep_halts() -> None:
    """Raises `WouldLoseData` if there has ever been a halt."""
    if context.get_x_argument(as_dictionary=True).get("discard-history") == "yes":
        return
    if op.get_bind().exec_driver_sql("SELECT 1 FROM action_halts LIMIT 1").first():
        raise WouldLoseData("action_halts", "discard-history")


def _statements(script: Path) -> Iterator[str]:
    for statement in script.read_text().split(";\n\n"):
        yield statement.strip().removesuffix(";")


def _objects(*scripts: Path) -> dict[str, Object]:
    """The objects that scripts for SQLite create, by name; a later script replaces those of an earlier one."""
    found: dict[str, Object] = {}
    for script in scripts:
        for statement in _statements(script):
            made = CREATE.search(statement)
            assert made is not None
            kind, name, on = made.groups()
            found[name] = Object(kind, name, name if kind in ("TABLE", "VIEW") else on, statement)
    return found


def _rebuild_events(objects: dict[str, Object], details: str | None) -> None:
    """Makes the table of events again; `details` is the end of the SELECT that fills it, or None to drop that column."""
    others: list[str] = []
    statistics: list[tuple[str, ...]] = []
    if not context.is_offline_mode():
        others, statistics = _others(objects), _statistics()
    op.execute(
        f"CREATE TABLE _old_sequence AS SELECT name, seq FROM sqlite_sequence WHERE name = '{EVENTS}'"
    )
    op.execute(f"CREATE TABLE _old_{EVENTS} AS SELECT * FROM {EVENTS}")
    op.execute(f"DROP TABLE {EVENTS}")
    _run([objects[EVENTS].sql])
    if not context.is_offline_mode():
        _check_columns()
    columns = (
        "id, proposal_id, record_id, event_type, from_status, to_status, success, actor, reason, "
        "occurred_at, transaction_id, version, worker"
    )
    where = " WHERE proposal_id IS NOT NULL" if details is None else ""
    with _refused():
        op.execute(
            f"INSERT INTO {EVENTS} SELECT {columns}{details or ''} FROM _old_{EVENTS}{where} ORDER BY id"
        )
    # The highest id that the table has ever assigned.
    op.execute(f"DELETE FROM sqlite_sequence WHERE name = '{EVENTS}'")
    op.execute("INSERT INTO sqlite_sequence (name, seq) SELECT name, seq FROM _old_sequence")
    op.execute(f"DROP TABLE _old_{EVENTS}")
    op.execute("DROP TABLE _old_sequence")
    with _refused():
        _run(each.sql for each in objects.values() if each.kind != "TABLE")
        _run(others)
    for row in statistics:
        op.get_bind().exec_driver_sql("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", row)


def _statistics() -> list[tuple[str, ...]]:
    """What ANALYZE has found about the events."""
    connection = op.get_bind()
    if not sa.inspect(connection).has_table("sqlite_stat1"):
        return []
    found = connection.exec_driver_sql("SELECT tbl, idx, stat FROM sqlite_stat1").all()
    return [tuple(row) for row in found if row[0].lower() == EVENTS]


@contextmanager
def _refused() -> Generator[None]:
    """A block in which a refused row raises `UnmanagedSchema`: somebody has written it without the checks."""
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF != SQLITE_CONSTRAINT:
            raise
        raise UnmanagedSchema([f"{EVENTS} has a row that breaks a rule: {error.orig}"]) from error


def _others(objects: dict[str, Object]) -> list[str]:
    """The statements of the indexes and triggers on the events that no revision created."""
    found = op.get_bind().exec_driver_sql(
        "SELECT name, tbl_name, sql FROM sqlite_master "
        "WHERE type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY rowid"
    )
    return [sql for name, table, sql in found if table.lower() == EVENTS and name not in objects]


def _check_columns() -> None:
    """Raises `UnmanagedSchema` if somebody has added or dropped a column."""
    old, new = (
        set(
            op.get_bind().exec_driver_sql(f"SELECT name FROM pragma_table_info('{name}')").scalars()
        )
        for name in (f"_old_{EVENTS}", EVENTS)
    )
    if (old ^ new) - {"details"}:
        names = ", ".join(sorted((old ^ new) - {"details"}))
        raise UnmanagedSchema([f"{EVENTS} has other columns than the revision ({names})"])


def _run(statements: Iterable[str]) -> None:
    for statement in statements:
        # A colon does not begin a parameter here.
        op.execute(sa.text(statement.replace(":", "\\:")))
