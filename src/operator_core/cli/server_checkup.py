"""Checks a ledger on a PostgreSQL server: its revision, the server, its schema and its rows.

The check changes nothing: it runs in one transaction that is rolled back.
"""

import secrets
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from operator_core.cli.approval_checks import APPROVAL_CHECKS, check_identities
from operator_core.cli.findings import (
    SHOWN,
    Finding,
    Verdict,
    ask,
    check_revision,
    check_rows,
    compared,
    counted,
)
from operator_core.cli.history_checks import HISTORY_CHECKS
from operator_core.cli.row_checks import ROW_CHECKS
from operator_core.cli.server_objects import check_objects, details
from operator_core.db import migrate
from operator_core.db.migrate import postgresql
from operator_core.db.postgresql.settings import unpinned_settings
from operator_core.db.sql.base import Base

__all__ = ["check_up_server"]

_PAGE: Final = 1000


def check_up_server(url: URL) -> list[Finding]:
    """Returns the findings about the ledger.

    It reads all rows, which takes a while if there are many. Raises `StorageError` if the server can't be used.
    """
    return migrate.look(url, _check_up)


def _check_up(conn: Connection) -> list[Finding]:
    revision = migrate.current_revision(conn)
    findings = [
        check_revision(revision, _no_revision),
        _server(conn),
        *_durability(conn),
        _settings(conn),
    ]
    if revision == migrate.HEAD:
        # No object of another schema may hide one of the ledger's.
        conn.exec_driver_sql(
            "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true), "
            # If row level security hides rows, the queries fail instead of returning fewer rows.
            "set_config('row_security', 'off', true)"
        )
        read = partial(_rows, conn)
        findings += [
            *_schema(conn),
            *check_objects(conn),
            *check_rows(read),
            check_identities(read),
            *ask(conn, (*ROW_CHECKS, *HISTORY_CHECKS, *APPROVAL_CHECKS)),
        ]
    return findings


def _no_revision() -> Finding:
    text = "none: no ledger in the database's search_path; `alembic upgrade head` creates one"
    return Finding("revision", Verdict.BROKEN, text)


def _setting(conn: Connection, name: str) -> str:
    return str(conn.execute(text("SELECT current_setting(:name)"), {"name": name}).scalar())


def _server(conn: Connection) -> Finding:
    version = _setting(conn, "server_version")
    major = int(_setting(conn, "server_version_num")) // 10_000
    if major < 15:
        return Finding("server", Verdict.WARNING, f"PostgreSQL {version}; tested with 15 and later")
    standby = conn.exec_driver_sql("SELECT pg_is_in_recovery()").scalar()
    role = ", a standby: it accepts no writes, and may be behind the primary" if standby else ""
    return Finding(
        "server", Verdict.WARNING if standby else Verdict.OK, f"PostgreSQL {version}{role}"
    )


def _durability(conn: Connection) -> Iterable[Finding]:
    off = [
        name
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if _setting(conn, name) == "off"
    ]
    if off:
        problem = f"{', '.join(off)} off: a committed change may be lost if the machine crashes"
        yield Finding("durability", Verdict.WARNING, problem)
    else:
        value = f"synchronous_commit is {_setting(conn, 'synchronous_commit')}"
        yield Finding("durability", Verdict.OK, value)


def _settings(conn: Connection) -> Finding:
    # session_replication_role disables triggers; it is a finding of its own, and broken.
    wrong = [
        f"{name} is {value}: {why}"
        for name, value, why in unpinned_settings(conn)
        if name != "session_replication_role"
    ]
    sound = "none changes the meaning of the ledger's statements"
    return counted("settings", wrong[:SHOWN], len(wrong), sound, Verdict.WARNING)


def _schema(conn: Connection) -> Iterable[Finding]:
    """Compares the schema with a fresh one that the revisions create on the same server and that is rolled back."""
    actual = postgresql.catalogue(conn) | details(conn)
    # A random name, so that it is free.
    scratch = f"operator_core_check_{secrets.token_hex(8)}"
    undo = conn.begin_nested()
    try:
        conn.exec_driver_sql(f"CREATE SCHEMA {scratch}")
        conn.exec_driver_sql(f"SET LOCAL search_path = {scratch}, pg_temp")
        migrate.upgrade_on(conn)
        expected = postgresql.catalogue(conn) | details(conn)
    except DBAPIError:
        # A standby can't create a schema, and the role of a service is not allowed to.
        problem = "not compared: this needs a role with CREATE on this database"
        return [Finding("schema", Verdict.WARNING, problem)]
    finally:
        undo.rollback()
    of_tickets = set(
        conn.exec_driver_sql(
            "SELECT 'index ' || indexrelid::regclass FROM pg_index WHERE indrelid = 'tickets'::regclass"
        ).scalars()
    )
    functions = {name.partition("(")[0] for name in expected if name.startswith("function ")}

    def harmless(name: str) -> bool:
        kind, _, what = name.partition(" ")
        if kind == "index":
            # An index that is not unique refuses no row.
            return name in of_tickets or not actual[name].startswith("CREATE UNIQUE")
        if kind == "function":
            # Only a trigger could call it, or the ledger if the name is one that it calls.
            return name.partition("(")[0] not in functions
        # Another service owns tickets.
        return what.startswith("tickets.")

    return list(compared(expected, actual, harmless))


def _rows(conn: Connection, name: str, columns: Sequence[str]) -> Iterable[Sequence[Any]]:
    known = Base.metadata.tables[name].c
    query = select(*(known[each] for each in columns)).order_by(known.id).limit(_PAGE)
    after = 0
    # A failed statement would end the transaction.
    with conn.begin_nested():
        while page := conn.execute(query.where(known.id > after)).all():
            yield from page
            after = page[-1][columns.index("id")]
