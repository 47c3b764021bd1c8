"""Rules: which proposals they are for, what they ask for, and that nothing gets past them."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operator_core.actions import (
    ActionError,
    ActionProposal,
    ActionStatus,
    ActionType,
    ApprovalRequired,
    Conflict,
    DependencyPending,
    EndCode,
    EventType,
    InvalidTransition,
    InvalidValue,
    NotFound,
    RequesterType,
    Rule,
    TransitionUnapproved,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal
from tests.contract.governed import (
    WHY,
    S,
    approve,
    begin,
    last,
    later,
    now,
    proposed,
    rule,
    status,
    told,
)

pytestmark = pytest.mark.each_driver


async def names(db: ActionDB, **fields: Any) -> list[str]:
    """The names of the requirements that such a proposal gets."""
    made = await proposed(db, **fields)
    return [each.requirement.name for each in (await db.approvals(made.id)).requirements]


@pytest.mark.every_backend
async def test_a_rule_is_stored_and_told(db: ActionDB) -> None:
    full = Rule(
        name="drop",
        action_name="drop_*",
        action_type=ActionType.TOOL,
        agent_id="Planner",
        requester_type=RequesterType.AGENT,
        conditions=[{"path": ["rows"], "op": "gt", "value": 100}],
        approvals=2,
        roles=["SRE", "Owner"],
        approvers=["Mia", "noor"],
        allow_self=True,
        allow_agents=True,
        decide_within=60.0,
        valid_for=30.5,
        covers_retries=True,
        valid_until=datetime(2100, 1, 1, tzinfo=UTC),
    )
    added = await db.add_rule(full, **WHY)
    assert (added.added_by, added.reason, added.revoked_at) == ("lead", "policy 7", None)
    as_compared = {"agent_id": "planner", "roles": ("sre", "owner"), "approvers": ("mia", "noor")}
    for name in Rule.model_fields:
        assert getattr(added, name) == as_compared.get(name, getattr(full, name)), name
    assert list(await db.rules()) == [added]
    (event,) = await told(db, EventType.RULE_ADDED)
    assert (event.actor, event.reason, event.details) == ("lead", "policy 7", {"rule": added.id})
    assert event.proposal_id is None
    revoked = await db.revoke_rule(added.id, by="mia", reason="replaced")
    assert revoked.revoked_at is not None
    assert (revoked.revoked_by, revoked.revoke_reason) == ("mia", "replaced")
    assert (list(await db.rules()), list(await db.rules(active=False))) == ([], [revoked])
    (event,) = await told(db, EventType.RULE_REVOKED)
    assert (event.actor, event.reason, event.details) == ("mia", "replaced", {"rule": added.id})
    with pytest.raises(Conflict):
        await db.revoke_rule(added.id, **WHY)
    with pytest.raises(NotFound):
        await db.revoke_rule(added.id + 1, **WHY)


async def test_all_rules_that_match_apply(db: ActionDB) -> None:
    await rule(db, "sre", action_name="drop_*", approvals=2, roles=["sre"])
    await rule(db, "owner", action_name="*_table", roles=["owner"])
    await rule(db, "other", action_name="create_*", roles=["owner"])
    made = await proposed(db)
    assert made.approval == "needed"
    found = await db.approvals(made.id)
    assert [(each.requirement.name, each.missing) for each in found.requirements] == [
        ("sre", 2),
        ("owner", 1),
    ]
    assert not found.approved
    required = [e for e in await db.history(made.id) if e.event_type == "approval_required"]
    assert [(each.actor, each.reason) for each in required] == [("ledger", "sre"), ("ledger", "owner")]  # fmt: skip
    assert [each.details for each in required] == [
        {"requirement": each.requirement.id, "rule": each.requirement.rule_id}
        for each in found.requirements
    ]
    # Two stages: either alone is not enough.
    await approve(db, made, "mia", "sre")
    await approve(db, made, "noor", "sre")
    assert await status(db, made) is S.PROPOSED
    await approve(db, made, "kim", "owner")
    assert await status(db, made) is S.VALIDATED


async def test_one_denial_is_enough(db: ActionDB) -> None:
    await rule(db, "allowed", roles=["sre"], approvals=1)
    denial = await rule(db, "never", action_name="drop_*", effect="deny")
    await rule(db, "never either", action_name="drop_*", effect="deny")
    made = await proposed(db)
    assert (made.status, made.end_code) == (S.CANCELLED, EndCode.DENIED)
    assert made.cancelled_at is not None
    assert made == await now(db, made)
    event = await last(db, made)
    assert (event.to_status, event.actor) == (S.CANCELLED, "ledger")
    assert event.details == {"end_code": "denied", "rule": denial.id}
    assert event.version == made.version
    with pytest.raises(Conflict):
        await approve(db, made, "mia", "sre")
    with pytest.raises(Conflict):
        await db.reject_proposal(made.id, by="mia", reason="no")
    assert not await db.is_approved(made.id)
    assert await db.claim("worker-1") == []


@pytest.mark.parametrize("many", [1, 3])
async def test_what_is_denied_is_returned_by_every_way(db: ActionDB, many: int) -> None:
    await rule(db, "never", action_name="drop_*", effect="deny")
    fine = proposal("other")
    denied = [proposal("drop_table") for _ in range(many)]
    made = await db.create_proposals([*denied, fine])
    assert [each.status for each in made] == [S.CANCELLED] * many + [S.PROPOSED]
    assert {each.end_code for each in made[:many]} == {EndCode.DENIED}
    keyed = await db.create_proposal(denied[0], idempotency_key="k")
    again = await db.create_proposal(denied[0], idempotency_key="k")
    assert (keyed.end_code, keyed.replayed) == (EndCode.DENIED, False)
    assert (again.id, again.end_code, again.replayed) == (keyed.id, EndCode.DENIED, True)
    _, steps = await db.create_workflow(WorkflowProposal(name="w"), [denied[0], fine], after={1: 0})
    assert [each.status for each in steps] == [S.CANCELLED, S.CANCELLED]
    assert [each.end_code for each in steps] == [EndCode.DENIED, EndCode.DEPENDENCY]
    for each in [*made, *steps, keyed]:
        assert each == await now(db, each)


async def test_imports_that_are_denied(db: ActionDB) -> None:
    denial = await rule(db, "never", action_name="drop_*", effect="deny")
    for given_status in (S.VALIDATED, S.EXECUTING):
        made = await proposed(db, status=given_status)
        assert (made.status, made.end_code) == (S.CANCELLED, EndCode.DENIED)
        assert (await last(db, made)).details == {"end_code": "denied", "rule": denial.id}
    # These have ended.
    for given_status in (S.COMPLETED, S.CANCELLED):
        made = await proposed(db, status=given_status)
        assert made.status is given_status
        assert (await db.approvals(made.id)).requirements == ()
    failed = await proposed(db, status=S.FAILED)
    assert failed.status is S.FAILED
    with pytest.raises(TransitionUnapproved):
        await db.retry(failed.id)


@pytest.mark.two_backends
@pytest.mark.parametrize(
    ("condition", "parameters"),
    [
        ({"path": ["amount"], "op": "gt", "value": 100}, {}),
        ({"path": ["amount"], "op": "gt", "value": 100}, {"amount": "5"}),
        ({"path": ["amount"], "op": "gt", "value": 100}, {"amount": 10**30}),
        ({"path": ["a", 3], "op": "eq", "value": "x"}, {"a": ["y"]}),
        ({"path": ["a"], "op": "prefix", "value": "x"}, {"a": None}),
        ({"path": ["a"], "op": "in", "value": ["x", "y"]}, {"a": 1}),
    ],
)
async def test_a_condition_that_can_not_be_evaluated_matches(
    db: ActionDB, condition: dict[str, Any], parameters: dict[str, Any]
) -> None:
    await rule(db, conditions=[condition])
    assert await names(db, parameters=parameters) == ["sre"]


async def test_conditions_decide(db: ActionDB) -> None:
    await rule(db, "large", conditions=[{"path": ["amount"], "op": "gt", "value": 100}])
    await rule(
        db,
        "there",
        conditions=[
            {"path": ["store"], "op": "prefix", "value": "eu-"},
            {"path": ["amount"], "op": "exists"},
        ],
    )
    assert await names(db, parameters={"amount": 100, "store": "us-1"}) == []
    assert await names(db, parameters={"amount": 101, "store": "us-1"}) == ["large"]
    assert await names(db, parameters={"amount": 1, "store": "eu-1"}) == ["there"]
    assert await names(db, parameters={"amount": 101.5, "store": "eu-1"}) == ["large", "there"]


async def test_what_a_proposal_does_not_say_matches(db: ActionDB) -> None:
    await rule(db, "agent", agent_id="planner")
    await rule(db, "type", requester_type=RequesterType.AGENT)
    assert await names(db) == ["agent", "type"]
    assert await names(db, agent_id="planner", requester_type="agent") == ["agent", "type"]
    assert await names(db, agent_id="other", requester_type="agent") == ["type"]
    assert await names(db, agent_id="planner", requester_type="user") == ["agent"]
    assert await names(db, agent_id="other", requester_type="system") == []


@pytest.mark.parametrize(
    "agent",
    ["planner", "PLANNER", "pl\u200banner", " planner ", "\uff50lanner", "plan\u00adner", "Planner\ufe0f"],
)  # fmt: skip
async def test_identities_are_compared_normalised(db: ActionDB, agent: str) -> None:
    await rule(db, agent_id="Planner")
    assert await names(db, agent_id=agent) == ["sre"]
    assert await names(db, agent_id="planner2") == []


async def test_a_rule_is_valid_for_a_time(db: ActionDB) -> None:
    at = datetime.now(UTC)
    await rule(db, "over", valid_until=at - timedelta(days=1))
    await rule(db, "to come", valid_from=at + timedelta(days=1))
    await rule(db, "both", valid_from=at - timedelta(days=1), valid_until=at + timedelta(days=2))
    assert await names(db) == ["both"]
    assert [each.name for each in await db.rules()] == ["to come", "both"]
    await later(db, 1.5 * 86400)
    assert await names(db) == ["to come", "both"]
    await later(db, 86400)
    assert await names(db) == ["to come"]


async def test_what_was_promised_stays(db: ActionDB) -> None:
    before = await proposed(db)
    first = await rule(db, "first")
    held = await proposed(db)
    await db.revoke_rule(first.id, **WHY)
    await rule(db, "second", effect="deny")
    # Rules are for what is created from then on.
    assert (await db.approvals(before.id)).requirements == ()
    await db.update_proposal_status(before.id, S.VALIDATED)
    await db.complete((await begin(db, before)).record.id)
    (state,) = (await db.approvals(held.id)).requirements
    assert (state.requirement.name, state.missing) == ("first", 1)
    with pytest.raises(TransitionUnapproved) as refused:
        await db.update_proposal_status(held.id, S.VALIDATED)
    assert refused.value.missing == ("first",)
    await approve(db, held, "mia")
    await db.complete((await begin(db, held)).record.id)


async def test_a_revoked_rule_asks_for_nothing_more(db: ActionDB) -> None:
    added = await rule(db)
    # The rules are not asked at all where none is left.
    await rule(db, "other", action_name="other")
    await db.revoke_rule(added.id, **WHY)
    assert await names(db) == []
    assert await db.explain(proposal()) == []


@pytest.mark.parametrize("begun", [S.VALIDATED, S.EXECUTING])
async def test_what_was_begun_elsewhere_needs_its_approvals_first(
    db: ActionDB, begun: ActionStatus
) -> None:
    await rule(db, action_name="drop_*")
    before = await db.newest_event_id()
    late = proposal("drop_table", status=begun)
    fine = proposal("other")

    for create in (
        partial(db.create_proposal, late),
        partial(db.create_proposals, [fine, late]),
        partial(db.create_proposals, [late, late]),
        partial(db.create_proposal, late, idempotency_key="k"),
        partial(db.create_workflow, WorkflowProposal(name="w"), [fine, late]),
    ):
        with pytest.raises(ApprovalRequired):
            await create()
    assert await db.newest_event_id() == before
    assert sum((await db.count_proposals()).values()) == 0
    # The key is free.
    made = await db.create_proposal(fine, idempotency_key="k")
    assert not made.replayed


@pytest.mark.every_backend
async def test_neighbours_of_a_refused_one_are_written(db: ActionDB) -> None:
    await rule(db, action_name="drop_*")
    asked = [proposal("drop_table", status=S.VALIDATED) if n % 2 else proposal() for n in range(8)]
    found = await asyncio.gather(
        *(db.create_proposal(each) for each in asked), return_exceptions=True
    )
    assert [isinstance(each, ApprovalRequired) for each in found] == [False, True] * 4
    assert (await db.count_proposals())[S.PROPOSED] == 4


async def test_imports_of_ended_ones_are_as_given(db: ActionDB) -> None:
    await rule(db)
    for ended in (S.COMPLETED, S.CANCELLED):
        made = await proposed(db, status=ended)
        assert (made.status, made.approval) == (ended, None)
        assert await db.is_approved(made.id)
    failed = await proposed(db, status=S.FAILED, max_retries=3)
    assert (failed.status, failed.approval) == (S.FAILED, "needed")
    with pytest.raises(TransitionUnapproved) as refused:
        await db.retry(failed.id)
    assert isinstance(refused.value, ApprovalRequired)
    assert isinstance(refused.value, InvalidTransition)
    await approve(db, failed, "mia")
    await db.retry(failed.id)
    await db.complete((await begin(db, failed)).record.id)


async def test_a_proposal_has_at_most_ten_requirements(db: ActionDB) -> None:
    for number in range(10):
        await rule(db, f"rule {number}")
    made = await proposed(db)
    assert len((await db.approvals(made.id)).requirements) == 10
    await rule(db, "rule 10", action_name="drop_*")
    before = await db.newest_event_id()
    with pytest.raises(ActionError) as refused:
        await proposed(db)
    assert "10" in str(refused.value)
    assert await db.newest_event_id() == before
    await proposed(db, "other")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"roles": []}, "roles"),
        ({"approvers": []}, "approvers"),
        ({"approvers": ["mia"], "approvals": 2}, "approvers"),
        ({"approvers": ["mia", "MIA"], "approvals": 2}, "approvers"),
        ({"approvers": ["Mia", "planner"], "agent_id": "mia", "approvals": 2}, "approvers"),
        ({"approvals": 0}, "approvals"),
        ({"approvals": 21}, "approvals"),
        ({"decide_within": 0.0}, "decide_within"),
        ({"valid_for": -1.0}, "valid_for"),
        ({"roles": [" "]}, "roles"),
    ],
)
def test_a_rule_that_nobody_could_meet_is_no_rule(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Rule(name="r", **fields)
    assert refused.value.path.startswith(path)


async def test_what_skips_the_checks_of_a_rule_is_checked_again(db: ActionDB) -> None:
    for wrong in ({"roles": ()}, {"approvals": 0}, {"approvers": ("mia",), "approvals": 2}):
        with pytest.raises(InvalidValue):
            await db.add_rule(Rule(name="r").model_copy(update=wrong), **WHY)
    assert list(await db.rules(active=False)) == []


async def test_a_proposal_whose_approvers_are_all_excluded_is_refused(db: ActionDB) -> None:
    await rule(db, approvers=["mia", "noor"], approvals=2)
    before = await db.newest_event_id()
    for fields in (
        {"requester_id": "mia"},
        {"requester_id": "MIA"},
        {"agent_id": "noor"},
        {"proposed_by": "n\u200boor"},
    ):
        with pytest.raises(ActionError) as refused:
            await proposed(db, **fields)
        assert "nobody" in str(refused.value), fields
    assert await db.newest_event_id() == before
    await proposed(db, requester_id="kim")


async def test_raw_sql_is_subject_to_rules(db: ActionDB, raw: RawSQL) -> None:
    denial = await rule(db, "never", action_name="drop_*", effect="deny")
    await rule(db, "sre", action_name="move_*")
    insert = (
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, status) VALUES"
        " ('{}', '{{}}', 'r', CURRENT_TIMESTAMP, '{}')"
    )
    await raw(insert.format("drop_table", "proposed"))
    await raw(insert.format("move_leader", "proposed"))
    for begun in ("validated", "executing"):
        with pytest.raises(Exception, match="action_proposals_approval_required"):
            await raw(insert.format("move_leader", begun))
    waits, denied = await db.list_proposals()
    assert (denied.status, denied.end_code) == (S.CANCELLED, EndCode.DENIED)
    assert (await last(db, denied)).details == {"end_code": "denied", "rule": denial.id}
    assert (waits.status, waits.approval) == (S.PROPOSED, "needed")


async def test_rules_are_neither_edited_nor_deleted(db: ActionDB, raw: RawSQL) -> None:
    await rule(db, approvals=2)
    await proposed(db)
    for change in (
        "UPDATE action_rules SET approvals = 1",
        "UPDATE action_rules SET revoked_at = NULL",
        "DELETE FROM action_rules",
        "UPDATE action_requirements SET approvals = 1",
        "DELETE FROM action_requirements",
    ):
        with pytest.raises(Exception, match=r"never|immutable"):
            await raw(change)
    (only,) = await db.rules()
    assert only.approvals == 2


async def test_dependents_of_what_waits_wait(db: ActionDB) -> None:
    await rule(db, action_name="drop_*")
    first = await proposed(db)
    second = await db.create_proposal(proposal(status=S.VALIDATED, depends_on=[first.id]))
    assert await db.claim("worker-1", limit=10) == []
    with pytest.raises(DependencyPending):
        await begin(db, second)
    await db.reject_proposal(first.id, by="mia", reason="no")
    assert (await now(db, second)).end_code is EndCode.DEPENDENCY


async def test_wrong_arguments(db: ActionDB) -> None:
    added = await rule(db)
    for wrong in ({"by": ""}, {"by": "ledger"}, {"reason": " "}, {"by": None}, {"reason": None}):
        with pytest.raises(InvalidValue) as refused:
            await db.add_rule(Rule(name="r"), **{**WHY, **wrong})
        assert refused.value.path == next(iter(wrong))
        with pytest.raises(InvalidValue):
            await db.revoke_rule(added.id, **{**WHY, **wrong})
    with pytest.raises(InvalidValue):
        await db.add_rule({"name": "r"}, **WHY)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue):
        await db.revoke_rule(0, **WHY)
    with pytest.raises(InvalidValue):
        await db.rules(active=1)  # type: ignore[arg-type]


# ------ explain says what create then does

NAMES = st.sampled_from(["drop_table", "drop_view", "create", "a[b]", "naïve", "100%", "a_b"])
AGENTS = st.sampled_from(
    ["planner", "Planner", "pl\u200banner", "straße", "STRASSE", "\uff58", "x"]
)
TYPES = st.sampled_from(RequesterType)
VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "ab", 1.5])
CONDITIONS = st.one_of(
    st.builds(
        lambda path, op, value: {"path": path, "op": op, "value": value},
        st.sampled_from([["a"], ["a", "b"], ["a", 0], ["b"]]),
        st.sampled_from(["eq", "ne"]),
        VALUES,
    ),
    st.builds(
        lambda path, op, value: {"path": path, "op": op, "value": value},
        st.sampled_from([["a"], ["a", "b"], ["a", 0], ["b"]]),
        st.sampled_from(["lt", "le", "gt", "ge"]),
        st.integers(-3, 3) | st.sampled_from(["", "a", 1.5]),
    ),
    st.builds(lambda path: {"path": path, "op": "exists"}, st.sampled_from([["a"], ["a", 0]])),
)
RULES = st.builds(
    Rule,
    name=st.just("r"),
    action_name=st.none() | st.sampled_from(["drop_*", "*", "?rop_view", "a[b]", "na?ve", "*e", "100%", "a_?"]),
    action_type=st.none() | st.sampled_from(ActionType),
    agent_id=st.none() | AGENTS,
    requester_type=st.none() | TYPES,
    conditions=st.lists(CONDITIONS, max_size=2),
    effect=st.just("require") | st.sampled_from(["require", "deny"]),
)  # fmt: skip
PROPOSALS = st.builds(
    ActionProposal,
    action_name=NAMES,
    action_type=st.sampled_from(ActionType),
    reason=st.just("r"),
    agent_id=st.none() | AGENTS,
    requester_type=st.none() | TYPES,
    parameters=st.dictionaries(
        st.sampled_from(["a", "b"]),
        VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(st.just("b"), VALUES, max_size=1),
        max_size=2,
    ),
)


@pytest.mark.two_backends
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rules=st.lists(RULES, max_size=4), wanted=st.lists(PROPOSALS, min_size=1, max_size=5))
async def test_explain_says_what_create_then_does(
    db: ActionDB, rules: list[Rule], wanted: list[ActionProposal]
) -> None:
    added = [await db.add_rule(each, **WHY) for each in rules]
    before = await db.newest_event_id()
    said = [await db.explain(each) for each in wanted]
    assert await db.newest_event_id() == before
    made = await db.create_proposals(wanted)
    for matches, created in zip(said, made, strict=True):
        found = (await db.approvals(created.id)).requirements
        assert [each.requirement.rule_id for each in found] == [each.rule.id for each in matches]
        assert [each.requirement.effect for each in found] == [each.effect for each in matches]
        denied = any(each.effect == "deny" for each in matches)
        assert created.status is (S.CANCELLED if denied else S.PROPOSED)
        assert created.approval == ("needed" if matches else None) or denied
    for each in added:
        await db.revoke_rule(each.id, **WHY)
