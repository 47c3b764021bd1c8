"""An empty ledger, which a process makes once; ledgers in memory, such as one for each test, are copies of it."""

import sqlite3
from functools import cache

from operator_core.db.migrate.opening import make_current
from operator_core.db.sqlite.handle import MEMORY, connect, over

__all__ = ["copy_template"]


@cache
def _template() -> bytes:
    conn = over(connect(MEMORY, busy_timeout=0))
    try:
        make_current(conn, busy_timeout=0)
        raw: sqlite3.Connection = conn.connection.driver_connection  # pyright: ignore
        return raw.serialize()
    finally:
        conn.close()


def copy_template(connection: sqlite3.Connection) -> None:
    """Copies the empty ledger into a database in memory, six times faster than running the schema's text."""
    # Through a second connection: a deserialised database can't grow past 1 GiB.
    source = sqlite3.connect(MEMORY)
    try:
        source.deserialize(_template())
        source.backup(connection)
    finally:
        source.close()
