"""How the databases would run what a unit of work says: each of its statements, explained."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from psycopg.sql import Literal
from sqlalchemy import Connection, event

from operator_core.actions import ActionError
from operator_core.db import ActionDB
from operator_core.db.sql.unit import Unit

Statement = tuple[str, Any]


@contextmanager
def listening(conn: Connection) -> Iterator[list[Statement]]:
    """What is run on a connection, with its parameters."""
    said: list[Statement] = []

    def note(_c: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool) -> None:
        # Those of a savepoint have no plan.
        if "SAVEPOINT" not in sql and sql != "RELEASE unit":
            said.append((sql, parameters[0] if many else parameters))

    event.listen(conn, "before_cursor_execute", note)
    try:
        yield said
    finally:
        event.remove(conn, "before_cursor_execute", note)


def statements_of(conn: Connection, unit: Unit[Any]) -> dict[str, Any]:
    """The different statements that `unit` runs, and the first parameters of each."""
    with listening(conn) as said, suppress(ActionError):
        unit(conn)
    return dict(reversed(said))


# Whether a halt or a limit is open is asked first, on SQLite by statements of their own. Open ones are few.
_OPEN = (
    "SCAN action_halts USING INDEX idx_action_halts_open",
    "SCAN action_limits USING INDEX uq_action_limits_name",
)
_FEW = ("Seq Scan on action_halts", "Seq Scan on action_limits")


async def plans_on_sqlite(file: Path, unit: Unit[Any]) -> list[str]:
    """The plan of each different statement of `unit`; what it changed is undone."""

    def explained(conn: Connection) -> list[str]:
        return [
            "\n".join(
                row[-1] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
            )
            for sql, parameters in reversed(statements_of(conn, unit).items())
        ]

    async with ActionDB(file) as db:
        return [plan for plan in await undone(db, explained) if plan not in _OPEN]


async def plans_on_postgresql(url: str, unit: Unit[Any], plans: str) -> list[str]:
    """The same on a server, as its planner does it with `plan_cache_mode` set to `plans`."""

    def explained(conn: Connection) -> list[str]:
        with conn.begin_nested() as undo:
            statements = statements_of(conn, unit)
            undo.rollback()
        conn.exec_driver_sql(f"SET LOCAL plan_cache_mode = {plans}")
        return [_explained(conn, *each) for each in reversed(statements.items())]

    async with ActionDB(url) as db:
        return await undone(db, explained)


def _explained(conn: Connection, sql: str, parameters: Any) -> str:
    values = ", ".join(Literal(each).as_string(None) for each in parameters)
    given = f"({values})" if values else ""
    conn.exec_driver_sql(f"PREPARE explained AS {sql}")
    plan = conn.exec_driver_sql(f"EXPLAIN EXECUTE explained{given}").all()
    conn.exec_driver_sql("DEALLOCATE explained")
    # Halts and limits are few: reading all of them is no worse than reading their index.
    return "\n".join(row[0] for row in plan if not any(words in row[0] for words in _FEW))


class _Undone(Exception):
    """Carries what a unit found out of the transaction that it undoes."""


async def undone(db: ActionDB, unit: Unit[list[str]]) -> list[str]:
    """What `unit` finds in a transaction of which nothing stays."""

    def run(conn: Connection) -> None:
        raise _Undone(unit(conn))

    try:
        await db._units.write(run)
    except _Undone as found:
        return found.args[0]
    raise AssertionError
