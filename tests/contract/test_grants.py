"""Grants: votes in advance, which count only where their grantor's vote would, and never without bounds."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operator_core.actions import (
    Conflict,
    EventType,
    HaltMode,
    InvalidValue,
    NotFound,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal
from tests.contract.governed import (
    S,
    approve,
    begin,
    given,
    later,
    now,
    proposed,
    rule,
    status,
    told,
)

pytestmark = pytest.mark.each_driver

WHO = {"by": "lead", "reason": "over"}


async def holds(db: ActionDB, **fields: Any) -> bool:
    """Whether a grant has approved such a proposal, which a rule keeps otherwise."""
    return await status(db, await proposed(db, **fields)) is S.VALIDATED


@pytest.mark.every_backend
async def test_a_grant_is_stored_and_each_use_is_a_decision(db: ActionDB) -> None:
    await rule(db, roles=["sre"])
    until = datetime.now(UTC) + timedelta(hours=1)
    added = await given(
        db,
        by="Mia",
        action_name="drop_*",
        roles=["SRE"],
        max_uses=2,
        valid_until=until,
        conditions=[{"path": ["rows"], "op": "le", "value": 10}],
    )
    assert (added.granted_by, added.grantor_type, added.roles) == ("Mia", "user", ("sre",))
    assert (added.max_uses, added.uses, added.valid_until) == (2, 0, until)
    assert (added.reason, added.revoked_at) == ("routine", None)
    assert len(added.conditions) == 1
    (event,) = await told(db, EventType.GRANT_ADDED)
    assert (event.actor, event.reason) == ("Mia", "routine")
    assert (event.details, event.proposal_id) == ({"grant": added.id}, None)
    made = await proposed(db, parameters={"rows": 3})
    assert made == await now(db, made)
    assert (made.status, made.approval) == (S.VALIDATED, "given")
    found = await db.approvals(made.id)
    (vote,) = found.decisions
    assert (vote.decided_by, vote.grant_id, vote.digest) == ("Mia", added.id, made.digest)
    assert (vote.comment, vote.roles) == ("routine", ("sre",))
    assert found.approved
    decided, moved = (await db.history(made.id))[-2:]
    assert (decided.event_type, decided.actor) == (EventType.APPROVED, "Mia")
    assert decided.details == {"decision": vote.id, "digest": made.digest, "grant": added.id}
    assert (moved.to_status, moved.actor) == (S.VALIDATED, "Mia")
    assert moved.details == {"decision": vote.id}
    assert [each.uses for each in await db.grants()] == [1]
    await db.complete((await begin(db, made)).record.id)


async def test_uses_are_counted(db: ActionDB) -> None:
    await rule(db, action_name="drop_*")
    added = await given(db, max_uses=3)
    made = [await proposed(db) for _ in range(2)]
    # What needs no approval uses none.
    await proposed(db, "other")
    made += await db.create_proposals([proposal("drop_table") for _ in range(4)])
    assert [each.status for each in made] == [S.VALIDATED] * 3 + [S.PROPOSED] * 3
    assert [each.uses for each in await db.grants()] == [3]
    _, (step,) = await db.create_workflow(WorkflowProposal(name="w"), [proposal("drop_table")])
    assert step.status is S.PROPOSED
    again = await given(db, by="noor", max_uses=1)
    assert await holds(db)
    assert not await holds(db)
    assert {each.id: each.uses for each in await db.grants()} == {added.id: 3, again.id: 1}


async def test_a_use_is_not_given_back(db: ActionDB) -> None:
    await rule(db)
    await given(db, max_uses=1)
    made = await proposed(db)
    await db.withdraw_approval(made.id, by="mia", reason="not this one")
    assert not await db.is_approved(made.id)
    assert await db.claim("worker-1") == []
    assert not await holds(db)
    # Who gave it can still approve by hand.
    await approve(db, made, "mia")
    assert await status(db, made) is S.VALIDATED


async def test_a_grant_ends(db: ActionDB) -> None:
    await rule(db)
    await given(db, valid_until=datetime.now(UTC) + timedelta(hours=1))
    waits = await proposed(db)
    assert waits.status is S.VALIDATED
    await later(db, 3601)
    assert not await holds(db)
    assert list(await db.grants()) == []
    assert len(await db.grants(active=False)) == 1
    # The votes that it gave while it was valid stay.
    assert await db.is_approved(waits.id)


async def test_a_grant_is_revoked(db: ActionDB) -> None:
    await rule(db)
    added = await given(db)
    before = await proposed(db)
    gone = await db.revoke_grant(added.id, by="kim", reason="leaves the team")
    assert (gone.revoked_by, gone.revoke_reason, gone.uses) == ("kim", "leaves the team", 1)
    assert gone.revoked_at is not None
    (event,) = await told(db, EventType.GRANT_REVOKED)
    assert (event.actor, event.reason) == ("kim", "leaves the team")
    assert event.details == {"grant": added.id}
    assert not await holds(db)
    assert await db.is_approved(before.id)
    assert (list(await db.grants()), list(await db.grants(active=False))) == ([], [gone])
    with pytest.raises(Conflict):
        await db.revoke_grant(added.id, **WHO)
    with pytest.raises(NotFound):
        await db.revoke_grant(added.id + 1, **WHO)


async def test_a_grant_is_for_what_is_created_from_then_on(db: ActionDB) -> None:
    await rule(db)
    before = await proposed(db)
    await given(db)
    assert await status(db, before) is S.PROPOSED
    assert await holds(db)


async def test_nobody_grants_their_own(db: ActionDB) -> None:
    await rule(db)
    await given(db, by="Mia Ö")
    for own in (
        {"requester_id": "mia ö"},
        {"agent_id": "MIA O\u0308"},
        {"proposed_by": "m\u200bia Ö"},
    ):
        made = await proposed(db, **own)
        assert made.status is S.PROPOSED, own
        assert (await db.approvals(made.id)).decisions == ()
    assert [each.uses for each in await db.grants()] == [0]
    assert await holds(db, requester_id="mia")


async def test_the_rules_for_approvers_hold_for_grants(db: ActionDB) -> None:
    await rule(db, "role", action_name="a", roles=["sre"])
    await rule(db, "name", action_name="b", approvers=["noor"])
    await rule(db, "people", action_name="c")
    await given(db, by="mia", roles=["owner"], action_name="a")
    await given(db, by="mia", action_name="b")
    await given(db, by="critic", by_type="agent", action_name="c")
    for name in "abc":
        assert not await holds(db, action_name=name), name
    await given(db, by="mia", roles=["owner", "sre"], action_name="a")
    await given(db, by="Noor", action_name="b")
    await given(db, by="timer", by_type="system", action_name="c")
    for name in "abc":
        assert await holds(db, action_name=name), name


async def test_grants_of_several_persons_make_a_quorum_and_those_of_one_do_not(
    db: ActionDB,
) -> None:
    await rule(db, approvals=2)
    await given(db, by="mia")
    await given(db, by="MIA")
    made = await proposed(db)
    assert made.status is S.PROPOSED
    assert len((await db.approvals(made.id)).decisions) == 1
    await given(db, by="noor")
    await given(db, by="kim")
    both = await proposed(db)
    assert both.status is S.VALIDATED
    # The third is not needed.
    votes = (await db.approvals(both.id)).decisions
    assert [each.decided_by for each in votes] == ["mia", "noor"]
    assert {each.granted_by: each.uses for each in await db.grants()} == {
        "mia": 2, "MIA": 0, "noor": 1, "kim": 0,
    }  # fmt: skip
    # And a person completes what a grant began.
    await approve(db, made, "noor")
    assert await status(db, made) is S.VALIDATED
    assert (await approve(db, both, "noor")).repeated


async def test_two_stages_by_grants(db: ActionDB) -> None:
    await rule(db, "sre", roles=["sre"])
    await rule(db, "owner", roles=["owner"])
    await given(db, by="mia", roles=["sre", "owner"])
    assert not await holds(db)
    await given(db, by="noor", roles=["sre"])
    assert await holds(db)


async def test_a_used_up_grant_of_somebody_leaves_the_next_one(db: ActionDB) -> None:
    await rule(db)
    first = await given(db, max_uses=1)
    second = await given(db, max_uses=1)
    assert [await holds(db) for _ in range(3)] == [True, True, False]
    assert {each.id: each.uses for each in await db.grants()} == {first.id: 1, second.id: 1}


@pytest.mark.two_backends
@pytest.mark.parametrize(
    ("op", "value", "yes", "no"),
    [
        ("eq", 5, [5, 5.0], [6, "5", None, True, [5], {}]),
        ("eq", "a", ["a"], ["b", "", 1, None, ["a"]]),
        ("eq", True, [True], [False, 1, "true", None]),
        ("eq", None, [None], [0, False, ""]),
        ("ne", 5, [6, 5.5], [5, "6", None, [6]]),
        ("ne", "a", ["b", ""], ["a", 1, None]),
        ("lt", 5, [4, -1, 4.5], [5, 6, "4", None, True, 10**30, -(10**30)]),
        ("le", 5, [5, 4], [6, "5", None]),
        ("gt", 5, [6], [5, "6", None, 10**30]),
        ("ge", 5, [5, 6], [4, "5", None]),
        ("gt", "b", ["c", "ba"], ["b", "a", 9]),
        ("in", ["a", "b"], ["a", "b"], ["c", 1, None, ["a"], {}]),
        ("in", [1, "a"], [1, "a"], [2, "b", None]),
        ("prefix", "eu-", ["eu-1", "eu-"], ["eu", "us-1", 1, None, ["eu-1"], {}]),
        ("prefix", "", ["", "x"], [1, None, {}]),
    ],
)
async def test_a_condition_holds_only_if_it_can_be_evaluated(
    db: ActionDB, op: str, value: Any, yes: list[Any], no: list[Any]
) -> None:
    await rule(db)
    await given(db, conditions=[{"path": ["a", "b"], "op": op, "value": value}], max_uses=1000)
    for each in yes:
        assert await holds(db, parameters={"a": {"b": each}}), each
    for each in no:
        assert not await holds(db, parameters={"a": {"b": each}}), each
    for parameters in ({}, {"a": {}}, {"a": [value]}, {"a": value}, {"b": value}):
        assert not await holds(db, parameters=parameters), parameters


async def test_all_conditions_must_hold(db: ActionDB) -> None:
    await rule(db)
    await given(
        db,
        conditions=[
            {"path": ["rows"], "op": "lt", "value": 10},
            {"path": ["store"], "op": "prefix", "value": "eu-"},
        ],
    )
    assert await holds(db, parameters={"rows": 1, "store": "eu-1"})
    for parameters in (
        {"rows": 10, "store": "eu-1"}, {"rows": 1, "store": "us"}, {"rows": 1}, {"store": "eu-1"},
    ):  # fmt: skip
        assert not await holds(db, parameters=parameters)


async def test_parameters_that_can_not_be_read_are_no_consent(db: ActionDB, raw: RawSQL) -> None:
    await rule(db)
    await given(db, conditions=[{"path": ["a"], "op": "eq", "value": 1}])
    # Which of the two values would run, readers disagree about.
    await raw(
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, content_digest)"
        """ VALUES ('drop_table', '{"a":1,"a":2}', 'r', CURRENT_TIMESTAMP, ?)""",
        "oc1:" + "0" * 64,
    )
    await raw(
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at)"
        """ VALUES ('drop_table', '{"a":1}', 'r', CURRENT_TIMESTAMP)"""
    )
    rows = await raw("SELECT status FROM action_proposals")
    # Nor is there one without a digest that the vote would be bound to.
    assert [each[0] for each in rows] == ["proposed", "proposed"]


@pytest.mark.parametrize("pattern", ["drop_*", "d?op_table", "*", "drop_table"])
async def test_a_grant_is_for_a_pattern(db: ActionDB, pattern: str) -> None:
    await rule(db)
    await given(db, action_name=pattern)
    assert await holds(db)
    assert not await holds(db, action_name="other") or pattern == "*"
    assert not await holds(db, action_name="DROP_TABLE") or pattern == "*"


async def test_grants_lapse_as_approvals_do(db: ActionDB) -> None:
    await rule(db, valid_for=3600.0)
    await given(db)
    made = await proposed(db)
    assert made.lapses_at is not None
    await later(db, 3601)
    assert not await db.is_approved(made.id)
    assert await db.claim("worker-1") == []
    assert (await now(db, made)).end_code == "approval_expired"


async def test_a_retry_is_not_granted(db: ActionDB) -> None:
    await rule(db)
    await given(db)
    made = await proposed(db, max_retries=3, retry_delay=0.0)
    await db.fail((await begin(db, made)).record.id, "boom")
    assert await db.claim("worker-1") == []
    assert [each.proposal.id for each in await db.pending_approvals()] == [made.id]


async def test_a_denial_beats_a_grant(db: ActionDB) -> None:
    await rule(db, "sre")
    await rule(db, "never", effect="deny")
    await given(db)
    made = await proposed(db)
    assert made.end_code == "denied"
    assert [each.uses for each in await db.grants()] == [0]


async def test_what_is_granted_while_observed_moves_on_resume(db: ActionDB) -> None:
    await rule(db)
    await given(db)
    await db.halt(by="oncall", reason="look", mode=HaltMode.OBSERVE)
    made = await proposed(db)
    assert (await now(db, made)).status is S.PROPOSED
    assert await db.is_approved(made.id)
    assert await db.claim("worker-1") == []
    await db.resume(by="oncall", reason="fine")
    assert await status(db, made) is S.VALIDATED


async def test_a_grant_is_neither_edited_nor_deleted(db: ActionDB, raw: RawSQL) -> None:
    await given(db)
    for change in (
        "UPDATE action_grants SET max_uses = 1000000",
        "UPDATE action_grants SET valid_until = '2100-01-01 00:00:00.000000'",
        "DELETE FROM action_grants",
    ):
        with pytest.raises(Exception, match=r"never|immutable"):
            await raw(change)


async def test_a_grant_is_always_bounded(db: ActionDB) -> None:
    later_on = datetime.now(UTC) + timedelta(days=1)
    usual: dict[str, Any] = {
        "by": "mia", "action_name": "a", "max_uses": 1, "valid_until": later_on, "reason": "r",
    }  # fmt: skip
    for name in usual:
        with pytest.raises((InvalidValue, TypeError)):
            await db.grant(**{key: each for key, each in usual.items() if key != name})
    exists = {"path": ["a"], "op": "exists"}
    for wrong, path in (
        ({"max_uses": 0}, "max_uses"),
        ({"max_uses": 1_000_001}, "max_uses"),
        ({"max_uses": None}, "max_uses"),
        ({"max_uses": True}, "max_uses"),
        ({"valid_until": None}, "valid_until"),
        ({"valid_until": datetime.now(UTC) - timedelta(seconds=5)}, "valid_until"),
        ({"valid_until": 5}, "valid_until"),
        ({"action_name": None}, "action_name"),
        ({"action_name": " "}, "action_name"),
        ({"by": "ledger"}, "by"),
        ({"by_type": "human"}, "by_type"),
        ({"reason": " "}, "reason"),
        ({"roles": [" "]}, "roles"),
        ({"conditions": [exists]}, "conditions[0].op"),
        ({"conditions": [{"path": ["a"], "op": "eq", "value": 1}, exists]}, "conditions[1].op"),
        ({"conditions": [{"path": [], "op": "eq", "value": 1}]}, "conditions"),
    ):
        with pytest.raises(InvalidValue) as refused:
            await db.grant(**{**usual, **wrong})
        assert refused.value.path.startswith(path), wrong
    assert list(await db.grants(active=False)) == []
