"""The time for which the rest of a transaction on PostgreSQL waits for a lock."""

from sqlalchemy import Connection, Text, bindparam, func, select, true

__all__ = ["limit_lock_waits"]

_SET = select(func.set_config("lock_timeout", bindparam("timeout", type_=Text()), true()))


def limit_lock_waits(conn: Connection, timeout: str) -> None:
    """Sets ``lock_timeout``, for example to ``1s``, until the end of the transaction."""
    conn.execute(_SET, {"timeout": timeout})
