"""Records the statements that the ledger sends to SQLite, and runs them again without the ledger.

The recording is made where the ledger calls its SQLite library, so it has the ledger's own statements, their parameters
and the borders of the transactions. On a copy of the same file, the statements give out the same ids and change the
same rows.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, NamedTuple

from operator_core.db.sql.sqlite_library import dbapi

__all__ = ["Statement", "recording", "run"]


class Statement(NamedTuple):
    """A call of the SQLite module."""

    sql: str
    parameters: Any
    many: bool = False
    """Whether `parameters` is a list of rows, for `executemany`."""


@contextmanager
def recording() -> Generator[list[Statement]]:
    """A block that records the statements of all connections that are opened in it, in any thread."""
    recorded: list[Statement] = []

    class Cursor(dbapi.Cursor):
        def execute(self, sql: str, parameters: Any = (), /) -> dbapi.Cursor:
            recorded.append(Statement(sql, copy(parameters)))
            return super().execute(sql, parameters)

        def executemany(self, sql: str, parameters: Iterable[Any], /) -> dbapi.Cursor:
            rows = list(parameters)
            recorded.append(Statement(sql, rows, many=True))
            return super().executemany(sql, rows)

    class Connection(dbapi.Connection):
        def cursor(self, factory: Any = Cursor, /) -> Any:
            return super().cursor(factory)

        # The module's own methods use a cursor of its own class.
        def execute(self, sql: str, parameters: Any = (), /) -> dbapi.Cursor:
            return self.cursor().execute(sql, parameters)

        def executemany(self, sql: str, parameters: Iterable[Any], /) -> dbapi.Cursor:
            return self.cursor().executemany(sql, parameters)

    connect = dbapi.connect
    dbapi.connect = partial(connect, factory=Connection)
    try:
        yield recorded
    finally:
        dbapi.connect = connect


def run(connection: dbapi.Connection, statements: Iterable[Statement]) -> None:
    """Runs the statements one after another, and fetches all rows of each."""
    for sql, parameters, many in statements:
        if many:
            connection.executemany(sql, parameters)
        else:
            connection.execute(sql, parameters).fetchall()
