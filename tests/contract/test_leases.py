"""Keeping a lease and ending what one has claimed, the same on every backend."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionProposal,
    ActionRecord,
    ActionStatus,
    Claim,
    EventType,
    InvalidValue,
    LeaseLost,
    NotFound,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

HOUR = timedelta(hours=1)
RUN_OUT = "UPDATE action_records SET lease_expires_at = '2001-01-01 00:00:00.000000' WHERE id = ?"
UNKNOWN = 4711


async def begin(db: ActionDB, count: int = 1) -> list[Claim]:
    """So many executions under way, with the records and the proposals that are next by their ids."""
    await db.create_proposals(proposal(status=S.VALIDATED) for _ in range(count))
    return await db.claim("worker-1", limit=count, lease=HOUR)


async def standing(db: ActionDB) -> tuple[Any, ...]:
    """Everything that there is to see."""
    proposals = await db.list_proposals()
    records = [await db.get_records_for_proposal(each.id) for each in proposals]
    return proposals, records, await db.history()


async def get(db: ActionDB, claim: Claim) -> tuple[ActionProposal, ActionRecord]:
    found = await db.get_proposal(claim.proposal.id), await db.get_record(claim.record.id)
    assert found[0] is not None
    assert found[1] is not None
    return found  # type: ignore[return-value]


async def test_a_heartbeat_moves_the_end_of_the_lease_and_nothing_else(db: ActionDB) -> None:
    (claim,) = await begin(db)
    assert claim.record.lease_expires_at is not None
    until = await db.heartbeat(claim.record.id, 2 * HOUR)
    added = until - claim.record.lease_expires_at
    assert HOUR <= added < HOUR + timedelta(minutes=1)
    changed = claim.record.model_copy(update={"lease_expires_at": until})
    assert await get(db, claim) == (claim.proposal, changed)
    # From now on, not from where it was: a worker may also ask for less.
    sooner = await db.heartbeat(claim.record.id, timedelta(minutes=1))
    assert sooner < claim.record.lease_expires_at
    usual = await db.heartbeat(claim.record.id)
    assert abs(usual - sooner - timedelta(minutes=4)) < timedelta(minutes=1)
    assert (usual.tzinfo, len(await db.history())) == (UTC, 3)


async def test_a_claim_is_kept_by_its_own_lease(db: ActionDB) -> None:
    await db.create_proposal(proposal(status=S.VALIDATED))
    day = timedelta(days=1)
    (claim,) = await db.claim("worker-1", lease=day)
    assert claim.lease == day
    sooner = await db.heartbeat(claim, HOUR)
    until = await db.heartbeat(claim)
    assert abs(until - sooner - (day - HOUR)) < timedelta(minutes=1)
    # Of an id alone the ledger does not know how long a lease it was claimed with: it is not shortened.
    assert await db.heartbeat(claim.record.id) == until
    assert claim.lease == day
    read_again = Claim(claim.proposal, (await get(db, claim))[1])
    assert await db.heartbeat(read_again) >= until
    with pytest.raises(InvalidValue, match="lease"):
        await db.heartbeat(claim, timedelta(0))
    with pytest.raises(InvalidValue, match="record_id"):
        await db.heartbeat(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("lease", [timedelta(milliseconds=1), HOUR, timedelta(days=7)])
async def test_a_claim_knows_its_lease(db: ActionDB, lease: timedelta) -> None:
    await db.create_proposal(proposal(status=S.VALIDATED))
    (claim,) = await db.claim("worker-1", lease=lease)
    assert claim.lease == lease
    assert ActionRecord(proposal_id=1).lease_expires_at is None
    by_hand = await db.create_record(ActionRecord(proposal_id=claim.proposal.id))
    assert Claim(claim.proposal, by_hand).lease is None


async def test_an_execution_by_hand_that_has_ended_has_no_lease_to_extend(db: ActionDB) -> None:
    made = await db.create_proposal(proposal(status=S.VALIDATED))
    await db.update_proposal_status(made.id, S.EXECUTING)
    record = await db.create_record(ActionRecord(proposal_id=made.id))
    await db.update_record(record.id, True)
    # The proposal is moved by hand, too, and still executing.
    with pytest.raises(LeaseLost) as caught:
        await db.heartbeat(record.id)
    assert caught.value.cause == "ended"


async def test_many_that_fail_keep_their_results(db: ActionDB) -> None:
    first, second = await begin(db, 2)
    errors = {first.record.id: "no leader", second.record.id: "no quorum"}
    for stranger in ({4711: {"a": 1}}, {first.record.id: {}, 4711: None}):
        with pytest.raises(InvalidValue, match="results: must have only ids that are in errors"):
            await db.fail_many(errors, stranger)
    assert await db.fail_many(errors, {second.record.id: {"moved": 2}}) == []
    assert [(await get(db, each))[1].result_data for each in (first, second)] == [
        None,
        {"moved": 2},
    ]


async def test_the_history_says_why(db: ActionDB) -> None:
    """Each verb that moves a proposal takes a reason; a failure's is its error unless another is given."""
    await db.create_proposals(proposal(status=S.VALIDATED) for _ in range(6))
    claims = await db.claim("worker-1", limit=6, reason="the queue is long")
    ids = [each.record.id for each in claims]
    await db.complete(ids[0], reason="in time")
    await db.complete_many([ids[1]], reason="in time, too")
    await db.fail(ids[2], "no leader")
    await db.fail(ids[3], "no leader", reason="nobody was elected")
    await db.fail_many({ids[4]: "no quorum"}, reason="two are down")
    await db.update_record(ids[5], True, reason="seen by hand")
    moves = [event for event in await db.history() if event.to_status and event.from_status]
    assert [event.reason for event in moves] == [
        *["the queue is long"] * 6,
        "in time",
        "in time, too",
        "no leader",
        "nobody was elected",
        "two are down",
        "seen by hand",
    ]
    assert (await get(db, claims[3]))[0].last_error == "no leader"
    await db.create_proposal(proposal(status=S.VALIDATED))
    async with db.claimed("worker-2", reason="alone") as execution:
        assert execution is not None
    (event,) = [each for each in await db.history(7) if each.to_status is S.EXECUTING]
    assert event.reason == "alone"


