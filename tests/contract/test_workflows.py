"""Workflows: actions that belong together, written in one unit, told apart by none."""

from typing import Any

import pytest

from operator_core.actions import (
    ActionProposal,
    ActionStatus,
    InvalidValue,
    NotFound,
    WorkflowProposal,
    WorkflowStatus,
)
from operator_core.db import ActionDB
from tests.conftest import proposal

pytestmark = pytest.mark.two_backends

NAME = WorkflowProposal(name="replace store 3", description="its disk is dying")


async def chain(db: ActionDB, length: int = 3, **fields: object) -> tuple[int, list[int]]:
    workflow, actions = await db.create_workflow(
        NAME,
        [proposal(**fields) for _ in range(length)],
        after={position: position - 1 for position in range(1, length)},
    )
    ids = [each.id or 0 for each in actions]
    for each in ids:
        await db.update_proposal_status(each, ActionStatus.VALIDATED)
    return workflow.id, ids


async def test_a_workflow_and_its_actions_come_back(db: ActionDB) -> None:
    workflow, actions = await db.create_workflow(
        NAME, [proposal("c"), proposal("a"), proposal("b")], after={0: [1, 2], 2: 1}
    )
    assert (workflow.name, workflow.description, workflow.ticket_id) == (
        NAME.name,
        NAME.description,
        None,
    )
    assert await db.get_workflow(workflow.id) == workflow
    assert [each.action_name for each in actions] == ["c", "a", "b"]
    _, a, b = (each.id for each in actions)
    assert [set(each.depends_on) for each in actions] == [{a, b}, set(), {a}]
    assert {each.workflow_id for each in actions} == {workflow.id}
    listed = await db.list_workflow_actions(workflow.id)
    assert [each.action_name for each in listed] == ["a", "b", "c"]
    assert sorted(listed, key=lambda each: each.id or 0) == sorted(
        actions, key=lambda each: each.id or 0
    )
    assert await db.get_workflow(workflow.id + 1) is None


async def test_what_it_depends_on_elsewhere_stays(db: ActionDB) -> None:
    other = await db.create_proposal(proposal())
    _, (first, second) = await db.create_workflow(
        NAME, [proposal(depends_on=[other.id]), proposal(depends_on=[other.id])], after={1: 0}
    )
    assert first.depends_on == (other.id,)
    assert second.depends_on == (other.id, first.id)


async def test_it_goes_from_pending_to_completed(db: ActionDB) -> None:
    id_, actions = await chain(db)
    seen = [await db.workflow_status(id_)]
    for _ in actions:
        (claim,) = await db.claim("worker", limit=10)
        seen.append(await db.workflow_status(id_))
        await db.complete(claim.record.id)
        seen.append(await db.workflow_status(id_))
    assert seen == [
        WorkflowStatus.PENDING,
        *([WorkflowStatus.IN_PROGRESS] * 5),
        WorkflowStatus.COMPLETED,
    ]


async def test_one_that_fails_has_failed_when_all_has_ended(db: ActionDB) -> None:
    workflow, actions = await db.create_workflow(NAME, [proposal() for _ in range(3)], after={2: 1})
    for each in actions:
        await db.update_proposal_status(each.id, ActionStatus.VALIDATED)
    records = {each.proposal.id: each.record.id for each in await db.claim("worker", limit=10)}
    await db.fail(records[actions[1].id], "broken")
    assert await db.workflow_status(workflow.id) is WorkflowStatus.IN_PROGRESS
    await db.complete(records[actions[0].id])
    assert await db.workflow_status(workflow.id) is WorkflowStatus.FAILED


async def test_one_that_will_be_run_again_goes_on(db: ActionDB) -> None:
    id_, _ = await chain(db, 1, max_retries=1)
    (claim,) = await db.claim("worker")
    await db.fail(claim.record.id, "broken")
    assert await db.workflow_status(id_) is WorkflowStatus.IN_PROGRESS


