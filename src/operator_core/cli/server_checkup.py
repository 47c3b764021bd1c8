"""A ledger on a PostgreSQL server looked over: is it current, as it was made, and readable.

Keeps nothing of what it does: all happens in one transaction that is rolled back.
"""

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

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
    """Everything that is to be known about the ledger, finding by finding.

    Reads all rows, which takes a while for many. Raises `StorageError` where the server can't be used.
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
        # No table, function or operator of another schema answers for the ledger's.
        conn.exec_driver_sql(
            "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true), "
            # Where rows are hidden, an error says so.
            "set_config('row_security', 'off', true)"
        )
        findings += [
            *_schema(conn),
            *check_objects(conn),
            check_rows(lambda name, columns: _rows(conn, name, columns)),
            *ask(conn, (*ROW_CHECKS, *HISTORY_CHECKS)),
        ]
    return findings


def _no_revision() -> Finding:
    text = "none: no ledger in the database's search_path; `alembic upgrade head` makes one"
    return Finding("revision", Verdict.BROKEN, text)


def _setting(conn: Connection, name: str) -> str:
    return str(conn.execute(text("SELECT current_setting(:name)"), {"name": name}).scalar())


def _server(conn: Connection) -> Finding:
    version = _setting(conn, "server_version")
    major = int(_setting(conn, "server_version_num")) // 10_000
    if major < 15:
        return Finding("server", Verdict.WARNING, f"PostgreSQL {version}; tested from 15 on")
    standby = conn.exec_driver_sql("SELECT pg_is_in_recovery()").scalar()
    role = ", a standby: it takes no writes, and may be behind" if standby else ""
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
        said = f"{', '.join(off)} off: an answered write may be lost with the machine"
        yield Finding("durability", Verdict.WARNING, said)
    else:
        said = f"synchronous_commit is {_setting(conn, 'synchronous_commit')}"
        yield Finding("durability", Verdict.OK, said)


def _settings(conn: Connection) -> Finding:
    # The one that puts triggers to sleep is a finding of its own, and worse.
    wrong = [
        f"{name} is {value}: {why}"
        for name, value, why in unpinned_settings(conn)
        if name != "session_replication_role"
    ]
    sound = "none that changes what the ledger's statements mean"
    return counted("settings", wrong[:SHOWN], len(wrong), sound, Verdict.WARNING)


def _schema(conn: Connection) -> Iterable[Finding]:
    """Compared with what the revisions make on this very server, beside it, and undone again."""
    there = postgresql.catalogue(conn) | details(conn)
    # A name that nobody can have taken.
    scratch = f"operator_core_check_{secrets.token_hex(8)}"
    undo = conn.begin_nested()
    try:
        conn.exec_driver_sql(f"CREATE SCHEMA {scratch}")
        conn.exec_driver_sql(f"SET LOCAL search_path = {scratch}, pg_temp")
        migrate.upgrade_on(conn)
        wanted = postgresql.catalogue(conn) | details(conn)
    except DBAPIError:
        # A standby makes nothing, and a service's role may not.
        said = "not compared: that takes a role which may CREATE a schema in this database"
        return [Finding("schema", Verdict.WARNING, said)]
    finally:
        undo.rollback()
    of_tickets = set(
        conn.exec_driver_sql(
            "SELECT 'index ' || indexrelid::regclass FROM pg_index WHERE indrelid = 'tickets'::regclass"
        ).scalars()
    )
    functions = {name.partition("(")[0] for name in wanted if name.startswith("function ")}

    def harmless(name: str) -> bool:
        kind, _, what = name.partition(" ")
        if kind == "index":
            # One that is not unique refuses nothing.
            return name in of_tickets or not there[name].startswith("CREATE UNIQUE")
        if kind == "function":
            # Nothing calls it, unless a trigger does or its name is one that the ledger calls.
            return name.partition("(")[0] not in functions
        # Tickets are another service's.
        return what.startswith("tickets.")

    return list(compared(wanted, there, harmless))


def _rows(conn: Connection, name: str, columns: Sequence[str]) -> Iterable[Sequence[Any]]:
    known = Base.metadata.tables[name].c
    query = select(*(known[each] for each in columns)).order_by(known.id).limit(_PAGE)
    after = 0
    # A statement that fails would end the transaction.
    with conn.begin_nested():
        while page := conn.execute(query.where(known.id > after)).all():
            yield from page
            after = page[-1][columns.index("id")]
