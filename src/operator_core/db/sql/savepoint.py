"""Savepoints: parts of a transaction that can be rolled back alone."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.execution import execute_text

__all__ = ["in_transaction", "savepoint"]


@contextmanager
def savepoint(conn: Connection) -> Generator[None]:
    """A block inside a transaction; if it fails, only the changes of the block are rolled back."""
    if not is_sqlite(conn):
        with conn.begin_nested():
            yield
        return
    execute_text(conn, "SAVEPOINT unit")
    try:
        yield
    except BaseException:
        # A full disk ends the whole transaction.
        if in_transaction(conn):
            execute_text(conn, "ROLLBACK TO unit")
            execute_text(conn, "RELEASE unit")
        raise
    execute_text(conn, "RELEASE unit")


def in_transaction(conn: Connection) -> bool:
    """Whether SQLite is in a transaction, which SQLAlchemy's own state may not show."""
    driver_connection: Any = conn.connection.driver_connection
    return driver_connection.in_transaction
