"""Records the statements that the ledger sends to SQLite, and runs them again without the ledger.

The recording is made where the ledger calls the module sqlite3, so it has the ledger's own statements, their parameters
and the borders of the transactions. On a copy of the same file, the statements give out the same ids and change the
same rows.
"""

import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, NamedTuple

__all__ = ["Statement", "recording", "run"]


class Statement(NamedTuple):
    """A call of sqlite3."""

    sql: str
    parameters: Any
    many: bool = False
    """Whether `parameters` is a list of rows, for `executemany`."""


@contextmanager
def recording() -> Generator[list[Statement]]:
    """A block that records the statements of all connections that are opened in it, in any thread."""
    recorded: list[Statement] = []

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            recorded.append(Statement(sql, copy(parameters)))
            return super().execute(sql, parameters)

        def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
            rows = list(parameters)
            recorded.append(Statement(sql, rows, many=True))
            return super().executemany(sql, rows)

    class Connection(sqlite3.Connection):
        def cursor(self, factory: Any = Cursor, /) -> Any:
            return super().cursor(factory)

        # sqlite3's own methods use a cursor of its own class.
        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            return self.cursor().execute(sql, parameters)

        def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
            return self.cursor().executemany(sql, parameters)

    connect = sqlite3.connect
    sqlite3.connect = partial(connect, factory=Connection)
    try:
        yield recorded
    finally:
        sqlite3.connect = connect


def run(connection: sqlite3.Connection, statements: Iterable[Statement]) -> None:
    """Runs the statements one after another, and fetches all rows of each."""
    for sql, parameters, many in statements:
        if many:
            connection.executemany(sql, parameters)
        else:
            connection.execute(sql, parameters).fetchall()
