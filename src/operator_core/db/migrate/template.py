"""An empty ledger, which a process makes once; ledgers in memory, such as one for each test, are copies of it."""

import atexit
import os
from functools import cache

from operator_core.db.migrate.opening import make_current
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sqlite.handle import MEMORY, over

__all__ = ["copy_template"]


@cache
def _template(process: int) -> dbapi.Connection:
    # Any thread may copy it: SQLite itself serialises the use of one connection.
    connection = dbapi.connect(MEMORY, isolation_level=None, check_same_thread=False)
    atexit.register(connection.close)
    made = over(connection)
    make_current(made, busy_timeout=0)
    made.detach()
    return connection


def copy_template(connection: dbapi.Connection) -> None:
    """Copies the empty ledger into a database in memory, several times faster than running the schema's text."""
    # A fork makes its own: a thread of its parent may have held the connection's mutex.
    _template(os.getpid()).backup(connection)
