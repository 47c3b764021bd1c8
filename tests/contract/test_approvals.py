"""Approvals: who may give them, what they are bound to, when they count, and what they move."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from operator_core.actions import (
    ActionError,
    ApprovalRequired,
    ApprovalStatus,
    Conflict,
    DecisionKind,
    DigestMismatch,
    EndCode,
    EventType,
    HaltMode,
    InvalidTransition,
    InvalidValue,
    NotEligible,
    NotFound,
    TamperedProposal,
    TransitionUnapproved,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from operator_core.db.ledger.requirements import assign
from tests.clocks import asleep
from tests.conftest import ON_SERVER, RawSQL, proposal
from tests.contract.governed import (
    S,
    approve,
    begin,
    last,
    later,
    now,
    proposed,
    rule,
    status,
)

pytestmark = pytest.mark.two_backends

WHO = {"by": "oncall", "reason": "bad deploy"}
OTHER = "oc1:" + "0" * 64

Open = Callable[..., Awaitable[ActionDB]]


# ------ what an approval is bound to


@pytest.mark.every_backend
async def test_an_approval_is_stored_and_told(db: ActionDB) -> None:
    await rule(db, roles=["sre"])
    made = await proposed(db)
    given = await approve(db, made, "Mia", "SRE", comment="looks right")
    assert (given.proposal_id, given.kind) == (made.id, DecisionKind.APPROVED)
    assert (given.decided_by, given.decider_type, given.roles) == ("Mia", "user", ("sre",))
    assert (given.digest, given.comment, given.repeated) == (made.digest, "looks right", False)
    assert (given.requirement_id, given.grant_id, given.withdraws_id) == (None, None, None)
    after = await now(db, made)
    assert (after.status, after.approval) == (S.VALIDATED, ApprovalStatus.GIVEN)
    assert after.validated_at is not None
    decided, moved = (await db.history(made.id))[-2:]
    assert (decided.event_type, decided.actor) == (EventType.APPROVED, "Mia")
    assert decided.reason == "looks right"
    assert decided.details == {"decision": given.id, "digest": made.digest}
    assert decided.version is None
    assert (moved.from_status, moved.to_status, moved.actor) == (S.PROPOSED, S.VALIDATED, "Mia")
    assert moved.details == {"decision": given.id}
    assert moved.version == after.version
    found = await db.approvals(made.id)
    assert (found.proposal_id, found.decisions, found.approved) == (made.id, (given,), True)
    assert found.requirements[0].counted == (given,)
    await db.complete((await begin(db, made)).record.id)
    assert [str(each.to_status) for each in await db.history(made.id) if each.to_status] == [
        "proposed", "validated", "executing", "completed",
    ]  # fmt: skip


async def test_the_digest_is_mandatory_and_binds(db: ActionDB) -> None:
    await rule(db)
    made, other = await proposed(db), await proposed(db, parameters={"rows": 2})
    before = await db.newest_event_id()
    for wrong in (None, OTHER, other.digest):
        with pytest.raises(DigestMismatch) as refused:
            await db.approve_proposal(made.id, by="mia", digest=wrong)
        assert (refused.value.id, refused.value.digest) == (made.id, made.digest)
    for wrong in ("oc1:12", "sha256:" + "0" * 64, made.digest.upper(), ""):
        with pytest.raises(InvalidValue) as invalid:
            await db.approve_proposal(made.id, by="mia", digest=wrong)
        assert invalid.value.path == "digest"
    assert await db.newest_event_id() == before
    assert not await db.is_approved(made.id)


async def test_where_nothing_is_required_the_digest_is_optional_and_binds(db: ActionDB) -> None:
    made = await proposed(db)
    with pytest.raises(DigestMismatch):
        await db.approve_proposal(made.id, by="mia", digest=OTHER)
    given = await db.approve_proposal(made.id, by="mia")
    assert given.digest is None
    assert (await db.approve_proposal(made.id, by="MIA", digest=made.digest)).repeated
    assert await db.is_approved(made.id)
    assert (await db.approvals(made.id)).decisions == (given,)
    assert (await now(db, made)).approval is None


@pytest.mark.parametrize("required", [False, True])
async def test_raw_sql_approves_nothing_else_either(
    db: ActionDB, raw: RawSQL, required: bool
) -> None:
    if required:
        await rule(db)
    made, other = await proposed(db), await proposed(db, parameters={"rows": 2})
    insert = (
        "INSERT INTO action_decisions (proposal_id, kind, decided_by, decider_key, digest)"
        " VALUES (?, 'approved', 'mia', 'mia', ?)"
    )
    for wrong in (other.digest, OTHER, *([None] if required else [])):
        with pytest.raises(Exception, match="action_decisions_digest"):
            await raw(insert, made.id, wrong)
    await raw(insert, made.id, made.digest)
    assert len((await db.approvals(made.id)).decisions) == 1


async def test_what_is_changed_behind_the_triggers_is_not_run(db: ActionDB) -> None:
    await rule(db, action_name="drop_*")
    made, fine = await proposed(db), await proposed(db)
    for each in (made, fine):
        await approve(db, each, "mia")
    await asleep(
        db, f"""UPDATE action_proposals SET parameters = '{{"rows":99}}' WHERE id = {made.id}"""
    )
    assert [each.proposal.id for each in await db.claim("worker-1", limit=10)] == [fine.id]
    assert (await now(db, made)).end_code is EndCode.TAMPERED
    event = await last(db, made)
    assert event.details is not None
    assert event.details["end_code"] == "tampered"
    with pytest.raises((TamperedProposal, InvalidTransition)):
        await begin(db, made)


# ------ who may approve


async def test_requester_agent_and_proposer_do_not_approve_their_own(db: ActionDB) -> None:
    await rule(db, "sre", action_name="drop_*")
    made = await proposed(db, requester_id="Rosa Ruiz", agent_id="planner", proposed_by="plugin-ü")
    before = await db.newest_event_id()
    for own in (
        "Rosa Ruiz", "rosa  ruiz", "ROSA\u200b RUIZ", "planner", "PLANNER", "pl\u00adanner",
        "plugin-ü", "PLUGIN-U\u0308",
    ):  # fmt: skip
        with pytest.raises(NotEligible) as refused:
            await approve(db, made, own)
        assert (refused.value.id, refused.value.by) == (made.id, own)
    assert await db.newest_event_id() == before
    await rule(db, "anybody", action_name="move_*", allow_self=True)
    for own in ("rosa", "planner"):
        mine = await proposed(db, "move_leader", requester_id="rosa", agent_id="planner")
        await approve(db, mine, own)
        assert await status(db, mine) is S.VALIDATED


async def test_self_approval_is_a_matter_of_each_rule(db: ActionDB) -> None:
    await rule(db, "own", allow_self=True)
    await rule(db, "other")
    made = await proposed(db, requester_id="rosa")
    await approve(db, made, "rosa")
    assert await status(db, made) is S.PROPOSED
    await approve(db, made, "mia")
    assert await status(db, made) is S.VALIDATED


async def test_agents_approve_only_where_a_rule_lets_them(db: ActionDB) -> None:
    await rule(db, "people", action_name="drop_*")
    await rule(db, "anybody", action_name="move_*", allow_agents=True)
    made = await proposed(db)
    with pytest.raises(NotEligible):
        await approve(db, made, "critic", by_type="agent")
    await approve(db, made, "timer", by_type="system")
    assert await status(db, made) is S.VALIDATED
    moving = await proposed(db, "move_leader")
    given = await approve(db, moving, "critic", by_type="agent")
    assert given.decider_type == "agent"
    assert await status(db, moving) is S.VALIDATED


async def test_roles_and_names(db: ActionDB) -> None:
    await rule(db, "role", action_name="drop_*", roles=["SRE", "dba"])
    await rule(db, "name", action_name="move_*", approvers=["Mia Ö", "noor"])
    made = await proposed(db)
    for roles in ([], ["owner"], ["sre2"], ["s re"]):
        with pytest.raises(NotEligible):
            await approve(db, made, "mia", *roles)
    await approve(db, made, "mia", "owner", "DBA")
    moving = await proposed(db, "move_leader")
    with pytest.raises(NotEligible):
        await approve(db, moving, "kim", "sre")
    await approve(db, moving, "MIA O\u0308")
    for each in (made, moving):
        assert await status(db, each) is S.VALIDATED
    one = await proposed(db)
    await db.approve_proposal(one.id, by="mia", digest=one.digest, roles="sre")
    assert await status(db, one) is S.VALIDATED


# ------ how many


async def test_a_quorum_is_of_distinct_persons(db: ActionDB) -> None:
    await rule(db, approvals=3)
    made = await proposed(db)
    first = await approve(db, made, "mia", comment="once")
    before = await db.newest_event_id()
    for again in ("mia", "MIA", "m\u200bia", " mia "):
        repeated = await approve(db, made, again, "other", comment="twice")
        assert repeated.repeated
        assert repeated == first
    assert await db.newest_event_id() == before
    await approve(db, made, "noor")
    assert await status(db, made) is S.PROPOSED
    (state,) = (await db.approvals(made.id)).requirements
    assert (state.missing, state.met, len(state.counted)) == (1, False, 2)
    await approve(db, made, "kim")
    assert await status(db, made) is S.VALIDATED


async def test_one_person_counts_once_in_all_requirements_together(db: ActionDB) -> None:
    await rule(db, "sre", roles=["sre"])
    await rule(db, "owner", roles=["owner"])
    made = await proposed(db)
    await approve(db, made, "mia", "sre", "owner")
    assert await status(db, made) is S.PROPOSED
    assert sum(each.missing for each in (await db.approvals(made.id)).requirements) == 1
    assert (await approve(db, made, "mia", "owner")).repeated
    assert await status(db, made) is S.PROPOSED
    # Whichever of the two this one can give, the other falls to who could give both.
    await approve(db, made, "noor", "sre")
    assert await status(db, made) is S.VALIDATED
    counted = [[d.decided_by for d in each.counted] for each in (await db.approvals(made.id)).requirements]  # fmt: skip
    assert counted == [["noor"], ["mia"]]


async def test_any_assignment_that_meets_all_is_enough(db: ActionDB) -> None:
    await rule(db, "a", roles=["a"], approvals=2)
    await rule(db, "b", roles=["b"], approvals=1)
    await rule(db, "any", approvals=1)
    for order in itertools.permutations([("ab",), ("a",), ("a", "b"), ()]):
        made = await proposed(db)
        for number, roles in enumerate(order):
            assert await status(db, made) is S.PROPOSED
            await approve(db, made, f"p{number}", *("a", "b") if roles == ("ab",) else roles)
        assert await status(db, made) is S.VALIDATED, order


async def test_an_approval_for_one_requirement_counts_for_no_other(db: ActionDB) -> None:
    await rule(db, "a", roles=["a"])
    await rule(db, "b", roles=["b"])
    made, other = await proposed(db), await proposed(db)
    a, b = [each.requirement.id for each in (await db.approvals(made.id)).requirements]
    elsewhere = (await db.approvals(other.id)).requirements[0].requirement.id
    with pytest.raises(NotEligible):
        await approve(db, made, "mia", "a", requirement_id=b)
    for unknown in (elsewhere, 10_000):
        with pytest.raises(NotFound):
            await approve(db, made, "mia", "a", "b", requirement_id=unknown)
    given = await approve(db, made, "mia", "a", "b", requirement_id=b)
    assert given.requirement_id == b
    assert (await last(db, made)).details == {
        "decision": given.id,
        "digest": made.digest,
        "requirement": b,
    }
    assert [each.met for each in (await db.approvals(made.id)).requirements] == [False, True]
    with pytest.raises(NotEligible):
        await approve(db, made, "noor", "b", requirement_id=a)
    await approve(db, made, "noor", "a", requirement_id=a)
    assert await status(db, made) is S.VALIDATED


LAW = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def elections(draw: st.DrawFn, most: int = 7) -> tuple[dict[int, int], dict[int, list[int]]]:
    """How many votes each requirement needs, and for each vote the requirements that it fits."""
    needs = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    which = st.lists(st.integers(1, len(needs)), unique=True, min_size=1).map(sorted)
    fits = draw(st.lists(which, max_size=most))
    return dict(enumerate(needs, 1)), dict(enumerate(fits, 1))


def most_by_trying_all(needs: dict[int, int], fits: dict[int, list[int]]) -> int:
    """The most votes that count together, by trying all assignments."""
    best = 0
    for chosen in itertools.product(*([None, *each] for each in fits.values())):
        counts = {requirement: chosen.count(requirement) for requirement in needs}
        if all(counts[each] <= needs[each] for each in needs):
            best = max(best, sum(counts.values()))
    return best


@settings(max_examples=200, deadline=None)
@given(election=elections(most=6))
@example(({1: 1, 2: 1, 3: 1}, {1: [1, 2, 3], 2: [1, 2], 3: [1]}))
@example(({1: 2, 2: 1}, {1: [1, 2], 2: [1, 2], 3: [1]}))
def test_as_many_votes_count_as_can(election: tuple[dict[int, int], dict[int, list[int]]]) -> None:
    needs, fits = election
    counted = assign(needs, fits)
    assert sum(map(len, counted.values())) == most_by_trying_all(needs, fits)
    votes = [vote for each in counted.values() for vote in each]
    assert len(votes) == len(set(votes))
    for requirement, each in counted.items():
        assert len(each) <= needs[requirement]
        assert all(requirement in fits[vote] for vote in each)


@LAW
@given(election=elections())
@example(({1: 1, 2: 1, 3: 1}, {1: [1, 2, 3], 2: [1, 2], 3: [1]}))
@example(({1: 1, 2: 1, 3: 1}, {1: [1], 2: [1], 3: [1, 2], 4: [2]}))
@example(({1: 3, 2: 3}, {each: [1, 2] for each in range(1, 7)}))
async def test_the_database_counts_as_the_facade_does(
    db: ActionDB, election: tuple[dict[int, int], dict[int, list[int]]]
) -> None:
    needs, fits = election
    added = [await rule(db, f"r{n}", roles=[f"role-{n}"], approvals=each) for n, each in needs.items()]  # fmt: skip
    made = await proposed(db)
    for each in added:
        await db.revoke_rule(each.id, **WHO)
    for vote, fitting in fits.items():
        enough = sum(needs.values()) == most_by_trying_all(
            needs, {each: fits[each] for each in range(1, vote)}
        )
        assert await status(db, made) is (S.VALIDATED if enough else S.PROPOSED)
        assert await db.is_approved(made.id) is enough
        found = await db.approvals(made.id)
        assert found.approved is enough
        assert all(each.met for each in found.requirements) is enough
        await approve(db, made, f"person-{vote}", *(f"role-{each}" for each in fitting))
    enough = sum(needs.values()) == most_by_trying_all(needs, fits)
    assert await status(db, made) is (S.VALIDATED if enough else S.PROPOSED)
    assert await db.is_approved(made.id) is enough


# ------ rejections


async def test_a_rejection_ends_it(db: ActionDB) -> None:
    await rule(db, approvals=2)
    made = await proposed(db)
    behind = await db.create_proposal(proposal("other", depends_on=[made.id]))
    await approve(db, made, "mia")
    # Anybody may, also who has approved, and the proposer.
    given = await db.reject_proposal(made.id, by="mia", reason="on second thought")
    assert (given.kind, given.comment) == (DecisionKind.REJECTED, "on second thought")
    after = await now(db, made)
    assert (after.status, after.end_code) == (S.CANCELLED, EndCode.REJECTED)
    decided, moved = (await db.history(made.id))[-2:]
    assert (decided.event_type, decided.actor) == (EventType.REJECTED, "mia")
    assert decided.details == {"decision": given.id}
    assert (moved.to_status, moved.actor, moved.reason) == (S.CANCELLED, "mia", "on second thought")
    assert moved.details == {"end_code": "rejected", "decision": given.id}
    assert (await now(db, behind)).end_code is EndCode.DEPENDENCY
    before = await db.newest_event_id()
    with pytest.raises(Conflict):
        await approve(db, made, "noor")
    with pytest.raises(Conflict):
        await db.reject_proposal(made.id, by="noor", reason="no")
    with pytest.raises(Conflict):
        await db.withdraw_approval(made.id, by="mia", reason="no")
    for target in (S.VALIDATED, S.EXECUTING):
        with pytest.raises(InvalidTransition):
            await db.update_proposal_status(made.id, target)
    assert await db.newest_event_id() == before


async def test_what_is_validated_can_be_rejected_and_what_runs_can_not(db: ActionDB) -> None:
    plain = await db.create_proposal(proposal())
    await db.reject_proposal(plain.id, by="planner", reason="no")
    assert (await now(db, plain)).end_code is EndCode.REJECTED
    await rule(db)
    made, running = await proposed(db), await proposed(db)
    for each in (made, running):
        await approve(db, each, "mia")
    await db.reject_proposal(made.id, by="noor", reason="no")
    assert (await now(db, made)).end_code is EndCode.REJECTED
    claim = await begin(db, running)
    for call in ("approve", "reject", "withdraw"):
        with pytest.raises(Conflict) as refused:
            if call == "approve":
                await approve(db, running, "noor")
            elif call == "reject":
                await db.reject_proposal(running.id, by="noor", reason="no")
            else:
                await db.withdraw_approval(running.id, by="mia", reason="no")
        assert (refused.value.kind, refused.value.id) == ("proposal", running.id)
    await db.complete(claim.record.id)


async def rejected_retry(db: ActionDB) -> Any:
    """A proposal that has failed, and whose retry was called off by somebody who rejected it."""
    made = await proposed(db, max_retries=3, retry_delay=3600.0, max_retry_delay=3600.0)
    await approve(db, made, "mia")
    await db.fail((await begin(db, made)).record.id, "boom")
    await db.reject_proposal(made.id, by="noor", reason="leave it")
    return made


@pytest.mark.parametrize("covers_retries", [False, True])
async def test_a_rejected_retry_never_runs(db: ActionDB, covers_retries: bool) -> None:
    await rule(db, covers_retries=covers_retries)
    made = await rejected_retry(db)
    after = await now(db, made)
    assert (after.status, after.next_retry_at) == (S.FAILED, None)
    event = await last(db, made)
    assert (event.event_type, event.actor) == (EventType.RETRY_CANCELLED, "noor")
    assert list(await db.pending_approvals()) == []
    with pytest.raises(InvalidTransition):
        await db.retry(made.id)
    with pytest.raises(InvalidTransition):
        await begin(db, made)
    assert await db.claim("worker-1") == []


async def test_nobody_approves_a_rejected_retry(db: ActionDB) -> None:
    await rule(db)
    made = await rejected_retry(db)
    with pytest.raises(Conflict):
        await approve(db, made, "kim")
    with pytest.raises(InvalidTransition):
        await db.retry(made.id)


async def test_what_can_be_approved_can_be_rejected(db: ActionDB) -> None:
    await rule(db, covers_retries=True)
    made = await proposed(db, status=S.FAILED, max_retries=3)
    await approve(db, made, "mia")
    await db.reject_proposal(made.id, by="noor", reason="leave it")
    with pytest.raises(InvalidTransition):
        await db.retry(made.id)


async def test_a_rejection_also_holds_where_nothing_was_required(db: ActionDB, raw: RawSQL) -> None:
    made = await proposed(db, status=S.VALIDATED, max_retries=3)
    await db.fail((await begin(db, made)).record.id, "boom")
    await db.reject_proposal(made.id, by="noor", reason="leave it")
    found = await now(db, made)
    assert (found.status, found.next_retry_at, found.approval) == (S.FAILED, None, "needed")
    assert not await db.is_approved(made.id)
    for call in (db.retry(made.id), db.update_proposal_status(made.id, S.VALIDATED)):
        with pytest.raises(TransitionUnapproved, match="noor rejected it") as refused:
            await call
        assert (refused.value.missing, refused.value.rejected_by) == ((), "noor")
    for column in ("status = 'validated'", "approval = NULL", "approval = 'given'"):
        with pytest.raises(ActionError, match=r"approval_required|_kept"):
            await raw(f"UPDATE action_proposals SET {column} WHERE id = {made.id}")
    assert list(await db.pending_approvals()) == []


# ------ withdrawals


@pytest.mark.parametrize("ready", [False, True], ids=["proposed", "validated"])
async def test_a_withdrawn_approval_counts_no_more(db: ActionDB, ready: bool) -> None:
    await rule(db, approvals=1 if ready else 2)
    made = await proposed(db)
    given = await approve(db, made, "mia")
    before = await status(db, made)
    taken = await db.withdraw_approval(made.id, by="MIA", reason="too soon")
    assert (taken.kind, taken.withdraws_id, taken.digest) == ("withdrawn", given.id, made.digest)
    event = await last(db, made)
    assert (event.event_type, event.actor) == (EventType.APPROVAL_WITHDRAWN, "MIA")
    assert event.reason == "too soon"
    assert event.details == {"decision": taken.id, "digest": made.digest, "withdraws": given.id}
    after = await now(db, made)
    assert (after.status, after.approval) == (before, ApprovalStatus.NEEDED)
    assert not await db.is_approved(made.id)
    assert await db.claim("worker-1") == []
    with pytest.raises(TransitionUnapproved) as refused:
        await begin(db, made)
    assert refused.value.missing == ("sre",)
    assert [each.proposal.id for each in await db.pending_approvals()] == [made.id]
    with pytest.raises(Conflict):
        await db.withdraw_approval(made.id, by="mia", reason="again")
    with pytest.raises(Conflict):
        await db.withdraw_approval(made.id, by="kim", reason="not mine")
    await approve(db, made, "noor")
    if not ready:
        # The same person may approve again.
        assert not (await approve(db, made, "mia")).repeated
    await db.complete((await begin(db, made)).record.id)


# ------ what the last approval moves


async def test_a_service_may_validate_itself(db: ActionDB) -> None:
    await rule(db)
    made = await proposed(db)
    await approve(db, made, "mia", validate=False)
    after = await now(db, made)
    assert (after.status, after.approval) == (S.PROPOSED, ApprovalStatus.GIVEN)
    assert await db.is_approved(made.id)
    (waiting,) = await db.approved_not_started()
    assert waiting.proposal == after
    assert await db.pending_approvals() == []
    await db.update_proposal_status(made.id, S.VALIDATED)
    await db.complete((await begin(db, made)).record.id)


async def test_missing_approvals_stop_every_move(db: ActionDB) -> None:
    await rule(db, "one", approvals=2)
    await rule(db, "two")
    made = await proposed(db)
    with pytest.raises(TransitionUnapproved) as refused:
        await db.update_proposal_status(made.id, S.VALIDATED)
    assert isinstance(refused.value, ApprovalRequired)
    assert (refused.value.id, refused.value.from_status) == (made.id, S.PROPOSED)
    assert refused.value.to_status is S.VALIDATED
    assert refused.value.missing == ("one", "two")
    with pytest.raises(TransitionUnapproved):
        await begin(db, made)
    assert await db.claim("worker-1") == []
    # Stopping stays possible.
    await db.update_proposal_status(made.id, S.CANCELLED)
    assert (await now(db, made)).end_code is EndCode.CANCELLED


async def test_raw_sql_needs_approvals_too(db: ActionDB, raw: RawSQL) -> None:
    await rule(db)
    made = await proposed(db)
    for change in (
        "status = 'validated'",
        "status = 'validated', approval = 'given'",
        "approval = NULL",
        "approval = 'given'",
        "lapses_at = NULL, approval = 'held'",
    ):
        # Some are refused, others change nothing.
        with suppress(ActionError):
            await raw(f"UPDATE action_proposals SET {change} WHERE id = ?", made.id)
        found = await now(db, made)
        assert (found.status, found.approval) == (S.PROPOSED, ApprovalStatus.NEEDED), change
    await approve(db, made, "mia")
    await db.withdraw_approval(made.id, by="mia", reason="no")
    with pytest.raises(Exception, match="action_proposals_approval_required"):
        await raw("UPDATE action_proposals SET status = 'executing' WHERE id = ?", made.id)
    for change in (
        "UPDATE action_decisions SET decided_by = 'kim'",
        "UPDATE action_decisions SET withdraws_id = NULL",
        "DELETE FROM action_decisions",
    ):
        with pytest.raises(Exception, match="append-only"):
            await raw(change)


async def test_rows_of_raw_sql_get_their_digest_from_the_first_approval(
    db: ActionDB, raw: RawSQL
) -> None:
    await rule(db)
    for _ in range(2):
        await raw(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, requester_id)"
            """ VALUES ('drop_table', '{"rows":1}', 'r', CURRENT_TIMESTAMP, 'Rosa Ü')"""
        )
    made, other = await now(db, 1), await now(db, 2)
    assert made.content_digest is None
    with pytest.raises(DigestMismatch):
        await db.approve_proposal(made.id, by="mia", digest=OTHER)
    assert (await now(db, made)).content_digest is None
    with pytest.raises(NotEligible):
        await approve(db, made, "rosa ü")
    with pytest.raises(TransitionUnapproved):
        await db.update_proposal_status(other.id, S.VALIDATED)
    await approve(db, made, "mia")
    after = await now(db, made)
    assert (after.content_digest, after.status) == (made.digest, S.VALIDATED)
    with pytest.raises(Exception, match="action_proposals_"):
        await raw("UPDATE action_proposals SET content_digest = ? WHERE id = 1", OTHER)
    await db.complete((await begin(db, made)).record.id)
    assert (await now(db, other)).content_digest is None


async def test_a_false_digest_of_raw_sql_is_approved_by_nobody(db: ActionDB, raw: RawSQL) -> None:
    await rule(db)
    await raw(
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, content_digest)"
        """ VALUES ('drop_table', '{"rows":99}', 'r', CURRENT_TIMESTAMP, ?)""",
        OTHER,
    )
    made = await now(db, 1)
    for digest in (made.digest, OTHER):
        with pytest.raises((DigestMismatch, TamperedProposal)):
            await db.approve_proposal(1, by="mia", digest=digest)
    assert await status(db, 1) is S.PROPOSED


async def test_false_identity_keys_of_raw_sql_separate_nobody(db: ActionDB, raw: RawSQL) -> None:
    await rule(db)
    await raw(
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, requester_id,"
        " identity_keys) VALUES ('drop_table', '{}', 'r', CURRENT_TIMESTAMP, 'Mia Ö',"
        """ '{"requester_id":"somebody else"}')"""
    )
    with pytest.raises((NotEligible, TamperedProposal)):
        await approve(db, await now(db, 1), "Mia Ö")
    assert await status(db, 1) is S.PROPOSED


async def test_what_is_required_later_holds_too(db: ActionDB, raw: RawSQL) -> None:
    made = await proposed(db, status=S.VALIDATED)
    running = await proposed(db, status=S.VALIDATED, max_retries=3)
    claim = await begin(db, running)
    for each in (made, running):
        await raw("INSERT INTO action_requirements (proposal_id, name) VALUES (?, 'more')", each.id)
    assert await db.claim("worker-1") == []
    with pytest.raises(TransitionUnapproved) as refused:
        await begin(db, made)
    assert refused.value.missing == ("more",)
    # What runs goes on, and its retry needs it.
    await db.fail(claim.record.id, "boom")
    with pytest.raises(TransitionUnapproved):
        await db.retry(running.id)
    await approve(db, made, "mia")
    await db.complete((await begin(db, made)).record.id)


async def test_what_expires_while_it_waits_is_not_run(db: ActionDB) -> None:
    await rule(db)
    made = await proposed(db, expires_at=datetime.now(UTC) - timedelta(hours=1))
    await approve(db, made, "mia")
    assert await db.claim("worker-1") == []
    assert (await now(db, made)).end_code is EndCode.EXPIRED


async def test_one_sweep_ends_all_that_have_lapsed(db: ActionDB, whole_sweeps: None) -> None:
    await rule(db, "slow", action_name="drop_*", decide_within=3600.0)
    await rule(db, "short", action_name="move_*", valid_for=3600.0)
    undecided = await db.create_proposals(proposal("drop_table") for _ in range(30))
    overdue = await db.create_proposals(proposal("move_leader") for _ in range(30))
    kept = await db.create_proposals(proposal("move_leader") for _ in range(3))
    for each in overdue:
        await approve(db, each, "mia")
    await later(db, 1800)
    for each in kept:
        await approve(db, each, "mia")
    await approve(db, overdue[0], "noor")
    await later(db, 1801)
    claims = await db.claim("worker-1", limit=100)
    assert sorted(each.proposal.id for each in claims) == [
        overdue[0].id,
        *(each.id for each in kept),
    ]
    codes = Counter([each.end_code async for each in db.iter_proposals(S.CANCELLED)])
    assert codes == {EndCode.UNDECIDED: len(undecided), EndCode.APPROVAL_EXPIRED: 29}


async def test_a_workflow_is_cancelled_with_what_waits(db: ActionDB) -> None:
    await rule(db)
    flow, steps = await db.create_workflow(
        WorkflowProposal(name="w"), [proposal("drop_table") for _ in range(3)], after={2: [0, 1]}
    )
    await approve(db, steps[0], "mia")
    await approve(db, steps[2], "mia")
    claim = await begin(db, steps[0])
    assert await db.cancel_workflow(flow.id) == 2
    await db.complete(claim.record.id)
    assert [await status(db, each) for each in steps] == [S.COMPLETED, S.CANCELLED, S.CANCELLED]
    with pytest.raises(Conflict):
        await approve(db, steps[1], "mia")


# ------ what a start uses up


async def failed(db: ActionDB, **fields: Any) -> Any:
    """An approved proposal whose execution has failed, and whose retry is due."""
    made = await proposed(db, **{"max_retries": 3, "retry_delay": 0.0, **fields})
    await approve(db, made, "mia")
    await db.fail((await begin(db, made)).record.id, "boom")
    return made


async def test_a_retry_needs_new_approvals(db: ActionDB) -> None:
    await rule(db, approvals=1)
    made = await failed(db)
    after = await now(db, made)
    assert (after.status, after.approval) == (S.FAILED, ApprovalStatus.NEEDED)
    assert not await db.is_approved(made.id)
    assert await db.claim("worker-1") == []
    with pytest.raises(TransitionUnapproved):
        await db.retry(made.id)
    with pytest.raises(TransitionUnapproved):
        await begin(db, made)
    (waiting,) = await db.pending_approvals()
    assert (waiting.proposal.id, waiting.missing[0].missing) == (made.id, 1)
    # The same person may approve it again, because the first approval is used up.
    again = await approve(db, made, "mia")
    assert not again.repeated
    after = await now(db, made)
    assert (after.status, after.retry_count) == (S.VALIDATED, 1)
    event = await last(db, made)
    assert (event.from_status, event.to_status, event.actor) == (S.FAILED, S.VALIDATED, "mia")
    await db.complete((await begin(db, made)).record.id)


async def test_an_approval_may_cover_the_retries(db: ActionDB) -> None:
    await rule(db, covers_retries=True)
    made = await failed(db)
    for _ in range(2):
        (claim,) = await db.claim("worker-1")
        assert claim.proposal.id == made.id
        await db.fail(claim.record.id, "boom")
    (claim,) = await db.claim("worker-1")
    await db.complete(claim.record.id)


async def test_each_requirement_says_whether_it_covers_the_retries(db: ActionDB) -> None:
    await rule(db, "covers", roles=["a"], covers_retries=True)
    await rule(db, "does not", roles=["b"])
    made = await proposed(db, max_retries=3)
    await approve(db, made, "mia", "a")
    await approve(db, made, "noor", "b")
    await db.fail((await begin(db, made)).record.id, "boom")
    assert [each.met for each in (await db.approvals(made.id)).requirements] == [True, False]
    await approve(db, made, "kim", "b")
    assert await status(db, made) is S.VALIDATED


async def test_what_was_surely_not_begun_gives_its_approvals_back(db: ActionDB) -> None:
    await rule(db, approvals=2)
    made = await proposed(db)
    for by in ("mia", "noor"):
        await approve(db, made, by)
    for _ in range(2):
        claim = await begin(db, made)
        # As a claim that is cancelled gives back what it has taken.
        await db._give_back([claim])
        after = await now(db, made)
        assert (after.status, after.end_code) == (S.FAILED, EndCode.NOT_BEGUN)
        assert await db.is_approved(made.id)
        assert (await approve(db, made, "mia")).repeated
        await db.retry(made.id)
    await db.complete((await begin(db, made)).record.id)


@pytest.mark.every_backend
async def test_a_cancelled_claim_gives_the_approvals_back(db: ActionDB) -> None:
    await rule(db)
    made = await proposed(db)
    await approve(db, made, "mia")
    for turns in range(40):
        task = asyncio.create_task(db.claim("worker-1"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            (claim,) = await task
        except asyncio.CancelledError:
            pass
        else:
            await db._give_back([claim])
        if await status(db, made) is S.FAILED:
            assert await db.is_approved(made.id)
            await db.retry(made.id)
        assert await status(db, made) is S.VALIDATED
    await db.complete((await begin(db, made)).record.id)


async def test_an_unknown_outcome_gives_nothing_back(db: ActionDB) -> None:
    await rule(db)
    made, gone = await proposed(db), await proposed(db)
    for each in (made, gone):
        await approve(db, each, "mia")
    await db.fail((await begin(db, made)).record.id, "lost", outcome_unknown=True)
    claim = await begin(db, gone)
    await asleep(
        db,
        "UPDATE action_records SET lease_expires_at = '2020-01-01 00:00:00.000000'"
        f" WHERE id = {claim.record.id}",
    )
    await db.recover_expired()
    for each in (made, gone):
        assert (await now(db, each)).end_code is EndCode.OUTCOME_UNKNOWN
        assert not await db.is_approved(each.id)
        with pytest.raises(TransitionUnapproved):
            await db.retry(each.id)


# ------ time


async def test_what_is_not_decided_in_time_is_cancelled(db: ActionDB) -> None:
    await rule(db, "slow", action_name="drop_*", decide_within=7200.0)
    await rule(db, "fast", action_name="drop_*", decide_within=3600.0, roles=["sre"])
    made, other = await proposed(db), await proposed(db, "other")
    behind = await db.create_proposal(proposal(depends_on=[made.id]))
    assert made.lapses_at == made.created_at + timedelta(hours=1)
    assert (await db.approvals(made.id)).lapses_at == made.lapses_at
    await approve(db, made, "mia")
    await later(db, 3500)
    assert await db.claim("worker-1") == []
    assert await status(db, made) is S.PROPOSED
    await later(db, 101)
    # Too late, although no sweep has seen it.
    with pytest.raises(Conflict):
        await approve(db, made, "noor", "sre")
    assert await status(db, made) is S.PROPOSED
    assert await db.claim("worker-1") == []
    after = await now(db, made)
    assert (after.status, after.end_code) == (S.CANCELLED, EndCode.UNDECIDED)
    event = await last(db, made)
    assert (event.actor, event.details) == ("ledger", {"end_code": "undecided"})
    assert (await now(db, behind)).end_code is EndCode.DEPENDENCY
    assert await status(db, other) is S.PROPOSED
    with pytest.raises(Conflict):
        await approve(db, made, "noor", "sre")


async def test_what_is_decided_in_time_has_no_more_hurry(db: ActionDB) -> None:
    await rule(db, decide_within=3600.0)
    made = await proposed(db)
    await approve(db, made, "mia")
    assert (await now(db, made)).lapses_at is None
    await later(db, 7200)
    await db.complete((await begin(db, made)).record.id)


async def test_an_approval_is_good_for_a_time(db: ActionDB) -> None:
    await rule(db, valid_for=3600.0)
    made = await proposed(db)
    given = await approve(db, made, "mia")
    after = await now(db, made)
    assert after.lapses_at == given.created_at + timedelta(hours=1)
    await later(db, 3601)
    assert not await db.is_approved(made.id)
    with pytest.raises(InvalidTransition):
        await begin(db, made)
    assert await db.claim("worker-1") == []
    after = await now(db, made)
    assert (after.status, after.end_code) == (S.CANCELLED, EndCode.APPROVAL_EXPIRED)
    event = await last(db, made)
    assert (event.actor, event.details) == ("ledger", {"end_code": "approval_expired"})


async def test_raw_sql_does_not_start_what_has_lapsed(db: ActionDB, raw: RawSQL) -> None:
    await rule(db, valid_for=3600.0)
    made = await proposed(db)
    await approve(db, made, "mia")
    await later(db, 3601)
    with pytest.raises(Exception, match="action_proposals_approval_required"):
        await raw("UPDATE action_proposals SET status = 'executing' WHERE id = ?", made.id)


async def test_a_quorum_lapses_with_its_first_approval(db: ActionDB) -> None:
    await rule(db, approvals=2, valid_for=3600.0)
    made = await proposed(db)
    await approve(db, made, "mia")
    await later(db, 3000)
    await approve(db, made, "noor")
    await later(db, 700)
    assert not await db.is_approved(made.id)
    with pytest.raises(InvalidTransition):
        await begin(db, made)


async def test_an_approval_that_has_lapsed_can_be_given_again(db: ActionDB) -> None:
    await rule(db, approvals=2, valid_for=3600.0)
    made = await proposed(db)
    await approve(db, made, "mia")
    await later(db, 3601)
    assert await db.claim("worker-1") == []
    assert await status(db, made) is S.PROPOSED
    await approve(db, made, "noor")
    assert await status(db, made) is S.PROPOSED
    assert not (await approve(db, made, "mia")).repeated
    assert await status(db, made) is S.VALIDATED


async def test_an_approval_to_spare_keeps_it_alive(db: ActionDB) -> None:
    await rule(db, valid_for=3600.0)
    made = await proposed(db)
    await approve(db, made, "mia")
    await later(db, 1800)
    spare = await approve(db, made, "noor")
    assert not spare.repeated
    await later(db, 1801)
    assert await db.is_approved(made.id)
    (claim,) = await db.claim("worker-1")
    assert claim.proposal.id == made.id
    await db.complete(claim.record.id)


async def test_a_spare_approval_lapses_too(db: ActionDB) -> None:
    await rule(db, valid_for=3600.0)
    made = await proposed(db)
    await approve(db, made, "mia")
    await later(db, 1800)
    await approve(db, made, "noor")
    # A sweep that looks between the two.
    await later(db, 1801)
    other = await proposed(db, "other")
    await db.reject_proposal(other.id, by="mia", reason="no")
    await later(db, 1800)
    assert await db.claim("worker-1") == []
    assert (await now(db, made)).end_code is EndCode.APPROVAL_EXPIRED


async def test_an_approval_to_spare_lets_a_service_start_it(db: ActionDB) -> None:
    await rule(db, valid_for=3600.0)
    made = await proposed(db)
    await approve(db, made, "mia")
    await later(db, 1800)
    await approve(db, made, "noor")
    await later(db, 1801)
    # Nobody has claimed since the first one lapsed.
    await db.update_proposal_status(made.id, S.EXECUTING)


async def test_an_approval_that_covers_retries_lapses_too(db: ActionDB) -> None:
    await rule(db, covers_retries=True, valid_for=3600.0)
    made = await failed(db)
    assert await db.is_approved(made.id)
    await later(db, 3601)
    assert not await db.is_approved(made.id)
    with pytest.raises(TransitionUnapproved) as refused:
        await db.retry(made.id)
    assert refused.value.missing == ("sre",)
    assert await db.claim("worker-1") == []
    assert await status(db, made) is S.FAILED
    assert [each.proposal.id for each in await db.pending_approvals()] == [made.id]
    await approve(db, made, "mia")
    await db.complete((await begin(db, made)).record.id)


# ------ the stop


@pytest.mark.parametrize("mode", [HaltMode.OBSERVE, HaltMode.HALTED])
async def test_what_is_approved_while_halted_moves_on_resume(db: ActionDB, mode: HaltMode) -> None:
    await rule(db)
    made, refused, other = [await proposed(db) for _ in range(3)]
    await db.halt(**WHO, mode=mode, cancel=False)
    given = await approve(db, made, "mia")
    after = await now(db, made)
    assert (after.status, after.approval) == (S.PROPOSED, ApprovalStatus.HELD)
    assert await db.is_approved(made.id)
    assert (await approve(db, made, "mia")).repeated
    await approve(db, refused, "mia")
    await db.reject_proposal(refused.id, by="noor", reason="no")
    await approve(db, other, "mia")
    await db.withdraw_approval(other.id, by="mia", reason="no")
    assert await db.claim("worker-1") == []
    with pytest.raises(InvalidTransition):
        await begin(db, made)
    await db.resume(**WHO)
    after = await now(db, made)
    assert (after.status, after.approval) == (S.VALIDATED, ApprovalStatus.GIVEN)
    event = await last(db, made)
    assert (event.actor, event.details) == ("ledger", {"decision": given.id})
    assert (await now(db, refused)).end_code is EndCode.REJECTED
    assert await status(db, other) is S.PROPOSED
    await db.complete((await begin(db, made)).record.id)


async def test_what_is_held_waits_for_the_last_halt(db: ActionDB) -> None:
    await rule(db)
    made = await proposed(db, run_id="run-1")
    await db.halt(**WHO, mode=HaltMode.OBSERVE)
    await db.halt(**WHO, mode=HaltMode.OBSERVE, run_id="run-1")
    await approve(db, made, "mia")
    await db.resume(**WHO)
    assert await status(db, made) is S.PROPOSED
    await db.resume(**WHO, run_id="run-1")
    assert await status(db, made) is S.VALIDATED


async def test_a_halt_that_ends_by_itself_lets_it_go_too(db: ActionDB) -> None:
    await rule(db)
    made = await proposed(db)
    report = await db.halt(**WHO, mode=HaltMode.OBSERVE)
    await approve(db, made, "mia")
    await asleep(
        db,
        "UPDATE action_halts SET valid_until = '2020-01-01 00:00:00.000000'"
        f" WHERE id = {report.halt.id}",
    )
    (claim,) = await db.claim("worker-1")
    assert claim.proposal.id == made.id
    await db.complete(claim.record.id)


async def test_an_approval_that_lapses_while_held_moves_nothing(db: ActionDB) -> None:
    await rule(db, valid_for=3600.0)
    made = await proposed(db)
    await db.halt(**WHO, mode=HaltMode.OBSERVE)
    await approve(db, made, "mia")
    await later(db, 3601)
    await db.resume(**WHO)
    assert await status(db, made) is not S.VALIDATED
    assert await db.claim("worker-1") == []


async def test_a_retry_that_is_approved_while_halted_moves_on_resume(db: ActionDB) -> None:
    await rule(db)
    made = await failed(db)
    await db.halt(**WHO, mode=HaltMode.OBSERVE)
    await approve(db, made, "noor")
    assert await status(db, made) is S.FAILED
    await db.resume(**WHO)
    assert await status(db, made) is S.VALIDATED
    await db.complete((await begin(db, made)).record.id)


async def test_a_service_that_validates_itself_does_so_after_the_halt(db: ActionDB) -> None:
    await rule(db)
    made = await proposed(db)
    await db.halt(**WHO, mode=HaltMode.OBSERVE)
    await approve(db, made, "mia", validate=False)
    await db.resume(**WHO)
    assert await status(db, made) is S.PROPOSED
    await db.update_proposal_status(made.id, S.VALIDATED)


async def test_decisions_and_halts_survive_a_restart(
    backend: str, place: Any, tmp_path: Any
) -> None:
    where = place if backend in ON_SERVER else tmp_path / "kept.db"
    async with ActionDB(where) as db:
        await rule(db, approvals=2)
        made, held = await proposed(db), await proposed(db)
        await approve(db, made, "mia")
        await db.halt(**WHO, mode=HaltMode.OBSERVE)
        for by in ("mia", "noor"):
            await approve(db, held, by)
    async with ActionDB(where) as db:
        assert (await approve(db, made, "mia")).repeated
        assert await status(db, held) is S.PROPOSED
        await approve(db, made, "noor")
        await db.resume(**WHO)
    async with ActionDB(where) as db:
        for each in (made, held):
            assert await status(db, each) is S.VALIDATED
            await db.complete((await begin(db, each)).record.id)


async def test_what_a_halt_cancels_is_not_approved_any_more(db: ActionDB) -> None:
    await rule(db)
    made, ready = await proposed(db), await proposed(db)
    await approve(db, ready, "mia")
    await db.halt(**WHO)
    for each in (made, ready):
        assert (await now(db, each)).end_code is EndCode.HALTED
        with pytest.raises(Conflict):
            await approve(db, each, "noor")
    await db.resume(**WHO)
    assert await db.claim("worker-1") == []


# ------ what waits for people


async def ids(listing: Awaitable[Any]) -> list[int]:
    return [each.proposal.id for each in await listing]


async def test_what_waits_for_people_is_listed_oldest_first(db: ActionDB) -> None:
    await rule(db, "sre", action_name="drop_*", roles=["sre"], decide_within=3600.0)
    await rule(db, "named", action_name="*_table", approvers=["mia", "noor"])
    table = await proposed(db, "drop_table", run_id="run-1", agent_id="a")
    view = await proposed(db, "drop_view", run_id="run-2", agent_id="b")
    move = await proposed(db, "move_table", requester_id="mia", agent_id="a")
    await proposed(db, "other")
    found = await db.pending_approvals()
    assert [each.proposal.id for each in found] == [table.id, view.id, move.id]
    first, second, third = found
    assert [each.requirement.name for each in first.missing] == ["sre", "named"]
    assert [each.requirement.name for each in third.missing] == ["named"]
    assert (first.lapses_at, third.lapses_at) == (table.lapses_at, None)
    assert first.lapses_at is not None
    assert timedelta(0) <= first.age < timedelta(hours=1)
    assert second.proposal == view
    for filters, wanted in (
        ({"for_": "mia"}, [table, view]),
        ({"for_": "MIA", "roles": ["owner"]}, [table]),
        ({"for_": "kim"}, [table, view]),
        ({"for_": "planner"}, []),
        ({"roles": ["sre"]}, [table, view, move]),
        ({"roles": ["owner"]}, [table, move]),
        ({"roles": []}, [table, move]),
        ({"for_": "kim", "roles": ["owner"]}, []),
        ({"run_id": "run-2"}, [view]),
        ({"agent_id": "a"}, [table, move]),
        ({"action_name": "move_table"}, [move]),
        ({"limit": 2}, [table, view]),
        ({"limit": 2, "after": view.id}, [move]),
        ({"limit": 1, "after": table.id, "roles": ["owner"]}, [move]),
    ):
        assert await ids(db.pending_approvals(**filters)) == [each.id for each in wanted], filters
    await approve(db, table, "mia")
    assert await ids(db.pending_approvals(for_="mia")) == [view.id]
    (state,) = (await db.pending_approvals(action_name="drop_table"))[0].missing
    assert state.requirement.name == "sre"
    await approve(db, table, "noor", "sre")
    await db.reject_proposal(view.id, by="kim", reason="no")
    assert await ids(db.pending_approvals()) == [move.id]
    assert await ids(db.approved_not_started()) == [table.id]


async def test_pages_are_complete_whoever_asks(db: ActionDB) -> None:
    await rule(db, "sre", roles=["sre"], action_name="drop_*")
    await rule(db, "owner", roles=["owner"], action_name="move_*")
    wanted: list[int] = []
    for number in range(450):
        made = await proposed(db, "drop_table" if number % 45 == 0 else "move_leader")
        if number % 45 == 0:
            wanted.append(made.id)
    assert await ids(db.pending_approvals(roles=["sre"])) == wanted
    found: list[int] = []
    while page := await ids(
        db.pending_approvals(roles=["sre"], limit=3, after=found[-1] if found else None)
    ):
        found.extend(page)
    assert found == wanted


async def test_what_is_approved_and_not_started_is_listed(db: ActionDB) -> None:
    await rule(db, valid_for=3600.0)
    first, second, third = [await proposed(db) for _ in range(3)]
    for each in (first, third):
        await approve(db, each, "mia")
    found = await db.approved_not_started()
    assert [each.proposal.id for each in found] == [first.id, third.id]
    assert (found[0].missing, found[0].requirements[0].met) == ((), True)
    assert found[0].lapses_at is not None
    assert await ids(db.approved_not_started(limit=1)) == [first.id]
    assert await ids(db.approved_not_started(after=first.id)) == [third.id]
    await begin(db, first)
    assert await ids(db.approved_not_started()) == [third.id]
    assert await ids(db.pending_approvals()) == [second.id]


async def test_ends_leave_the_inbox(db: ActionDB) -> None:
    await rule(db)
    made = [await proposed(db) for _ in range(3)]
    await db.update_proposal_status(made[0].id, S.CANCELLED)
    await db.cancel_proposal(made[1].id, by="planner", reason="not needed")
    assert (await now(db, made[1])).end_code is EndCode.WITHDRAWN
    assert await db.cancel_all_pending() == 1
    assert await db.pending_approvals() == []


async def test_a_retry_in_some_time_waits_for_people_and_an_ended_one_does_not(
    db: ActionDB,
) -> None:
    await rule(db)
    waits = await failed(db, retry_delay=3600.0, max_retry_delay=3600.0)
    await failed(db, max_retries=0)
    assert await ids(db.pending_approvals()) == [waits.id]


# ------ who asks wrongly


async def test_unknown_proposals(db: ActionDB) -> None:
    for call in (
        partial(db.approve_proposal, by="mia"),
        partial(db.reject_proposal, by="mia", reason="r"),
        partial(db.withdraw_approval, by="mia", reason="r"),
        db.approvals,
        db.is_approved,
    ):
        with pytest.raises(NotFound) as refused:
            await call(99)
        assert (refused.value.kind, refused.value.id) == ("proposal", 99)


async def test_wrong_arguments(db: ActionDB) -> None:
    await rule(db)
    made = await proposed(db)
    usual: dict[str, Any] = {"by": "mia", "digest": made.digest}
    for wrong in (
        {"by": ""}, {"by": None}, {"by": "ledger"}, {"by": "LEDGER"},
        {"by_type": "human"}, {"by_type": None}, {"roles": [""]}, {"roles": [1]}, {"roles": None},
        {"roles": [f"r{n}" for n in range(101)]}, {"comment": " "}, {"comment": 1},
        {"requirement_id": 0}, {"validate": 1}, {"digest": 1},
    ):  # fmt: skip
        with pytest.raises(InvalidValue) as invalid:
            await db.approve_proposal(made.id, **{**usual, **wrong})
        assert invalid.value.path.startswith(next(iter(wrong))), wrong
    for verb in (db.reject_proposal, db.withdraw_approval):
        for wrong in ({"by": ""}, {"by": "ledger"}, {"reason": " "}, {"reason": None}):
            with pytest.raises(InvalidValue):
                await verb(made.id, **{"by": "mia", "reason": "r", **wrong})
    for id_ in (0, -1, True, "1"):
        with pytest.raises(InvalidValue):
            await db.approve_proposal(id_, **usual)  # type: ignore[arg-type]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"after": -1}, {"for_": ""}, {"roles": [" "]}):
        with pytest.raises(InvalidValue):
            await db.pending_approvals(**wrong)
    assert await status(db, made) is S.PROPOSED


async def test_who_can_not_be_seen_is_nobody(db: ActionDB) -> None:
    made = await proposed(db)
    with pytest.raises(InvalidValue) as invalid:
        await approve(db, made, "\u200b")
    assert invalid.value.path == "by"


@pytest.mark.every_backend
async def test_decisions_in_a_transaction_are_rolled_back_with_it(db: ActionDB) -> None:
    await rule(db)
    made = await proposed(db)
    with pytest.raises(ZeroDivisionError):
        async with db.transaction() as tx:
            await tx.approve_proposal(made.id, by="mia", digest=made.digest)
            assert (await tx.approve_proposal(made.id, by="mia", digest=made.digest)).repeated
            with pytest.raises(NotEligible):
                await tx.approve_proposal(made.id, by="planner", digest=made.digest)
            found = await tx.get_proposal(made.id)
            assert found is not None
            assert found.status is S.VALIDATED
            raise ZeroDivisionError
    assert await status(db, made) is S.PROPOSED
    assert (await db.approvals(made.id)).decisions == ()
