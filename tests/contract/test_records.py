"""Execution records and the history, the same on every backend."""

from datetime import UTC, datetime

import pytest
from pydantic import BaseModel

from operator_core.actions import (
    ActionError,
    ActionRecord,
    ActionStatus,
    Conflict,
    EventType,
    InvalidValue,
    NotFound,
)
from operator_core.db import ActionDB
from tests.conftest import ON_SERVER, RawSQL, proposal

pytestmark = pytest.mark.each_driver

S = ActionStatus


@pytest.fixture
async def proposal_id(db: ActionDB) -> int:
    return (await db.create_proposal(proposal(status=S.EXECUTING))).id


async def test_an_execution_starts_and_ends(db: ActionDB, proposal_id: int) -> None:
    started = await db.create_record(ActionRecord(proposal_id=proposal_id))
    assert started.id == 1
    assert started.started_at is not None
    assert (started.completed_at, started.success) == (None, None)
    assert await db.get_record(1) == started
    await db.update_record(1, True, result_data={"moved": [1, 2.0, None]})
    ended = await db.get_record(1)
    assert ended is not None
    assert ended.completed_at is not None
    assert ended.completed_at >= started.started_at
    assert (ended.success, ended.error_message) == (True, None)
    assert ended.result_data == {"moved": [1, 2.0, None]}


async def test_an_outcome_is_final(db: ActionDB, proposal_id: int) -> None:
    await db.create_record(ActionRecord(proposal_id=proposal_id))
    await db.update_record(1, False, "Error: no such store")
    with pytest.raises(Conflict) as caught:
        await db.update_record(1, True)
    assert (caught.value.kind, caught.value.id, caught.value.state) == ("record", 1, "completed")
    ended = await db.get_record(1)
    assert ended is not None
    assert (ended.success, ended.error_message) == (False, "Error: no such store")
    with pytest.raises(NotFound):
        await db.update_record(2, True)


async def test_empty_and_absent_results_stay_apart(db: ActionDB, proposal_id: int) -> None:
    for result in ({}, None):
        record = await db.create_record(ActionRecord(proposal_id=proposal_id))
        await db.update_record(record.id, True, result_data=result)
        ended = await db.get_record(record.id)
        assert ended is not None
        assert ended.result_data == result


async def test_a_result_may_be_a_model(db: ActionDB, proposal_id: int) -> None:
    class Moved(BaseModel):
        region_id: int
        at: datetime

    await db.create_record(ActionRecord(proposal_id=proposal_id))
    await db.update_record(1, True, None, Moved(region_id=4, at=datetime(2026, 1, 1, tzinfo=UTC)))
    ended = await db.get_record(1)
    assert ended is not None
    assert ended.result_data == {"region_id": 4, "at": "2026-01-01T00:00:00Z"}


async def test_a_record_of_an_execution_elsewhere_is_kept_as_it_is(
    db: ActionDB, proposal_id: int
) -> None:
    given = ActionRecord(
        proposal_id=proposal_id,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        completed_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        success=False,
        error_message="timed out",
        result_data={},
    )
    created = await db.create_record(given)
    assert {**created.model_dump(), "id": None} == given.model_dump()
    assert await db.get_record(1) == created
    kinds = [event.event_type for event in await db.history(proposal_id)]
    assert kinds[1:] == [EventType.RECORD_STARTED, EventType.RECORD_FINISHED]
    dated = await db.create_record(ActionRecord(proposal_id=proposal_id, success=True))
    assert dated.completed_at is not None


