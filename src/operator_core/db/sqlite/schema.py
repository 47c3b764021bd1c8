"""What the runners of SQLite need to know of the schema; `operator_core.db.migrate` has it."""

import sqlite3
from typing import Protocol

from sqlalchemy import Connection

__all__ = ["Schema"]


class Schema(Protocol):
    """How a database becomes a ledger at head."""

    def is_current(self, connection: sqlite3.Connection) -> bool:
        """Whether nothing needs to be done; one SELECT."""
        ...

    def make_current(self, conn: Connection, *, busy_timeout: float) -> None:
        """Makes the schema in an empty database, and upgrades one that is behind."""
        ...

    def check_usable(self, conn: Connection) -> None:
        """Raises `SchemaError` unless the database is a ledger at head; changes nothing."""
        ...

    def copy_template(self, connection: sqlite3.Connection) -> None:
        """Makes an empty database in memory a ledger at head."""
        ...
