"""Rows that another tool damaged: named, reported, and in nobody's way."""

import logging

import pytest

from operator_core.actions import ActionRecord, ActionStatus, CorruptRow
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

DAMAGES = [
    ("parameters", "'[1]'", "is not a JSON object"),
    ("parameters", "'{\"a\":'", "is not a JSON object"),
    ("parameters", "'{\"a\": NaN}'", "is not a JSON object"),
    ("parameters", "''", "is not a JSON object"),
    ("parameters", "x'7b7d'", "is not a JSON object"),
    ("status", "'done'", "is not a status"),
    ("action_type", "'magic'", "is not an action type"),
    ("proposed_at", "'yesterday'", "is not a time"),
    ("proposed_at", "1700000000", "is not a time"),
    ("validated_at", "''", "is not a time"),
    ("validated_at", "'0001-01-01T00:00:00+14:00'", "is not a time"),
    ("created_at", "x'00'", "is not a time"),
    ("reason", "x'ff'", "is not text"),
    ("reason", "CAST(x'ff' AS TEXT)", "is not text"),
    ("parameters", "CAST(x'7b22ff223a317d' AS TEXT)", "is not a JSON object"),
]


async def damage(raw: RawSQL, table: str, column: str, value: str) -> None:
    """As a tool without our triggers and checks would: they are dropped first."""
    triggers = await raw("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    for (name,) in triggers:
        await raw(f"DROP TRIGGER {name}")
    await raw("PRAGMA ignore_check_constraints = ON")
    await raw(f"UPDATE {table} SET {column} = {value} WHERE id = 2")


@pytest.mark.parametrize(("column", "value", "problem"), DAMAGES)
async def test_a_damaged_proposal_is_named_and_the_others_are_listed(
    db: ActionDB,
    raw: RawSQL,
    caplog: pytest.LogCaptureFixture,
    column: str,
    value: str,
    problem: str,
) -> None:
    await db.create_proposals([proposal(), proposal(), proposal()])
    await damage(raw, "action_proposals", column, value)
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


async def test_a_damaged_record_or_event_is_left_out_and_reported(
    db: ActionDB, raw: RawSQL
) -> None:
    await db.create_proposal(proposal(status=ActionStatus.EXECUTING))
    for _ in range(3):
        await db.create_record(ActionRecord(proposal_id=1))
    await damage(raw, "action_records", "result_data", "'[]'")
    with pytest.raises(CorruptRow, match="result_data"):
        await db.get_record(2)
    listing = await db.get_records_for_proposal(1)
    assert [each.id for each in listing] == [1, 3]
    assert [each.id for each in listing.corrupt] == [2]
    await damage(raw, "action_events", "event_type", "'rumour'")
    events = await db.history()
    assert [event.id for event in events] == [1, 3, 4]
    assert [each.id for each in events.corrupt] == [2]


async def test_times_with_an_offset_or_seconds_only_are_read_as_what_they_are(
    db: ActionDB, raw: RawSQL
) -> None:
    await db.create_proposals([proposal(), proposal()])
    await damage(raw, "action_proposals", "proposed_at", "'2026-01-01T12:00:00+02:00'")
    await raw("UPDATE action_proposals SET created_at = '2026-01-01 10:00:00' WHERE id = 2")
    found = await db.get_proposal(2)
    assert found is not None
    assert found.proposed_at == found.created_at