@pytest.mark.parametrize("result", [None, {}, {"rows": 3, "nested": {"a": [1.0, None]}}])
async def test_completing_ends_record_and_proposal(db: ActionDB, result: Any) -> None:
    (claim,) = await begin(db)
    await db.complete(claim.record.id, result)
    ended, record = await get(db, claim)
    assert (ended.status, ended.last_error, ended.next_retry_at) == (S.COMPLETED, None, None)
    assert (record.success, record.result_data) == (True, result)
    assert (record.error_message, record.outcome_unknown) == (None, False)
    assert record.started_at is not None
    assert record.completed_at is not None
    assert record.started_at <= record.completed_at
    last = (await db.history())[-2:]
    assert {(e.event_type, e.to_status, e.success, e.actor) for e in last} == {
        (EventType.RECORD_FINISHED, None, True, "worker-1"),
        (EventType.STATUS_CHANGED, S.COMPLETED, None, "worker-1"),
    }


async def test_failing_says_why_in_both(db: ActionDB) -> None:
    (claim,) = await begin(db)
    await db.fail(claim.record.id, "no such store: 'é'", {"tried": ["a"]})
    ended, record = await get(db, claim)
    assert (ended.status, ended.last_error) == (S.FAILED, "no such store: 'é'")
    assert (record.success, record.result_data) == (False, {"tried": ["a"]})
    assert (record.error_message, record.outcome_unknown) == ("no such store: 'é'", False)
    last = (await db.history())[-2:]
    assert {(e.event_type, e.to_status, e.success, e.actor, e.reason) for e in last} == {
        (EventType.RECORD_FINISHED, None, False, "worker-1", "no such store: 'é'"),
        (EventType.STATUS_CHANGED, S.FAILED, None, "worker-1", "no such store: 'é'"),
    }


async def test_a_lease_that_merely_ran_out_is_no_obstacle(db: ActionDB, raw: RawSQL) -> None:
    kept, done, failed = await begin(db, 3)
    for claim in (kept, done, failed):
        await raw(RUN_OUT, claim.record.id)
    assert await db.heartbeat(kept.record.id, HOUR) > datetime.now(UTC)
    await db.complete(done.record.id)
    await db.fail(failed.record.id, "boom")
    assert await db.recover_expired() == []
    found = [(await get(db, claim))[0].status for claim in (kept, done, failed)]
    assert found == [S.EXECUTING, S.COMPLETED, S.FAILED]


@pytest.mark.parametrize("way", ["recovered", "completed", "failed", "by its record"])
async def test_what_has_ended_is_lost_to_its_worker(db: ActionDB, raw: RawSQL, way: str) -> None:
    (claim,) = await begin(db)
    id = claim.record.id
    if way == "recovered":
        await raw(RUN_OUT, id)
        assert len(await db.recover_expired()) == 1
    elif way == "completed":
        await db.complete(id, {"by": "the first"})
    elif way == "failed":
        await db.fail(id, "boom")
    else:
        await db.update_record(id, True)
    before = await standing(db)
    for call in (db.complete(id, {"a": 1}), db.fail(id, "too late"), db.heartbeat(id)):
        with pytest.raises(LeaseLost) as caught:
            await call
        assert caught.value.record_id == id
    assert await db.complete_many([id]) == await db.fail_many({id or 0: "too late"}) == [id]
    assert await standing(db) == before


