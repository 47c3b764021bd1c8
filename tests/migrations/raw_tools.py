"""What the tests of raw SQL on SQLite share: a ledger in memory by sqlite3 alone, and what it holds."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from tests.migrations.tools import Rows

SETTINGS: Final = ("", "PRAGMA foreign_keys = ON", "PRAGMA recursive_triggers = ON")
"""Whatever a connection of somebody else's may have set, the triggers hold."""

TIME: Final = "2026-01-01 00:00:00.000000"
INSERT: Final = (
    "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
    f"VALUES ('a', '{{}}', 'why', '{TIME}')"
)
EVENTS: Final = "SELECT event_type, record_id, from_status, to_status, success, actor, reason FROM action_events"


@contextmanager
def ledger(setting: str, record: str) -> Iterator[sqlite3.Connection]:
    """A ledger with one proposal and one record of it, both by raw SQL."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
    connection.execute(setting)
    connection.execute(INSERT)
    connection.execute(record)
    yield connection
    connection.close()


def everything(db: sqlite3.Connection) -> list[Rows]:
    """All rows but the tickets'."""
    tables = ("action_proposals", "action_records", "action_events")
    return [db.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in tables]


def refused(db: sqlite3.Connection, sql: str, by: str | None = None) -> None:
    """The statement fails, and not a row is other than before."""
    before = everything(db)
    with pytest.raises(sqlite3.IntegrityError, match=by):
        db.execute(sql)
    assert everything(db) == before


def last_event(db: sqlite3.Connection) -> tuple[object, ...]:
    """What was told last."""
    return db.execute(f"{EVENTS} ORDER BY id DESC LIMIT 1").fetchall()[0]
