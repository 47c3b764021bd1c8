"""Switches a SQLite file to write-ahead logging."""

import sqlite3
import time

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

__all__ = ["use_wal"]


def use_wal(conn: Connection, *, busy_timeout: float) -> None:
    """Switches on write-ahead logging, so that readers and the writer do not wait for each other.

    The mode is a property of the file; setting it again costs nothing. Unlike elsewhere, SQLite does not
    wait for locks here. So if several connections open a new file at once, this retries for `busy_timeout` seconds.
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
