"""What waits for what: claimable when all is completed, cancelled when something fails for good."""

from datetime import timedelta

import pytest

from operator_core.actions import (
    ActionError,
    ActionProposal,
    ActionStatus,
    InvalidValue,
    NotFound,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends


async def validated(db: ActionDB, **fields: object) -> int:
    made = await db.create_proposal(proposal(**fields))
    assert made.id is not None
    if made.status is ActionStatus.PROPOSED:
        await db.update_proposal_status(made.id, ActionStatus.VALIDATED)
    return made.id


async def status(db: ActionDB, id: int) -> ActionStatus:
    found = await db.get_proposal(id)
    assert found is not None
    return found.status


async def claimed(db: ActionDB) -> dict[int | None, int | None]:
    return {each.proposal.id: each.record.id for each in await db.claim("worker", limit=100)}


async def test_what_is_said_comes_back(db: ActionDB) -> None:
    first, second = await validated(db), await validated(db)
    made = await db.create_proposal(proposal(depends_on=[second, first], wait_on_failure=True))
    assert (made.depends_on, made.wait_on_failure) == ((second, first), True)
    assert await db.get_proposal(made.id) == made
    plain = await db.get_proposal(first)
    assert plain is not None
    assert (plain.depends_on, plain.wait_on_failure) == ((), False)


async def test_it_is_claimable_when_all_is_completed(
    db: ActionDB, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await validated(db), await validated(db)
    last = await validated(db, depends_on=[first, second], priority=100)
    records = await claimed(db)
    assert set(records) == {first, second}
    await db.complete(records[first])
    assert await claimed(db) == {}
    await db.complete(records[second])
    assert set(await claimed(db)) == {last}
    # A claim does not try what the schema would refuse.
    assert caplog.text == ""


async def test_what_waits_is_in_nobodys_way(db: ActionDB) -> None:
    needed = await validated(db)
    await db.update_proposal_status(needed, ActionStatus.EXECUTING)
    for _ in range(5):
        await validated(db, depends_on=[needed], priority=100)
    free = await validated(db)
    (claim,) = await db.claim("worker")
    assert claim.proposal.id == free


@pytest.mark.parametrize("ended", [ActionStatus.CANCELLED, ActionStatus.FAILED])
async def test_what_depends_on_it_is_cancelled_and_so_on(db: ActionDB, ended: ActionStatus) -> None:
    root = await validated(db)
    middle = [await validated(db, depends_on=[root]) for _ in range(2)]
    leaf = await validated(db, depends_on=middle)
    proposed = await db.create_proposal(proposal(depends_on=[leaf]))
    other = await validated(db)
    records = await claimed(db)
    if ended is ActionStatus.FAILED:
        await db.fail(records[root], "broken")
    else:
        await db.update_proposal_status(root, ActionStatus.CANCELLED)
    for each in (*middle, leaf, proposed.id or 0):
        assert await status(db, each) is ActionStatus.CANCELLED
    assert await status(db, other) is ActionStatus.EXECUTING
    verb = "failed" if ended is ActionStatus.FAILED else "was cancelled"
    for each in (*middle, leaf, proposed.id or 0):
        last = (await db.history(each))[-1]
        assert last.reason == f"proposal {root}, which it depends on, {verb}"
        assert (last.actor, last.to_status) == ("ledger", ActionStatus.CANCELLED)
    # Whoever reads along reads of the cause first.
    ends = [
        each.proposal_id async for each in db.events() if each.to_status in ("failed", "cancelled")
    ]
    assert ends[0] == root
    found = await db.get_proposal(leaf)
    assert found is not None
    assert found.cancelled_at is not None
    assert len([each for each in await db.history(leaf) if each.to_status == "cancelled"]) == 1


async def test_who_asked_to_wait_waits_for_a_retry(db: ActionDB) -> None:
    root = await validated(db)
    waiting = await validated(db, depends_on=[root], wait_on_failure=True)
    behind = await validated(db, depends_on=[waiting])
    records = await claimed(db)
    await db.fail(records[root], "broken")
    assert await status(db, waiting) is ActionStatus.VALIDATED
    assert await status(db, behind) is ActionStatus.VALIDATED
    assert await claimed(db) == {}
    await db.retry(root, actor="oncall")
    records = await claimed(db)
    await db.complete(records[root])
    assert set(await claimed(db)) == {waiting}


async def test_a_failure_that_is_run_again_cancels_nothing_yet(db: ActionDB) -> None:
    root = await validated(db, max_retries=1, retry_delay=0.0)
    behind = await validated(db, depends_on=[root])
    records = await claimed(db)
    await db.fail(records[root], "once")
    assert await status(db, behind) is ActionStatus.VALIDATED
    records = await claimed(db)
    await db.fail(records[root], "twice")
    assert await status(db, behind) is ActionStatus.CANCELLED


async def test_an_unknown_outcome_is_a_failure_for_what_depends_on_it(db: ActionDB) -> None:
    root = await validated(db)
    behind = await validated(db, depends_on=[root])
    await db.claim("worker", lease=timedelta(milliseconds=1))
    while not await db.recover_expired():
        pass
    assert await status(db, behind) is ActionStatus.CANCELLED


@pytest.mark.parametrize(
    "way", ["kill switch", "its workflow is cancelled", "raw SQL", "raw SQL of an actor"]
)
async def test_a_retry_that_is_called_off_cancels_what_waits_elsewhere(
    db: ActionDB, raw: RawSQL, way: str
) -> None:
    workflow, (root,) = await db.create_workflow(
        WorkflowProposal(name="n"),
        [proposal(status=ActionStatus.VALIDATED, max_retries=1, retry_delay=3600.0)],
    )
    # None of these is part of the workflow.
    behind = await db.create_proposal(proposal(depends_on=[root.id]))
    further = await validated(db, depends_on=[behind.id])
    waiting = await validated(db, depends_on=[root.id], wait_on_failure=True)
    beside = await validated(db)
    (claim,) = await db.claim("worker")
    assert claim.proposal.id == root.id
    await db.fail(claim.record.id, "once")
    assert await status(db, further) is ActionStatus.VALIDATED
    if way == "kill switch":
        await db.cancel_all_pending(actor="oncall")
    elif way == "raw SQL":
        await raw("UPDATE action_proposals SET next_retry_at = NULL WHERE id = ?", root.id)
    elif way == "raw SQL of an actor":
        # All that the ledger's own UPDATE sets, but for the status, which stays.
        await raw(
            "UPDATE action_proposals SET next_retry_at = NULL, status_changed_by = 'eve', status_reason = NULL, "
            "status_changed_at = '2999-01-01 00:00:00.000000', updated_at = '2999-01-01 00:00:00.000000', "
            "version = version + 1 WHERE id = ?",
            root.id,
        )
    else:
        await db.cancel_workflow(workflow.id, actor="oncall")
    found = await db.get_proposal(root.id)
    assert found is not None
    assert (found.status, found.next_retry_at) == (ActionStatus.FAILED, None)
    for id in (behind.id or 0, further):
        assert await status(db, id) is ActionStatus.CANCELLED
    if way != "kill switch":
        assert await status(db, waiting) is ActionStatus.VALIDATED
        assert await status(db, beside) is ActionStatus.VALIDATED
        for id in (behind.id, further):
            last = (await db.history(id))[-1]
            assert last.actor == "ledger"
            assert last.reason == f"proposal {root.id}, which it depends on, failed"


async def test_what_has_ended_badly_already_ends_it_at_once(db: ActionDB) -> None:
    root = await validated(db)
    await db.update_proposal_status(root, ActionStatus.CANCELLED)
    made = await db.create_proposal(proposal(depends_on=[root]))
    assert made.status is ActionStatus.CANCELLED
    assert await db.get_proposal(made.id) == made
    assert [each.to_status for each in await db.history(made.id)] == ["proposed", "cancelled"]
    waiting = await db.create_proposal(proposal(depends_on=[root], wait_on_failure=True))
    assert waiting.status is ActionStatus.PROPOSED


async def test_what_is_completed_already_is_no_obstacle(db: ActionDB) -> None:
    root = await validated(db)
    records = await claimed(db)
    await db.complete(records[root])
    behind = await validated(db, depends_on=[root])
    assert set(await claimed(db)) == {behind}


@pytest.mark.parametrize("unknown", [77, 2**40])
async def test_what_is_not_there_can_not_be_depended_on(db: ActionDB, unknown: int) -> None:
    known = await validated(db)
    with pytest.raises(NotFound) as caught:
        await db.create_proposal(proposal(depends_on=[known, unknown]))
    assert (caught.value.kind, caught.value.id) == ("proposal", unknown)
    with pytest.raises(NotFound):
        await db.create_proposals([proposal(), proposal(depends_on=[unknown])])
    assert len(await db.list_proposals()) == 1


@pytest.mark.parametrize("wrong", [[1, 1], [0], [True], ["1"], 1, [2**63]])
def test_what_is_no_set_of_ids_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidValue, match="depends_on"):
        ActionProposal(action_name="a", reason="r", depends_on=wrong)  # type: ignore[arg-type]


async def test_several_at_once_with_and_without(db: ActionDB) -> None:
    root = await validated(db)
    made = await db.create_proposals(
        [proposal(), proposal(depends_on=[root]), proposal(priority=3), proposal(depends_on=[root])]
    )
    assert [each.depends_on for each in made] == [(), (root,), (), (root,)]
    assert [await db.get_proposal(each.id) for each in made] == made


async def test_an_idempotency_key_covers_it(db: ActionDB) -> None:
    root = await validated(db)
    wanted = proposal(depends_on=[root])
    made = await db.create_proposal(wanted, idempotency_key="k")
    again = await db.create_proposal(wanted, idempotency_key="k")
    assert again.replayed
    assert (again.id, again.depends_on) == (made.id, (root,))


@pytest.mark.parametrize("needed", ['["1"]', "[1.5]", "[null]", "[true]", "[[1]]"])
async def test_another_tool_can_not_name_what_is_no_id(
    db: ActionDB, raw: RawSQL, needed: str
) -> None:
    await validated(db)
    with pytest.raises(ActionError):
        await raw(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, depends_on) "
            f"VALUES ('a', '{{}}', 'r', '2026-01-01 00:00:00.000000', '{needed}')"
        )
    assert len(await db.list_proposals()) == 1
