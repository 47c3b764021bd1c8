"""Write-ahead logging."""

import sqlite3
import time

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

__all__ = ["use_wal"]


def use_wal(conn: Connection, *, busy_timeout: float) -> None:
    """Write-ahead logging, so that readers and the writer do not wait for each other.

    It is a property of the file; asking again costs nothing. SQLite does not wait for locks here
    as it does elsewhere, so a race between two that open a new file is waited out by hand.
    """
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            conn.exec_driver_sql("PRAGMA journal_mode = WAL").scalar()
            return
        except DBAPIError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0)
            if code & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.005)
