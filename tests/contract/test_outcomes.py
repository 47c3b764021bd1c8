"""Unknown outcomes are found and resolved once, and only so does a failed proposal become completed."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionRecord,
    ActionStatus,
    Claim,
    Conflict,
    EventType,
    InvalidTransition,
    InvalidValue,
    NotFound,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

SEEN = "the console shows the new leader"


async def failed(db: ActionDB, **fields: Any) -> Claim:
    """A claim whose outcome nobody knows."""
    made = await db.create_proposal(proposal(status=S.VALIDATED, **fields))
    claim = await db.claim_proposal(made.id, "worker-1")
    await db.fail(claim.record.id, "the connection was lost", outcome_unknown=True)
    return claim


async def status(db: ActionDB, claim: Claim) -> ActionStatus:
    found = await db.get_proposal(claim.proposal.id)
    assert found is not None
    return found.status


@pytest.mark.every_backend
async def test_what_was_done_completes_the_proposal(db: ActionDB) -> None:
    claim = await failed(db)
    before = await db.get_record(claim.record.id)
    assert [each.id for each in await db.unresolved()] == [claim.record.id]
    found = await db.resolve_outcome(claim.record.id, by="mia", succeeded=True, evidence=SEEN)
    assert (found.record_id, found.proposal_id) == (claim.record.id, claim.proposal.id)
    assert (found.succeeded, found.resolved_by, found.evidence) == (True, "mia", SEEN)
    assert await status(db, claim) is S.COMPLETED
    assert await db.get_record(claim.record.id) == before
    assert not await db.unresolved()
    resolved, moved = (await db.history(claim.proposal.id))[-2:]
    assert resolved.event_type is EventType.OUTCOME_RESOLVED
    assert (resolved.record_id, resolved.success) == (claim.record.id, True)
    assert (moved.from_status, moved.to_status) == (S.FAILED, S.COMPLETED)
    for event in (resolved, moved):
        assert (event.actor, event.reason) == ("mia", SEEN)
    assert resolved.version is None
    after = await db.get_proposal(claim.proposal.id)
    assert after is not None
    assert moved.version == after.version


async def test_what_was_not_done_stays_failed_and_is_safe_to_run_again(db: ActionDB) -> None:
    claim = await failed(db)
    await db.resolve_outcome(claim.record.id, by="mia", succeeded=False, evidence="no such leader")
    assert await status(db, claim) is S.FAILED
    assert not await db.unresolved()
    (event,) = (await db.history(claim.proposal.id))[-1:]
    assert (event.event_type, event.success) == (EventType.OUTCOME_RESOLVED, False)
    await db.retry(claim.proposal.id)
    again = await db.claim_proposal(claim.proposal.id, "worker-2")
    await db.complete(again.record.id)


async def test_a_retry_is_called_off_by_what_was_done(db: ActionDB) -> None:
    claim = await failed(db, max_retries=3, retry_delay=604_800.0, max_retry_delay=604_800.0)
    await db.resolve_outcome(claim.record.id, by="mia", succeeded=True, evidence=SEEN)
    found = await db.get_proposal(claim.proposal.id)
    assert found is not None
    assert (found.status, found.next_retry_at) == (S.COMPLETED, None)


async def test_only_the_last_execution_of_a_failed_proposal_decides(db: ActionDB) -> None:
    claim = await failed(db)
    await db.retry(claim.proposal.id)
    await db.resolve_outcome(claim.record.id, by="mia", succeeded=True, evidence=SEEN)
    assert await status(db, claim) is S.VALIDATED
    again = await db.claim_proposal(claim.proposal.id, "worker-2")
    await db.fail(again.record.id, "boom")
    earlier = await failed(db)
    await db.retry(earlier.proposal.id)
    last = await db.claim_proposal(earlier.proposal.id, "worker-2")
    await db.fail(last.record.id, "lost again", outcome_unknown=True)
    await db.resolve_outcome(earlier.record.id, by="mia", succeeded=True, evidence=SEEN)
    assert await status(db, earlier) is S.FAILED
    await db.resolve_outcome(last.record.id, by="mia", succeeded=True, evidence=SEEN)
    assert await status(db, earlier) is S.COMPLETED


async def test_who_waits_for_it_goes_on(db: ActionDB) -> None:
    claim = await failed(db)
    waiting = await db.create_proposal(
        proposal(status=S.VALIDATED, depends_on=[claim.proposal.id], wait_on_failure=True)
    )
    assert not await db.claim("worker-1")
    await db.resolve_outcome(claim.record.id, by="mia", succeeded=True, evidence=SEEN)
    assert [each.proposal.id for each in await db.claim("worker-1")] == [waiting.id]


async def test_nothing_else_is_resolved(db: ActionDB) -> None:
    made = await db.create_proposals(proposal(status=S.VALIDATED) for _ in range(3))
    still, done, broken = [await db.claim_proposal(each.id, "w") for each in made]
    await db.complete(done.record.id)
    await db.fail(broken.record.id, "boom")
    once = await failed(db)
    await db.resolve_outcome(once.record.id, by="mia", succeeded=False, evidence=SEEN)
    before = await db.newest_event_id()
    for claim, state in (
        (still, "open: its worker may still end it"),
        (done, "known to have succeeded"),
        (broken, "known to have failed"),
        (once, "resolved"),
    ):
        with pytest.raises(Conflict) as caught:
            await db.resolve_outcome(claim.record.id, by="mia", succeeded=True, evidence=SEEN)
        assert (caught.value.kind, caught.value.id) == ("record", claim.record.id)
        assert caught.value.state == state
    with pytest.raises(NotFound):
        await db.resolve_outcome(99, by="mia", succeeded=True, evidence=SEEN)
    given: dict[str, Any] = {"by": "mia", "succeeded": True, "evidence": SEEN}
    for wrong in (
        {"by": ""}, {"by": "ledger"}, {"by": None}, {"evidence": " "}, {"evidence": None},
        {"succeeded": None}, {"succeeded": 1},
    ):  # fmt: skip
        with pytest.raises(InvalidValue) as invalid:
            await db.resolve_outcome(once.record.id, **{**given, **wrong})
        assert invalid.value.path == next(iter(wrong))
    with pytest.raises(InvalidValue):
        await db.resolve_outcome(0, **given)
    assert await db.newest_event_id() == before


async def test_no_other_door_leads_from_failed_to_completed(db: ActionDB, raw: RawSQL) -> None:
    unknown, known = await failed(db), await failed(db)
    await db.resolve_outcome(known.record.id, by="mia", succeeded=False, evidence=SEEN)
    for claim in (unknown, known):
        with pytest.raises(InvalidTransition):
            await db.update_proposal_status(claim.proposal.id, S.COMPLETED)
        with pytest.raises(Exception, match="action_proposals_lifecycle"):
            await raw(
                f"UPDATE action_proposals SET status = 'completed' WHERE id = {claim.proposal.id}"
            )
        assert await status(db, claim) is S.FAILED


async def test_raw_sql_has_the_same_rules(db: ActionDB, raw: RawSQL) -> None:
    claim, other = await failed(db), await failed(db)
    known = await db.create_record(ActionRecord(proposal_id=other.proposal.id, success=True))
    insert = (
        "INSERT INTO outcome_resolutions (record_id, proposal_id, succeeded, resolved_by, evidence)"
        " VALUES ({}, {}, true, {}, {})"
    )
    mine = (claim.record.id, claim.proposal.id)
    for values, complaint in (
        ((known.id, other.proposal.id, "'mia'", "'e'"), "only an unknown outcome is resolved"),
        ((claim.record.id, other.proposal.id, "'mia'", "'e'"), "only an unknown outcome"),
        ((99, claim.proposal.id, "'mia'", "'e'"), "only an unknown outcome"),
        ((*mine, "''", "'e'"), "resolved_by"),
        ((*mine, "'mia'", "' '"), "evidence"),
    ):
        with pytest.raises(Exception, match=complaint):
            await raw(insert.format(*values))
    await raw(insert.format(*mine, "'mia'", "'seen'"))
    assert await status(db, claim) is S.COMPLETED
    assert (await db.history(claim.proposal.id))[-1].actor == "mia"
    for change in (
        insert.format(*mine, "'eve'", "'again'"),
        "UPDATE outcome_resolutions SET succeeded = false",
        "DELETE FROM outcome_resolutions",
    ):
        with pytest.raises(Exception, match=r"resolved once|uq_outcome_resolutions"):
            await raw(change)


@pytest.mark.every_backend
async def test_one_of_many_resolves_it(db: ActionDB) -> None:
    claim = await failed(db)
    found = await asyncio.gather(
        *(
            db.resolve_outcome(claim.record.id, by=f"p{n}", succeeded=n % 2 == 0, evidence=SEEN)
            for n in range(8)
        ),
        return_exceptions=True,
    )
    (won,) = (each for each in found if not isinstance(each, BaseException))
    assert all(isinstance(each, Conflict) for each in found if isinstance(each, BaseException))
    assert await status(db, claim) is (S.COMPLETED if won.succeeded else S.FAILED)
    events = await db.history(claim.proposal.id)
    assert sum(each.event_type is EventType.OUTCOME_RESOLVED for each in events) == 1


@pytest.mark.every_backend
async def test_a_resolution_and_a_retry_at_once_leave_one_answer(db: ActionDB) -> None:
    for _ in range(5):
        claim = await failed(db)
        await asyncio.gather(
            db.resolve_outcome(claim.record.id, by="mia", succeeded=True, evidence=SEEN),
            db.retry(claim.proposal.id),
            return_exceptions=True,
        )
        assert await status(db, claim) in (S.COMPLETED, S.VALIDATED)
        assert not await db.unresolved()


async def test_a_lease_that_expires_waits_for_somebody_to_look(db: ActionDB) -> None:
    made = await db.create_proposals(proposal(status=S.VALIDATED) for _ in range(3))
    claims = [
        await db.claim_proposal(each.id, "w", lease=timedelta(milliseconds=1)) for each in made
    ]
    while len(await db.unresolved()) < 3:
        await db.recover_expired()
    ids = sorted(each.record.id for each in claims)
    assert [each.id for each in await db.unresolved()] == ids
    assert [each.id for each in await db.unresolved(limit=2)] == ids[:2]
    assert [each.id for each in await db.unresolved(after=ids[1])] == ids[2:]
    with pytest.raises(InvalidValue):
        await db.unresolved(after=-1)


@pytest.mark.every_backend
async def test_it_joins_a_transaction(db: ActionDB) -> None:
    claim = await failed(db)
    async with db.transaction() as tx:
        with pytest.raises(Conflict):
            await tx.resolve_outcome(
                (
                    await tx.create_record(
                        ActionRecord(proposal_id=claim.proposal.id, success=True)
                    )
                ).id,
                by="mia",
                succeeded=True,
                evidence=SEEN,
            )
        with pytest.raises(NotFound):
            await tx.resolve_outcome(99, by="mia", succeeded=True, evidence=SEEN)
        await tx.create_proposal(proposal())
    assert await status(db, claim) is S.FAILED
