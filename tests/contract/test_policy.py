"""What the policy of a service adds to the rules: requirements and denials, and never less."""

from collections.abc import Callable
from typing import Any

import pytest

from operator_core.actions import (
    ActionProposal,
    ActionStatus,
    ApprovalRequired,
    Deny,
    EndCode,
    InvalidValue,
    NotEligible,
    Policy,
    Require,
    Rule,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from tests.conftest import proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus
DBA = Require(name="dba", roles=["DBA"])


def with_policy(db: ActionDB, policy: Policy) -> ActionDB:
    """The same ledger with a policy, as its constructor sets it."""
    db._policy = policy  # pyright: ignore[reportPrivateUsage]
    return db


async def asked(db: ActionDB, proposal_id: int) -> list[str]:
    return [each.requirement.name for each in (await db.approvals(proposal_id)).requirements]


async def test_it_adds_a_requirement(db: ActionDB) -> None:
    def policy(given: ActionProposal) -> Require | None:
        return DBA if given.action_name.startswith("drop") else None

    with_policy(db, policy)
    free = await db.create_proposal(proposal("read"))
    made = await db.create_proposal(proposal("drop"))
    assert (free.approval, made.approval) == (None, "needed")
    with pytest.raises(NotEligible):
        await db.approve_proposal(made.id, by="ann", digest=made.digest)
    await db.approve_proposal(made.id, by="ann", digest=made.digest, roles=["dba"])
    assert [each.proposal.id for each in await db.claim("w", action_names="drop")] == [made.id]


async def test_it_may_be_a_coroutine_and_ask_for_several(db: ActionDB) -> None:
    async def policy(given: ActionProposal) -> list[Require]:
        return [DBA, Require(name="owner", approvers=["olga"])]

    made = await with_policy(db, policy).create_proposal(proposal())
    assert await asked(db, made.id) == ["dba", "owner"]


async def test_what_the_rules_ask_for_stays(db: ActionDB) -> None:
    await db.add_rule(Rule(name="two", approvals=2), by="boss", reason="careful")
    made = await with_policy(db, lambda given: DBA).create_proposal(proposal())
    assert await asked(db, made.id) == ["two", "dba"]
    free = await with_policy(db, lambda given: None).create_proposal(proposal())
    assert await asked(db, free.id) == ["two"]


async def test_what_it_denies_is_written_as_cancelled(db: ActionDB) -> None:
    made = await with_policy(db, lambda given: Deny(reason="not on Fridays")).create_proposal(
        proposal()
    )
    assert (made.status, made.end_code) == (S.CANCELLED, EndCode.DENIED)
    last = (await db.history(made.id))[-1]
    assert (last.actor, last.reason, last.details) == (
        "ledger",
        "not on Fridays",
        {"end_code": "denied"},
    )


async def test_it_is_asked_by_every_way_to_propose(db: ActionDB) -> None:
    with_policy(db, lambda given: DBA)
    several = await db.create_proposals([proposal(), proposal()])
    keyed = await db.create_proposal(proposal(), idempotency_key="k")
    again = await db.create_proposal(proposal(), idempotency_key="k")
    _, steps = await db.create_workflow(
        WorkflowProposal(name="n"), [proposal(), proposal()], after={1: 0}
    )
    amended = await db.amend_proposal(several[0].id, parameters={"n": 1}, by="ed", reason="less")
    async with db.transaction() as tx:
        inside = await tx.create_proposal(proposal())
    assert again.id == keyed.id
    for each in (several[1], keyed, *steps, amended, inside):
        assert await asked(db, each.id) == ["dba"]


@pytest.mark.parametrize("status", [S.VALIDATED, S.EXECUTING])
async def test_nothing_begins_elsewhere_without_what_it_asks_for(
    db: ActionDB, status: ActionStatus
) -> None:
    with_policy(db, lambda given: DBA)
    with pytest.raises(ApprovalRequired) as error:
        await db.create_proposals([proposal(), proposal(status=status)])
    assert error.value.missing == ("dba",)
    assert await db.list_proposals() == []


async def test_what_has_ended_is_written_as_given(db: ActionDB) -> None:
    with_policy(db, lambda given: DBA)
    made = await db.create_proposal(proposal(status=S.COMPLETED))
    assert (made.status, made.approval) == (S.COMPLETED, None)


ANSWERS: list[Callable[[ActionProposal], Any]] = [
    lambda given: True,
    lambda given: "deny",
    lambda given: [DBA, None],
    lambda given: [Deny(reason="no")],
    lambda given: {"name": "dba"},
]


@pytest.mark.parametrize("policy", ANSWERS)
async def test_any_other_answer_is_an_error_and_nothing_is_written(
    db: ActionDB, policy: Callable[[ActionProposal], Any]
) -> None:
    with pytest.raises(InvalidValue, match="policy"):
        await with_policy(db, policy).create_proposal(proposal())
    assert await db.list_proposals() == []


async def test_its_errors_are_the_callers(db: ActionDB) -> None:
    def policy(given: ActionProposal) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await with_policy(db, policy).create_proposal(proposal())
    assert await db.list_proposals() == []


def test_its_limits_are_those_of_a_rule() -> None:
    for wrong in ({"approvals": 0}, {"roles": []}, {"approvals": 2, "approvers": ["ann"]}):
        with pytest.raises(InvalidValue):
            Require(name="r", **wrong)  # pyright: ignore[reportArgumentType]


def test_it_is_a_function() -> None:
    with pytest.raises(InvalidValue, match="policy"):
        ActionDB(":memory:", policy="strict")  # pyright: ignore[reportArgumentType]
