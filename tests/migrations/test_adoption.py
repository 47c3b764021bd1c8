"""A predecessor's database keeps every row, value and id when it becomes a ledger."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from operator_core.actions import ActionStatus, EventType
from operator_core.db import ActionDB, migrate
from tests.migrations.tools import (
    Rows,
    alembic,
    is_sound,
    opened,
    python,
    query,
    rows_of,
    sequences,
)

PROPOSALS = (
    "id, ticket_id, action_name, action_type, parameters, reason, status, proposed_at, proposed_by, "
    "validated_at, cancelled_at, created_at, updated_at"
)
RECORDS = (
    "id, proposal_id, started_at, completed_at, success, error_message, result_data, created_at"
)
# What no predecessor knew is as if nobody had said anything.
UNSAID_PROPOSAL = {
    "priority": 0,
    "scheduled_at": None,
    "expires_at": None,
    "max_retries": 0,
    "retry_delay": 1.0,
    "max_retry_delay": 300.0,
    "workflow_id": None,
    "depends_on": (),
    "wait_on_failure": False,
    "exclusive_key": None,
    "supersedes_id": None,
    "approval": None,
    "lapses_at": None,
    "requester_id": None,
    "requester_type": None,
    "agent_id": None,
    "run_id": None,
    "parent_id": None,
    "call_id": None,
    "traceparent": None,
    "retry_count": 0,
    "next_retry_at": None,
    "last_error": None,
    "version": 1,
}
UNSAID_RECORD = {"worker": None, "lease_expires_at": None, "outcome_unknown": False}
# Which columns the predecessor wrote as local time, and which SQLite wrote as UTC.
LOCAL = {"proposed_at", "validated_at", "cancelled_at", "started_at", "completed_at"}
DATABASE = {"created_at", "updated_at"}
JSON = {"parameters", "result_data"}


def read_old(rows: Rows, columns: str, zone: tzinfo) -> list[dict[str, Any]]:
    """What the old rows mean, read without any code of the ledger."""
    return [dict(_read(dict(zip(columns.split(", "), row, strict=True)), zone)) for row in rows]


def _read(row: dict[str, Any], zone: tzinfo) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if value is None:
            yield name, None
        elif name in LOCAL:
            naive = datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%f")
            yield name, naive.replace(tzinfo=zone).astimezone(UTC)
        elif name in DATABASE:
            yield name, datetime.strptime(value, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        else:
            yield name, json.loads(value) if name in JSON else value


def read_new(rows: Rows, columns: str) -> list[dict[str, Any]]:
    """The same of the ledger's rows, whose times must all be of its one form."""
    found: list[dict[str, Any]] = []
    for values in rows:
        row = dict(zip(columns.split(", "), values, strict=True))
        for name, value in row.items():
            if value is not None and name in LOCAL | DATABASE:
                time = datetime.strptime(value, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
                assert value == f"{time:%Y-%m-%d %H:%M:%S.%f}"
                row[name] = time
            elif value is not None and name in JSON:
                row[name] = json.loads(value)
        found.append(row)
    return found


def adopt_by(how: str, path: Path, zone: str) -> None:
    if how == "alembic":
        alembic(path, "upgrade", "head", x=[f"legacy-timezone={zone}"])
    elif how == "upgrade()":
        migrate.upgrade(f"sqlite:///{path}", options={"legacy-timezone": zone})
    else:
        # No option: the zone of the process.
        code = (
            "import asyncio, sys; from operator_core.db import ActionDB\n"
            "async def main():\n    async with ActionDB(sys.argv[1]): pass\n"
            "asyncio.run(main())"
        )
        python(code, path, env={"TZ": zone})


@pytest.mark.parametrize(
    ("how", "zone"),
    [
        ("alembic", "UTC"),
        ("alembic", "America/New_York"),
        ("upgrade()", "America/New_York"),
        ("ActionDB", "Asia/Tokyo"),
        ("ActionDB", "UTC"),
    ],
)
def test_every_row_and_value_is_kept(legacy: Path, how: str, zone: str) -> None:
    tickets = rows_of(legacy, "tickets")
    proposals = read_old(rows_of(legacy, "action_proposals", PROPOSALS), PROPOSALS, ZoneInfo(zone))
    records = read_old(rows_of(legacy, "action_records", RECORDS), RECORDS, ZoneInfo(zone))
    ids = sequences(legacy)
    assert len(tickets) == 3
    assert len(proposals) == 300
    assert len(records) == 171

    adopt_by(how, legacy, zone)

    assert rows_of(legacy, "tickets") == tickets
    assert read_new(rows_of(legacy, "action_proposals", PROPOSALS), PROPOSALS) == proposals
    assert read_new(rows_of(legacy, "action_records", RECORDS), RECORDS) == records
    assert {name: sequences(legacy)[name] for name in ids} == ids
    assert is_sound(legacy)


def test_json_is_written_anew_in_the_compact_form(legacy: Path) -> None:
    migrate.upgrade(f"sqlite:///{legacy}")
    for table, column in (("action_proposals", "parameters"), ("action_records", "result_data")):
        for (text,) in rows_of(legacy, table, column):
            if text is not None:
                assert text == json.dumps(
                    json.loads(text), ensure_ascii=False, separators=(",", ":")
                )


async def test_adopted_rows_are_read_as_models(legacy: Path) -> None:
    rows = rows_of(legacy, "action_proposals", PROPOSALS)
    old = {row["id"]: row for row in read_old(rows, PROPOSALS, ZoneInfo("UTC"))}
    old_records = read_old(rows_of(legacy, "action_records", RECORDS), RECORDS, ZoneInfo("UTC"))
    migrate.upgrade(f"sqlite:///{legacy}", options={"legacy-timezone": "UTC"})
    async with ActionDB(legacy) as db:
        proposals = await db.list_proposals()
        assert not proposals.corrupt
        ends = {ActionStatus.CANCELLED: "cancelled", ActionStatus.FAILED: "failed"}
        assert {each.id: each.model_dump() for each in proposals} == {
            each.id: old[each.id]
            | UNSAID_PROPOSAL
            | {"end_code": ends.get(each.status), "content_digest": each.digest}
            for each in proposals
        }
        assert len(proposals) == len(old)
        counts = await db.count_proposals()
        for status in ActionStatus:
            assert counts[status] == sum(row["status"] == status for row in old.values())
        for row in old_records:
            del row["created_at"]
            record = await db.get_record(row["id"])
            assert record is not None
            assert record.model_dump() == row | UNSAID_RECORD


async def test_adopted_rows_have_a_history_that_says_so(legacy: Path) -> None:
    migrate.upgrade(f"sqlite:///{legacy}")
    async with ActionDB(legacy) as db:
        events = await db.history()
        proposals = {each.id: each for each in await db.list_proposals()}
    assert not events.corrupt
    assert {event.actor for event in events} == {"migration"}
    created = [event for event in events if event.event_type is EventType.PROPOSAL_CREATED]
    assert [(event.proposal_id, event.to_status) for event in created] == [
        (id, proposals[id].status) for id in sorted(proposals)
    ]
    records = rows_of(legacy, "action_records", "proposal_id, id, completed_at, success")
    started = [event for event in events if event.event_type is EventType.RECORD_STARTED]
    assert [(event.proposal_id, event.record_id) for event in started] == [
        row[:2] for row in records
    ]
    finished = [event for event in events if event.event_type is EventType.RECORD_FINISHED]
    assert [(event.proposal_id, event.record_id, event.success) for event in finished] == [
        (proposal_id, id, bool(success))
        for proposal_id, id, completed_at, success in records
        if completed_at is not None
    ]
    assert len(events) == len(created) + len(started) + len(finished)


async def test_adopted_proposals_go_on_with_their_lives(legacy: Path) -> None:
    async with ActionDB(legacy, actor="worker") as db:
        (proposal,) = await db.list_proposals(ActionStatus.PROPOSED, limit=1)
        assert proposal.id is not None
        await db.update_proposal_status(proposal.id, ActionStatus.VALIDATED, reason="fits")
        history = await db.history(proposal.id)
        assert [(event.actor, event.to_status) for event in history] == [
            ("migration", ActionStatus.PROPOSED),
            ("worker", ActionStatus.VALIDATED),
        ]
        pending = sum(
            count
            for status, count in (await db.count_proposals()).items()
            if status in (ActionStatus.PROPOSED, ActionStatus.VALIDATED)
        )
        assert await db.cancel_all_pending() == pending


async def test_ids_of_rows_that_are_gone_are_not_given_again(legacy: Path) -> None:
    with opened(legacy) as connection:
        connection.execute("DELETE FROM action_records WHERE id > 150")
        connection.execute("DELETE FROM action_proposals WHERE id > 290")
        connection.execute("DELETE FROM action_records WHERE proposal_id > 290")
        connection.execute("UPDATE action_proposals SET ticket_id = NULL WHERE ticket_id = 3")
        connection.execute("DELETE FROM tickets WHERE id = 3")
    before = sequences(legacy)
    assert before == {"tickets": 3, "action_proposals": 300, "action_records": 171}
    migrate.upgrade(f"sqlite:///{legacy}")
    assert {name: sequences(legacy)[name] for name in before} == before
    with opened(legacy) as connection:
        new = connection.execute(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
            "VALUES ('a', '{}', 'r', '2026-01-01 00:00:00.000000')"
        )
        assert new.lastrowid == 301
    assert query(legacy, "SELECT count(*) FROM action_events WHERE proposal_id = 301") == [(1,)]
