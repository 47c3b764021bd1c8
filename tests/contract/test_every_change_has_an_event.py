"""Whatever decides what runs changes only together with an event that says so, by whichever verb."""

import inspect
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from operator_core.actions import (
    ActionEvent,
    ActionRecord,
    ActionStatus,
    EventType,
    Rule,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from operator_core.db.verbs.ledger import ActionLedger
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
PAST = "'2001-01-01 00:00:00.000000'"
FAR = "'2999-01-01 00:00:00.000000'"

# ------ what stands in the tables, and which of it an event need not tell of

GOVERNING = ("action_rules", "action_grants", "action_requirements", "action_decisions")
TABLES = (
    "action_proposals", "action_records", "workflows", "action_dependencies", "action_events", *GOVERNING
)  # fmt: skip

BESIDE = {
    # Who did it, when and in which words: that is what the event itself says.
    "action_proposals": {
        "updated_at", "version", "status_changed_at", "status_changed_by", "status_reason",
        "validated_at", "cancelled_at", "last_error",
        # What the requirements and decisions come to.
        "approval", "lapses_at",
    },
    "action_records": {"updated_at", "error_message", "result_data", "completed_by"},
}  # fmt: skip
"""Every other column decides what runs, or says what came of it."""

Rows = dict[Any, dict[str, Any]]


class World(NamedTuple):
    """All tables, each row by its key."""

    proposals: Rows
    records: Rows
    workflows: Rows
    dependencies: Rows
    events: Rows
    rules: Rows
    grants: Rows
    requirements: Rows
    decisions: Rows


async def look(raw: RawSQL) -> World:
    tables: list[Rows] = []
    for table in TABLES:
        rows = [dict(row._mapping) for row in await raw(f"SELECT * FROM {table}")]
        edge = table == "action_dependencies"
        tables.append(
            {(row["proposal_id"], row["depends_on_id"]) if edge else row["id"]: row for row in rows}
        )
    return World(*tables)


def changed(table: str, before: Rows, after: Rows) -> dict[Any, set[str]]:
    """By key, the columns that changed and that decide; all of a row that is new."""
    assert before.keys() <= after.keys(), f"rows of {table} are gone"
    found = {
        key: {
            name for name, value in row.items() if key not in before or before[key][name] != value
        }
        - (BESIDE.get(table, set()) if key in before else set())
        for key, row in after.items()
    }
    return {key: columns for key, columns in found.items() if columns}


# ------ the law


async def check(db: ActionDB, before: World, after: World, *, heartbeat: bool = False) -> int:
    """Fails unless every change has its event, and every event its change; how many events there were."""
    assert changed("action_events", before.events, after.events).keys().isdisjoint(before.events)
    events = [each for each in await db.history() if each.id not in before.events]
    _check_proposals(events, before, after)
    _check_records(events, before, after, heartbeat=heartbeat)
    _check_governing(events, before, after)
    made = {e.proposal_id for e in events if e.event_type is EventType.PROPOSAL_CREATED}
    edges = changed("action_dependencies", before.dependencies, after.dependencies)
    assert {proposal_id for proposal_id, _ in edges} <= made
    for id in changed("workflows", before.workflows, after.workflows):
        assert id not in before.workflows
        assert any(after.proposals[each]["workflow_id"] == id for each in made)
    return len(events)


OTHERS = {EventType.HALTED, EventType.RESUMED, EventType.LIMIT_SET, EventType.LIMIT_REMOVED}
ABOUT_NO_PROPOSAL = OTHERS | {
    EventType.RULE_ADDED, EventType.RULE_REVOKED, EventType.GRANT_ADDED, EventType.GRANT_REVOKED,
}  # fmt: skip
ABOUT_APPROVALS = {
    EventType.APPROVAL_REQUIRED, EventType.APPROVED, EventType.REJECTED, EventType.APPROVAL_WITHDRAWN,
}  # fmt: skip


def _check_governing(events: list[ActionEvent], before: World, after: World) -> None:
    """Each new or revoked rule or grant, each requirement and each decision has one event, which names it."""
    rows = [("rule", key) for key in changed("action_rules", before.rules, after.rules)]
    rows += [("grant", key) for key in changed("action_grants", before.grants, after.grants)]
    of_proposals = {
        "requirement": changed("action_requirements", before.requirements, after.requirements),
        "decision": changed("action_decisions", before.decisions, after.decisions),
    }
    rows += [(kind, key) for kind, keys in of_proposals.items() for key in keys]
    told = [
        (
            next(name for name in ("decision", "requirement", "grant", "rule") if name in details),
            details,
        )
        for each in events
        if each.event_type in ABOUT_APPROVALS | ABOUT_NO_PROPOSAL - OTHERS
        and (details := each.details) is not None
    ]
    named = [(kind, details[kind]) for kind, details in told]
    assert set(named) == set(rows)
    # Only a rule or a grant that was added and revoked has two.
    assert all(named.count(each) == 1 or each[0] in ("rule", "grant") for each in named)


def _check_proposals(events: list[ActionEvent], before: World, after: World) -> None:
    moved = changed("action_proposals", before.proposals, after.proposals)
    told: dict[int, list[ActionEvent]] = {}
    for event in events:
        if event.proposal_id is None:
            assert event.event_type in ABOUT_NO_PROPOSAL
        elif event.event_type in ABOUT_APPROVALS:
            assert event.version is event.record_id is None
        elif event.record_id is None:
            told.setdefault(event.proposal_id, []).append(event)
        else:
            assert event.version is None
    assert told.keys() == moved.keys()
    for id, columns in moved.items():
        row, was = after.proposals[id], before.proposals.get(id)
        if was is not None:
            ends = {"end_code", "status_cause"}
            assert columns <= {"status", "next_retry_at", "retry_count", *ends}, columns
            assert "status" in columns or not columns & ends
        # One event for each version of the row, none left out.
        first = 1 if was is None else was["version"] + 1
        assert [each.version for each in told[id]] == list(range(first, row["version"] + 1))
        status = None if was is None else was["status"]
        for each in told[id]:
            assert each.from_status == status
            status = each.to_status
            created = each.event_type is EventType.PROPOSAL_CREATED
            assert created == (was is None and each is told[id][0])
            if each.event_type is EventType.STATUS_CHANGED:
                assert each.from_status != each.to_status
            elif not created:
                assert each.from_status == each.to_status == S.FAILED
        assert status == row["status"]
        last = told[id][-1].event_type
        if was is not None and "status" not in columns:
            cancelled = row["next_retry_at"] is None
            assert last is (EventType.RETRY_CANCELLED if cancelled else EventType.RETRY_SCHEDULED)


def _check_records(
    events: list[ActionEvent], before: World, after: World, *, heartbeat: bool
) -> None:
    started = {e.record_id for e in events if e.event_type is EventType.RECORD_STARTED}
    finished = {e.record_id: e for e in events if e.event_type is EventType.RECORD_FINISHED}
    resolved = [e for e in events if e.event_type is EventType.OUTCOME_RESOLVED]
    about = [e.record_id for e in events if e.record_id is not None]
    assert len(about) == len(started) + len(finished) + len(resolved)
    moved = changed("action_records", before.records, after.records)
    assert started == after.records.keys() - before.records.keys()
    for id, columns in moved.items():
        row = after.records[id]
        if id in before.records:
            if heartbeat and columns == {"lease_expires_at"}:
                # The one exception: how long a worker is believed to be alive.
                continue
            assert columns <= {"completed_at", "success", "outcome_unknown"}, columns
            assert "completed_at" in columns
        assert (id in finished) == (row["completed_at"] is not None)
    for id, event in finished.items():
        row = after.records[id]
        assert id in moved
        assert event.success == (None if row["success"] is None else bool(row["success"]))
    for event in events:
        if event.record_id is not None:
            row = after.records[event.record_id]
            assert (event.proposal_id, event.worker) == (row["proposal_id"], row["worker"])


# ------ the verbs, each in a ledger in which something of everything is


class Bench(NamedTuple):
    """Ids of proposals, and of the records of those that are executed."""

    proposed: int
    validated: int
    retrying: int
    failed: int
    executed: int
    by_hand: int
    workflow: int
    record: int
    record_by_hand: int
    record_again: int


async def fill(db: ActionDB, raw: RawSQL) -> Bench:
    async def make(name: str, **fields: Any) -> int:
        made = await db.create_proposal(proposal(name, **{"status": S.VALIDATED, **fields}))
        return made.id or 0

    async def claim(name: str) -> int:
        (claim,) = await db.claim("worker-1", action_names=name)
        return claim.record.id or 0

    again: dict[str, Any] = {"max_retries": 3, "retry_delay": 100_000.0, "max_retry_delay": 600_000}
    retrying, executed = await make("retrying", **again), await make("executed")
    failed, repeated = await make("failed"), await make("repeated", **again)
    silent, silent_again = await make("silent"), await make("silent", **again)
    due = await make("due", max_retries=3, retry_delay=0.0)
    await db.fail(await claim("retrying"), "boom")
    await db.fail(await claim("failed"), "boom")
    record, record_again = await claim("executed"), await claim("repeated")
    by_hand = await make("by hand", status=S.EXECUTING)
    by_hand_record = await db.create_record(ActionRecord(proposal_id=by_hand))
    due_record = await claim("due")
    silent_records = [await claim("silent"), await claim("silent")]
    proposed, validated = await make("proposed", status=S.PROPOSED), await make("validated")
    # What depends on each of them, and what depends on that.
    for id in (
        retrying,
        executed,
        repeated,
        silent,
        silent_again,
        due,
        by_hand,
        proposed,
        validated,
    ):
        behind = await make("behind", depends_on=[id])
        await make("further behind", depends_on=[behind], status=S.PROPOSED)
        await make("waiting", depends_on=[id], wait_on_failure=True)
    workflow, (first, _) = await db.create_workflow(
        WorkflowProposal(name="n"),
        [proposal("of a workflow", status=S.VALIDATED, **again), proposal("of a workflow")],
        after={1: 0},
    )
    await make("behind a workflow", depends_on=[first.id])
    await db.fail(await claim("of a workflow"), "boom")
    await make("too late", status=S.PROPOSED, expires_at=LONG_AGO)
    # The last, as each claim sees to what is overdue.
    await db.fail(due_record, "boom")
    await raw(
        f"UPDATE action_records SET lease_expires_at = {PAST} "
        f"WHERE id IN ({silent_records[0]}, {silent_records[1]})"
    )
    return Bench(
        proposed, validated, retrying, failed, executed, by_hand, workflow.id,
        record, by_hand_record.id or 0, record_again,
    )  # fmt: skip


Verb = Callable[[ActionDB, Bench], Awaitable[object]]


async def halt_and_resume(db: ActionDB, on: Any) -> None:
    await db.halt(by="oncall", reason="stop", cancel=False)
    await db.resume(by="oncall", reason="over")


async def set_and_remove_a_limit(db: ActionDB, on: Any) -> None:
    await db.set_limit("some", window=60.0, max_starts=1, by="oncall", reason="careful")
    await db.remove_limit("some", by="oncall", reason="over")


async def in_a_transaction(db: ActionDB, on: Bench) -> None:
    async with db.transaction() as tx:
        made = await tx.create_proposal(proposal(depends_on=[on.failed]))
        await tx.update_proposal_status(on.proposed, S.VALIDATED)
        await tx.update_proposal_status(on.proposed, S.CANCELLED)
        assert made.id is not None


async def a_block(db: ActionDB, on: Bench) -> None:
    async with db.claimed("worker-2", action_names="validated") as execution:
        assert execution is not None


async def a_block_that_fails(db: ActionDB, on: Bench) -> None:
    (claim,) = await db.claim("worker-2", action_names="validated")
    with pytest.raises(ZeroDivisionError):
        async with db.holding(claim):
            raise ZeroDivisionError


async def twice_by_a_key(db: ActionDB, on: Bench) -> None:
    for _ in range(2):
        await db.create_proposal(proposal(), idempotency_key="k")


def move(which: str, to: ActionStatus) -> Verb:
    return lambda db, on: db.update_proposal_status(getattr(on, which), to)


async def resolve(db: ActionDB, on: Bench) -> None:
    await db.fail(on.record, "lost", outcome_unknown=True)
    await db.resolve_outcome(on.record, by="mia", succeeded=True, evidence="seen")


RULE = {"by": "boss", "reason": "careful"}


async def add_and_revoke(db: ActionDB, on: Bench) -> None:
    rule = await db.add_rule(Rule(name="r", action_name="drop*"), **RULE)
    await db.create_proposal(proposal("drop"))
    await db.revoke_rule(rule.id, **RULE)


async def deny(db: ActionDB, on: Bench) -> None:
    await db.add_rule(Rule(name="r", action_name="drop*", effect="deny"), **RULE)
    await db.create_proposal(proposal("drop"))


async def grant_and_revoke(db: ActionDB, on: Bench) -> None:
    await db.add_rule(Rule(name="r", action_name="drop*", approvals=2), **RULE)
    given = await db.grant(
        by="gus",
        action_name="drop*",
        max_uses=1,
        valid_until=datetime(2999, 1, 1, tzinfo=UTC),
        reason="ok",
    )
    await db.create_proposal(proposal("drop"))
    await db.revoke_grant(given.id, **RULE)


async def approve(db: ActionDB, on: Bench) -> None:
    await db.add_rule(Rule(name="r", action_name="drop*"), **RULE)
    made = await db.create_proposal(proposal("drop"))
    await db.approve_proposal(made.id, by="ann", digest=made.digest)
    await db.approve_proposal(made.id, by="ann", digest=made.digest)


async def approve_and_withdraw(db: ActionDB, on: Bench) -> None:
    await approve(db, on)
    (made,) = await db.approved_not_started()
    await db.withdraw_approval(made.proposal.id, by="ann", reason="hm")


VERBS: dict[str, Verb] = {
    "add_rule": add_and_revoke,
    "revoke_rule": add_and_revoke,
    "add_rule that denies": deny,
    "grant": grant_and_revoke,
    "revoke_grant": grant_and_revoke,
    "approve_proposal": approve,
    "withdraw_approval": approve_and_withdraw,
    "reject_proposal": lambda db, on: db.reject_proposal(on.proposed, by="ann", reason="no"),
    "reject_proposal that has failed": lambda db, on: db.reject_proposal(
        on.retrying, by="ann", reason="no"
    ),
    "amend_proposal": lambda db, on: db.amend_proposal(
        on.proposed, parameters={"n": 1}, by="ann", reason="less"
    ),
    "create_proposal": lambda db, on: db.create_proposal(proposal()),
    "create_proposal executing": lambda db, on: db.create_proposal(proposal(status=S.EXECUTING)),
    "create_proposal behind a failure": lambda db, on: db.create_proposal(
        proposal(depends_on=[on.failed, on.proposed])
    ),
    "create_proposal by a key": twice_by_a_key,
    "create_proposals": lambda db, on: db.create_proposals(
        [proposal(), proposal(depends_on=[on.failed]), proposal(depends_on=[on.proposed])]
    ),
    "create_workflow": lambda db, on: db.create_workflow(
        WorkflowProposal(name="m"),
        [proposal(), proposal(), proposal(depends_on=[on.failed])],
        after={1: 0},
    ),
    "update_proposal_status validated": move("proposed", S.VALIDATED),
    "update_proposal_status executing": move("validated", S.EXECUTING),
    "update_proposal_status cancelled": move("proposed", S.CANCELLED),
    "update_proposal_status cancelled in the middle": move("executed", S.CANCELLED),
    "update_proposal_status completed": move("by_hand", S.COMPLETED),
    "update_proposal_status failed": move("by_hand", S.FAILED),
    "update_proposal_status again": move("retrying", S.VALIDATED),
    "retry": lambda db, on: db.retry(on.failed),
    "retry before its time": lambda db, on: db.retry(on.retrying),
    "create_record": lambda db, on: db.create_record(ActionRecord(proposal_id=on.validated)),
    "create_record that has ended": lambda db, on: db.create_record(
        ActionRecord(proposal_id=on.failed, completed_at=LONG_AGO, success=True)
    ),
    "update_record": lambda db, on: db.update_record(on.record_by_hand, False, "boom"),
    "update_record of a claim": lambda db, on: db.update_record(on.record, True),
    "claim": lambda db, on: db.claim("worker-2", limit=1000),
    "claim_proposal": lambda db, on: db.claim_proposal(on.validated, "worker-2"),
    "resolve_outcome": resolve,
    "cancel_proposal": lambda db, on: db.cancel_proposal(on.proposed, by="me", reason="no"),
    "claim of nothing": lambda db, on: db.claim("worker-2", action_names="none such"),
    "heartbeat": lambda db, on: db.heartbeat(on.record, timedelta(hours=1)),
    "complete": lambda db, on: db.complete(on.record, {"rows": 3}),
    "complete_many": lambda db, on: db.complete_many([on.record, on.record_again]),
    "fail": lambda db, on: db.fail(on.record, "boom"),
    "fail of what is run again": lambda db, on: db.fail(on.record_again, "boom"),
    "fail of what nobody knows": lambda db, on: db.fail(
        on.record_again, "boom", outcome_unknown=True
    ),
    "fail_many": lambda db, on: db.fail_many({on.record: "boom", on.record_again: "boom"}),
    "recover_expired": lambda db, on: db.recover_expired(),
    "recover_expired older": lambda db, on: db.recover_expired(older_than=timedelta(0)),
    "cancel_all_pending": lambda db, on: db.cancel_all_pending(),
    "halt": lambda db, on: db.halt(by="oncall", reason="stop"),
    "halt of one action": lambda db, on: db.halt(by="me", reason="stop", action_name="none such"),
    "resume": halt_and_resume,
    "set_limit": lambda db, on: db.set_limit(
        "some", window=60.0, max_starts=1, by="me", reason="careful"
    ),
    "remove_limit": set_and_remove_a_limit,
    "cancel_workflow": lambda db, on: db.cancel_workflow(on.workflow),
    "claimed": a_block,
    "holding": a_block_that_fails,
    "transaction": in_a_transaction,
}

NONE = {"heartbeat"}
"""The verbs that write no event."""

READING = {
    "approvals", "approved_not_started", "explain", "grants", "is_approved", "pending_approvals", "rules",
    "changes", "count_proposals", "events", "find_call", "get_proposal", "get_record",
    "get_records_for_proposal", "get_workflow", "halt_report", "halts", "history", "iter_proposals",
    "limits", "list_proposals", "list_workflow_actions", "mode", "newest_event_id", "unresolved", "wait_for",
    "wait_until", "workflow_status",
}  # fmt: skip


def test_no_verb_is_left_out() -> None:
    public = {name for name, _ in inspect.getmembers(ActionLedger, callable) if name[0] != "_"}
    assert public - READING == {name.split()[0] for name in VERBS} - {"transaction"}


@pytest.mark.parametrize("name", VERBS)
async def test_every_change_of_what_decides_has_an_event(
    db: ActionDB, raw: RawSQL, name: str
) -> None:
    on = await fill(db, raw)
    before = await look(raw)
    await VERBS[name](db, on)
    written = await check(db, before, await look(raw), heartbeat=name == "heartbeat")
    assert (written == 0) == (name in NONE)


RAW = {
    "status": "UPDATE action_proposals SET status = 'cancelled' WHERE id = {on.proposed}",
    "retry called off": "UPDATE action_proposals SET next_retry_at = NULL WHERE id = {on.retrying}",
    "retry put off": f"UPDATE action_proposals SET next_retry_at = {FAR} WHERE id = {{on.retrying}}",
    "retry called off, by somebody": "UPDATE action_proposals SET next_retry_at = NULL, "
    f"status_changed_by = 'x', status_changed_at = {FAR} WHERE id = {{on.retrying}}",
    "all retries": "UPDATE action_proposals SET next_retry_at = NULL WHERE status = 'failed'",
    "record": f"UPDATE action_records SET completed_at = {FAR}, success = {{true}} WHERE id = {{on.record}}",
}


@pytest.mark.parametrize("name", RAW)
async def test_so_has_every_change_by_raw_sql(
    db: ActionDB, raw: RawSQL, backend: str, name: str
) -> None:
    on = await fill(db, raw)
    before = await look(raw)
    await raw(RAW[name].format(on=on, true="true"))
    assert await check(db, before, await look(raw))


@pytest.mark.parametrize("table", ["action_proposals", "action_records"])
async def test_planted_a_change_without_an_event_is_caught(
    db: ActionDB, raw: RawSQL, table: str
) -> None:
    on = await fill(db, raw)
    before = await look(raw)
    after = await look(raw)
    rows, id = (
        (after.proposals, on.retrying)
        if table == "action_proposals"
        else (after.records, on.record)
    )
    for column in ("next_retry_at", "status", "priority", "lease_expires_at", "success"):
        if column in rows[id]:
            was, rows[id][column] = rows[id][column], "another"
            with pytest.raises(AssertionError):
                await check(db, before, after)
            rows[id][column] = was
    assert await check(db, before, after) == 0
