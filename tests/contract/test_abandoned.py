"""Executions that have no lease: nobody keeps them alive, and somebody who asks for it ends them."""

from datetime import timedelta
from typing import Any

import pytest

from operator_core.actions import ActionRecord, ActionStatus, InvalidValue
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

HOUR = timedelta(hours=1)
NOW = timedelta(0)
WHY = "it had no lease and did not end: whether it was done is not known"


async def executing(db: ActionDB, **fields: Any) -> int:
    made = await db.create_proposal(proposal(status=S.VALIDATED, **fields))
    await db.update_proposal_status(made.id, S.EXECUTING)
    return made.id or 0


async def status(db: ActionDB, id: int) -> ActionStatus:
    found = await db.get_proposal(id)
    assert found is not None
    return found.status


async def test_a_record_that_was_made_by_hand_is_ended_when_somebody_asks(db: ActionDB) -> None:
    id_ = await executing(db)
    record = await db.create_record(ActionRecord(proposal_id=id_))
    assert await db.recover_expired() == []
    assert await db.recover_expired(older_than=HOUR) == []
    assert await status(db, id_) is S.EXECUTING
    (ended,) = await db.recover_expired(older_than=NOW)
    assert (ended.id, ended.outcome_unknown, ended.success) == (record.id, True, None)
    assert ended.error_message == WHY
    assert await status(db, id_) is S.FAILED
    assert [each.actor for each in (await db.history(id_))[-2:]] == ["ledger", "ledger"]
    assert await db.recover_expired(older_than=NOW) == []


async def test_what_has_no_record_at_all_gets_one(db: ActionDB) -> None:
    ids = [await executing(db), await executing(db, max_retries=1)]
    ids.append((await db.create_proposal(proposal(status=S.EXECUTING))).id or 0)
    ended = await db.recover_expired(older_than=NOW, actor="oncall")
    assert [(each.proposal_id, each.outcome_unknown, each.success) for each in ended] == [
        (id_, True, None) for id_ in ids
    ]
    for id_, each in zip(ids, ended, strict=True):
        assert await db.get_records_for_proposal(id_) == [each]
        assert await status(db, id_) is S.FAILED
        started, finished, failed = (await db.history(id_))[-3:]
        assert (started.record_id, finished.record_id) == (each.id, each.id)
        assert (finished.actor, failed.actor, failed.reason) == ("oncall", "oncall", WHY)
    retried = await db.get_proposal(ids[1])
    assert retried is not None
    assert retried.next_retry_at is not None


@pytest.mark.parametrize("success", [True, False])
async def test_an_outcome_that_is_known_is_the_proposals(db: ActionDB, success: bool) -> None:
    id_ = await executing(db)
    record = await db.create_record(ActionRecord(proposal_id=id_))
    await db.update_record(record.id, success, None if success else "no such store")
    # Whoever did it was to move the proposal, and died before.
    assert await status(db, id_) is S.EXECUTING
    (ended,) = await db.recover_expired(older_than=NOW)
    assert ended == await db.get_record(record.id)
    found = await db.get_proposal(id_)
    assert found is not None
    assert found.status is (S.COMPLETED if success else S.FAILED)
    assert found.last_error == (None if success else "no such store")


async def test_an_earlier_executions_outcome_is_not_this_ones(db: ActionDB) -> None:
    id_ = await executing(db)
    await db.create_record(ActionRecord(proposal_id=id_, success=False, error_message="once"))
    await db.update_proposal_status(id_, S.FAILED)
    await db.retry(id_)
    await db.update_proposal_status(id_, S.EXECUTING)
    # Each move is later than the one before it, by a millisecond where the clock has not gone on.
    while not (recovered := await db.recover_expired(older_than=NOW)):
        pass
    (ended,) = recovered
    assert (ended.id, ended.outcome_unknown) == (2, True)


@pytest.mark.parametrize("newest", ["ended before", "ended in this one", "none"])
async def test_a_record_of_an_earlier_execution_that_ends_late_is_not_this_ones(
    db: ActionDB, newest: str
) -> None:
    id_ = await executing(db)
    late = await db.create_record(ActionRecord(proposal_id=id_))
    if newest == "ended before":
        early = await db.create_record(ActionRecord(proposal_id=id_))
        await db.update_record(early.id, False, "boom")
    await db.update_proposal_status(id_, S.FAILED)
    await db.retry(id_)
    await db.update_proposal_status(id_, S.EXECUTING)
    if newest == "ended in this one":
        record = await db.create_record(ActionRecord(proposal_id=id_))
        await db.update_record(record.id, False, "this one")
    await db.update_record(late.id, True)
    while not (recovered := await db.recover_expired(older_than=NOW)):
        pass
    (ended,) = recovered
    found = await db.get_proposal(id_)
    assert found is not None
    if newest == "none":
        # For all that is known, it is the one that ended in this execution.
        assert (found.status, ended.id) == (S.COMPLETED, late.id)
    else:
        assert found.status is S.FAILED
        assert found.last_error == ("this one" if newest == "ended in this one" else WHY)
        assert ended.id != late.id
    assert await db.recover_expired(older_than=NOW) == []


async def test_what_is_alive_or_elsewhere_is_left_alone(db: ActionDB) -> None:
    await db.create_proposals([proposal(status=each) for each in S if each is not S.EXECUTING])
    await db.create_record(ActionRecord(proposal_id=1))
    (claim,) = await db.claim("worker-1")
    before = await db.history()
    assert await db.recover_expired(older_than=NOW) == []
    assert await db.history() == before
    await db.complete(claim.record.id)


async def test_a_hundred_at_a_time(db: ActionDB) -> None:
    await db.create_proposals([proposal(status=S.EXECUTING) for _ in range(130)])
    assert [len(await db.recover_expired(older_than=NOW)) for _ in range(3)] == [100, 30, 0]
    assert (await db.count_proposals())[S.FAILED] == 130


@pytest.mark.parametrize(
    "age", [5, -NOW - timedelta(seconds=1), "1h", timedelta(days=4000), True], ids=repr
)
async def test_what_is_no_age_is_refused(db: ActionDB, age: Any) -> None:
    with pytest.raises(InvalidValue, match="older_than"):
        await db.recover_expired(older_than=age)


@pytest.mark.parametrize("success", [True, False])
async def test_closing_a_claims_record_by_hand_moves_its_proposal(
    db: ActionDB, success: bool
) -> None:
    made = await db.create_proposal(proposal(status=S.VALIDATED, max_retries=1))
    (claim,) = await db.claim("worker-1")
    await db.update_record(claim.record.id, success, None if success else "why", {"a": 1})
    found, record = await db.get_proposal(made.id), await db.get_record(claim.record.id)
    assert found is not None
    assert record is not None
    assert (record.success, record.result_data) == (success, {"a": 1})
    assert found.status is (S.COMPLETED if success else S.FAILED)
    assert (found.next_retry_at is not None) == (not success)


async def test_an_old_claims_record_moves_no_later_execution(db: ActionDB, raw: RawSQL) -> None:
    made = await db.create_proposal(proposal(status=S.VALIDATED))
    (first,) = await db.claim("worker-1")
    await db.update_proposal_status(made.id, S.FAILED)
    await db.retry(made.id)
    (second,) = await db.claim("worker-2")
    await db.update_record(first.record.id, success=True)
    assert await status(db, made.id or 0) is S.EXECUTING
    await db.complete(second.record.id)
