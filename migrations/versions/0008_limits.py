"""Limits, and keys that exclude each other.

- ``action_limits`` has a row for each limit: so many starts, or so much of an integer parameter, in any window of some length.
  A limit is set and removed, and never edited. ``action_starts`` has a row for each start that an open limit covers. The SQL
  files beside this one describe how the guards count.
- ``action_proposals.exclusive_key``: at most one proposal with the same key is executing, by a unique index.
- There are new types of events. On SQLite, the table of events is made again and filled without its CHECK of the types, because SQLite
  can't change a CHECK. The trigger that decides what becomes an event knows the types.

A downgrade with ``-x discard-history=yes`` deletes the limits and their events.

Revision: 0008, after 0007
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

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SQLITE_CONSTRAINT = 19

HERE = Path(__file__)
BEFORE = tuple(
    HERE.with_name(f"{name}.sqlite.sql")
    for name in ("0002_ledger", "0003_cheaper_checks", "0004_origin", "0005_stop", "0007_ends")
)
ON_SERVER_BEFORE = HERE.with_name("0007_ends.postgresql.sql")

EVENTS = "action_events"

CREATE = re.compile(
    r"^CREATE (?:UNIQUE )?(TABLE|INDEX|TRIGGER|VIEW) (\w+)(?:.*? ON (\w+))?",
    re.DOTALL | re.MULTILINE,
)

# What becomes of the texts of the revisions before: the CHECK goes.
TYPES = re.compile(r"    CONSTRAINT ck_action_events_event_type CHECK \([^()]*\),\n")
HALT_TOLD = re.compile(
    r"EXISTS \(SELECT 1 FROM action_halts_told WHERE id = CAST\(substr\(NEW\.details, 9\) AS INTEGER\) (AND [^()]*)\)"
)
HALT_OR_LIMIT_TOLD = (
    r"(\g<0>\n                OR EXISTS (SELECT 1 FROM action_limits_told "
    r"WHERE id = CAST(substr(NEW.details, 10) AS INTEGER) \1))"
)
# An exclusive key, or a limit that was ever set: see the head of the SQL file.
ASKS = (
    "(NEW.exclusive_key IS NOT NULL OR (pg_catalog.pg_sequence_last_value(%5$L::pg_catalog.regclass) "
    "OPERATOR(pg_catalog.=) (OPERATOR(pg_catalog.-) (%4$L::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.int8)) IS NOT TRUE)"
)
COUNT = "INSERT INTO %1$I.action_limits_asked VALUES (NEW.id, NEW.action_name, NEW.agent_id, NEW.parameters, NEW.exclusive_key, {})"
GUARD = (
    (
        """NEW.parent_id, true);
                END IF;
            END IF;
""",
        f"""NEW.parent_id, true);
                END IF;
                IF refused IS NULL AND NEW.status OPERATOR(pg_catalog.=) 'executing' AND {ASKS} THEN
                    {COUNT.format(False)};
                END IF;
            ELSIF OLD.status OPERATOR(pg_catalog.=) 'executing' AND NEW.status OPERATOR(pg_catalog.=) 'failed' AND NEW.end_code OPERATOR(pg_catalog.=) 'not_begun' THEN
                {COUNT.format(True)};
            END IF;
""",
    ),
    (
        """OR NEW.status OPERATOR(pg_catalog.=) 'validated');
            END IF;
""",
        f"""OR NEW.status OPERATOR(pg_catalog.=) 'validated');
            END IF;
            IF refused IS NULL AND NEW.status OPERATOR(pg_catalog.=) 'executing' AND {ASKS} THEN
                {COUNT.format(False)};
            END IF;
