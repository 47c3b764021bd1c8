"""Where users of other systems were hurt, by the number of their report: here it does not happen.

The reports about budgets, rates and one at a time for one target belong to limits and exclusive keys.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from operator_core.actions import (
    Conflict,
    DigestMismatch,
    EndCode,
    HaltMode,
    HaltRequested,
    InvalidTransition,
    InvalidValue,
    NotEligible,
    Rule,
    TransitionHalted,
    TransitionUnapproved,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from tests.clocks import asleep
from tests.conftest import ON_SERVER, RawSQL, proposal
from tests.contract.governed import (
    S,
    approve,
    begin,
    given,
    last,
    later,
    now,
    proposed,
    rule,
    status,
)

pytestmark = pytest.mark.two_backends

WHO = {"by": "oncall", "reason": "bad deploy"}


@pytest.fixture
def kept(backend: str, place: str | Path, tmp_path: Path) -> Callable[[], ActionDB]:
    """Opens one ledger again and again, each time as after a restart."""
    where = place if backend in ON_SERVER else tmp_path / "kept.db"
    return lambda: ActionDB(where)


async def test_pydantic_ai_6968_the_approver_sees_what_runs(db: ActionDB, raw: RawSQL) -> None:
    await rule(db)
    shown, hidden = [await proposed(db, parameters={"path": p}) for p in ("/tmp/a", "/etc")]
    with pytest.raises(DigestMismatch):
        await db.approve_proposal(hidden.id, by="mia", digest=shown.digest)
    await approve(db, shown, "mia")
    with pytest.raises(Exception, match="immutable"):
        await raw("""UPDATE action_proposals SET parameters = '{"path":"/etc"}'""")
    claim = await begin(db, shown)
    assert claim.proposal.parameters == {"path": "/tmp/a"}
    assert claim.proposal.digest == (await db.approvals(shown.id)).decisions[0].digest


async def test_langchain_40166_an_edited_call_meets_the_gates_of_what_it_becomes(
    db: ActionDB, raw: RawSQL
) -> None:
    await rule(db, "reads", conditions=[{"path": ["sql"], "op": "prefix", "value": "SELECT"}])
    await rule(
        db, "drops", roles=["dba"], conditions=[{"path": ["sql"], "op": "prefix", "value": "DROP"}]
    )
    asked = await proposed(db, "query", parameters={"sql": "SELECT 1"})
    await approve(db, asked, "mia")
    edited = await db.amend_proposal(asked.id, parameters={"sql": "DROP TABLE t"}, **WHO)
    (gate,) = (await db.approvals(edited.id)).requirements
    assert (gate.requirement.name, gate.missing) == ("drops", 1)
    with pytest.raises(NotEligible):
        await approve(db, edited, "mia", "sre")
    with pytest.raises(Exception, match="immutable"):
        await raw("UPDATE action_proposals SET action_name = 'free'")


@pytest.mark.parametrize("ready", [False, True], ids=["waiting", "validated"])
async def test_langchain_37093_and_40491_a_rejected_call_does_not_run(
    db: ActionDB, ready: bool
) -> None:
    await rule(db, approvals=1 if ready else 2)
    made = await proposed(db)
    await approve(db, made, "mia")
    await db.reject_proposal(made.id, by="noor", reason="no")
    assert await db.claim("worker-1") == []
    for target in (S.VALIDATED, S.EXECUTING):
        with pytest.raises(InvalidTransition):
            await db.update_proposal_status(made.id, target)
    with pytest.raises(InvalidTransition):
        await begin(db, made)
    with pytest.raises(InvalidTransition):
        await db.retry(made.id)


async def test_langchain_33787_what_was_rejected_does_not_look_new(db: ActionDB) -> None:
    await rule(db)
    asked = proposal("drop_table", run_id="run-1", call_id="call-1", proposed_by="planner")
    made = await db.create_proposal(asked, idempotency_key="drop t")
    await db.reject_proposal(made.id, by="mia", reason="we need it")
    again = await db.create_proposal(asked, idempotency_key="drop t")
    assert (again.id, again.replayed, again.end_code) == (made.id, True, EndCode.REJECTED)
    with pytest.raises(Conflict):
        await db.create_proposal(asked)
    found = await db.find_call("run-1", "call-1")
    assert found == await now(db, made)
    # As another call it is the same content, by its digest.
    other = await db.create_proposal(proposal("drop_table", run_id="run-1", proposed_by="planner"))
    assert other.content_digest == made.content_digest
    before = await db.list_proposals(run_id="run-1", end_code=EndCode.REJECTED)
    assert [each.content_digest for each in before] == [other.content_digest]


async def test_openai_agents_python_4244_an_approval_from_before_a_restart_counts(
    kept: Callable[[], ActionDB],
) -> None:
    async with kept() as db:
        await rule(db)
        made = await proposed(db)
        await approve(db, made, "mia")
    async with kept() as db:
        assert list(await db.pending_approvals()) == []
        assert (await approve(db, made, "mia")).repeated
        (claim,) = await db.claim("worker-1")
        await db.complete(claim.record.id)


async def test_agent_framework_7458_and_agenta_5592_what_never_began_keeps_its_approval(
    db: ActionDB,
) -> None:
    await rule(db)
    made = await proposed(db)
    await approve(db, made, "mia")
    # As `claim` does when its caller is cancelled.
    await db._give_back([await begin(db, made)])
    assert (await now(db, made)).end_code is EndCode.NOT_BEGUN
    assert await db.is_approved(made.id)
    await db.retry(made.id)
    await db.complete((await begin(db, made)).record.id)


async def test_agno_7717_a_pause_survives_a_restart(kept: Callable[[], ActionDB]) -> None:
    async with kept() as db:
        await rule(db)
        waits = await proposed(db)
        await db.halt(**WHO, mode=HaltMode.OBSERVE)
    async with kept() as db:
        assert await db.mode() is HaltMode.OBSERVE
        assert [each.proposal.id for each in await db.pending_approvals()] == [waits.id]
        await approve(db, waits, "mia")
        assert await db.claim("worker-1") == []
    async with kept() as db:
        await db.resume(**WHO)
        assert [each.proposal.id for each in await db.claim("worker-1")] == [waits.id]


async def test_agno_8029_what_is_approved_and_never_started_is_found(db: ActionDB) -> None:
    await rule(db, valid_for=3600.0)
    made = await proposed(db)
    await approve(db, made, "mia")
    (found,) = await db.approved_not_started()
    assert (found.proposal.id, found.missing) == (made.id, ())
    assert found.lapses_at is not None
    await later(db, 3601)
    assert await db.claim("worker-1") == []
    assert (await now(db, made)).end_code is EndCode.APPROVAL_EXPIRED
    assert list(await db.approved_not_started()) == []


async def test_agt_3126_a_quorum_counts_its_votes(db: ActionDB) -> None:
    await rule(db, approvals=3)
    made = await proposed(db)
    for by in ("mia", "Mia", "noor"):
        await approve(db, made, by)
        (state,) = (await db.approvals(made.id)).requirements
        assert state.missing == 3 - len({each.decided_by for each in state.counted})
        with pytest.raises(TransitionUnapproved):
            await db.update_proposal_status(made.id, S.VALIDATED)
    await approve(db, made, "kim")
    assert await status(db, made) is S.VALIDATED


async def test_agt_3255_every_way_needs_as_many_votes(db: ActionDB, raw: RawSQL) -> None:
    await rule(db, approvals=2)
    asked = proposal("drop_table", proposed_by="planner")
    await db.create_proposal(asked)
    await db.create_proposal(asked, idempotency_key="k")
    await db.create_proposals([asked])
    await db.create_workflow(WorkflowProposal(name="w"), [asked])
    async with db.transaction() as tx:
        await tx.create_proposal(asked)
    await raw(
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at)"
        " VALUES ('drop_table', '{}', 'r', CURRENT_TIMESTAMP)"
    )
    made = await db.list_proposals()
    assert len(made) == 6
    for each in made:
        await approve(db, each, "mia")
        assert await status(db, each) is S.PROPOSED
        await approve(db, each, "noor")
        assert await status(db, each) is S.VALIDATED


async def test_openbao_3666_zero_required_approvals(db: ActionDB, raw: RawSQL) -> None:
    for none in ({"approvals": 0}, {"approvals": -1}, {"roles": []}, {"approvers": []}):
        with pytest.raises(InvalidValue):
            Rule(name="r", **none)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue):
            await db.add_rule(Rule(name="r").model_copy(update=none), **WHO)
    for column, value in (("approvals", "0"), ("roles", "'[]'"), ("approvers", "'[]'")):
        with pytest.raises(Exception, match="action_rules"):
            await raw(
                f"INSERT INTO action_rules (name, added_by, reason, {column})"
                f" VALUES ('r', 'a', 'b', {value})"
            )
    made = await proposed(db)
    for column, value in (("approvals", "0"), ("roles", "'[]'"), ("approvers", "'[]'")):
        with pytest.raises(Exception, match="action_requirements"):
            await raw(
                f"INSERT INTO action_requirements (proposal_id, name, {column})"
                f" VALUES ({made.id}, 'r', {value})"
            )


async def test_openbao_3815_and_3814_a_role_of_the_same_name_elsewhere(db: ActionDB) -> None:
    # Whoever vouches for roles says of which group they are, and nothing but the whole name is the role.
    await rule(db, action_name="drop_*", roles=["payments/sre"])
    await rule(db, action_name="move_*", roles=["search/sre"])
    made = await proposed(db)
    for other in ("sre", "search/sre", "payments/sre2", "payments", "payments/*", "*"):
        with pytest.raises(NotEligible):
            await approve(db, made, "mia", other)
    # And what somebody may do for one proposal counts for no other.
    moving = await proposed(db, "move_leader")
    (other,) = (await db.approvals(moving.id)).requirements
    await approve(db, moving, "mia", "search/sre", requirement_id=other.requirement.id)
    assert not await db.is_approved(made.id)


async def test_vault_19214_the_requester_does_not_approve(db: ActionDB, raw: RawSQL) -> None:
    await rule(db, approvals=2)
    made = await proposed(db, requester_id="Rosa", agent_id="bot")
    for own in ("rosa", "ROSA", "bot", "planner"):
        with pytest.raises(NotEligible):
            await approve(db, made, own)
    with pytest.raises(Exception, match="not_eligible"):
        await raw(
            "INSERT INTO action_decisions (proposal_id, kind, decided_by, decider_key, digest)"
            f" VALUES ({made.id}, 'approved', 'Rosa', 'rosa', '{made.digest}')"
        )
    await approve(db, made, "mia")
    assert await status(db, made) is S.PROPOSED


async def test_agt_3739_killed_means_that_nothing_goes_on(db: ActionDB) -> None:
    await rule(db, action_name="drop_*")
    running = await db.create_proposal(proposal(status=S.VALIDATED))
    claim = await begin(db, running)
    queued = await db.create_proposal(proposal(status=S.VALIDATED))
    waits = await proposed(db)
    report = await db.halt(**WHO)
    assert report.complete
    assert report.cancelled == 2
    for each in (queued, waits):
        assert (await now(db, each)).end_code is EndCode.HALTED
    # What has begun is named, and its worker is told.
    assert [each.record_id for each in report.running] == [claim.record.id]
    with pytest.raises(HaltRequested):
        await db.heartbeat(claim)
    assert (await db.halt_report(report.halt.id)).unfinished[0].acknowledged


async def test_claude_code_34449_sub_agents_and_queued_calls_stop_too(db: ActionDB) -> None:
    await rule(db, action_name="drop_*")
    parent = await db.create_proposal(proposal(status=S.VALIDATED, agent_id="planner", run_id="r"))
    await begin(db, parent)
    child = await db.create_proposal(
        proposal(status=S.VALIDATED, agent_id="sub", run_id="r", parent_id=parent.id)
    )
    waits = await proposed(db, agent_id="sub", run_id="r")
    other = await db.create_proposal(proposal(status=S.VALIDATED, agent_id="other", run_id="s"))
    await db.halt(**WHO, agent_id="planner", cancel=False)
    await approve(db, waits, "mia")
    assert await status(db, waits) is S.PROPOSED
    with pytest.raises(TransitionHalted):
        await begin(db, child)
    assert [each.proposal.id for each in await db.claim("w", limit=10)] == [other.id]


async def test_claude_code_18312_a_denial_beats_what_is_allowed(db: ActionDB) -> None:
    await rule(db, "reviewed")
    await given(db, action_name="*")
    assert (await proposed(db)).status is S.VALIDATED
    denial = await rule(db, "never", action_name="drop_*", effect="deny")
    made = await proposed(db)
    assert (made.status, made.end_code) == (S.CANCELLED, EndCode.DENIED)
    assert (await last(db, made)).details == {"end_code": "denied", "rule": denial.id}
    with pytest.raises(Conflict):
        await approve(db, made, "noor")


async def test_ark_2520_every_end_has_a_code(db: ActionDB) -> None:
    await rule(db, "never", action_name="never", effect="deny")
    await rule(db, action_name="drop_*", decide_within=3600.0, valid_for=3600.0)
    ends: dict[EndCode, int] = {EndCode.DENIED: (await proposed(db, "never")).id}
    rejected, replaced, gone, late, unstarted = [await proposed(db) for _ in range(5)]
    await db.reject_proposal(rejected.id, by="mia", reason="no")
    await db.amend_proposal(replaced.id, parameters={"n": 1}, by="kim", reason="r")
    await db.cancel_proposal(gone.id, by="planner", reason="not needed")
    await approve(db, unstarted, "mia")
    await later(db, 3601)
    await db.claim("worker-1")
    halted = await proposed(db, "other")
    await db.halt(**WHO)
    await db.resume(**WHO)
    ends |= {
        EndCode.REJECTED: rejected.id,
        EndCode.SUPERSEDED: replaced.id,
        EndCode.WITHDRAWN: gone.id,
        EndCode.APPROVAL_EXPIRED: unstarted.id,
        EndCode.HALTED: halted.id,
    }
    for code, id_ in ends.items():
        assert (await now(db, id_)).end_code is code
        assert [each.id for each in await db.list_proposals(end_code=code)] == [id_]
        details = (await last(db, id_)).details
        assert details is not None
        assert details["end_code"] == code
    # The one that replaced another was not decided in time either.
    undecided = await db.list_proposals(end_code=EndCode.UNDECIDED)
    assert [each.supersedes_id for each in undecided] == [None, replaced.id][::-1]
    assert undecided[-1].id == late.id


async def test_awx_13465_an_approval_that_timed_out_can_not_be_clicked(db: ActionDB) -> None:
    await rule(db, decide_within=3600.0)
    made = await proposed(db)
    await later(db, 3601)
    for _ in range(2):
        with pytest.raises(Conflict):
            await approve(db, made, "mia")
        assert await db.claim("worker-1") == []
    assert (await now(db, made)).end_code is EndCode.UNDECIDED
    assert (await db.approvals(made.id)).decisions == ()


async def test_inngest_1433_an_answer_before_anybody_waits_is_not_lost(db: ActionDB) -> None:
    await rule(db)
    made, refused = await proposed(db), await proposed(db)
    await approve(db, made, "mia")
    await db.reject_proposal(refused.id, by="mia", reason="no")
    found = await db.wait_until(made.id, S.VALIDATED, timeout=30)
    assert found.status is S.VALIDATED
    found = await db.wait_until(refused.id, S.VALIDATED, S.CANCELLED, timeout=30)
    assert found.end_code is EndCode.REJECTED


async def test_teleport_36854_and_budibase_19122_two_groups_must_both_approve(
    db: ActionDB,
) -> None:
    await rule(db, "security", roles=["security"], approvals=2)
    await rule(db, "finance", roles=["finance"])
    made = await proposed(db)
    await approve(db, made, "mia", "security", "finance")
    await approve(db, made, "noor", "security")
    # Mia is in both groups and is one person.
    assert await status(db, made) is S.PROPOSED
    await approve(db, made, "kim", "security")
    assert await status(db, made) is S.VALIDATED


async def test_hermes_agent_96158_a_standing_approval_is_bounded(db: ActionDB) -> None:
    await rule(db)
    await given(
        db,
        action_name="git_*",
        max_uses=2,
        valid_until=datetime.now(UTC) + timedelta(hours=1),
        conditions=[{"path": ["force"], "op": "eq", "value": False}],
    )
    safe = {"force": False}
    assert (await proposed(db, "rm", parameters=safe)).status is S.PROPOSED
    assert (await proposed(db, "git_push", parameters={"force": True})).status is S.PROPOSED
    assert (await proposed(db, "git_push")).status is S.PROPOSED
    assert (await proposed(db, "git_push", parameters=safe)).status is S.VALIDATED
    assert (await proposed(db, "git_pull", parameters=safe)).status is S.VALIDATED
    assert (await proposed(db, "git_pull", parameters=safe)).status is S.PROPOSED


async def test_teleport_12079_a_standing_approval_ends_and_is_revoked(db: ActionDB) -> None:
    await rule(db)
    await given(db, by="mia", valid_until=datetime.now(UTC) + timedelta(hours=1))
    other = await given(db, by="noor", valid_until=datetime.now(UTC) + timedelta(hours=9))
    assert (await proposed(db)).status is S.VALIDATED
    await later(db, 3601)
    assert (await proposed(db)).status is S.VALIDATED
    await db.revoke_grant(other.id, by="lead", reason="left")
    assert (await proposed(db)).status is S.PROPOSED


async def test_talon_147_an_ambiguous_outcome_is_an_end_of_its_own(db: ActionDB) -> None:
    await rule(db)
    made = await proposed(db)
    await approve(db, made, "mia")
    claim = await begin(db, made)
    await db.fail(claim.record.id, "the connection was lost", outcome_unknown=True)
    assert (await now(db, made)).end_code is EndCode.OUTCOME_UNKNOWN
    assert [each.id for each in await db.unresolved()] == [claim.record.id]
    with pytest.raises(TransitionUnapproved):
        await db.retry(made.id)
    await db.resolve_outcome(claim.record.id, by="noor", succeeded=True, evidence="seen")
    after = await now(db, made)
    assert (after.status, after.end_code) == (S.COMPLETED, None)


async def test_octopus_9173_and_devtron_5401_freeze_windows(db: ActionDB) -> None:
    await rule(db, action_name="deploy")
    at = datetime.now(UTC)
    await db.halt(
        by="lead",
        reason="holidays",
        mode=HaltMode.OBSERVE,
        action_name="deploy",
        valid_from=at + timedelta(days=1),
        valid_until=at + timedelta(days=8),
    )
    before, during = [await proposed(db, "deploy") for _ in range(2)]
    await approve(db, before, "mia")
    await db.complete((await begin(db, before)).record.id)
    await asleep(db, "UPDATE action_halts SET valid_from = '2020-01-01 00:00:00.000000'")
    await approve(db, during, "mia")
    assert await status(db, during) is S.PROPOSED
    assert await db.claim("worker-1") == []
    # Nobody has to be awake when it ends.
    await asleep(db, "UPDATE action_halts SET valid_until = '2020-01-02 00:00:00.000000'")
    (claim,) = await db.claim("worker-1")
    assert claim.proposal.id == during.id
