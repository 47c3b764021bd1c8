"""Running again what failed: when, how often, and by whose decision, the same on every backend."""

from datetime import datetime
from typing import Any

import pytest

from operator_core.actions import (
    ActionProposal,
    ActionStatus,
    InvalidTransition,
    InvalidValue,
    NotFound,
)
from operator_core.db import ActionDB
from tests.clocks import asleep
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

PAST = "'2001-01-01 00:00:00.000000'"
RUN_OUT = f"UPDATE action_records SET lease_expires_at = {PAST} WHERE completed_at IS NULL"
MAKE_DUE = f"UPDATE action_proposals SET next_retry_at = {PAST} WHERE status = 'failed'"


def ready(**fields: Any) -> ActionProposal:
    return proposal(**{"status": S.VALIDATED, **fields})


async def get(db: ActionDB, id: int | None = 1) -> ActionProposal:
    found = await db.get_proposal(id)
    assert found is not None
    return found


async def end(db: ActionDB, raw: RawSQL, way: str, why: str = "boom") -> None:
    """Claims what is due, and lets it go wrong."""
    claims = await db.claim("worker-1", limit=100)
    assert claims
    if way == "fail":
        for claim in claims:
            await db.fail(claim.record.id, why)
    elif way == "fail_many":
        assert await db.fail_many({claim.record.id or 0: why for claim in claims}) == []
    else:
        await raw(RUN_OUT)
        assert len(await db.recover_expired()) == len(claims)


async def failed_at(db: ActionDB) -> dict[int | None, datetime]:
    """When each proposal failed the last time."""
    return {e.proposal_id: e.occurred_at for e in await db.history() if e.to_status is S.FAILED}


WAYS = pytest.mark.parametrize("way", ["fail", "fail_many", "silence"])


@WAYS
async def test_no_retries_are_none(db: ActionDB, raw: RawSQL, way: str) -> None:
    await db.create_proposal(ready(max_retries=0, retry_delay=0))
    await end(db, raw, way)
    found = await get(db)
    assert (found.status, found.next_retry_at, found.retry_count) == (S.FAILED, None, 0)
    assert await db.claim("worker-1") == []
    assert len(await db.get_records_for_proposal(1)) == 1


@WAYS
async def test_so_many_retries_are_so_many_and_the_last_failure_stays(
    db: ActionDB, raw: RawSQL, way: str
) -> None:
    await db.create_proposal(ready(max_retries=2, retry_delay=0))
    for count in range(3):
        (claim,) = await db.claim("worker-1")
        assert (claim.proposal.retry_count, claim.proposal.next_retry_at) == (count, None)
        assert claim.proposal.last_error == (f"boom {count - 1}" if count else None)
        if way == "silence":
            await raw(RUN_OUT)
            await db.recover_expired()
            await raw(f"UPDATE action_proposals SET last_error = 'boom {count}'")
        elif way == "fail_many":
            await db.fail_many({claim.record.id or 0: f"boom {count}"})
        else:
            await db.fail(claim.record.id, f"boom {count}")
        found = await get(db)
        assert (found.status, found.retry_count) == (S.FAILED, count)
        assert (found.next_retry_at is None) == (count == 2)
    assert await db.claim("worker-1") == []
    found = await get(db)
    assert (found.status, found.retry_count, found.last_error) == (S.FAILED, 2, "boom 2")
    assert len(await db.get_records_for_proposal(1)) == 3
    again = [e for e in await db.history(1) if e.to_status is S.VALIDATED][1:]
    assert [(e.from_status, e.actor, e.reason) for e in again] == [
        (S.FAILED, "ledger", "retry 1 of 2"),
        (S.FAILED, "ledger", "retry 2 of 2"),
    ]


async def test_a_success_ends_the_retries(db: ActionDB) -> None:
    await db.create_proposal(ready(max_retries=5, retry_delay=0))
    (claim,) = await db.claim("worker-1")
    await db.fail(claim.record.id, "boom")
    (claim,) = await db.claim("worker-1")
    await db.complete(claim.record.id)
    found = await get(db)
    assert (found.status, found.retry_count, found.next_retry_at) == (S.COMPLETED, 1, None)
    assert await db.claim("worker-1") == []


@WAYS
async def test_a_retry_waits_twice_as_long_each_time_up_to_the_cap_and_never_all_alike(
    db: ActionDB, raw: RawSQL, way: str
) -> None:
    count = 30
    # So long that none of the retries is due by chance before all have been looked at.
    planned = {"max_retries": 9, "retry_delay": 200_000.0, "max_retry_delay": 600_000.0}
    await db.create_proposals(ready(**planned) for _ in range(count))
    for most in (200_000, 400_000, 600_000, 600_000):
        await end(db, raw, way)
        waits: list[float] = []
        failed = await failed_at(db)
        for found in await db.list_proposals(S.FAILED):
            assert found.next_retry_at is not None
            waits.append((found.next_retry_at - failed[found.id]).total_seconds())
        assert len(waits) == count
        # Two readings of one clock, of which SQLite's has milliseconds.
        assert min(waits) >= -1
        assert max(waits) <= most
        # Full jitter: each half has some, but for once in a thousand million runs.
        assert min(waits) < most / 2 < max(waits)
        assert len(set(waits)) > count / 2
        assert await db.claim("worker-2", limit=count) == []
        await raw(MAKE_DUE)


