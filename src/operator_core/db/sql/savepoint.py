"""Savepoints: parts of a transaction that can be rolled back alone."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from operator_core.db.sql.dialect import is_sqlite

__all__ = ["in_transaction", "savepoint"]


@contextmanager
def savepoint(conn: Connection) -> Generator[None]:
    """A block inside a transaction; if it fails, only the changes of the block are rolled back."""
    if not is_sqlite(conn):
        with conn.begin_nested():
            yield
        return
    conn.exec_driver_sql("SAVEPOINT unit")
    try:
        yield
    except BaseException:
        # A full disk ends the whole transaction.
        if in_transaction(conn):
            conn.exec_driver_sql("ROLLBACK TO unit")
            conn.exec_driver_sql("RELEASE unit")
        raise
    conn.exec_driver_sql("RELEASE unit")


def in_transaction(conn: Connection) -> bool:
    """Whether SQLite is in a transaction, which SQLAlchemy's own state may not show."""
    driver_connection: Any = conn.connection.driver_connection
    return driver_connection.in_transaction
