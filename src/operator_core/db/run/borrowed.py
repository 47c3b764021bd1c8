"""Functions for units of work on a service's own engine or session: begin, savepoints, translated errors."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.errors import read_damaged, translate
from operator_core.db.sql.savepoint import in_transaction, savepoint
from operator_core.db.sql.unit import Unit

__all__ = ["begin", "in_savepoint", "read_in_savepoint", "translated"]

T = TypeVar("T")


def begin(conn: Connection) -> None:
    """Begins a transaction, on SQLite with BEGIN IMMEDIATE, because sqlite3's own BEGIN comes too late.

    sqlite3 sends a plain BEGIN before the first INSERT or UPDATE. Two transactions that read and then write would
    deadlock. It sends none before a SAVEPOINT, whose RELEASE would then commit.
    """
    if not conn.in_transaction():
        # A listener of the service's engine may send its own BEGIN here.
        conn.begin()
    if is_sqlite(conn) and not in_transaction(conn):
        conn.exec_driver_sql("BEGIN IMMEDIATE")


def in_savepoint(conn: Connection, unit: Unit[T]) -> T:
    """Runs `unit` in a savepoint: if it fails, its changes alone are rolled back."""
    sqlite = is_sqlite(conn)
    if sqlite:
        begin(conn)
    try:
        with savepoint(conn):
            return unit(conn)
    except BaseException:
        if sqlite and not in_transaction(conn):
            # A full disk ends the whole transaction. Without this, the next statement would begin another one. After
            # it, as after a lost connection, SQLAlchemy refuses everything but a rollback.
            conn.invalidate()
        raise


def read_in_savepoint(conn: Connection, unit: Unit[T]) -> T:
    """Runs a reading `unit`, whose failure leaves the transaction usable.

    After a failed statement, PostgreSQL executes a COMMIT as a ROLLBACK without an error, so the unit runs in a
    savepoint. On SQLite a failed read changes nothing, and a savepoint would begin a transaction that locks.
    """
    read = partial(read_damaged, unit=unit)
    return read(conn) if is_sqlite(conn) else in_savepoint(conn, read)


@contextmanager
def translated(
    to_own: Callable[[BaseException], BaseException] = translate,
) -> Generator[None]:
    """A block whose driver exceptions are converted to the ledger's own by `to_own`."""
    try:
        yield
    except Exception as error:
        own = to_own(error)
        if own is error:
            raise
        raise own from error