@pytest.mark.parametrize(
    ("planned", "most"),
    [
        ({"retry_delay": 5000.0, "max_retry_delay": 200.0}, 200),
        ({"retry_delay": 604_800.0, "max_retry_delay": 604_800.0}, 604_800),
        ({"retry_delay": 0.001, "max_retry_delay": 500.0}, 500),
        ({"retry_delay": 604_800.0, "max_retry_delay": 0.0}, 0),
        ({"retry_delay": 0.0, "max_retry_delay": 604_800.0}, 0),
    ],
)
async def test_the_cap_holds_however_often_it_was_tried(
    db: ActionDB, raw: RawSQL, planned: dict[str, float], most: float
) -> None:
    counts = [62, 63, 64, 999]
    await db.create_proposals(ready(max_retries=1000, **planned) for _ in range(40))
    for n, count in enumerate(counts):
        await asleep(
            db, f"UPDATE action_proposals SET retry_count = {count} WHERE id - id / 4 * 4 = {n}"
        )
    await end(db, raw, "fail_many")
    failed = await failed_at(db)
    waits: dict[int, list[float]] = {count: [] for count in counts}
    for found in await db.list_proposals(S.FAILED):
        assert found.next_retry_at is not None
        waited = (found.next_retry_at - failed[found.id]).total_seconds()
        assert -1 <= waited <= most + 1
        waits[found.retry_count].append(waited)
    # What has grown beyond all numbers is the cap, and not nothing.
    assert all(max(waited) >= most / 10 - 1 for waited in waits.values())


async def test_by_hand_it_is_run_again_however_often_it_was_before(db: ActionDB) -> None:
    await db.create_proposal(ready())
    for count in range(1, 4):
        (claim,) = await db.claim("worker-1")
        await db.fail(claim.record.id, "boom")
        assert await db.claim("worker-1") == []
        await db.retry(1, actor="oncall", reason=f"try {count}")
        found = await get(db)
        assert (found.status, found.retry_count, found.next_retry_at) == (S.VALIDATED, 0, None)
        assert found.last_error == "boom"
        last = (await db.history(1))[-1]
        assert (last.from_status, last.to_status) == (S.FAILED, S.VALIDATED)
        assert (last.actor, last.reason) == ("oncall", f"try {count}")
    assert len(await db.claim("worker-1")) == 1


async def test_by_hand_it_need_not_wait_and_keeps_its_own_retries(db: ActionDB) -> None:
    await db.create_proposal(ready(max_retries=1, retry_delay=604_800, max_retry_delay=604_800))
    (claim,) = await db.claim("worker-1")
    await db.fail(claim.record.id, "boom")
    assert await db.claim("worker-1") == []
    await db.retry(1)
    (claim,) = await db.claim("worker-1")
    assert (claim.proposal.retry_count, claim.proposal.next_retry_at) == (0, None)
    await db.fail(claim.record.id, "boom")
    assert (await get(db)).next_retry_at is not None


async def test_only_what_failed_is_run_again_by_hand(db: ActionDB) -> None:
    with pytest.raises(NotFound) as missing:
        await db.retry(4711)
    assert (missing.value.kind, missing.value.id) == ("proposal", 4711)
    for status in set(ActionStatus) - {S.FAILED}:
        created = await db.create_proposal(proposal(status=status))
        with pytest.raises(InvalidTransition) as caught:
            await db.retry(created.id)
        error = caught.value
        assert (error.id, error.from_status, error.to_status) == (created.id, status, S.VALIDATED)
        assert await get(db, created.id) == created


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"proposal_id": 0}, "proposal_id"),
        ({"proposal_id": None}, "proposal_id"),
        ({"proposal_id": 1, "actor": ""}, "actor"),
        ({"proposal_id": 1, "actor": "raw SQL"}, "actor"),
        ({"proposal_id": 1, "reason": " "}, "reason"),
        ({"proposal_id": 1, "reason": 5}, "reason"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_any_sql(
    arguments: dict[str, Any], path: str
) -> None:
    # A ledger that is not open runs none; it would say so.
    with pytest.raises(InvalidValue) as caught:
        await ActionDB(":memory:").retry(**arguments)
    assert caught.value.path == path


@WAYS
async def test_the_kill_switch_calls_retries_off(db: ActionDB, raw: RawSQL, way: str) -> None:
    await db.create_proposals([ready(max_retries=5, retry_delay=0), ready()])
    await end(db, raw, way)
    await db.create_proposals([proposal(), ready()])
    # Beside these, the retry of one is called off; the other has failed for good.
    assert await db.cancel_all_pending(actor="oncall", reason="bad deploy") == 2
    assert await db.cancel_all_pending() == 0
    found = await get(db)
    assert (found.status, found.next_retry_at, found.cancelled_at) == (S.FAILED, None, None)
    assert await db.claim("worker-1") == []
    assert [(await get(db, id)).status for id in (2, 3, 4)] == [S.FAILED, S.CANCELLED, S.CANCELLED]
    # Somebody may still decide otherwise.
    await db.retry(1)
    assert len(await db.claim("worker-1")) == 1
