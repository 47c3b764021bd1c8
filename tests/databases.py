"""Databases on a real PostgreSQL server for the tests: one that is there, or one that they start themselves."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final, LiteralString, cast

import psycopg
from sqlalchemy.engine import URL

from operator_core.db import migrate
from operator_core.db.postgresql.connect import parse_url
from operator_core.db.sql.tables import TABLES
from tests.servers import NoServer, Server

URL_VARIABLE: Final = "OPERATOR_TEST_POSTGRES_URL"
"""Names a server on which the tests may make databases; they drop those that they made."""

NEEDS_SERVER: Final = "needs PostgreSQL's server programs, or a server's URL in " + URL_VARIABLE

EMPTYING: Final = "empties the ledger"
"""The name of the session that stays in the database of `Databases.ledger`."""

# In one round trip. Triggers and foreign keys are asleep for this transaction only; it takes a superuser.
_EMPTY: Final = cast(
    LiteralString,
    "; ".join(
        (
            "BEGIN",
            "SET LOCAL session_replication_role = replica",
            *(f"DELETE FROM {table}" for table in TABLES),
            *(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 1, false)"
                for table in TABLES
                if table not in ("action_dependencies", "action_starts")
            ),
            # No halt is open.
            "SELECT setval('action_halts_flag', -('action_halts'::regclass::oid::bigint))",
            # Nor is a limit.
            "SELECT setval('action_governance_flag', -('action_limits'::regclass::oid::bigint))",
            # Nor a rule.
            "SELECT setval('action_rules_flag', -('action_rules'::regclass::oid::bigint))",
            "COMMIT",
        )
    ),
)

_VACUUM: Final = cast(LiteralString, f"VACUUM {', '.join(TABLES)}")

_VACUUM_EVERY: Final = 50

# It would look at hundreds of databases that nobody uses again, and not often enough at the one of the ledger.
_WITHOUT_AUTOVACUUM: Final = {"autovacuum": "off"}


class Databases:
    """Makes databases on one server."""

    def __init__(self, url: URL, *, clean: bool) -> None:
        self._url = url
        self._clean = clean
        self._made: list[str] = []
        self._admin = psycopg.connect(_conninfo(url), autocommit=True)
        self._ledger: str | None = None
        self._emptied = 0
        self._emptying: psycopg.Connection[Any] | None = None

    def url(self, name: str) -> str:
        return self._url.set(database=name).render_as_string(hide_password=False)

    def new(self, *, template: str | None = None) -> str:
        """The URL of a database of the test's own: empty, or a copy of `template`."""
        name = f"operator_core_test_{os.getpid()}_{len(self._made)}"
        self._made.append(name)
        if template:
            # PostgreSQL copies no database that has sessions.
            self._end_emptying()
        options = f" TEMPLATE {template}" if template else ""
        if self._admin.info.server_version >= 150000:
            # The default would write each of its pages to the log too.
            options += " STRATEGY file_copy"
        self.execute(f"CREATE DATABASE {name} ENCODING 'UTF8'{options}")
        return self.url(name)

    def ledger(self) -> str:
        """The URL of an empty ledger at head, always the same one: what the last test left is gone."""
        if self._ledger is None:
            self._ledger = self.new()
            migrate.upgrade(self._ledger)
        if self._emptying is None:
            # Kept, because the first statements of a session cost the server most.
            self._emptying = psycopg.connect(
                _conninfo(parse_url(self._ledger)), autocommit=True, application_name=EMPTYING
            )
        self._emptying.execute(_EMPTY)
        self._emptied += 1
        if self._emptied % _VACUUM_EVERY == 0:
            self._emptying.execute(_VACUUM)
        return self._ledger

    def _end_emptying(self) -> None:
        if self._emptying is not None:
            self._emptying.close()
            self._emptying = None

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs `sql` as the server's administrator, in no database in particular."""
        cursor = self._admin.execute(cast(LiteralString, sql))
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self._end_emptying()
        for name in self._made if self._clean else ():
            self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self._admin.close()


def _conninfo(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def connected(url: str) -> Iterator["psycopg.Connection[Any]"]:
    """A plain connection as another tool has it, in autocommit mode."""
    with psycopg.connect(_conninfo(parse_url(url)), autocommit=True) as connection:
        yield connection


def query(url: str, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    """What another program sees in the database."""
    with connected(url) as connection:
        cursor = connection.execute(cast(LiteralString, sql), parameters or None)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def databases() -> Iterator[Databases]:
    """Databases on the server that the environment names, or on one of the tests' own; `NoServer`."""
    with ExitStack() as stack:
        given = os.environ.get(URL_VARIABLE)
        # Who uses it asks what the ledger answers; what survives is asked on servers of its own.
        url = (
            given
            or stack.enter_context(Server.make(durable=False, settings=_WITHOUT_AUTOVACUUM)).url()
        )
        yield stack.enter_context(closing(Databases(parse_url(url), clean=given is not None)))


__all__ = ["EMPTYING", "NEEDS_SERVER", "Databases", "NoServer", "connected", "databases", "query"]
