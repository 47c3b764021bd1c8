"""The stop: what a halt refuses, what it leaves, and what it tells."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionError,
    ActionStatus,
    Claim,
    EventType,
    Halted,
    HaltMode,
    HaltRequested,
    InvalidTransition,
    InvalidValue,
    LeaseLost,
    NotFound,
    TransitionHalted,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus
WHO = {"by": "oncall", "reason": "bad deploy"}

Open = Callable[..., Awaitable[ActionDB]]


async def claimed(db: ActionDB, **fields: Any) -> Claim:
    made = await db.create_proposal(proposal(status=S.VALIDATED, priority=99, **fields))
    (claim,) = await db.claim("worker-1")
    assert claim.proposal.id == made.id
    return claim


@pytest.mark.every_backend
async def test_nothing_is_proposed_validated_or_started(db: ActionDB) -> None:
    proposed = await db.create_proposal(proposal())
    validated = await db.create_proposal(proposal(status=S.VALIDATED))
    claim = await claimed(db)
    await db.fail(claim.record.id, "boom")
    report = await db.halt(**WHO, cancel=False)
    assert report.complete
    assert await db.mode() is HaltMode.HALTED
    for status in (S.PROPOSED, S.VALIDATED, S.EXECUTING, S.FAILED):
        with pytest.raises(Halted) as refused:
            await db.create_proposal(proposal(status=status))
        assert refused.value.halt_ids == (report.halt.id,)
        assert (refused.value.mode, refused.value.scope) == ("halted", {})
    with pytest.raises(Halted):
        await db.create_proposals([proposal(status=S.COMPLETED), proposal()])
    moves = (
        (proposed.id, S.VALIDATED),
        (validated.id, S.EXECUTING),
        (claim.proposal.id, S.VALIDATED),
    )
    for id_, status in moves:
        with pytest.raises(TransitionHalted) as moved:
            await db.update_proposal_status(id_, status)
        assert isinstance(moved.value, InvalidTransition)
        assert (moved.value.id, moved.value.to_status) == (id_, status)
        assert moved.value.halt_ids == (report.halt.id,)
    with pytest.raises(TransitionHalted):
        await db.retry(claim.proposal.id)
    with pytest.raises(TransitionHalted):
        await db.claim_proposal(validated.id, "worker-1")
    assert await db.claim("worker-1", limit=10) == []
    # What was done elsewhere can be written down.
    await db.create_proposal(proposal(status=S.COMPLETED))
    assert [each.id for each in await db.resume(**WHO)] == [report.halt.id]
    assert await db.mode() is HaltMode.EXECUTE
    await db.update_proposal_status(proposed.id, S.VALIDATED)
    assert len(await db.claim("worker-1", limit=10)) == 2


async def test_raw_sql_begins_nothing_either(db: ActionDB, raw: RawSQL) -> None:
    waiting = await db.create_proposals([proposal(), proposal(status=S.VALIDATED)])
    halt = (await db.halt(**WHO, cancel=False)).halt
    for each, status in zip(waiting, ("validated", "executing"), strict=True):
        with pytest.raises(Exception, match="action_proposals_halted"):
            await raw("UPDATE action_proposals SET status = ? WHERE id = ?", status, each.id)
    with pytest.raises(Exception, match="action_proposals_halted"):
        await raw(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at)"
            " VALUES ('a', '{}', 'r', CURRENT_TIMESTAMP)"
        )
    assert [each.status for each in await db.list_proposals()] == [S.VALIDATED, S.PROPOSED]
    assert [each.id for each in await db.halts()] == [halt.id]


async def test_stopping_stays_possible(db: ActionDB) -> None:
    proposed = await db.create_proposal(proposal())
    one, two = await claimed(db), await claimed(db)
    three = await claimed(db, max_retries=3)
    await db.halt(**WHO, cancel=False)
    await db.update_proposal_status(proposed.id, S.CANCELLED)
    await db.complete(one.record.id)
    await db.fail(two.record.id, "no")
    await db.recover_expired(older_than=timedelta(0))
    with pytest.raises(HaltRequested):
        await db.heartbeat(three)
    await db.fail(three.record.id, "no")
    assert await db.cancel_all_pending() == 0
    await db.resume(**WHO)


async def test_observing_allows_proposals_only(db: ActionDB) -> None:
    validated = await db.create_proposal(proposal(status=S.VALIDATED))
    claim = await claimed(db)
    report = await db.halt(**WHO, mode=HaltMode.OBSERVE)
    assert (report.cancelled, report.halt.cancels) == (0, False)
    assert await db.mode() is HaltMode.OBSERVE
    proposed = await db.create_proposal(proposal())
    for status in (S.VALIDATED, S.EXECUTING):
        with pytest.raises(Halted) as refused:
            await db.create_proposal(proposal(status=status))
        assert refused.value.mode == "observe"
    for id_, status in ((proposed.id, S.VALIDATED), (validated.id, S.EXECUTING)):
        with pytest.raises(TransitionHalted):
            await db.update_proposal_status(id_, status)
    assert await db.claim("worker-1") == []
    # What is running goes on.
    await db.heartbeat(claim)
    await db.complete(claim.record.id)


async def test_a_halt_cancels_what_is_pending_and_says_what_runs(db: ActionDB) -> None:
    claim = await claimed(db)
    failed = await claimed(db, max_retries=3, retry_delay=600_000.0, max_retry_delay=600_000.0)
    await db.fail(failed.record.id, "boom")
    first, second = await db.create_proposals([proposal(), proposal(status=S.VALIDATED)])
    behind = await db.create_proposal(proposal(depends_on=[second.id]))
    report = await db.halt(**WHO)
    assert report.cancelled == 3
    for each in (first, second, behind):
        event = (await db.history(each.id))[-1]
        assert (event.to_status, event.actor) == (S.CANCELLED, "oncall")
        assert event.reason == f"halt {report.halt.id}: bad deploy"
    found = await db.get_proposal(failed.proposal.id)
    assert found is not None
    assert (found.status, found.next_retry_at) == (S.FAILED, None)
    (running,) = report.running
    assert (running.proposal_id, running.record_id) == (claim.proposal.id, claim.record.id)
    assert (running.worker, running.since) == ("worker-1", claim.record.started_at)
    assert not running.acknowledged
    assert report.unfinished == [running]
    with pytest.raises(HaltRequested):
        await db.heartbeat(claim)
    (seen,) = (await db.halt_report(report.halt.id)).unfinished
    assert seen.acknowledged
    await db.complete(claim.record.id)
    after = await db.halt_report(report.halt.id)
    (ended,) = after.running
    assert ended.ended_at is not None
    assert after.unfinished == []
    await db.resume(**WHO)
    await claimed(db)
    assert (await db.halt_report(report.halt.id)).running == [ended]
    with pytest.raises(NotFound):
        await db.halt_report(99)


async def test_a_halt_of_many_cancels_all_of_them(db: ActionDB) -> None:
    await db.create_proposals([proposal() for _ in range(2100)])
    other = await db.create_proposal(proposal("drain"))
    report = await db.halt(**WHO, action_name="transfer_*")
    assert report.cancelled == 2100
    assert (await db.count_proposals())[S.CANCELLED] == 2100
    found = await db.get_proposal(other.id)
    assert found is not None
    assert found.status is S.PROPOSED


@pytest.mark.parametrize(
    ("pattern", "covered", "free"),
    [
        ("drain", ["drain"], ["drain2", "Drain", "drai"]),
        ("drain_*", ["drain_a", "drain_"], ["drain", "xdrain_a", "drainXa"]),
        ("dr?in", ["drain", "dräin", "dr%in"], ["drin", "draain"]),
        ("a[b]*", ["a[b]", "a[b]c"], ["ab", "abc"]),
        ("100%", ["100%"], ["100x", "1000"]),
        ("a\\b", ["a\\b"], ["ab"]),
        ("*", ["anything", "ü"], []),
    ],
)
async def test_patterns_of_actions(
    db: ActionDB, pattern: str, covered: list[str], free: list[str]
) -> None:
    await db.halt(**WHO, action_name=pattern)
    for name in covered:
        assert await db.mode(action_name=name) is HaltMode.HALTED, name
        with pytest.raises(Halted) as refused:
            await db.create_proposal(proposal(name))
        assert refused.value.scope == {"action_name": pattern}
    for name in free:
        assert await db.mode(action_name=name) is HaltMode.EXECUTE, name
        await db.create_proposal(proposal(name))
    assert await db.mode() is HaltMode.EXECUTE


async def test_a_halt_of_an_agent_covers_its_sub_agents(db: ActionDB) -> None:
    async def validated(**fields: Any) -> int:
        return (await db.create_proposal(proposal(status=S.VALIDATED, **fields))).id

    own = await validated(agent_id="planner")
    by_run = await validated(agent_id="helper", run_id="run-1")
    await validated(agent_id="planner", run_id="run-1")
    child = await validated(agent_id="helper", parent_id=own)
    grandchild = await validated(agent_id="third", parent_id=child)
    other = await validated(agent_id="helper", run_id="run-2")
    nobody = await validated()
    await db.halt(**WHO, agent_id="planner", cancel=False)
    free = {claim.proposal.id for claim in await db.claim("worker-1", limit=100)}
    assert free == {other, nobody}
    for id_ in (own, by_run, child, grandchild):
        with pytest.raises(TransitionHalted):
            await db.update_proposal_status(id_, S.EXECUTING)
    for fields in ({"parent_id": grandchild}, {"run_id": "run-1", "agent_id": "new"}):
        with pytest.raises(Halted) as refused:
            await db.create_proposal(proposal(**fields))
        assert refused.value.scope == {"agent_id": "planner"}
    await db.create_proposal(proposal(run_id="run-2"))
    # Comparisons are exact.
    assert await db.mode(agent_id="Planner") is HaltMode.EXECUTE
    assert await db.mode(run_id="run-1") is HaltMode.HALTED


async def test_all_limits_of_a_halt_count_together(db: ActionDB) -> None:
    await db.halt(**WHO, action_name="drain", run_id="run-1", agent_id="a")
    await db.create_proposal(proposal("drain", run_id="run-2", agent_id="a"))
    await db.create_proposal(proposal("drain", run_id="run-1", agent_id="b"))
    await db.create_proposal(proposal("other", run_id="run-1", agent_id="a"))
    with pytest.raises(Halted):
        # Since the last one, the run has a proposal of this agent.
        await db.create_proposal(proposal("drain", run_id="run-1", agent_id="b"))


async def test_the_same_halt_twice_is_one_and_others_are_left_by_resuming(db: ActionDB) -> None:
    first = await db.halt(**WHO)
    again = await db.halt(by="somebody", reason="too")
    assert again.halt == first.halt
    observing = await db.halt(**WHO, mode=HaltMode.OBSERVE, run_id="run-1")
    scoped = await db.halt(**WHO, run_id="run-1")
    assert [each.id for each in await db.halts()] == [
        first.halt.id,
        observing.halt.id,
        scoped.halt.id,
    ]
    (resumed,) = await db.resume(by="lead", reason="fixed")
    assert (resumed.id, resumed.resumed_by, resumed.resume_reason) == (
        first.halt.id,
        "lead",
        "fixed",
    )
    assert resumed.resumed_at is not None
    assert await db.resume(**WHO) == []
    assert await db.mode() is HaltMode.EXECUTE
    assert await db.mode(run_id="run-1") is HaltMode.HALTED
    assert len(await db.resume(scoped.halt.id, **WHO)) == 1
    assert await db.resume(scoped.halt.id, **WHO) == []
    assert await db.mode(run_id="run-1") is HaltMode.OBSERVE
    assert len(await db.resume(**WHO, run_id="run-1")) == 1
    assert await db.halts() == []
    assert len(await db.halts(active=False)) == 3
    with pytest.raises(NotFound):
        await db.resume(99, **WHO)


async def test_each_call_decides_whether_it_cancels(db: ActionDB) -> None:
    made = await db.create_proposal(proposal())
    assert (await db.halt(**WHO, cancel=False)).cancelled == 0
    assert (await db.halt(**WHO)).cancelled == 1
    found = await db.get_proposal(made.id)
    assert found is not None
    assert found.status is S.CANCELLED
    await db.resume(**WHO)
    left = await db.create_proposal(proposal())
    other = await db.halt(**WHO, action_name="other")
    assert other.cancelled == 0
    assert (await db.halt(**WHO, cancel=False)).cancelled == 0
    found = await db.get_proposal(left.id)
    assert found is not None
    assert found.status is S.PROPOSED


async def test_a_freeze_that_begins_later_is_not_complete(db: ActionDB) -> None:
    now = datetime.now(UTC)
    report = await db.halt(**WHO, valid_from=now + timedelta(hours=1))
    assert not report.complete
    assert report.unknown is not None
    assert report.unknown.startswith("it begins at ")
    assert (await db.halt_report(report.halt.id)).unknown == report.unknown
    assert await db.mode() is HaltMode.EXECUTE
    begun = await db.halt(**WHO, valid_from=now - timedelta(hours=1))
    assert begun.complete
    assert await db.mode() is HaltMode.HALTED
    for until in (now - timedelta(minutes=1), now):
        with pytest.raises(InvalidValue) as past:
            await db.halt(**WHO, valid_until=until)
        assert past.value.path == "valid_until"


async def test_the_history_tells_of_halts(db: ActionDB) -> None:
    before = await db.newest_event_id()
    report = await db.halt(**WHO, action_name='a"\\\n\x1f*', agent_id="ä")
    await db.resume(by="lead", reason="fixed", action_name='a"\\\n\x1f*', agent_id="ä")
    halted, resumed = [each async for each in db.events(after=before)]
    details = {
        "halt": report.halt.id,
        "mode": "halted",
        "action_name": 'a"\\\n\x1f*',
        "agent_id": "ä",
    }
    assert (halted.event_type, halted.actor, halted.reason) == (
        EventType.HALTED,
        "oncall",
        "bad deploy",
    )
    assert (resumed.event_type, resumed.actor, resumed.reason) == (
        EventType.RESUMED,
        "lead",
        "fixed",
    )
    for event in (halted, resumed):
        assert event.details == details
        assert event.proposal_id is event.record_id is event.to_status is event.version is None
    assert await db.history(after=before) == [halted, resumed]


async def test_a_claim_passes_over_what_is_halted_and_retries_stay_due(db: ActionDB) -> None:
    failed = await claimed(db, max_retries=3, retry_delay=0.0)
    await db.fail(failed.record.id, "boom")
    halted = await db.create_proposal(proposal("drain", status=S.VALIDATED, priority=5))
    free = await db.create_proposal(proposal("other", status=S.VALIDATED))
    report = await db.halt(**WHO, action_name="transfer_leader", cancel=False)
    await db.halt(**WHO, action_name="drain", cancel=False)
    for _ in range(2):
        taken = await db.claim("worker-2", limit=10)
        assert {claim.proposal.id for claim in taken} <= {free.id}
    due = await db.get_proposal(failed.proposal.id)
    assert due is not None
    assert (due.status, due.next_retry_at is None) == (S.FAILED, False)
    await db.resume(report.halt.id, **WHO)
    (claim,) = await db.claim("worker-2", limit=10)
    assert claim.proposal.id == failed.proposal.id
    await db.resume(**WHO, action_name="drain")
    (claim,) = await db.claim("worker-2", limit=10)
    assert claim.proposal.id == halted.id


async def test_a_repeated_call_is_answered_while_halted(db: ActionDB) -> None:
    made = await db.create_proposal(proposal(), idempotency_key="one")
    await db.halt(**WHO, cancel=False)
    again = await db.create_proposal(proposal(), idempotency_key="one")
    assert (again.id, again.replayed) == (made.id, True)
    with pytest.raises(Halted):
        await db.create_proposal(proposal(), idempotency_key="two")


async def test_a_freeze_begins_and_ends_by_itself(db: ActionDB, raw: RawSQL) -> None:
    now = datetime.now(UTC)
    await db.create_proposal(proposal())
    to_come = await db.halt(**WHO, valid_from=now + timedelta(days=1))
    assert (to_come.cancelled, to_come.halt.is_freeze) == (0, True)
    assert await db.mode() is HaltMode.EXECUTE
    await db.create_proposal(proposal())
    current = await db.halt(
        **WHO, valid_from=now - timedelta(days=1), valid_until=now + timedelta(days=1)
    )
    assert current.cancelled == 0
    assert await db.mode() is HaltMode.HALTED
    with pytest.raises(Halted) as refused:
        await db.create_proposal(proposal())
    assert refused.value.halt_ids == (current.halt.id,)
    assert len(await db.halts()) == 2
    await db.resume(current.halt.id, **WHO)
    with pytest.raises(InvalidValue, match="valid_until"):
        await db.halt(**WHO, valid_from=now, valid_until=now)
    assert await db.mode() is HaltMode.EXECUTE


@pytest.mark.every_backend
async def test_heartbeats_of_others_and_of_resumed_ones_go_on(db: ActionDB) -> None:
    claim, other = await claimed(db, agent_id="a"), await claimed(db)
    report = await db.halt(**WHO, agent_id="a")
    await db.heartbeat(other)
    for of in (claim, claim.record.id):
        with pytest.raises(HaltRequested) as requested:
            await db.heartbeat(of, timedelta(hours=1))
        error = requested.value
        assert (error.record_id, error.halt_ids) == (claim.record.id, (report.halt.id,))
        assert (error.by, error.reason) == ("oncall", "bad deploy")
    record = await db.get_record(claim.record.id)
    assert record is not None
    assert record.lease_expires_at == error.lease_expires_at
    assert claim.record.lease_expires_at is not None
    assert record.lease_expires_at > claim.record.lease_expires_at
    await asyncio.gather(db.heartbeat(other), *(db.heartbeat(other) for _ in range(3)))
    await db.resume(**WHO, agent_id="a")
    await db.heartbeat(claim)


async def test_a_held_block_is_cancelled(db: ActionDB) -> None:
    claim = await claimed(db)
    started = asyncio.Event()

    async def work() -> None:
        async with db.holding(claim, lease=timedelta(seconds=1)):
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await started.wait()
    report = await db.halt(**WHO)
    with pytest.raises(HaltRequested):
        await task
    record = await db.get_record(claim.record.id)
    assert record is not None
    assert record.outcome_unknown
    assert "bad deploy" in (record.error_message or "")
    (ended,) = (await db.halt_report(report.halt.id)).running
    assert ended.acknowledged
    assert ended.ended_at is not None


async def test_a_held_block_may_finish(db: ActionDB) -> None:
    claim = await claimed(db)
    async with db.holding(claim, lease=timedelta(seconds=1), finish=True) as execution:
        await db.halt(**WHO)
        while execution.halt is None:
            await asyncio.sleep(0.01)
        execution.result_data = {"done": True}
    record = await db.get_record(claim.record.id)
    assert record is not None
    assert (record.success, record.result_data) == (True, {"done": True})


async def test_a_block_that_has_not_begun_does_not(db: ActionDB) -> None:
    claim = await claimed(db, max_retries=1)
    await db.halt(**WHO)
    with pytest.raises(HaltRequested):
        async with db.holding(claim):
            pytest.fail("it began")
    found = await db.get_proposal(claim.proposal.id)
    assert found is not None
    assert found.status is S.FAILED


@pytest.mark.every_backend
async def test_halting_is_refused_inside_a_transaction(db: ActionDB) -> None:
    async with db.transaction() as tx:
        with pytest.raises(ActionError, match="transaction of its own"):
            await tx.halt(**WHO)
    assert await db.halts() == []
    # Resuming is not.
    await db.halt(**WHO)
    async with db.transaction() as tx:
        assert len(await tx.resume(**WHO)) == 1
    assert await db.mode() is HaltMode.EXECUTE


async def test_arguments_are_checked_before_anything_is_written(db: ActionDB) -> None:
    for wrong in (
        {"by": ""},
        {"by": "ledger"},
        {"reason": " "},
        {"mode": "stop"},
        {"mode": HaltMode.EXECUTE},
        {"action_name": ""},
        {"agent_id": "\0"},
        {"timeout": -1},
        {"cancel": 1},
        {"valid_from": "now"},
    ):
        with pytest.raises(InvalidValue):
            await db.halt(**{**WHO, **wrong})
    with pytest.raises(InvalidValue):
        await db.resume(1, **WHO, run_id="run-1")
    assert await db.halts(active=False) == []
    assert await db.history() == []


@pytest.mark.every_backend
async def test_a_halt_outlives_the_program(open_ledger: Open, backend: str) -> None:
    first = await open_ledger()
    await first.halt(**WHO, run_id="run-1")
    if backend == "memory":
        return
    await first.close()
    again = await open_ledger()
    assert await again.mode(run_id="run-1") is HaltMode.HALTED
    with pytest.raises(Halted):
        await again.create_proposal(proposal(run_id="run-1"))


async def test_what_was_cancelled_and_is_still_executed_is_running(db: ActionDB) -> None:
    """Its worker acts until its next heartbeat."""
    made = await db.create_proposals(
        [proposal("drain", agent_id="a", status=S.VALIDATED), proposal("x", status=S.VALIDATED)]
    )
    claims = await db.claim("worker-1", limit=2)
    for each in made:
        await db.cancel_proposal(each.id, by="maria", reason="not now")
    report = await db.halt(by="maria", reason="stop", agent_id="a")
    (running,) = report.unfinished
    assert (running.proposal_id, running.worker) == (made[0].id, "worker-1")
    for each in claims:
        with pytest.raises(LeaseLost):
            await db.heartbeat(each.record.id)
    await db.resume(by="maria", reason="go on", agent_id="a")
    assert [each.proposal_id for each in (await db.halt_report(report.halt.id)).running] == [1]
