"""`claim_proposal` claims this very proposal or says why not; `cancel_proposal` and `wait_until` beside it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from operator_core.actions import (
    ActionStatus,
    AlreadyClaimed,
    DependencyPending,
    EventType,
    Expired,
    InvalidTransition,
    InvalidValue,
    NotDue,
    NotFound,
)
from operator_core.db import ActionDB
from tests.clocks import PATIENCE
from tests.conftest import proposal

S = ActionStatus

FAR = datetime(2200, 1, 1, tzinfo=UTC)
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


async def test_it_takes_this_one_and_no_other(db: ActionDB) -> None:
    made = await db.create_proposals(proposal(status=S.VALIDATED, priority=n) for n in range(5))
    claim = await db.claim_proposal(
        made[1].id, "w", lease=timedelta(minutes=2), actor="ops", reason="first"
    )
    assert claim.proposal == await db.get_proposal(made[1].id)
    assert (claim.proposal.id, claim.proposal.status) == (made[1].id, S.EXECUTING)
    assert (claim.record.worker, claim.lease) == ("w", timedelta(minutes=2))
    started, moved = (await db.history(made[1].id))[1:]
    assert (started.event_type, started.worker) == (EventType.RECORD_STARTED, "w")
    assert (moved.actor, moved.reason) == ("ops", "first")
    await db.complete(claim.record.id)
    assert {each.status for each in await db.list_proposals()} == {S.VALIDATED, S.COMPLETED}


async def test_it_says_why_not(db: ActionDB) -> None:
    needed = await db.create_proposal(proposal(status=S.EXECUTING))
    made = await db.create_proposals(
        [
            proposal(),
            proposal(status=S.VALIDATED, scheduled_at=FAR),
            proposal(status=S.VALIDATED, depends_on=[needed.id]),
            proposal(status=S.VALIDATED),
            proposal(
                status=S.VALIDATED, max_retries=1, retry_delay=604_800.0, max_retry_delay=604_800.0
            ),
            proposal(status=S.COMPLETED),
        ]
    )
    waits, later, behind, taken, failed, done = (each.id for each in made)
    await db.claim_proposal(taken, "w-1")
    await db.fail((await db.claim_proposal(failed, "w")).record.id, "boom")
    with pytest.raises(InvalidTransition) as caught:
        await db.claim_proposal(waits, "w")
    assert (type(caught.value), caught.value.from_status) == (InvalidTransition, S.PROPOSED)
    with pytest.raises(NotDue) as early:
        await db.claim_proposal(later, "w")
    assert early.value.scheduled_at == FAR
    with pytest.raises(DependencyPending) as pending:
        await db.claim_proposal(behind, "w")
    assert pending.value.pending == (needed.id,)
    with pytest.raises(AlreadyClaimed, match="executed by w-1 already") as busy:
        await db.claim_proposal(taken, "w-2")
    assert busy.value.worker == "w-1"
    with pytest.raises(AlreadyClaimed) as by_hand:
        await db.claim_proposal(needed.id, "w")
    assert by_hand.value.worker is None
    with pytest.raises(NotDue) as paused:
        await db.claim_proposal(failed, "w")
    found = await db.get_proposal(failed)
    assert found is not None
    assert paused.value.scheduled_at == found.next_retry_at
    with pytest.raises(InvalidTransition, match="completed"):
        await db.claim_proposal(done, "w")
    with pytest.raises(NotFound):
        await db.claim_proposal(999, "w")
    before = await db.newest_event_id()
    for wrong in ({"proposal_id": 0}, {"worker": ""}, {"worker": "ledger"}, {"reason": ""}):
        with pytest.raises(InvalidValue):
            await db.claim_proposal(**{"proposal_id": waits, "worker": "w", **wrong})  # pyright: ignore
    assert await db.newest_event_id() == before


async def test_what_has_expired_is_cancelled_by_the_attempt(db: ActionDB) -> None:
    late = await db.create_proposal(proposal(status=S.VALIDATED, expires_at=LONG_AGO))
    with pytest.raises(Expired) as caught:
        await db.claim_proposal(late.id, "w")
    assert caught.value.expires_at == LONG_AGO
    found = await db.get_proposal(late.id)
    assert found is not None
    assert found.status is S.CANCELLED


async def test_a_retry_that_is_due_is_claimed(db: ActionDB) -> None:
    made = await db.create_proposal(proposal(status=S.VALIDATED, max_retries=1, retry_delay=0.0))
    await db.fail((await db.claim_proposal(made.id, "w")).record.id, "boom")
    again = await db.claim_proposal(made.id, "w")
    assert (again.proposal.id, again.proposal.retry_count) == (made.id, 1)


async def test_a_retry_that_is_due_is_claimed_before_many_others(db: ActionDB) -> None:
    made = await db.create_proposals(
        proposal(status=S.VALIDATED, max_retries=1, retry_delay=0.0) for _ in range(301)
    )
    claims = await db.claim("w", limit=301)
    await db.fail_many({claim.record.id: "boom" for claim in claims})
    assert (await db.claim_proposal(made[-1].id, "w")).proposal.id == made[-1].id


async def test_who_started_it_by_hand_is_no_worker(db: ActionDB) -> None:
    made = await db.create_proposal(proposal(status=S.VALIDATED))
    await db.fail((await db.claim_proposal(made.id, "w-1")).record.id, "boom")
    await db.retry(made.id)
    await db.update_proposal_status(made.id, S.EXECUTING, actor="mia")
    with pytest.raises(AlreadyClaimed) as caught:
        await db.claim_proposal(made.id, "w-2")
    assert caught.value.worker is None


async def test_one_of_many_gets_it(db: ActionDB) -> None:
    made = await db.create_proposals(proposal(status=S.VALIDATED) for _ in range(3))
    for each in made:
        found = await asyncio.gather(
            *(db.claim_proposal(each.id, f"w{n}") for n in range(8)), return_exceptions=True
        )
        claims = [one for one in found if not isinstance(one, BaseException)]
        assert len(claims) == 1
        assert all(
            isinstance(one, AlreadyClaimed) for one in found if isinstance(one, BaseException)
        )
        assert len(await db.get_records_for_proposal(each.id)) == 1


async def test_a_cancellation_names_who_decided(db: ActionDB) -> None:
    made = await db.create_proposals([proposal(), proposal(status=S.VALIDATED)])
    await db.claim("w")
    for each in made:
        await db.cancel_proposal(each.id, by="mia", reason="not now")
        event = (await db.history(each.id))[-1]
        assert (event.to_status, event.actor, event.reason) == (S.CANCELLED, "mia", "not now")
        with pytest.raises(InvalidTransition):
            await db.cancel_proposal(each.id, by="mia", reason="again")
    with pytest.raises(NotFound):
        await db.cancel_proposal(99, by="mia", reason="no")
    for by, reason in (("", "r"), ("ledger", "r"), ("mia", ""), ("mia", None), (None, "r")):
        with pytest.raises(InvalidValue):
            await db.cancel_proposal(made[0].id, by=by, reason=reason)  # pyright: ignore


async def test_it_waits_until_a_status_is_reached(db: ActionDB) -> None:
    made = await db.create_proposal(proposal())
    assert (await db.wait_until(made.id, S.PROPOSED)).status is S.PROPOSED
    with pytest.raises(TimeoutError):
        await db.wait_until(made.id, S.VALIDATED, S.EXECUTING, timeout=0)
    waiting = asyncio.create_task(
        db.wait_until(made.id, S.VALIDATED, S.EXECUTING, timeout=PATIENCE)
    )
    await db.update_proposal_status(made.id, S.VALIDATED)
    assert (await waiting).status is S.VALIDATED
    await db.cancel_proposal(made.id, by="mia", reason="no")
    with pytest.raises(InvalidTransition) as caught:
        await db.wait_until(made.id, S.EXECUTING, timeout=PATIENCE)
    assert caught.value.from_status == S.CANCELLED
    assert (await db.wait_until(made.id, S.EXECUTING, S.CANCELLED)).status is S.CANCELLED
    with pytest.raises(NotFound):
        await db.wait_until(99, S.VALIDATED)
    with pytest.raises(InvalidValue):
        await db.wait_until(made.id)
    with pytest.raises(InvalidValue):
        await db.wait_until(made.id, "done")  # pyright: ignore
