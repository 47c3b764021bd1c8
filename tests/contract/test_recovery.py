"""What becomes of work that nobody ends, the same on every backend."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionProposal,
    ActionRecord,
    ActionStatus,
    EventType,
    LeaseLost,
)
from operator_core.db import ActionDB
from tests.clocks import PATIENCE, asleep
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
FAR = datetime(2200, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
PAST = "'2001-01-01 00:00:00.000000'"
RUN_OUT = f"UPDATE action_records SET lease_expires_at = {PAST} WHERE completed_at IS NULL"
SILENCE = "its lease ran out: whether it was done is not known"


def ready(**fields: Any) -> ActionProposal:
    return proposal(**{"status": S.VALIDATED, **fields})


async def get(db: ActionDB, id: int | None = 1) -> ActionProposal:
    found = await db.get_proposal(id)
    assert found is not None
    return found


async def test_the_outcome_of_a_silent_worker_is_unknown(db: ActionDB, raw: RawSQL) -> None:
    await db.create_proposals([ready(), ready()])
    (claim,) = await db.claim("worker-1")
    (alive,) = await db.claim("worker-2")
    await db.heartbeat(alive.record.id, HOUR)
    await raw(f"{RUN_OUT} AND id = 1")
    (record,) = await db.recover_expired()
    assert (record.id, record.proposal_id, record.worker) == (1, claim.proposal.id, "worker-1")
    assert (record.outcome_unknown, record.success, record.result_data) == (True, None, None)
    assert record.error_message == SILENCE
    assert record.completed_at is not None
    assert record.started_at == claim.record.started_at
    assert await db.get_record(1) == record
    found = await get(db)
    assert (found.status, found.last_error, found.next_retry_at) == (S.FAILED, SILENCE, None)
    # And nobody else's is ended by it.
    assert (await get(db, 2)).status is S.EXECUTING
    assert await db.recover_expired() == []
    assert await db.claim("worker-3", limit=9) == []
    await db.complete(alive.record.id)
    assert await db.get_record(1) == record


async def test_the_history_says_that_the_ledger_ended_it(db: ActionDB, raw: RawSQL) -> None:
    await db.create_proposal(ready())
    await db.claim("worker-1")
    await raw(RUN_OUT)
    await db.recover_expired()
    last = (await db.history(1))[3:]
    assert [(e.event_type, e.from_status, e.to_status, e.success, e.actor, e.reason) for e in last] == [
        (EventType.RECORD_FINISHED, None, None, None, "ledger", SILENCE),
        (EventType.STATUS_CHANGED, S.EXECUTING, S.FAILED, None, "ledger", SILENCE),
    ]  # fmt: skip


async def test_who_holds_no_lease_is_not_waited_for(db: ActionDB) -> None:
    await db.create_proposal(proposal(status=S.EXECUTING))
    by_hand = await db.create_record(ActionRecord(proposal_id=1, started_at=LONG_AGO))
    assert await db.recover_expired() == []
    assert await db.get_record(1) == by_hand


async def test_a_cancelled_one_stays_so_when_its_worker_falls_silent(
    db: ActionDB, raw: RawSQL
) -> None:
    await db.create_proposal(ready(max_retries=3, retry_delay=0))
    await db.claim("worker-1")
    await db.update_proposal_status(1, S.CANCELLED)
    cancelled = await get(db)
    await raw(RUN_OUT)
    (record,) = await db.recover_expired()
    assert record.outcome_unknown
    assert await get(db) == cancelled
    assert await db.claim("worker-2") == []


async def test_of_many_who_recover_at_once_each_ends_what_no_other_does(
    db: ActionDB, raw: RawSQL
) -> None:
    await db.create_proposals(ready() for _ in range(30))
    await db.claim("worker-1", limit=30)
    await raw(RUN_OUT)
    shares = await asyncio.gather(*(db.recover_expired() for _ in range(6)))
    ended = [record.id for share in shares for record in share]
    # What another was just about to end is left to it.
    ended += [record.id for record in await db.recover_expired()]
    assert Counter(ended) == Counter(range(1, 31))
    finished = [e for e in await db.history() if e.event_type is EventType.RECORD_FINISHED]
    assert Counter(e.record_id for e in finished) == Counter(range(1, 31))


@pytest.mark.parametrize("ends", ["fail", "silence"])
async def test_a_worker_that_ends_it_while_it_is_recovered_wins_or_loses(
    db: ActionDB, raw: RawSQL, ends: str
) -> None:
    await db.create_proposals(ready() for _ in range(10))
    claims = await db.claim("worker-1", limit=10)
    await raw(RUN_OUT)

    async def end(record_id: int | None) -> bool:
        try:
            if ends == "fail":
                await db.fail(record_id, "boom")
            else:
                await db.complete(record_id)
        except LeaseLost:
            return False
        return True

    recovering = db.recover_expired()
    recovered, *won = await asyncio.gather(recovering, *(end(c.record.id) for c in claims))
    lost = {record.id for record in recovered}
    assert lost == {c.record.id for c, mine in zip(claims, won, strict=True) if not mine}
    assert (await db.count_proposals())[S.EXECUTING] == 0


async def test_a_claim_recovers_by_itself(db: ActionDB, raw: RawSQL) -> None:
    await db.create_proposals([ready(max_retries=1, retry_delay=0), ready()])
    await db.claim("worker-1", limit=2)
    await raw(RUN_OUT)
    (again,) = await db.claim("worker-2", limit=2)
    assert (again.proposal.id, again.proposal.retry_count) == (1, 1)
    records = await db.get_records_for_proposal(1)
    assert [(r.worker, r.outcome_unknown) for r in records] == [("worker-1", True), ("worker-2", False)]  # fmt: skip
    # The other must not be repeated, and says so.
    assert ((await get(db, 2)).status, (await get(db, 2)).last_error) == (S.FAILED, SILENCE)


async def test_more_than_a_hundred_are_ended_in_several_turns(db: ActionDB, raw: RawSQL) -> None:
    await db.create_proposals(ready() for _ in range(130))
    await db.claim("worker-1", limit=130)
    await raw(RUN_OUT)
    turns = [await db.recover_expired() for _ in range(3)]
    assert [len(each) for each in turns] == [100, 30, 0]
    for ended in turns:
        assert ended == sorted(ended, key=lambda record: record.id or 0)
    assert {record.id for ended in turns for record in ended} == set(range(1, 131))
    assert (await db.count_proposals())[S.FAILED] == 130


async def test_claims_get_through_more_than_a_hundred_too(db: ActionDB, raw: RawSQL) -> None:
    await db.create_proposals(ready(max_retries=1, retry_delay=0) for _ in range(130))
    await db.create_proposals(proposal(expires_at=LONG_AGO) for _ in range(130))
    await db.claim("worker-1", limit=130)
    await raw(RUN_OUT)
    seen: list[int | None] = []
    for _ in range(3):
        seen += [claim.proposal.id for claim in await db.claim("worker-2", limit=1000)]
    assert Counter(seen) == Counter(range(1, 131))
    assert (await db.count_proposals())[S.CANCELLED] == 130


@pytest.mark.parametrize("status", [S.PROPOSED, S.VALIDATED])
async def test_what_was_not_started_in_time_is_cancelled_by_the_next_claim(
    db: ActionDB, status: ActionStatus
) -> None:
    await db.create_proposals(
        [
            proposal(status=status, expires_at=LONG_AGO),
            proposal(status=status, expires_at=FAR, scheduled_at=FAR),
            *(proposal(status=other, expires_at=LONG_AGO) for other in list(S)[2:]),
        ]
    )
    assert (await get(db)).status is status
    assert await db.recover_expired() == []
    assert (await get(db)).status is status
    assert await db.claim("worker-1", action_names="something else") == []
    found = await get(db)
    assert (found.status, found.last_error) == (S.CANCELLED, None)
    assert found.cancelled_at is not None
    last = (await db.history(1))[-1]
    assert (last.from_status, last.to_status, last.actor) == (status, S.CANCELLED, "ledger")
    assert last.reason == "it was not started before it expired"
    assert [(await get(db, id)).status for id in range(2, 7)] == [status, *list(S)[2:]]


async def test_what_was_started_in_time_may_end_late(db: ActionDB) -> None:
    await db.create_proposals([ready(expires_at=FAR), ready(expires_at=FAR, priority=-1)])
    (claim,) = await db.claim("worker-1")
    await asleep(db, f"UPDATE action_proposals SET expires_at = {PAST}")
    assert await db.claim("worker-2") == []
    assert [(await get(db, id)).status for id in (1, 2)] == [S.EXECUTING, S.CANCELLED]
    await db.complete(claim.record.id)
    assert (await get(db)).status is S.COMPLETED


async def test_what_has_expired_is_not_run_again(db: ActionDB) -> None:
    again = proposal(status=S.EXECUTING, max_retries=5, retry_delay=0, expires_at=LONG_AGO)
    await db.create_proposal(again)
    record = await db.create_record(ActionRecord(proposal_id=1))
    await db.fail(record.id, "boom")
    assert await db.claim("worker-1") == []
    assert await db.claim("worker-1") == []
    assert (await get(db)).status is S.CANCELLED
    assert len(await db.get_records_for_proposal(1)) == 1


async def test_what_is_scheduled_starts_then_and_not_before(db: ActionDB) -> None:
    at = datetime.now(UTC) + timedelta(seconds=1)
    await db.create_proposals([ready(scheduled_at=at), ready(scheduled_at=FAR)])
    async with asyncio.timeout(PATIENCE):
        while not (taken := await db.claim("worker-1", limit=2)):
            await asyncio.sleep(0.02)
    (claim,) = taken
    assert (claim.proposal.id, claim.record.started_at is not None) == (1, True)
    assert at <= claim.record.started_at  # type: ignore[operator]
    assert await db.claim("worker-1") == []
    await asleep(db, f"UPDATE action_proposals SET scheduled_at = {PAST} WHERE id = 2")
    (claim,) = await db.claim("worker-1")
    assert claim.proposal.id == 2