async def test_an_unknown_record_is_not_found(db: ActionDB) -> None:
    await begin(db)
    before = await standing(db)
    for call in (db.complete(UNKNOWN), db.fail(UNKNOWN, "boom"), db.heartbeat(UNKNOWN)):
        with pytest.raises(NotFound) as caught:
            await call
        assert (caught.value.kind, caught.value.id) == ("record", UNKNOWN)
    assert await standing(db) == before


async def test_of_all_who_end_an_execution_at_once_one_does(db: ActionDB) -> None:
    (claim,) = await begin(db)
    calls = [db.complete(claim.record.id, {"n": n}) for n in range(5)]
    calls += [db.fail(claim.record.id, f"boom {n}") for n in range(5)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(type(each).__name__ for each in outcomes) == ["LeaseLost"] * 9 + ["NoneType"]
    first = outcomes.index(None)
    ended, record = await get(db, claim)
    assert record.result_data == ({"n": first} if first < 5 else None)
    assert record.error_message == (None if first < 5 else f"boom {first - 5}")
    assert ended.status is (S.COMPLETED if first < 5 else S.FAILED)
    assert len(await db.history()) == 5


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("to", [S.CANCELLED, S.FAILED, S.COMPLETED])
async def test_a_proposal_that_was_moved_meanwhile_stays_and_its_record_has_the_outcome(
    db: ActionDB, to: ActionStatus, fails: bool
) -> None:
    (claim,) = await begin(db)
    await db.update_proposal_status(claim.proposal.id, to, actor="oncall")
    moved = await db.get_proposal(claim.proposal.id)
    with pytest.raises(LeaseLost):
        await db.heartbeat(claim.record.id, HOUR)
    assert (await get(db, claim))[1] == claim.record
    if fails:
        await db.fail(claim.record.id, "boom", {"rows": 3})
    else:
        await db.complete(claim.record.id, {"rows": 3})
    now, record = await get(db, claim)
    assert now == moved
    assert (record.success, record.result_data) == (not fails, {"rows": 3})
    assert record.error_message == ("boom" if fails else None)
    assert [e.event_type for e in await db.history()][-1] is EventType.RECORD_FINISHED


@pytest.mark.parametrize("ends", ["complete", "fail", "complete_many", "fail_many", "recovered"])
async def test_a_second_execution_fences_the_first_workers_record(
    db: ActionDB, raw: RawSQL, ends: str
) -> None:
    (first,) = await begin(db)
    id, record_id = first.proposal.id, first.record.id or 0
    await db.update_proposal_status(id, S.FAILED, actor="oncall")
    await db.update_proposal_status(id, S.VALIDATED, actor="oncall")
    (second,) = await db.claim("worker-2", lease=HOUR)
    assert (second.proposal.id, second.record.id) == (id, record_id + 1)
    with pytest.raises(LeaseLost):
        await db.heartbeat(record_id)
    if ends == "complete":
        await db.complete(record_id)
    elif ends == "fail":
        await db.fail(record_id, "boom")
    elif ends == "complete_many":
        assert await db.complete_many([record_id]) == []
    elif ends == "fail_many":
        assert await db.fail_many({record_id: "boom"}) == []
    else:
        await raw(RUN_OUT, record_id)
        assert [each.id for each in await db.recover_expired()] == [record_id]
    # The first has its outcome, and what the second does is the second's alone.
    closed = await db.get_record(record_id)
    assert closed is not None
    assert closed.completed_at is not None
    assert await get(db, second) == second
    await db.heartbeat(second.record.id, HOUR)
    await db.complete(second.record.id)
    assert (await get(db, second))[0].status is S.COMPLETED


async def test_many_are_ended_in_one_round_and_the_lost_are_named(
    db: ActionDB, raw: RawSQL
) -> None:
    claims = await begin(db, 6)
    one, two, lost, cancelled, untouched, ended = (claim.record.id or 0 for claim in claims)
    await raw(RUN_OUT, lost)
    await db.recover_expired()
    await db.update_proposal_status(claims[3].proposal.id, S.CANCELLED)
    await db.complete(ended)
    given = {ended: None, two: {"n": 2}, UNKNOWN: {"n": 0}, lost: {}, one: None, cancelled: {}}
    assert await db.complete_many(given) == [ended, UNKNOWN, lost]
    found = [await get(db, claim) for claim in claims]
    assert [p.status for p, _ in found] == [
        S.COMPLETED, S.COMPLETED, S.FAILED, S.CANCELLED, S.EXECUTING, S.COMPLETED,
    ]  # fmt: skip
    assert [(r.success, r.result_data) for _, r in found] == [
        (True, None), (True, {"n": 2}), (None, None), (True, {}), (None, None), (True, None),
    ]  # fmt: skip
    assert await db.fail_many({untouched: "boom", one: "again", UNKNOWN: "who?"}) == [one, UNKNOWN]
    failed, record = await get(db, claims[4])
    assert (failed.status, failed.last_error, record.success) == (S.FAILED, "boom", False)


async def test_many_may_be_none_one_twice_or_from_anywhere(db: ActionDB) -> None:
    claims = await begin(db, 40)
    ids = [claim.record.id or 0 for claim in claims]
    assert await db.complete_many([]) == await db.complete_many({}) == await db.fail_many({}) == []
    # Said twice it is still ended once, and not lost.
    assert await db.complete_many([ids[0], ids[1], ids[0]]) == []
    assert await db.complete_many([ids[0], ids[0], UNKNOWN]) == [ids[0], UNKNOWN]
    assert await db.complete_many(id for id in reversed(ids[:20])) == [ids[1], ids[0]]
    assert await db.fail_many({id: f"boom {id}" for id in ids[20:]}) == []
    found = [await get(db, claim) for claim in claims]
    assert [p.status for p, _ in found] == [S.COMPLETED] * 20 + [S.FAILED] * 20
    assert [(p.last_error, r.error_message) for p, r in found[20:]] == [
        (f"boom {id}", f"boom {id}") for id in ids[20:]
    ]
    assert len(await db.history()) == 40 * 5


async def test_inside_a_transaction_too(db: ActionDB) -> None:
    one, two, three = await begin(db, 3)
    before = await standing(db)
    with pytest.raises(RuntimeError):
        async with db.transaction() as tx:
            await tx.complete(one.record.id)
            await tx.fail(two.record.id, "boom")
            assert await tx.complete_many([three.record.id, one.record.id]) == [one.record.id]
            raise RuntimeError
    assert await standing(db) == before
    async with db.transaction() as tx:
        await tx.complete(one.record.id)
        with pytest.raises(LeaseLost):
            await tx.fail(one.record.id, "boom")
        await tx.heartbeat(two.record.id)
    assert (await get(db, one))[0].status is S.COMPLETED


@pytest.mark.parametrize(
    ("verb", "arguments", "path"),
    [
        ("heartbeat", (0,), "record_id"),
        ("heartbeat", (None,), "record_id"),
        ("heartbeat", (1, 5), "lease"),
        ("heartbeat", (1, timedelta(0)), "lease"),
        ("heartbeat", (1, timedelta(days=8)), "lease"),
        ("complete", ("1",), "record_id"),
        ("complete", (2**63,), "record_id"),
        ("complete", (1, [1]), "result_data"),
        ("complete", (1, {"a": [{"b": float("nan")}]}), "result_data.a[0].b"),
        ("complete", (1, {"a": "x" * 2**20}), "result_data"),
        ("fail", (True, "boom"), "record_id"),
        ("fail", (1, None), "error_message"),
        ("fail", (1, 5), "error_message"),
        ("fail", (1, "a\0b"), "error_message"),
        ("fail", (1, "boom", {1: 1}), "result_data"),
        ("complete_many", (5,), "results"),
        ("complete_many", ("12",), "results"),
        ("fail_many", ([1],), "errors"),
        ("create_proposals", (5,), "proposals"),
        ("complete_many", ([1, 0],), "record_id"),
        ("complete_many", ([1, None],), "record_id"),
        ("complete_many", ({1: None, 2: 5},), "result_data"),
        ("fail_many", ({1: "boom", "2": "boom"},), "record_id"),
        ("fail_many", ({1: "boom", 2: None},), "error_message"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_any_sql(
    verb: str, arguments: tuple[Any, ...], path: str
) -> None:
    # A ledger that is not open runs none; it would say so.
    with pytest.raises(InvalidValue) as caught:
        await getattr(ActionDB(":memory:"), verb)(*arguments)
    assert caught.value.path == path


async def test_a_lease_ends_by_the_databases_clock(db: ActionDB) -> None:
    await db.create_proposal(proposal(status=S.VALIDATED))
    (claim,) = await db.claim("worker-1", lease=timedelta(milliseconds=1))
    async with asyncio.timeout(10):
        while not (ended := await db.recover_expired()):
            pass
    (record,) = ended
    assert record.completed_at is not None
    assert record.lease_expires_at == claim.record.lease_expires_at
    assert record.lease_expires_at is not None
    assert record.completed_at >= record.lease_expires_at
    with pytest.raises(LeaseLost):
        await db.complete(claim.record.id)
