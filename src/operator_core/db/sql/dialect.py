"""The dialect of a connection."""

from sqlalchemy import Connection

__all__ = ["is_sqlite"]


def is_sqlite(conn: Connection) -> bool:
    """Whether the connection is to SQLite; otherwise it is to PostgreSQL."""
    return conn.dialect.name == "sqlite"