""",
    ),
    (
        "            WHEN NEW.depends_on IS NOT NULL AND NOT",
        "            WHEN NEW.exclusive_key IS NOT NULL AND NOT %1$I.action_ledger_is_text(NEW.exclusive_key, 255) THEN 'exclusive_key'\n"
        "            WHEN NEW.depends_on IS NOT NULL AND NOT",
    ),
)
FUNCTIONS = (
    "action_limits_quiet", "action_limits_lock", "action_limits_used", "action_limits_count", "action_limits_start",
    "action_limits_admitted", "action_limits_guard", "action_limits_tell", "action_limits_unbegun",
    "action_limits_covers", "action_limits_amount", "action_limits_is_path",
)  # fmt: skip


class Object(NamedTuple):
    kind: str
    name: str
    table: str
    sql: str


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _run(_statements(HERE.with_suffix(".postgresql.sql")))
        _replace_guard(_guard_with_limits())
        return
    before, new = _events_before(), _objects(HERE.with_suffix(".sqlite.sql"))
    op.execute("ALTER TABLE action_proposals ADD COLUMN exclusive_key TEXT")
    _run(each.sql for each in new.values() if each.kind == "TABLE")
    # The new condition of the events reads the view, which reads the new table.
    _run(each.sql for each in new.values() if each.kind == "VIEW")
    _rebuild_events(before | dict(_with_limits(before)))
    _run(each.sql for each in new.values() if each.kind in ("INDEX", "TRIGGER"))


def _with_limits(events: dict[str, Object]) -> Iterator[tuple[str, Object]]:
    table, genuine = events[EVENTS], events["action_events_genuine"]
    without, constraints = TYPES.subn("", table.sql)
    assert constraints == 1
    changed, count = HALT_TOLD.subn(HALT_OR_LIMIT_TOLD, genuine.sql)
    assert count == 1
    yield EVENTS, table._replace(sql=without)
    yield genuine.name, genuine._replace(sql=changed)


def downgrade() -> None:
    if not context.is_offline_mode():
        _keep_limits()
    if op.get_context().dialect.name == "postgresql":
        _downgrade_server()
        return
    before, new = _events_before(), _objects(HERE.with_suffix(".sqlite.sql"))
    _run(
        f"DROP {each.kind} {each.name}"
        for each in new.values()
        if each.kind in ("INDEX", "TRIGGER") and each.table != "action_limits_asked"
    )
    op.execute("DROP TRIGGER action_events_not_deleted")
    op.execute(
        "DELETE FROM action_events WHERE event_type = 'limit_set' OR event_type = 'limit_removed'"
    )
    _rebuild_events(before)
    _run(f"DROP VIEW {each.name}" for each in new.values() if each.kind == "VIEW")
    op.execute("DROP TABLE action_starts")
    op.execute("DROP TABLE action_limits")
    op.execute("ALTER TABLE action_proposals DROP COLUMN exclusive_key")


def _downgrade_server() -> None:
    _replace_guard(_guard())
    _run(
        [
            "DROP TRIGGER action_proposals_exclusive_fixed ON action_proposals",
            "DROP VIEW action_limits_asked",
            "DROP TABLE action_starts, action_limits",
            f"DROP FUNCTION {', '.join(FUNCTIONS)}",
            "ALTER TABLE action_proposals DROP COLUMN exclusive_key",
            "ALTER TABLE action_events DISABLE TRIGGER action_events_not_deleted",
            "DELETE FROM action_events WHERE event_type IN ('limit_set', 'limit_removed')",
            "ALTER TABLE action_events ENABLE TRIGGER action_events_not_deleted",
        ]
    )


def _keep_limits() -> None:
    """Raises `WouldLoseData` if there has ever been a limit, or an exclusive key: the next upgrade could not know."""
    if context.get_x_argument(as_dictionary=True).get("discard-history") == "yes":
        return
    for table, which in (
        ("action_limits", "true"),
        ("action_proposals", "exclusive_key IS NOT NULL"),
    ):
        if op.get_bind().exec_driver_sql(f"SELECT 1 FROM {table} WHERE {which} LIMIT 1").first():
            raise WouldLoseData(table, "discard-history")


def _guard() -> str:
    """The guard of proposals on a server as the revision before this one left it."""
    found = re.search(
        r"CREATE OR REPLACE (FUNCTION action_proposals_guard\(\).*?\$\$)\$function\$, (.*?)\);",
        ON_SERVER_BEFORE.read_text(),
        re.DOTALL,
    )
    assert found is not None
    return found[1]


def _guard_with_limits() -> str:
    guard = _guard()
    for old, new in GUARD:
        assert guard.count(old) == 1, old
        guard = guard.replace(old, new)
    return guard


def _replace_guard(function: str) -> None:
    schema = "quote_ident(current_schema())"
    names = ("action_halts", "action_halts_flag", "action_limits", "action_governance_flag")
    values = ", ".join(f"{schema} || '.{name}'" for name in names)
    _run(
        [
            f"DO $do$ BEGIN EXECUTE format($function$CREATE OR REPLACE {function}$function$, current_schema(), {values}); END $do$"
        ]
    )


def _events_before() -> dict[str, Object]:
    """The table of events with its indexes and triggers as the revision before this one left them."""
    return {name: each for name, each in _objects(*BEFORE).items() if each.table == EVENTS}


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


def _rebuild_events(objects: dict[str, Object]) -> None:
    """Makes the table of events again, with the same columns."""
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
    with _refused():
        op.execute(f"INSERT INTO {EVENTS} SELECT * FROM _old_{EVENTS} ORDER BY id")
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
    if old != new:
        names = ", ".join(sorted(old ^ new))
        raise UnmanagedSchema([f"{EVENTS} has other columns than the revision ({names})"])


def _run(statements: Iterable[str]) -> None:
    for statement in statements:
        # A colon does not begin a parameter here.
        op.execute(sa.text(statement.replace(":", "\\:")))
