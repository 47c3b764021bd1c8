"""The interface to the schema for the SQLite runners; `operator_core.db.migrate` implements it."""

from typing import Protocol

from sqlalchemy import Connection

from operator_core.db.sql.sqlite_library import dbapi

__all__ = ["Schema"]


class Schema(Protocol):
    """Checks the schema of a database, and brings it to head."""

    def is_current(self, connection: dbapi.Connection) -> bool:
        """Whether the schema is at head; one SELECT."""
        ...

    def make_current(self, conn: Connection, *, busy_timeout: float) -> None:
        """Creates the schema in an empty database, and upgrades one that is behind."""
        ...

    def check_usable(self, conn: Connection) -> None:
        """Raises `SchemaError` unless the database is a ledger at head; changes nothing."""
        ...

    def copy_template(self, connection: dbapi.Connection) -> None:
        """Creates the schema at head in an empty database in memory."""
        ...