async def test_cancelling_stops_what_has_not_started(db: ActionDB) -> None:
    id_, actions = await chain(db)
    beside = await db.create_proposal(proposal())
    (claim,) = await db.claim("worker")
    assert await db.cancel_workflow(id_, actor="oncall", reason="wrong store") == 2
    assert await db.workflow_status(id_) is WorkflowStatus.IN_PROGRESS
    last = (await db.history(actions[2]))[-1]
    assert (last.actor, last.reason, last.to_status) == ("oncall", "wrong store", "cancelled")
    await db.complete(claim.record.id)
    assert await db.workflow_status(id_) is WorkflowStatus.CANCELLED
    untouched = await db.get_proposal(beside.id)
    assert untouched == beside
    assert await db.cancel_workflow(id_) == 0


async def test_cancelling_one_leaves_those_beside_it(db: ActionDB) -> None:
    (before, one, after) = [(await chain(db))[0] for _ in range(3)]
    assert await db.cancel_workflow(one) == 3
    assert await db.workflow_status(one) is WorkflowStatus.CANCELLED
    for other in (before, after):
        assert await db.workflow_status(other) is WorkflowStatus.PENDING


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({0: 0}, "0, 0"),
        ({0: 1, 1: 0}, "cycle"),
        ({0: [2], 1: [0], 2: [1]}, "cycle"),
        ({0: 3}, "positions from 0 to 2"),
        ({-1: 0}, "positions from 0 to 2"),
        ({True: [0]}, "positions from 0 to 2"),
        ({1: None}, "must be a collection, not NoneType"),
        ([(1, 0)], "must be a mapping, not list"),
    ],
)
async def test_a_circle_and_what_is_not_there_are_refused(
    db: ActionDB, after: Any, said: str
) -> None:
    with pytest.raises(InvalidValue, match=said) as caught:
        await db.create_workflow(NAME, [proposal() for _ in range(3)], after=after)
    assert caught.value.path == "after"
    assert await db.list_proposals() == []


async def test_nothing_of_one_that_fails_is_kept(db: ActionDB) -> None:
    with pytest.raises(NotFound):
        await db.create_workflow(NAME, [proposal(), proposal(depends_on=[99])])
    with pytest.raises(NotFound):
        await db.create_workflow(WorkflowProposal(name="n", ticket_id=99), [proposal()])
    with pytest.raises(InvalidValue, match="proposals"):
        await db.create_workflow(NAME, [])
    with pytest.raises(InvalidValue) as caught:
        made = ActionProposal(action_name="a", reason="r", workflow_id=1, retry_count=2)
        await db.create_proposal(made)
    assert caught.value.problems == (
        ("retry_count", "must be 0: the ledger sets it"),
        ("workflow_id", "must be None: the ledger sets it"),
    )
    assert await db.list_proposals() == []
    assert await db.get_workflow(1) is None


@pytest.mark.parametrize("verb", ["list_workflow_actions", "workflow_status", "cancel_workflow"])
async def test_an_unknown_one_is_not_found(db: ActionDB, verb: str) -> None:
    with pytest.raises(NotFound) as caught:
        await getattr(db, verb)(5)
    assert (caught.value.kind, caught.value.id) == ("workflow", 5)
    with pytest.raises(InvalidValue):
        await getattr(db, verb)(0)


async def test_it_joins_a_transaction(db: ActionDB) -> None:
    with pytest.raises(RuntimeError):
        async with db.transaction() as tx:
            await tx.create_workflow(NAME, [proposal(), proposal()], after={1: 0})
            raise RuntimeError
    assert await db.list_proposals() == []
    async with db.transaction() as tx:
        workflow, _ = await tx.create_workflow(NAME, [proposal(), proposal()], after={1: 0})
    assert await db.workflow_status(workflow.id) is WorkflowStatus.PENDING
