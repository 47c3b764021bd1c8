"""Rows that another tool damaged: named, reported, and in nobody's way."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection

from operator_core.actions import ActionError, ActionRecord, ActionStatus, CorruptRow
from operator_core.db import ActionDB
from tests.conftest import ON_SERVER, ON_SQLITE, RawSQL, proposal

pytestmark = pytest.mark.each_driver

DAMAGES = [
    ("parameters", "'[1]'", "is not a JSON object"),
    ("parameters", "'{\"a\": 1e400}'", "is not a JSON object"),
    ("status", "'done'", "is not a status"),
    ("action_type", "'magic'", "is not an action type"),
]

# What a column of PostgreSQL can't hold, whoever writes it.
DAMAGES_ON_SQLITE = [
    ("parameters", "'{\"a\":'", "is not a JSON object"),
    ("parameters", "'{\"a\": NaN}'", "is not a JSON object"),
    ("parameters", "''", "is not a JSON object"),
    ("parameters", "x'7b7d'", "is not a JSON object"),
    ("proposed_at", "'yesterday'", "is not a time"),
    ("proposed_at", "1700000000", "is not a time"),
    ("validated_at", "''", "is not a time"),
    ("validated_at", "'0001-01-01T00:00:00+14:00'", "is not a time"),
    ("created_at", "x'00'", "is not a time"),
    ("reason", "x'ff'", "is not text"),
    ("reason", "CAST(x'ff' AS TEXT)", "is not text"),
    ("parameters", "CAST(x'7b22ff223a317d' AS TEXT)", "is not a JSON object"),
]


async def damage(db: ActionDB, table: str, column: str, value: str) -> None:
    """As a tool without our triggers and checks would: they are out of the way while it writes."""

    def unit(conn: Connection) -> None:
        change = f"UPDATE {table} SET {column} = {value} WHERE id = 2"
        if conn.dialect.name == "sqlite":
            triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for name in conn.exec_driver_sql(triggers).scalars().all():
                conn.exec_driver_sql(f"DROP TRIGGER {name}")
            conn.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            conn.exec_driver_sql(change)
            return
        conn.exec_driver_sql("SET LOCAL session_replication_role = replica")
        checks = conn.exec_driver_sql(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            f"WHERE conrelid = '{table}'::regclass AND contype = 'c' AND convalidated"
        ).all()
        for name, _ in checks:
            conn.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        conn.exec_driver_sql(change)
        for name, definition in checks:
            # They hold for what is written from here on.
            conn.exec_driver_sql(
                f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID"
            )

    await db._units.write(unit)


@pytest.fixture
def place(
    place: str | Path, backend: str, postgres_copy: Callable[[str | Path], str]
) -> str | Path:
    """A database that is thrown away: its checks are not what they were."""
    return postgres_copy(place) if backend in ON_SERVER else place


@pytest.mark.parametrize(("column", "value", "problem"), DAMAGES)
async def test_a_damaged_proposal_is_named_and_the_others_are_listed(
    db: ActionDB, caplog: pytest.LogCaptureFixture, column: str, value: str, problem: str
) -> None:
    await check_damage(db, caplog, column, value, problem)


@pytest.mark.parametrize("backend", ON_SQLITE, indirect=True)
@pytest.mark.parametrize(("column", "value", "problem"), DAMAGES_ON_SQLITE)
async def test_so_is_one_with_what_only_sqlite_takes(
    db: ActionDB, caplog: pytest.LogCaptureFixture, column: str, value: str, problem: str
) -> None:
    await check_damage(db, caplog, column, value, problem)


@pytest.mark.parametrize("backend", ON_SERVER, indirect=True)
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("parameters", "'{\"a\":'"),
        ("parameters", "'{\"a\": NaN}'"),
        ("parameters", "''"),
        ("proposed_at", "'infinity'"),
        ("validated_at", "'0044-03-15 12:00:00+00 BC'"),
        ("cancelled_at", "'9999-12-31 23:59:59+00'"),
        ("updated_at", "'1969-12-31 23:59:59+00'"),
        ("updated_at", "'yesterday or so'"),
        ("status", "'done'"),
        ("id", "-1"),
    ],
)
async def test_a_server_takes_no_such_row_from_anybody(
    db: ActionDB, raw: RawSQL, column: str, value: str
) -> None:
    await db.create_proposal(proposal())
    columns = {"action_name": "'a'", "parameters": "'{}'", "reason": "'r'", "proposed_at": "now()"}
    columns[column] = value
    with pytest.raises(ActionError):
        await raw(
            f"INSERT INTO action_proposals ({', '.join(columns)}) OVERRIDING SYSTEM VALUE "
            f"VALUES ({', '.join(columns.values())})"
        )
    assert len(await db.list_proposals()) == 1


async def check_damage(
    db: ActionDB, caplog: pytest.LogCaptureFixture, column: str, value: str, problem: str
) -> None:
    await db.create_proposals([proposal(), proposal(), proposal()])
    await damage(db, "action_proposals", column, value)
    with pytest.raises(CorruptRow, match=problem) as caught:
        await db.get_proposal(2)
    error = caught.value
    assert (error.table, error.id, error.column) == ("action_proposals", 2, column)
    with caplog.at_level(logging.WARNING, "operator_core"):
        listing = await db.list_proposals()
    assert [each.id for each in listing] == [3, 1]
    assert [(each.id, each.column) for each in listing.corrupt] == [(2, column)]
    assert "action_proposals row 2" in caplog.text
    assert [each.id async for each in db.iter_proposals()] == [3, 1]


async def test_a_damaged_record_or_event_is_left_out_and_reported(db: ActionDB) -> None:
    await db.create_proposal(proposal(status=ActionStatus.EXECUTING))
    for _ in range(3):
        await db.create_record(ActionRecord(proposal_id=1))
    await damage(db, "action_records", "result_data", "'[]'")
    with pytest.raises(CorruptRow, match="result_data"):
        await db.get_record(2)
    listing = await db.get_records_for_proposal(1)
    assert [each.id for each in listing] == [1, 3]
    assert [each.id for each in listing.corrupt] == [2]
    await damage(db, "action_events", "event_type", "'rumour'")
    events = await db.history()
    assert [event.id for event in events] == [1, 3, 4]
    assert [each.id for each in events.corrupt] == [2]


@pytest.mark.parametrize("backend", ON_SQLITE, indirect=True)
async def test_times_with_an_offset_or_seconds_only_are_read_as_what_they_are(
    db: ActionDB, raw: RawSQL
) -> None:
    await db.create_proposals([proposal(), proposal()])
    await damage(db, "action_proposals", "proposed_at", "'2026-01-01T12:00:00+02:00'")
    await raw("UPDATE action_proposals SET created_at = '2026-01-01 10:00:00' WHERE id = 2")
    found = await db.get_proposal(2)
    assert found is not None
    assert found.proposed_at == found.created_at
