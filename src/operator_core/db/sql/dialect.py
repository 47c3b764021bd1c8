"""Which of the two databases a connection is to."""

from sqlalchemy import Connection

__all__ = ["is_sqlite"]


def is_sqlite(conn: Connection) -> bool:
    """Whether it is SQLite; else it is PostgreSQL."""
    return conn.dialect.name == "sqlite"
