"""Cheaper writes on SQLite: the same rules, in a form that costs less for each row.

- For ``x IN (...)`` with three or more constants, SQLite builds a temporary table: once for each statement, and
  once for each row that a trigger writes. The CHECKs of ``status``, ``action_type`` and ``event_type`` compare the
  column with each value instead.
- The index of tickets contains only proposals with a ticket.
- The trigger that tests each event evaluates only the conditions that can decide.

SQLite can't change a CHECK, so both tables are recreated and filled, as in revision 0002. This takes about 25
seconds for a million proposals. ``PRAGMA writable_schema`` would edit only the text of the schema, whatever the
number of rows. But SQLite refuses it on connections in defensive mode, such as the ledger's own by the sqlite3 of
Python 3.12 and later. It also checks nothing: an error in the text makes the file unreadable. The tables are copied, not renamed:
by default, SQLite also renames a table in the foreign keys and views of a service.

Indexes and triggers of other programs on the two tables are kept, except by the script of ``--sql``, which can't see
them. On PostgreSQL nothing changes: its CHECKs call
functions, and its index of tickets is already partial.

Revision: 0003, after 0002
"""

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import SchemaError, UnmanagedSchema

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SQLITE_CONSTRAINT = 19

HERE = Path(__file__)
LEDGER = HERE.with_name("0002_ledger.sqlite.sql")

# In this order: events refer to proposals.
TABLES = ("action_proposals", "action_events")

CREATE = re.compile(
    r"^CREATE (?:UNIQUE )?(TABLE|INDEX|TRIGGER) (\w+)(?:.*? ON (\w+))?", re.DOTALL | re.MULTILINE
)


class Object(NamedTuple):
    kind: str
    name: str
    table: str
    sql: str


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        # A replaced object keeps its place, on which the order of the triggers depends.
        _rebuild(_objects(LEDGER) | _objects(HERE.with_suffix(".sqlite.sql")))


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        _rebuild(_objects(LEDGER))


def _objects(script: Path) -> dict[str, Object]:
    """The objects of the two tables that a script creates, by name and in its order."""
    found: dict[str, Object] = {}
    for statement in script.read_text().split(";\n\n"):
        made = CREATE.search(statement)
        assert made is not None
        kind, name, on = made.groups()
        if (on or name) in TABLES:
            found[name] = Object(kind, name, on or name, statement.strip().removesuffix(";"))
    return found


def _rebuild(objects: dict[str, Object]) -> None:
    others: list[str] = []
    statistics: list[tuple[str, ...]] = []
    if not context.is_offline_mode():
        _check_foreign_keys()
        others, statistics = _others(objects), _statistics()
    op.execute("CREATE TABLE _old_sequence AS SELECT name, seq FROM sqlite_sequence")
    for table in TABLES:
        op.execute(f"CREATE TABLE _old_{table} AS SELECT * FROM {table}")
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
    for table in TABLES:
        _create([objects[table].sql])
        _fill(table)
    op.execute("DROP TABLE _old_sequence")
    with _refused("a unique index"):
        _create(each.sql for each in objects.values() if each.kind != "TABLE")
        _create(others)
    for row in statistics:
        op.get_bind().exec_driver_sql("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", row)


def _check_foreign_keys() -> None:
    # DROP TABLE deletes the rows first, and with them those that refer to them. `migrate.upgrade` sees to this.
    if op.get_bind().exec_driver_sql("PRAGMA foreign_keys").scalar():
        raise SchemaError("foreign_keys must be OFF on a connection that runs revision 0003")


def _statistics() -> list[tuple[str, ...]]:
    """What ANALYZE has found about the two tables."""
    connection = op.get_bind()
    if not sa.inspect(connection).has_table("sqlite_stat1"):
        return []
    found = connection.exec_driver_sql("SELECT tbl, idx, stat FROM sqlite_stat1").all()
    return [tuple(row) for row in found if row[0].lower() in TABLES]


@contextmanager
def _refused(what: str) -> Generator[None]:
    """A block in which a refused row raises `UnmanagedSchema`: somebody has written it without the checks."""
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF != SQLITE_CONSTRAINT:
            raise
        raise UnmanagedSchema([f"{what} has a row that breaks a rule: {error.orig}"]) from error


def _others(objects: dict[str, Object]) -> list[str]:
    """The statements of the indexes and triggers on the two tables that no revision created."""
    found = op.get_bind().exec_driver_sql(
        "SELECT name, tbl_name, sql FROM sqlite_master "
        "WHERE type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY rowid"
    )
    return [sql for name, table, sql in found if table.lower() in TABLES and name not in objects]


def _create(statements: Iterable[str]) -> None:
    for statement in statements:
        # A colon does not begin a parameter here.
        op.execute(sa.text(statement.replace(":", "\\:")))


def _fill(table: str) -> None:
    """Fills a table again, in the order of its ids."""
    if not context.is_offline_mode():
        _check_columns(table)
    with _refused(table):
        op.execute(f"INSERT INTO {table} SELECT * FROM _old_{table} ORDER BY id")
    # The highest id that the table has ever assigned.
    op.execute(f"DELETE FROM sqlite_sequence WHERE name = '{table}'")
    op.execute(
        "INSERT INTO sqlite_sequence (name, seq) "
        f"SELECT name, seq FROM _old_sequence WHERE name = '{table}'"
    )
    op.execute(f"DROP TABLE _old_{table}")


def _check_columns(table: str) -> None:
    """Raises `UnmanagedSchema` if somebody has added or dropped a column."""
    old, new = (
        op.get_bind()
        .exec_driver_sql(f"SELECT name FROM pragma_table_info('{name}')")
        .scalars()
        .all()
        for name in (f"_old_{table}", table)
    )
    if old != new:
        names = ", ".join(sorted(set(old) ^ set(new)))
        raise UnmanagedSchema(
            [f"{table} has other columns than revision {down_revision} ({names})"]
        )
