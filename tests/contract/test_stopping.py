"""The stop: what it counts, what the history has of it, and that no row is in its way."""

import logging
from typing import Any

import pytest

from operator_core.actions import (
    ActionProposal,
    ActionStatus,
    ConstraintViolation,
    EventType,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from operator_core.db.postgresql.runner import ServerRunner
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus


async def failed_with_retry(db: ActionDB, **fields: Any) -> ActionProposal:
    made = await db.create_proposal(
        proposal(
            status=S.VALIDATED,
            priority=9,
            max_retries=3,
            retry_delay=600_000.0,
            max_retry_delay=600_000.0,
            **fields,
        )
    )
    (claim,) = await db.claim("worker-1")
    assert claim.proposal.id == made.id
    await db.fail(claim.record.id, "boom")
    found = await db.get_proposal(made.id)
    assert found is not None
    assert found.next_retry_at is not None
    return found


async def test_a_retry_that_is_called_off_is_an_event_and_does_not_count(db: ActionDB) -> None:
    failed = await failed_with_retry(db)
    behind = await db.create_proposal(proposal(depends_on=[failed.id]))
    await db.create_proposals([proposal(), proposal(status=S.VALIDATED)])
    before = len(await db.history())
    assert await db.cancel_all_pending(actor="oncall", reason="bad deploy") == 3
    new = (await db.history())[before:]
    (called_off,) = [each for each in new if each.event_type is EventType.RETRY_CANCELLED]
    assert (called_off.proposal_id, called_off.actor, called_off.reason) == (
        failed.id,
        "oncall",
        "bad deploy",
    )
    assert (called_off.from_status, called_off.to_status) == (S.FAILED, S.FAILED)
    assert {each.reason for each in new} == {"bad deploy"}
    assert len(new) == 4
    after = await db.get_proposal(failed.id)
    assert after is not None
    assert (after.status, after.next_retry_at, after.version) == (
        S.FAILED,
        None,
        called_off.version,
    )
    assert (await db.history(behind.id))[-1].to_status is S.CANCELLED
    assert await db.cancel_all_pending() == 0
    assert len(await db.history()) == before + 4


async def test_what_waits_for_a_retry_that_is_called_off_is_cancelled(db: ActionDB) -> None:
    workflow, (made,) = await db.create_workflow(
        WorkflowProposal(name="w"),
        [
            proposal(
                status=S.VALIDATED, max_retries=3, retry_delay=600_000.0, max_retry_delay=600_000.0
            )
        ],
    )
    (claim,) = await db.claim("worker-1")
    await db.fail(claim.record.id, "boom")
    behind = await db.create_proposal(proposal(depends_on=[made.id]))
    assert await db.cancel_workflow(workflow.id, reason="enough") == 0
    found = await db.get_proposal(behind.id)
    assert found is not None
    assert found.status is S.CANCELLED
    assert [each.event_type for each in await db.history()][-2:] == [
        EventType.RETRY_CANCELLED,
        EventType.STATUS_CHANGED,
    ]


async def test_a_retry_that_raw_sql_moves_is_an_event_too(db: ActionDB, raw: RawSQL) -> None:
    failed = await failed_with_retry(db)
    later = "'2040-01-01 00:00:00.000000'"
    await raw(f"UPDATE action_proposals SET next_retry_at = {later} WHERE id = ?", failed.id)
    await raw("UPDATE action_proposals SET next_retry_at = NULL WHERE id = ?", failed.id)
    moved, called_off = (await db.history(failed.id))[-2:]
    assert (moved.event_type, moved.actor, moved.version) == (
        EventType.RETRY_SCHEDULED,
        "raw SQL",
        (failed.version or 0) + 1,
    )
    assert (called_off.event_type, called_off.actor) == (EventType.RETRY_CANCELLED, "raw SQL")


async def refuse(raw: RawSQL, db: ActionDB, table: str, id: int | None) -> None:
    """From here on the database refuses to change this row, as a constraint or trigger of somebody's may."""
    if isinstance(db._database, ServerRunner):
        await raw(
            "CREATE FUNCTION refuse_it() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'odd' USING ERRCODE = 'check_violation'; END $$"
        )
        await raw(
            f"CREATE TRIGGER a_refusal BEFORE UPDATE ON {table} FOR EACH ROW WHEN (OLD.id = {id}) "
            "EXECUTE FUNCTION refuse_it()"
        )
        return
    await raw(
        f"CREATE TRIGGER a_refusal BEFORE UPDATE ON {table} WHEN OLD.id = {id} "
        "BEGIN SELECT RAISE(ABORT, 'odd'); END"
    )


@pytest.fixture
def place(place: Any, backend: str, postgres_copy: Any) -> Any:
    """A database that is thrown away: somebody's trigger stays in it."""
    return postgres_copy(place) if "://" in str(place) else place


@pytest.mark.parametrize("position", [0, 7, 14])
async def test_a_row_that_can_not_be_changed_costs_only_itself(
    db: ActionDB, raw: RawSQL, caplog: pytest.LogCaptureFixture, position: int
) -> None:
    made = await db.create_proposals([proposal(status=S.VALIDATED) for _ in range(15)])
    odd = made[position]
    await refuse(raw, db, "action_proposals", odd.id)
    with caplog.at_level(logging.ERROR, "operator_core"):
        assert await db.cancel_all_pending(reason="stop") == 14
    assert f"could not cancel proposal {odd.id}" in caplog.text
    assert [each.id for each in await db.list_proposals(S.VALIDATED)] == [odd.id]
    assert len(await db.history()) == 15 + 14


@pytest.mark.parametrize("odd", ["pending", "retry"])
async def test_nor_does_it_where_it_is_the_only_one_of_its_kind(
    db: ActionDB, raw: RawSQL, odd: str
) -> None:
    retried = await failed_with_retry(db)
    pending = await db.create_proposals(
        proposal(status=S.VALIDATED) for _ in range(1 if odd == "pending" else 3)
    )
    await refuse(raw, db, "action_proposals", (pending[0] if odd == "pending" else retried).id)
    assert await db.cancel_all_pending(reason="stop") == (0 if odd == "pending" else 3)
    found = await db.get_proposal(retried.id)
    assert found is not None
    assert (found.next_retry_at is None) == (odd == "pending")
    left = await db.list_proposals(S.VALIDATED)
    assert [each.id for each in left] == ([pending[0].id] if odd == "pending" else [])


async def test_a_stop_that_stops_nothing_raises(db: ActionDB, raw: RawSQL) -> None:
    retried = await failed_with_retry(db)
    await refuse(raw, db, "action_proposals", retried.id)
    with pytest.raises(ConstraintViolation, match="odd"):
        await db.cancel_all_pending(reason="stop")


async def test_nor_does_it_keep_a_workflow_from_being_cancelled(db: ActionDB, raw: RawSQL) -> None:
    other = await db.create_proposal(proposal())
    workflow, actions = await db.create_workflow(
        WorkflowProposal(name="w"), [proposal(), proposal(), proposal()]
    )
    await refuse(raw, db, "action_proposals", actions[1].id)
    assert await db.cancel_workflow(workflow.id) == 2
    left = await db.list_proposals(S.PROPOSED)
    assert [each.id for each in left] == [actions[1].id, other.id]


@pytest.mark.parametrize("table", ["action_proposals", "action_records"])
async def test_nor_others_from_being_ended(db: ActionDB, raw: RawSQL, table: str) -> None:
    await db.create_proposals([proposal(status=S.VALIDATED) for _ in range(10)])
    claims = await db.claim("worker-1", limit=10)
    odd = claims[3]
    await refuse(raw, db, table, odd.proposal.id if table == "action_proposals" else odd.record.id)
    first, second = claims[:5], claims[5:]
    assert await db.complete_many([each.record.id for each in first]) == [odd.record.id]
    assert await db.fail_many({each.record.id or 0: "why" for each in [odd, *second]}) == [
        odd.record.id
    ]
    counts = await db.count_proposals()
    assert (counts[S.COMPLETED], counts[S.FAILED], counts[S.EXECUTING]) == (4, 5, 1)
    record = await db.get_record(odd.record.id)
    assert record == odd.record


async def test_nor_others_from_being_claimed(
    db: ActionDB, raw: RawSQL, caplog: pytest.LogCaptureFixture
) -> None:
    made = await db.create_proposals(
        [proposal(status=S.VALIDATED, priority=9 if n in (1, 4) else 0) for n in range(6)]
    )
    await refuse(raw, db, "action_proposals", made[1].id)
    with caplog.at_level(logging.ERROR, "operator_core"):
        (first,) = await db.claim("worker-1")
        assert first.proposal.id == made[4].id
        rest = await db.claim("worker-1", limit=9)
        assert [each.proposal.id for each in rest] == [made[n].id for n in (0, 2, 3, 5)]
        assert await db.claim("worker-1") == []
    assert f"could not start proposal {made[1].id}" in caplog.text
    assert [each.id for each in await db.list_proposals(S.VALIDATED)] == [made[1].id]
    assert len(await db.get_records_for_proposal(made[1].id)) == 0
