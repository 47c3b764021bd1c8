"""A ledger on a PostgreSQL server looked over: is it current, as it was made, and readable.

Keeps nothing of what it does: all happens in one transaction that is rolled back.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from operator_core.cli.findings import (
    Finding,
    Verdict,
    check_revision,
    check_rows,
    compared,
)
from operator_core.db import migrate, postgresql_schema
from operator_core.db.base import Base

__all__ = ["check_up_server"]

_SCRATCH: Final = "operator_core_check"

_PAGE: Final = 1000


def check_up_server(url: URL) -> list[Finding]:
    """Everything that is to be known about the ledger, finding by finding.

    Reads all rows, which takes a while for many. Raises `StorageError` where the server can't be used.
    """
    return migrate.look(url, _check_up)


def _check_up(conn: Connection) -> list[Finding]:
    revision = migrate.current_revision(conn)
    findings = [check_revision(revision, _no_revision), _server(conn), *_durability(conn)]
    if revision == migrate.HEAD:
        findings += [_schema(conn), check_rows(lambda name, columns: _rows(conn, name, columns))]
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


def _schema(conn: Connection) -> Finding:
    """Compared with what the revisions make on this very server, beside it, and undone again."""
    there = postgresql_schema.catalogue(conn)
    undo = conn.begin_nested()
    try:
        conn.exec_driver_sql(f"CREATE SCHEMA {_SCRATCH}")
        conn.exec_driver_sql(f"SET LOCAL search_path = {_SCRATCH}, pg_temp")
        migrate.upgrade_on(conn)
        wanted = postgresql_schema.catalogue(conn)
    except DBAPIError:
        # A standby makes nothing, and a service's role may not.
        said = "not compared: that takes a role which may CREATE a schema in this database"
        return Finding("schema", Verdict.WARNING, said)
    finally:
        undo.rollback()
    return compared(wanted, there)


def _rows(conn: Connection, name: str, columns: Sequence[str]) -> Iterable[Sequence[Any]]:
    known = Base.metadata.tables[name].c
    query = select(*(known[each] for each in columns)).order_by(known.id).limit(_PAGE)
    after = 0
    while page := conn.execute(query.where(known.id > after)).all():
        yield from page
        after = page[-1][0]
