"""Amendments: another proposal takes the place of one that has not begun, and needs its own approvals."""

from typing import Any

import pytest
from pydantic import BaseModel

from operator_core.actions import (
    ActionError,
    Conflict,
    EndCode,
    EventType,
    Halted,
    InvalidTransition,
    InvalidValue,
    NotFound,
)
from operator_core.db import ActionDB
from tests.conftest import proposal
from tests.contract.governed import S, approve, begin, given, last, now, proposed, rule, status

pytestmark = pytest.mark.two_backends

WHO: dict[str, Any] = {"by": "mia", "reason": "fewer rows"}


class Drop(BaseModel):
    rows: int


@pytest.mark.every_backend
async def test_a_new_one_takes_its_place(db: ActionDB) -> None:
    await rule(db)
    old = await proposed(
        db,
        parameters={"rows": 100},
        requester_id="rosa",
        requester_type="user",
        agent_id="planner",
        run_id="run-1",
        call_id="call-1",
        priority=7,
        max_retries=2,
    )
    behind = await db.create_proposal(proposal(depends_on=[old.id]))
    await approve(db, old, "noor")
    new = await db.amend_proposal(old.id, parameters=Drop(rows=1), **WHO)
    assert new == await now(db, new)
    assert (new.supersedes_id, new.parameters, new.reason) == (old.id, {"rows": 1}, "fewer rows")
    assert (new.proposed_by, new.call_id) == ("mia", None)
    for name in (
        "action_name", "action_type", "requester_id", "requester_type", "agent_id", "run_id",
        "priority", "max_retries", "ticket_id",
    ):  # fmt: skip
        assert getattr(new, name) == getattr(old, name), name
    gone = await now(db, old)
    assert (gone.status, gone.end_code) == (S.CANCELLED, EndCode.SUPERSEDED)
    event = await last(db, old)
    assert (event.actor, event.reason) == ("mia", "fewer rows")
    assert event.details == {"end_code": "superseded", "proposal": new.id}
    # What depends on it does not run without it.
    assert (await now(db, behind)).end_code is EndCode.DEPENDENCY
    found = await db.find_call("run-1", "call-1")
    assert found is not None
    assert found.id == old.id


async def test_no_approval_is_carried_over(db: ActionDB) -> None:
    await rule(db)
    old = await proposed(db, parameters={"rows": 100}, requester_id="rosa")
    await approve(db, old, "noor")
    new = await db.amend_proposal(old.id, parameters={"rows": 1}, **WHO)
    assert (new.status, new.approval) == (S.PROPOSED, "needed")
    assert (await db.approvals(new.id)).decisions == ()
    assert await db.claim("worker-1") == []
    # Who amends it has proposed it, and the requester is the requester still.
    for own in ("mia", "rosa"):
        with pytest.raises(ActionError):
            await approve(db, new, own)
    with pytest.raises(Conflict):
        await approve(db, old, "kim")
    await approve(db, new, "noor")
    await db.complete((await begin(db, new)).record.id)


async def test_the_same_parameters_need_approvals_again(db: ActionDB) -> None:
    await rule(db)
    old = await proposed(db, parameters={"rows": 1})
    await approve(db, old, "noor")
    new = await db.amend_proposal(old.id, parameters={"rows": 1}, **WHO)
    assert new.approval == "needed"


async def test_rules_apply_as_they_are_now(db: ActionDB) -> None:
    first = await rule(db, "first")
    old, other = await proposed(db), await proposed(db)
    await db.revoke_rule(first.id, **WHO)
    await rule(db, "second", conditions=[{"path": ["rows"], "op": "gt", "value": 10}])
    new = await db.amend_proposal(old.id, parameters={"rows": 11}, **WHO)
    (state,) = (await db.approvals(new.id)).requirements
    assert state.requirement.name == "second"
    free = await db.amend_proposal(new.id, parameters={"rows": 1}, **WHO)
    assert (free.supersedes_id, free.approval) == (new.id, None)
    await rule(db, "never", effect="deny")
    denied = await db.amend_proposal(other.id, parameters={"rows": 1}, **WHO)
    assert (denied.status, denied.end_code) == (S.CANCELLED, EndCode.DENIED)
    assert (await now(db, other)).end_code is EndCode.SUPERSEDED


async def test_a_grant_may_approve_the_new_one(db: ActionDB) -> None:
    await rule(db)
    old = await proposed(db, parameters={"rows": 100})
    await given(db, by="noor", conditions=[{"path": ["rows"], "op": "lt", "value": 10}])
    new = await db.amend_proposal(old.id, parameters={"rows": 1}, **WHO)
    assert await status(db, new) is S.VALIDATED


async def test_what_has_begun_or_ended_is_not_amended(db: ActionDB) -> None:
    running = await db.create_proposal(proposal(status=S.VALIDATED))
    await begin(db, running)
    failed = await proposed(db, status=S.FAILED, max_retries=2)
    done, gone = await proposed(db, status=S.COMPLETED), await proposed(db, status=S.CANCELLED)
    before = await db.newest_event_id()
    for each in (running, failed, done, gone):
        with pytest.raises(InvalidTransition) as refused:
            await db.amend_proposal(each.id, parameters={}, **WHO)
        assert (refused.value.id, refused.value.to_status) == (each.id, S.CANCELLED)
    with pytest.raises(NotFound):
        await db.amend_proposal(99, parameters={}, **WHO)
    assert await db.newest_event_id() == before


async def test_a_refused_amendment_leaves_the_old_one(db: ActionDB) -> None:
    old = await proposed(db)
    await rule(db, approvers=["mia"])
    before = await db.newest_event_id()
    # Nobody could approve it: its only approver would be its proposer.
    with pytest.raises(ActionError):
        await db.amend_proposal(old.id, parameters={"rows": 1}, **WHO)
    await db.amend_proposal(old.id, parameters={"rows": 1}, by="kim", reason="r")
    other = await proposed(db)
    await db.halt(by="oncall", reason="stop", cancel=False)
    with pytest.raises(Halted):
        await db.amend_proposal(other.id, parameters={"rows": 1}, by="kim", reason="r")
    assert await status(db, other) is S.PROPOSED
    assert await db.newest_event_id() != before
    await db.resume(by="oncall", reason="go")


async def test_amendments_follow_each_other(db: ActionDB) -> None:
    made = [await proposed(db, parameters={"n": 0})]
    for n in range(1, 4):
        made.append(await db.amend_proposal(made[-1].id, parameters={"n": n}, **WHO))
    assert [each.supersedes_id for each in made] == [None, *(each.id for each in made[:-1])]
    assert [await status(db, each) for each in made] == [S.CANCELLED] * 3 + [S.PROPOSED]
    with pytest.raises(InvalidTransition):
        await db.amend_proposal(made[0].id, parameters={}, **WHO)
    events = [e for e in await db.history(made[1].id) if e.event_type is EventType.STATUS_CHANGED]
    assert len(events) == 1


async def test_wrong_arguments(db: ActionDB) -> None:
    old = await proposed(db)
    for wrong in (
        {"by": ""}, {"by": "ledger"}, {"reason": " "}, {"reason": None},
        {"parameters": None}, {"parameters": [1]}, {"parameters": {"a": float("nan")}},
    ):  # fmt: skip
        with pytest.raises(InvalidValue) as refused:
            await db.amend_proposal(old.id, **{**WHO, "parameters": {}, **wrong})
        assert refused.value.path.startswith(next(iter(wrong))), wrong
    assert await status(db, old) is S.PROPOSED
