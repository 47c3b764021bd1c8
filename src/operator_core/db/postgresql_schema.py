"""How a PostgreSQL schema is changed: one migration at a time, in one transaction, never hanging."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, text

from operator_core.actions.errors import InvalidValue, UnmanagedSchema

__all__ = ["LOCK_KEY", "TABLE_TIMEOUT", "grants", "lock", "lock_script", "table_timeout"]

LOCK_KEY: Final = 7_302_912_684_011_543_919
"""Of the advisory lock that a migration holds; a number that nobody else will think of."""

TABLE_TIMEOUT: Final = 10.0
"""Seconds that a migration waits for a table that somebody uses, unless ``-x lock-timeout=`` says.

Short, because whoever comes to that table meanwhile waits behind the migration.
"""

STATEMENT_TIMEOUT: Final = 600.0
"""Seconds that one statement of a migration may take."""


def table_timeout(options: Mapping[str, str]) -> float:
    """The seconds that Alembic's option ``-x lock-timeout=`` asks for; raises `InvalidValue`."""
    given = options.get("lock-timeout")
    try:
        seconds = TABLE_TIMEOUT if given is None else float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise InvalidValue("lock-timeout", "must be a number of seconds above 0, 3600 at the most")
    return seconds


def lock(conn: Connection, *, wait: float, tables: float = TABLE_TIMEOUT) -> None:
    """Makes the transaction that `conn` is in the only migration of its database, until it ends.

    Waits up to `wait` seconds for another migration, and lets each of the following statements wait
    up to `tables` seconds for a lock; PostgreSQL's errors say so (55P03, 57014). The transaction then
    works in one schema, the first of its search_path. Raises `UnmanagedSchema` where there is none.
    """
    schema, encoding = conn.execute(text("SELECT current_schema(), getdatabaseencoding()")).one()
    if schema is None:
        raise UnmanagedSchema(
            ["search_path names no schema that exists: CREATE SCHEMA comes first"]
        )
    if encoding != "UTF8":
        raise UnmanagedSchema([f"the database's encoding is {encoding}, and must be UTF8"])
    for statement in lock_script(wait=wait, tables=tables):
        conn.execute(text(statement))


def lock_script(*, wait: float, tables: float = TABLE_TIMEOUT) -> list[str]:
    """The statements of `lock`, for a transaction that a script runs."""
    return [
        f"SET LOCAL lock_timeout = '{round(wait * 1000)}ms'",
        f"SELECT pg_advisory_xact_lock({LOCK_KEY})",
        f"SET LOCAL lock_timeout = '{round(tables * 1000)}ms'",
        f"SET LOCAL statement_timeout = '{round(STATEMENT_TIMEOUT * 1000)}ms'",
        # What the migration makes finds the ledger's tables and no others, whoever calls it from where.
        "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)",
    ]


def grants(schema: str, role: str, version_table: str) -> str:
    """The script that lets `role` use the ledger in `schema`, and neither change its schema nor its history."""
    into, to = _quoted(schema), _quoted(role)
    return "\n".join(
        f"{statement};"
        for statement in (
            f"GRANT USAGE ON SCHEMA {into} TO {to}",
            f"GRANT SELECT ON {into}.{_quoted(version_table)}, {into}.action_events TO {to}",
            f"GRANT SELECT, INSERT, UPDATE ON {into}.action_proposals, {into}.action_records TO {to}",
            # A reference to a ticket reads it; who writes tickets is another service.
            f"GRANT SELECT ON {into}.tickets TO {to}",
        )
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
