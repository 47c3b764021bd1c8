"""What the tests of raw SQL on SQLite share: a ledger in memory by sqlite3 alone, and what it holds."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Final

import pytest

from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.tools import Rows

SETTINGS: Final = (
    "",
    "PRAGMA foreign_keys = ON",
    "PRAGMA recursive_triggers = ON",
    "PRAGMA foreign_keys = ON; PRAGMA recursive_triggers = ON; PRAGMA trusted_schema = OFF",
)
"""Whatever a connection of somebody else's may have set, the triggers hold."""

TIME: Final = "2026-01-01 00:00:00.000000"
INSERT: Final = (
    "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
    f"VALUES ('a', '{{}}', 'why', '{TIME}')"
)
EVENTS: Final = "SELECT event_type, record_id, from_status, to_status, success, actor, reason FROM action_events"


NUMBERED: Final = (
    "tickets",
    "action_proposals",
    "action_records",
    "action_events",
    "workflows",
    "outcome_resolutions",
    "action_limits",
    "action_rules",
    "action_requirements",
    "action_grants",
    "action_decisions",
)


@cache
def _template() -> dbapi.Connection:
    connection = dbapi.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.executescript(SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
    return connection


@contextmanager
def empty(setting: str) -> Iterator[dbapi.Connection]:
    """A ledger without a row."""
    connection = dbapi.connect(":memory:", isolation_level=None)
    # A copy takes a third of the time of the script.
    _template().backup(connection)
    connection.executescript(setting)
    yield connection
    connection.close()


@contextmanager
def ledger(setting: str, record: str) -> Iterator[dbapi.Connection]:
    """A ledger with one proposal and one record of it, both by raw SQL."""
    with empty(setting) as connection:
        connection.execute(INSERT)
        connection.execute(record)
        yield connection


def propose(db: dbapi.Connection, **values: object) -> int:
    """Inserts a proposal by raw SQL and returns its id."""
    return insert(db, "action_proposals", PROPOSAL | values)


PROPOSAL: Final = {"action_name": "a", "parameters": "{}", "reason": "why", "proposed_at": TIME}
RECORD: Final = {"proposal_id": 1}
WORKFLOW: Final = {"name": "w"}
TICKET: Final = {
    "violation_key": "k",
    "invariant_name": "i",
    "first_seen_at": TIME,
    "last_seen_at": TIME,
    "message": "m",
}


def insert(
    db: dbapi.Connection, table: str, values: Mapping[str, object], verb: str = "INSERT"
) -> int:
    """Inserts a row of these values and returns its id."""
    marks = ", ".join("?" * len(values))
    sql = f"{verb} INTO {table} ({', '.join(values)}) VALUES ({marks})"
    return db.execute(sql, list(values.values())).lastrowid or 0


def everything(db: dbapi.Connection) -> list[Rows]:
    """All rows of all tables, and the highest ids that were ever given."""
    tables = (*NUMBERED, "action_dependencies", "sqlite_sequence")
    return [db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables]


def refused(
    db: dbapi.Connection, sql: str, by: str | None = None, parameters: Sequence[object] = ()
) -> None:
    """The statement fails, and not a row is other than before."""
    before = everything(db)
    with pytest.raises(dbapi.IntegrityError, match=by):
        db.execute(sql, parameters)
    assert everything(db) == before


def refused_row(
    db: dbapi.Connection,
    table: str,
    values: Mapping[str, object],
    by: str | None = None,
    verb: str = "INSERT",
) -> None:
    """As `refused`, for a row that is inserted."""
    before = everything(db)
    with pytest.raises(dbapi.IntegrityError, match=by):
        insert(db, table, values, verb)
    assert everything(db) == before


def last_event(db: dbapi.Connection) -> tuple[object, ...]:
    """What was told last."""
    return db.execute(f"{EVENTS} ORDER BY id DESC LIMIT 1").fetchall()[0]
