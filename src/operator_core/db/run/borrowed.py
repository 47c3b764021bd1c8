"""What units on a service's own engine and session have in common: beginning, savepoints, errors."""

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
    """Begins a real transaction where the driver would not: sqlite3's own BEGIN comes late and weak.

    It would come only before the first INSERT or UPDATE, so that two readers that both go on to
    write deadlock, and never before a SAVEPOINT, whose RELEASE would then commit.
    """
    if not conn.in_transaction():
        # A service's engine may begin one of its own here.
        conn.begin()
    if is_sqlite(conn) and not in_transaction(conn):
        conn.exec_driver_sql("BEGIN IMMEDIATE")


def in_savepoint(conn: Connection, unit: Unit[T]) -> T:
    """Runs `unit` so that the transaction is as it was before if it fails."""
    sqlite = is_sqlite(conn)
    if sqlite:
        begin(conn)
    try:
        with savepoint(conn):
            return unit(conn)
    except BaseException:
        if sqlite and not in_transaction(conn):
            # A full disk ends the whole transaction. As after a lost connection, SQLAlchemy then
            # refuses all but a rollback; the next statement would begin a transaction of its own.
            conn.invalidate()
        raise


def read_in_savepoint(conn: Connection, unit: Unit[T]) -> T:
    """Runs `unit`, which reads, so that a failure takes nothing of the transaction along.

    After a statement that fails, PostgreSQL takes a COMMIT for a ROLLBACK, and says so to nobody. On SQLite a
    failed read changes nothing, and a savepoint would begin a transaction that locks.
    """
    read = partial(read_damaged, unit=unit)
    return read(conn) if is_sqlite(conn) else in_savepoint(conn, read)


@contextmanager
def translated(
    to_own: Callable[[BaseException], BaseException] = translate,
) -> Generator[None]:
    """Driver exceptions leave the block as the ledger's own, which `to_own` makes of them."""
    try:
        yield
    except Exception as error:
        own = to_own(error)
        if own is error:
            raise
        raise own from error
