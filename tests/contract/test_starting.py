"""What may not start does not start, whoever asks: what is scheduled, has expired or waits for another; and what has ended."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionError,
    ActionRecord,
    ActionStatus,
    Conflict,
    DependencyPending,
    Expired,
    InvalidTransition,
    LeaseLost,
    NotDue,
    VersionConflict,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

SOON = datetime.now(UTC) + timedelta(hours=1)
PAST = datetime.now(UTC) - timedelta(hours=1)


async def validated(db: ActionDB, **fields: Any) -> int:
    made = await db.create_proposal(proposal(status=S.VALIDATED, **fields))
    return made.id or 0


async def blocked(db: ActionDB, why: str) -> int:
    """A validated proposal that may not start."""
    if why == "scheduled":
        return await validated(db, scheduled_at=SOON)
    if why == "expired":
        return await validated(db, expires_at=PAST)
    if why == "scheduled and expired":
        return await validated(db, scheduled_at=SOON, expires_at=PAST)
    first = await db.create_proposal(proposal(status=S.VALIDATED))
    id_ = await validated(db, depends_on=[first.id], wait_on_failure=True)
    path = {
        "needs a validated one": (),
        "needs an executing one": (S.EXECUTING,),
        "needs a failed one": (S.EXECUTING, S.FAILED),
        "needs a cancelled one": (S.CANCELLED,),
    }[why]
    for status in path:
        await db.update_proposal_status(first.id, status)
    return id_


WHY = {
    "scheduled": NotDue,
    "expired": Expired,
    "scheduled and expired": NotDue,
    "needs a validated one": DependencyPending,
    "needs an executing one": DependencyPending,
    "needs a failed one": DependencyPending,
    "needs a cancelled one": DependencyPending,
}
EACH = pytest.mark.parametrize("why", WHY)


@EACH
async def test_it_is_not_started_and_the_error_says_why(db: ActionDB, why: str) -> None:
    id_ = await blocked(db, why)
    before = await db.get_proposal(id_), await db.history()
    with pytest.raises(InvalidTransition) as caught:
        await db.update_proposal_status(id_, S.EXECUTING)
    error = caught.value
    assert type(error) is WHY[why]
    assert (error.id, error.from_status, error.to_status) == (id_, "validated", "executing")
    if isinstance(error, NotDue):
        assert error.scheduled_at == SOON
    if isinstance(error, Expired):
        assert error.expires_at == PAST
    if isinstance(error, DependencyPending):
        assert error.pending == (id_ - 1,)
    assert (await db.get_proposal(id_), await db.history()) == before


@EACH
async def test_inside_a_transaction_too_and_the_rest_of_it_is_kept(db: ActionDB, why: str) -> None:
    id_ = await blocked(db, why)
    async with db.transaction() as tx:
        with pytest.raises(WHY[why]):
            await tx.update_proposal_status(id_, S.EXECUTING)
        await tx.update_proposal_status(id_, S.CANCELLED)
    found = await db.get_proposal(id_)
    assert found is not None
    assert found.status is S.CANCELLED


@EACH
async def test_raw_sql_does_not_start_it_either(db: ActionDB, raw: RawSQL, why: str) -> None:
    id_ = await blocked(db, why)
    before = await db.get_proposal(id_), await db.history()
    for more in ("", ", version = version + 1", ", status_changed_by = 'x'"):
        with pytest.raises(ActionError):
            await raw(f"UPDATE action_proposals SET status = 'executing'{more} WHERE id = ?", id_)
    assert (await db.get_proposal(id_), await db.history()) == before


async def test_what_is_due_starts_however_it_was_blocked(db: ActionDB, raw: RawSQL) -> None:
    first = await validated(db)
    ids = [
        await validated(db, scheduled_at=PAST, expires_at=SOON, depends_on=[first]),
        await validated(db, depends_on=[first], wait_on_failure=True),
    ]
    await db.update_proposal_status(first, S.EXECUTING)
    await db.update_proposal_status(first, S.COMPLETED)
    await db.update_proposal_status(ids[0], S.EXECUTING)
    await raw("UPDATE action_proposals SET status = 'executing' WHERE id = ?", ids[1])
    assert len(await db.list_proposals(S.EXECUTING)) == 2


async def test_a_wrong_version_or_status_is_said_first(db: ActionDB) -> None:
    id_ = await blocked(db, "scheduled")
    with pytest.raises(VersionConflict):
        await db.update_proposal_status(id_, S.EXECUTING, expected_version=7)
    await db.update_proposal_status(id_, S.CANCELLED)
    with pytest.raises(InvalidTransition) as caught:
        await db.update_proposal_status(id_, S.EXECUTING)
    assert type(caught.value) is InvalidTransition


async def test_an_import_may_be_anything(db: ActionDB) -> None:
    for status in (S.EXECUTING, S.COMPLETED, S.FAILED):
        made = await db.create_proposal(proposal(status=status, scheduled_at=SOON, expires_at=PAST))
        assert made.status is status


ENDED = {
    S.CANCELLED: (S.CANCELLED,),
    S.COMPLETED: (S.VALIDATED, S.EXECUTING, S.COMPLETED),
    S.FAILED: (S.VALIDATED, S.EXECUTING, S.FAILED),
}


@pytest.mark.parametrize("status", ENDED)
async def test_nothing_starts_for_what_has_ended(
    db: ActionDB, raw: RawSQL, status: ActionStatus
) -> None:
    made = await db.create_proposal(proposal())
    for each in ENDED[status]:
        await db.update_proposal_status(made.id, each)
    with pytest.raises(Conflict) as caught:
        await db.create_record(ActionRecord(proposal_id=made.id))
    assert (caught.value.kind, caught.value.id) == ("proposal", made.id)
    with pytest.raises(ActionError):
        await raw("INSERT INTO action_records (proposal_id) VALUES (?)", made.id)
    async with db.transaction() as tx:
        with pytest.raises(Conflict):
            await tx.create_record(ActionRecord(proposal_id=made.id))
        # What has ended elsewhere can be imported.
        await tx.create_record(ActionRecord(proposal_id=made.id, success=True))
    assert len(await db.get_records_for_proposal(made.id)) == 1


@pytest.mark.parametrize("status", [S.PROPOSED, S.VALIDATED, S.EXECUTING])
async def test_a_record_before_the_move_stays_possible(db: ActionDB, status: ActionStatus) -> None:
    made = await db.create_proposal(proposal(status=status))
    assert (await db.create_record(ActionRecord(proposal_id=made.id))).id == 1


@pytest.mark.parametrize("backend", ["postgresql", "psycopg", "server engine"], indirect=True)
async def test_a_start_waits_for_who_is_just_ending_it(db: ActionDB, open_ledger: Any) -> None:
    other = await open_ledger()
    made = await db.create_proposal(proposal())
    async with db.transaction() as tx:
        await tx.update_proposal_status(made.id, S.CANCELLED)
        starting = asyncio.create_task(other.create_record(ActionRecord(proposal_id=made.id)))
        done, _ = await asyncio.wait({starting}, timeout=0.3)
        assert not done
    with pytest.raises(Conflict):
        await starting
    assert await db.get_records_for_proposal(made.id) == []


async def test_a_lost_lease_says_why_and_by_whom(db: ActionDB, raw: RawSQL) -> None:
    async def taken() -> int:
        await validated(db)
        (claim,) = await db.claim("worker-1")
        return claim.record.id or 0

    async def cause(record_id: int) -> tuple[str, str | None]:
        for call in (db.heartbeat, db.complete):
            with pytest.raises(LeaseLost) as caught:
                await call(record_id)
        return caught.value.cause, caught.value.by

    ended = await taken()
    await db.complete(ended, actor="oncall")
    assert await cause(ended) == ("ended", "oncall")
    unknown = await taken()
    await db.fail(unknown, "lost sight of it", outcome_unknown=True, actor="oncall")
    assert await cause(unknown) == ("ended", "oncall")
    recovered = await taken()
    await raw(
        "UPDATE action_records SET lease_expires_at = '2001-01-01 00:00:00.000000' WHERE id = ?",
        recovered,
    )
    await db.recover_expired()
    assert await cause(recovered) == ("recovered", "ledger")
    cancelled = await taken()
    record = await db.get_record(cancelled)
    assert record is not None
    await db.update_proposal_status(record.proposal_id, S.CANCELLED, actor="oncall")
    with pytest.raises(LeaseLost) as caught:
        await db.heartbeat(cancelled)
    assert (caught.value.cause, caught.value.by) == ("cancelled", "oncall")
    moved = await taken()
    record = await db.get_record(moved)
    assert record is not None
    await db.update_proposal_status(record.proposal_id, S.FAILED, actor="oncall")
    with pytest.raises(LeaseLost) as caught:
        await db.heartbeat(moved)
    assert (caught.value.cause, caught.value.by) == ("moved", "oncall")