@pytest.mark.two_backends
@pytest.mark.parametrize(
    "part",
    [
        {"id": 4},
        {"completed_at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"error_message": "x"},
        {"result_data": {}},
    ],
)
async def test_half_an_outcome_is_refused(
    db: ActionDB, proposal_id: int, part: dict[str, object]
) -> None:
    with pytest.raises(InvalidValue):
        await db.create_record(ActionRecord(proposal_id=proposal_id, **part))  # type: ignore[arg-type]
    assert await db.get_records_for_proposal(proposal_id) == []


async def test_an_unknown_proposal_is_not_found(db: ActionDB) -> None:
    with pytest.raises(NotFound) as caught:
        await db.create_record(ActionRecord(proposal_id=3))
    assert (caught.value.kind, caught.value.id) == ("proposal", 3)
    assert await db.get_record(1) is None
    assert await db.get_records_for_proposal(3) == []


async def test_the_executions_of_a_proposal_come_oldest_first(
    db: ActionDB, proposal_id: int
) -> None:
    other = (await db.create_proposal(proposal())).id
    mine = [await db.create_record(ActionRecord(proposal_id=proposal_id)) for _ in range(3)]
    await db.create_record(ActionRecord(proposal_id=other))
    assert await db.get_records_for_proposal(proposal_id) == mine


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"success": None}, "success"),
        ({"success": 1}, "success"),
        ({"success": False, "error_message": 3}, "error_message"),
        ({"success": False, "error_message": "a\0"}, "error_message"),
        ({"success": True, "result_data": [1]}, "result_data"),
        ({"success": True, "result_data": {"a": [{"b": float("nan")}]}}, "result_data.a[0].b"),
    ],
)
async def test_an_outcome_that_can_not_be_kept_leaves_the_execution_open(
    db: ActionDB, proposal_id: int, arguments: dict[str, object], path: str
) -> None:
    await db.create_record(ActionRecord(proposal_id=proposal_id))
    with pytest.raises(InvalidValue) as caught:
        await db.update_record(1, **arguments)  # type: ignore[arg-type]
    assert caught.value.path == path
    record = await db.get_record(1)
    assert record is not None
    assert record.success is None


async def test_the_history_tells_the_whole_life_in_order(db: ActionDB) -> None:
    id = (await db.create_proposal(proposal())).id
    await db.update_proposal_status(id, S.VALIDATED, actor="policy")
    await db.update_proposal_status(id, S.EXECUTING, actor="worker-1")
    await db.create_record(ActionRecord(proposal_id=id))
    await db.update_record(1, False, "Error: store is down")
    await db.update_proposal_status(id, S.FAILED, actor="worker-1", reason="store is down")
    events = await db.history(id)
    assert events == await db.history()
    assert [
        (e.id, e.event_type.value, e.record_id, e.from_status, e.to_status, e.success, e.actor)
        for e in events
    ] == [
        (1, "proposal_created", None, None, "proposed", None, "agent"),
        (2, "status_changed", None, "proposed", "validated", None, "policy"),
        (3, "status_changed", None, "validated", "executing", None, "worker-1"),
        (4, "record_started", 1, None, None, None, "agent"),
        (5, "record_finished", 1, None, None, False, "agent"),
        (6, "status_changed", None, "executing", "failed", None, "worker-1"),
    ]
    assert [e.reason for e in events] == [
        "store 2 is hot", None, None, None, "Error: store is down", "store is down",
    ]  # fmt: skip
    times = [e.occurred_at for e in events]
    assert times == sorted(times)


async def test_the_history_is_read_in_pages(db: ActionDB) -> None:
    await db.create_proposals(proposal() for _ in range(10))
    await db.cancel_all_pending()
    everything = await db.history()
    assert len(everything) == 20
    assert await db.history(after=0, limit=7) == everything[:7]
    assert await db.history(after=7) == everything[7:]
    assert await db.history(3, after=3) == [e for e in everything[3:] if e.proposal_id == 3]
    assert await db.history(999) == []
    for arguments in ({"after": -1}, {"limit": -1}, {"proposal_id": 0}, {"after": "1"}):
        with pytest.raises(InvalidValue):
            await db.history(**arguments)  # type: ignore[arg-type]


async def test_the_history_can_not_be_changed(db: ActionDB, raw: RawSQL, backend: str) -> None:
    await db.create_proposal(proposal())
    before = await db.history()
    columns = "action_events (id, proposal_id, event_type, actor, occurred_at)"
    values = "VALUES (1, 1, 'proposal_created', 'someone else', '2026-01-01 00:00:00')"
    ways = ["UPDATE action_events SET actor = 'someone else'", "DELETE FROM action_events"]
    if backend in ON_SERVER:
        ways += [
            f"INSERT INTO {columns} OVERRIDING SYSTEM VALUE {values} "
            "ON CONFLICT (id) DO UPDATE SET actor = excluded.actor",
            "TRUNCATE action_events",
            "TRUNCATE tickets CASCADE",
        ]
    else:
        ways.append(f"INSERT OR REPLACE INTO {columns} {values}")
    for sql in ways:
        with pytest.raises(ActionError, match=r"append-only|never deleted|only the triggers write"):
            await raw(sql)
    assert await db.history() == before
