"""A call through the gate is proposed, decided, executed once and recorded, and every caller is told what became of it."""

import pickle
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, BeforeValidator, SecretStr

from operator_core.actions import (
    ActionStatus,
    ActionType,
    Conflict,
    EndCode,
    HaltMode,
    InvalidValue,
    NotFound,
    OutcomeUnknown,
    StoredProposal,
)
from operator_core.db import ActionDB
from operator_core.gate import (
    Cancelled,
    Denied,
    EffectUnknown,
    ExecutionFailed,
    Expired,
    GateError,
    Halted,
    NotExecuted,
    Pending,
    Refused,
    Rejected,
    Superseded,
    Ticket,
    Undecided,
)
from tests.clocks import PATIENCE
from tests.conftest import RawSQL, proposal
from tests.contract.governed import WHY, later, now, rule
from tests.gate.gates import Calls, gate_of
from tests.looks_async import LooksAsync

S = ActionStatus

pytestmark = pytest.mark.each_driver


@pytest.fixture
def calls() -> Calls:
    return Calls(result={"moved": 3})


@pytest.fixture
def gate(db: ActionDB, calls: Calls) -> Any:
    return gate_of(db, tools=[calls.drain])


async def found(db: ActionDB, ticket: Ticket) -> StoredProposal:
    return await now(db, ticket.proposal_id)


async def approve(db: ActionDB, ticket: Ticket, by: str = "mia") -> None:
    await db.approve_proposal(ticket.proposal_id, by=by, digest=(await found(db, ticket)).digest)


# ------ a call that nobody has to approve


async def test_a_call_runs_once_and_is_answered_again(
    db: ActionDB, gate: Any, calls: Calls
) -> None:
    for _ in range(3):
        value = await gate.call("drain", {"store": 4}, call_id="call-1", reason="it is hot")
        assert value == {"moved": 3}
    assert calls.seen == [{"store": 4, "fast": False}]
    (row,) = await db.list_proposals()
    assert (row.status, row.action_name, row.action_type) == (S.COMPLETED, "drain", ActionType.TOOL)
    assert (row.run_id, row.call_id, row.agent_id) == ("run-1", "call-1", "planner")
    assert (row.proposed_by, row.reason) == ("planner", "it is hot")
    (record,) = await db.get_records_for_proposal(row.id)
    assert (record.worker, record.result_data) == ("gate run-1", {"moved": 3})


async def test_an_approver_sees_the_arguments_that_the_tool_gets(db: ActionDB, gate: Any) -> None:
    ticket = await gate.propose("drain", '{"store": "4"}', call_id="call-1")
    assert (await found(db, ticket)).parameters == {"store": 4, "fast": False}


async def test_who_asks_is_written_down(db: ActionDB, calls: Calls) -> None:
    parent = await db.create_proposal(proposal(run_id="run-1"))
    gate = gate_of(
        db, tools=[calls.drain], requester="u-17", requester_type="system", parent_id=parent.id
    )
    row = await found(db, await gate.propose("drain", {"store": 4}, call_id="call-1"))
    assert (row.requester_id, row.requester_type, row.parent_id) == ("u-17", "system", parent.id)


async def test_another_reason_is_the_same_call_and_other_arguments_are_not(
    db: ActionDB, gate: Any
) -> None:
    first = await gate.propose("drain", {"store": 4}, call_id="call-1", reason="hot")
    assert await gate.propose("drain", {"store": 4}, call_id="call-1", reason="cold") == first
    for name, arguments in (("drain", {"store": 5}), ("drain", {"store": "x"}), ("none", {})):
        with pytest.raises(Conflict):
            await gate.propose(name, arguments, call_id="call-1")
    assert len(await db.list_proposals()) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("drain", {}, "store: Field required"),
        ("drain", {"store": "many"}, "store: Input should be a valid integer"),
        ("drain", {"store": 4, "force": True}, "force: Extra inputs are not permitted"),
        ("drain", "{", "the arguments can't be read"),
        ("drain", "[1]", "the arguments can't be read"),
        ("drian", {"store": 4}, "there is no tool 'drian'; there are: drain"),
    ],
)
async def test_a_wrong_call_is_an_answer_and_in_the_ledger(
    db: ActionDB, gate: Any, calls: Calls, name: str, arguments: Any, why: str
) -> None:
    ticket = await gate.propose(name, arguments, call_id="call-1")
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await gate.settle(ticket)
        assert why in str(refused.value.reason)
        assert refused.value.proposal_id == ticket.proposal_id
    assert await gate.propose(name, arguments, call_id="call-1") == ticket
    row = await found(db, ticket)
    assert (row.status, row.action_name) == (S.CANCELLED, name)
    assert why in row.reason
    assert calls.seen == []


async def test_what_the_ledger_can_not_store_is_refused(gate: Any) -> None:
    with pytest.raises(Refused) as refused:
        await gate.propose("x" * 300, {}, call_id="call-1")
    assert refused.value.proposal_id is None


async def test_what_the_program_says_wrong_is_its_own_error(gate: Any) -> None:
    for wrong in ({"call_id": ""}, {"call_id": "c", "reason": "\0"}):
        with pytest.raises(InvalidValue):
            await gate.propose("drain", {"store": 4}, **wrong)


# ------ decisions


async def test_it_waits_for_an_approval(db: ActionDB, gate: Any, calls: Calls) -> None:
    await rule(db, action_name="drain")
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    with pytest.raises(Pending) as pending:
        await gate.settle(ticket, timeout=0)
    assert pending.value.proposal_id == ticket.proposal_id
    assert calls.seen == []
    await approve(db, ticket)
    assert await gate.settle(ticket) == {"moved": 3}


async def test_a_rejection_names_who_and_why(db: ActionDB, gate: Any, calls: Calls) -> None:
    await rule(db, action_name="drain")
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    await db.reject_proposal(ticket.proposal_id, by="mia", reason="not at night")
    outcome = await gate.outcome(ticket)
    assert not outcome.ok
    assert isinstance(outcome.error, Rejected)
    assert (outcome.error.by, outcome.error.reason) == ("mia", "not at night")
    assert outcome.error.end_code == "rejected"
    assert calls.seen == []


async def test_a_denial(db: ActionDB, gate: Any) -> None:
    await rule(db, action_name="drain", effect="deny")
    with pytest.raises(Denied):
        await gate.call("drain", {"store": 4}, call_id="call-1")


async def test_nobody_decided_in_time(db: ActionDB, gate: Any) -> None:
    await rule(db, action_name="drain", decide_within=600.0)
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    await later(db, 601)
    with pytest.raises(Undecided):
        await gate.settle(ticket, timeout=0)


async def test_it_expires(db: ActionDB, calls: Calls) -> None:
    await rule(db, action_name="drain")
    gate = gate_of(db)
    gate.tool(expires_in=timedelta(milliseconds=1))(calls.drain)
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    with pytest.raises(Expired):
        await gate.settle(ticket, timeout=60)


async def test_somebody_amends_or_cancels_it(db: ActionDB, gate: Any, calls: Calls) -> None:
    await rule(db, action_name="drain")
    amended = await gate.propose("drain", {"store": 4}, call_id="call-1")
    await db.amend_proposal(
        amended.proposal_id, parameters={"store": 5}, by="mia", reason="the other one"
    )
    with pytest.raises(Superseded, match="the other one"):
        await gate.settle(amended)
    cancelled = await gate.propose("drain", {"store": 6}, call_id="call-2")
    await db.cancel_proposal(cancelled.proposal_id, by="mia", reason="no need")
    with pytest.raises(Cancelled, match="no need"):
        await gate.settle(cancelled)
    assert calls.seen == []


async def test_nothing_is_proposed_or_started_while_halted(
    db: ActionDB, gate: Any, calls: Calls
) -> None:
    before = await gate.propose("drain", {"store": 4}, call_id="call-1")
    await db.halt(**WHY)
    with pytest.raises(Halted) as halted:
        await gate.settle(before)
    assert halted.value.by == "lead"
    with pytest.raises(Halted) as refused:
        await gate.propose("drain", {"store": 5}, call_id="call-2")
    assert refused.value.proposal_id is None
    await db.resume(**WHY)
    assert await gate.call("drain", {"store": 5}, call_id="call-2") == {"moved": 3}


async def test_what_was_proposed_while_observed_runs_afterwards(db: ActionDB, gate: Any) -> None:
    await db.halt(**WHY, mode=HaltMode.OBSERVE)
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    assert (await found(db, ticket)).status is S.PROPOSED
    with pytest.raises(Pending, match="halt"):
        await gate.settle(ticket, timeout=0)
    await db.resume(**WHY)
    assert await gate.settle(ticket) == {"moved": 3}


async def test_a_limit_holds_it_back(db: ActionDB, gate: Any) -> None:
    await db.set_limit("few", window=3600.0, max_starts=1, **WHY)
    await gate.call("drain", {"store": 4}, call_id="call-1")
    ticket = await gate.propose("drain", {"store": 5}, call_id="call-2")
    with pytest.raises(Pending, match="few"):
        await gate.settle(ticket, timeout=0)
    await db.remove_limit("few", **WHY)
    assert await gate.settle(ticket) == {"moved": 3}


# ------ what the model says is not always what the tool gets


async def test_what_does_not_survive_storing_is_refused(db: ActionDB) -> None:
    seen: list[Any] = []

    def scale(by: Annotated[int, BeforeValidator(lambda value: value * 100)]) -> None:
        seen.append(by)

    def login(password: SecretStr) -> None:
        seen.append(password)

    gate = gate_of(db, tools=[scale, login])
    for name, arguments in (("scale", {"by": 3}), ("login", {"password": "secret"})):
        with pytest.raises(Refused, match="change when they are stored"):
            await gate.call(name, arguments, call_id=name)
    assert seen == []


async def test_a_default_of_none_may_be_left_out(db: ActionDB) -> None:
    def note(text: str = None) -> str:  # type: ignore[assignment]  # noqa: RUF013
        return f"noted {text}"

    gate = gate_of(db, tools=[note])
    assert await gate.call("note", {}, call_id="call-1") == "noted None"
    with pytest.raises(Refused, match="valid string"):
        await gate.call("note", {"text": 3}, call_id="call-2")


async def test_a_set_has_no_order(db: ActionDB) -> None:
    def tag(names: set[str]) -> int:
        return len(names)

    gate = gate_of(db, tools=[tag])
    ticket = await gate.propose("tag", {"names": ["a", "b", "c"]}, call_id="call-1")
    # Another process may write it in another order.
    stored = (await found(db, ticket)).parameters["names"]
    call = gate.tools.read("tag", {"names": ["c", "b", "a"]})
    for names in (stored, stored[::-1]):
        assert call.is_of("tag", {"names": names})
    assert not call.is_of("tag", {"names": ["a", "b"]})
    assert await gate.propose("tag", {"names": ["c", "a", "b"]}, call_id="call-1") == ticket


async def test_numbers_and_flags_are_not_the_same_call(db: ActionDB) -> None:
    def set_value(n: Any, more: dict[str, Any] | None = None) -> None: ...

    for number, gate in enumerate((gate_of(db), gate_of(db, tools=[set_value]))):
        call = f"call-{number}"
        await gate.propose("set_value", {"n": 1, "more": {"x": 1}}, call_id=call)
        for n, x in ((1.0, 1), (True, 1), (1, True)):
            with pytest.raises(Conflict):
                await gate.propose("set_value", {"n": n, "more": {"x": x}}, call_id=call)


async def test_what_a_model_says_at_length_is_an_answer(gate: Any) -> None:
    with pytest.raises(Refused) as refused:
        await gate.call("drain", {"k" * 70_000: 1, "a\ud800": 2}, call_id="call-1")
    assert len(str(refused.value.reason)) < 2_100


# ------ how it ends


async def test_a_failure_is_told_again_and_not_repeated(
    db: ActionDB, gate: Any, calls: Calls
) -> None:
    calls.error = OSError("no route")
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    with pytest.raises(ExecutionFailed, match="no route") as failed:
        await gate.settle(ticket)
    assert failed.value.__cause__ is calls.error
    with pytest.raises(ExecutionFailed, match="OSError: no route"):
        await gate.settle(ticket)
    assert len(calls.seen) == 1
    assert (await found(db, ticket)).end_code is EndCode.FAILED


async def test_the_log_has_nothing_of_what_a_tool_says(
    gate: Any, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    calls.error = ValueError("hunter2")
    with caplog.at_level("DEBUG", "operator_core"):
        outcome = await gate.outcome(await gate.propose("drain", {"store": 4}, call_id="call-1"))
    assert "hunter2" in str(outcome.error)
    assert "ValueError" in caplog.text
    assert "hunter2" not in caplog.text


async def fails(gate: Any, ticket: Ticket, raw: RawSQL) -> None:
    """The call fails, and its retry is due at a time that no jitter decides."""
    await (await gate.begin(ticket)).failed("busy")
    await retried_at(ticket, raw, "2999-01-01 00:00:00.000000")


async def retried_at(ticket: Ticket, raw: RawSQL, time: str) -> None:
    await raw(
        f"UPDATE action_proposals SET next_retry_at = '{time}' WHERE id = {ticket.proposal_id}"
    )


async def test_a_tool_that_may_be_repeated_is_retried(
    db: ActionDB, calls: Calls, raw: RawSQL
) -> None:
    gate = gate_of(db)
    gate.tool("scale_up", max_retries=1)(calls.drain)
    ticket = await gate.propose("scale_up", {"store": 3}, call_id="call-1")
    await fails(gate, ticket, raw)
    with pytest.raises(Pending):
        await gate.settle(ticket, timeout=0)
    await retried_at(ticket, raw, "2001-01-01 00:00:00.000000")
    assert await gate.settle(ticket) == {"moved": 3}
    assert len(calls.seen) == 1


async def test_retries_go_on_until_one_succeeds(db: ActionDB) -> None:
    seen: list[int] = []

    def scale(to: int) -> int:
        seen.append(to)
        if len(seen) < 3:
            raise OSError("busy")
        return to

    gate = gate_of(db)
    gate.tool(max_retries=2)(scale)
    # Jitter makes each retry due within a few seconds.
    assert await gate.call("scale", {"to": 3}, call_id="call-1", timeout=PATIENCE) == 3
    assert seen == [3, 3, 3]


async def test_a_tool_may_say_that_it_does_not_know(db: ActionDB, gate: Any) -> None:
    async def drain(store: int, fast: bool) -> None:
        raise OutcomeUnknown("the server closed the connection")

    def drain_plainly(store: int, fast: bool) -> None:
        raise OutcomeUnknown("the server closed the connection")

    handler = drain_plainly if isinstance(db, LooksAsync) else drain
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    outcome = await gate.outcome(ticket, handler=handler)
    assert isinstance(outcome.error, EffectUnknown)
    assert outcome.error.reason == "the server closed the connection"
    (record,) = await db.get_records_for_proposal(ticket.proposal_id)
    assert (record.success, record.outcome_unknown) == (None, True)
    again = await gate.propose("drain", {"store": 4}, call_id="call-2")
    assert isinstance((await gate.outcome(again, handler=handler)).error, Refused)


async def test_a_decision_can_be_awaited_without_a_start(
    db: ActionDB, gate: Any, calls: Calls
) -> None:
    free = await gate.propose("drain", {"store": 3}, call_id="call-0")
    assert await gate.decided(free, timeout=0) is None
    await rule(db, action_name="drain")
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    assert isinstance((await gate.decided(ticket, timeout=0)).error, Pending)
    made = await now(db, ticket.proposal_id)
    await db.approve_proposal(made.id, by="mia", digest=made.digest)
    assert await gate.decided(ticket) is None
    assert calls.seen == []
    assert await gate.settle(ticket) == calls.result
    assert (await gate.decided(ticket)).ok
    other = await gate.propose("drain", {"store": 5}, call_id="call-2")
    await db.reject_proposal(other.proposal_id, by="mia", reason="no")
    assert isinstance((await gate.decided(other)).error, Rejected)
    with pytest.raises(InvalidValue):
        await gate.decided(other, timeout=-1)


async def test_a_call_is_found_by_its_id(db: ActionDB, gate: Any) -> None:
    assert await gate.find("call-1") is None
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    assert await gate.find("call-1") == ticket
    assert await gate_of(db, run_id="run-2").find("call-1") is None


async def test_a_call_does_not_wait_for_itself(db: ActionDB, gate: Any) -> None:
    seen: list[str] = []

    async def drain(store: int, fast: bool) -> None:
        with pytest.raises(InvalidValue, match="would wait for itself"):
            await gate.settle(ticket)
        seen.append("drained")

    def drain_plainly(store: int, fast: bool) -> None:
        with pytest.raises(InvalidValue, match="would wait for itself"):
            gate._of.settle(ticket)
        seen.append("drained")

    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    await gate.settle(ticket, handler=drain_plainly if isinstance(db, LooksAsync) else drain)
    assert seen == ["drained"]


async def test_an_unknown_outcome_is_not_repeated(db: ActionDB, gate: Any, calls: Calls) -> None:
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    begun = await gate.begin(ticket)
    await begun.unknown("the connection was lost")
    for _ in range(2):
        with pytest.raises(EffectUnknown, match="the connection was lost"):
            await gate.settle(ticket)
    again = await gate.propose("drain", {"store": 4}, call_id="call-2")
    with pytest.raises(Refused, match="is not known"):
        await gate.settle(again)
    other = await gate.call("drain", {"store": 5}, call_id="call-3")
    assert other == {"moved": 3}
    await db.resolve_outcome(begun.claim.record.id, by="mia", succeeded=False, evidence="the log")
    with pytest.raises(ExecutionFailed, match="it was not done: the log"):
        await gate.settle(ticket)
    assert await gate.call("drain", {"store": 4}, call_id="call-4") == {"moved": 3}
    assert [each["store"] for each in calls.seen] == [5, 4]


async def test_what_a_dead_program_has_begun_is_not_repeated(
    db: ActionDB, gate: Any, calls: Calls
) -> None:
    first = await gate.propose("drain", {"store": 4}, call_id="call-1")
    await db.claim_proposal(first.proposal_id, "dead", lease=timedelta(milliseconds=1))
    twin = await gate.propose("drain", {"store": 4}, call_id="call-2")
    with pytest.raises((Refused, Pending)):
        await gate.settle(twin, timeout=0)
    with pytest.raises(EffectUnknown):
        await gate.settle(first, timeout=60)
    with pytest.raises(Refused, match="is not known"):
        await gate.settle(twin, timeout=60)
    with pytest.raises(Refused, match="is not known"):
        await gate.call("drain", {"store": 4}, call_id="call-3")
    assert calls.seen == []


async def test_the_same_call_waits_for_the_one_that_is_executed(
    db: ActionDB, gate: Any, calls: Calls
) -> None:
    tickets = [
        await gate.propose("drain", {"store": 4}, call_id=f"call-{number}") for number in range(3)
    ]
    begun = await gate.begin(tickets[0])
    with pytest.raises(Pending, match=f"executed as proposal {tickets[0].proposal_id}"):
        await gate.settle(tickets[1], timeout=0)
    await begun.done(1)
    assert await gate.settle(tickets[1]) == {"moved": 3}
    lost = await gate.begin(tickets[2])
    await lost.unknown("lost")
    assert len(calls.seen) == 1


async def test_a_call_that_failed_and_was_rejected_is_not_made_again(
    db: ActionDB, calls: Calls, raw: RawSQL
) -> None:
    gate = gate_of(db)
    gate.tool(max_retries=3)(calls.drain)
    tickets = [
        await gate.propose("drain", {"store": 4}, call_id=f"call-{number}") for number in range(2)
    ]
    for each in tickets:
        await fails(gate, each, raw)
    rejected, twin = tickets
    await db.reject_proposal(rejected.proposal_id, by="mia", reason="refused: never again")
    with pytest.raises(ExecutionFailed, match="busy"):
        await gate.settle(rejected)
    with pytest.raises(Pending, match="was rejected before"):
        await gate.settle(twin, timeout=0)
    await retried_at(twin, raw, "2001-01-01 00:00:00.000000")
    # It is not retried: what it did is what it did before.
    with pytest.raises(ExecutionFailed, match="busy"):
        await gate.settle(twin, timeout=PATIENCE)
    assert (await found(db, twin)).status is S.CANCELLED
    with pytest.raises(Refused, match="was rejected before"):
        await gate.call("drain", {"store": 4}, call_id="call-3")
    assert calls.seen == []


async def test_a_person_may_reject_in_the_words_of_the_gate(db: ActionDB, gate: Any) -> None:
    await rule(db, action_name="drain")
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    await db.reject_proposal(ticket.proposal_id, by="mia", reason="refused: too risky")
    with pytest.raises(Rejected, match="too risky"):
        await gate.settle(ticket)
    with pytest.raises(Refused, match="was rejected before"):
        await gate.call("drain", {"store": 4}, call_id="call-2")


@pytest.mark.parametrize("then", ["halt", "reject"])
async def test_a_claim_that_was_given_back_may_have_to_wait(
    db: ActionDB, gate: Any, calls: Calls, then: str
) -> None:
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    await db._give_back([await db.claim_proposal(ticket.proposal_id, "somebody")])
    if then == "reject":
        await db.reject_proposal(ticket.proposal_id, by="mia", reason="no")
        with pytest.raises(Rejected):
            await gate.settle(ticket)
        assert await gate.pending() == []
    else:
        await db.halt(**WHY)
        with pytest.raises(Pending, match="halt"):
            await gate.settle(ticket, timeout=0)
        await db.resume(**WHY)
        assert await gate.settle(ticket) == {"moved": 3}


async def test_each_execution_is_found_out_by_itself(db: ActionDB, gate: Any) -> None:
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    begun = await gate.begin(ticket)
    await begun.unknown("lost")
    await db.resolve_outcome(begun.claim.record.id, by="mia", succeeded=False, evidence="log 1")
    await db.retry(ticket.proposal_id)
    again = await gate.begin(ticket)
    await again.unknown("lost again")
    with pytest.raises(EffectUnknown, match="lost again"):
        await gate.settle(ticket)
    with pytest.raises(Refused):
        await gate.call("drain", {"store": 4}, call_id="call-2")


async def test_what_was_cancelled_while_it_ran_was_executed(db: ActionDB, gate: Any) -> None:
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    begun = await gate.begin(ticket)
    await db.cancel_proposal(ticket.proposal_id, by="mia", reason="stop it")
    with pytest.raises(EffectUnknown):
        await gate.settle(ticket)
    assert await begun.done(7) == 7
    assert await gate.settle(ticket) == 7


async def test_a_claim_that_was_given_back_is_no_end(db: ActionDB, gate: Any, calls: Calls) -> None:
    await rule(db, action_name="drain")
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    await approve(db, ticket)
    claim = await db.claim_proposal(ticket.proposal_id, "somebody")
    await db._give_back([claim])
    assert (await found(db, ticket)).end_code is EndCode.NOT_BEGUN
    assert await gate.pending() == [ticket]
    assert await gate.settle(ticket) == {"moved": 3}
    assert len(calls.seen) == 1


async def test_what_was_found_to_be_done_has_no_result(db: ActionDB, gate: Any) -> None:
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    begun = await gate.begin(ticket)
    await begun.unknown("lost")
    await db.resolve_outcome(begun.claim.record.id, by="mia", succeeded=True, evidence="the log")
    assert await gate.settle(ticket) is None


async def test_what_was_rejected_is_not_tried_again_in_the_run(
    db: ActionDB, gate: Any, calls: Calls
) -> None:
    await rule(db, action_name="drain")
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    await db.reject_proposal(ticket.proposal_id, by="mia", reason="no")
    again = await gate.propose("drain", {"fast": False, "store": 4}, call_id="call-2")
    with pytest.raises(Refused, match=f"rejected before .proposal {ticket.proposal_id}"):
        await gate.settle(again)
    for other in (
        gate_of(db, tools=[calls.drain], run_id="run-2"),
        gate_of(db, tools=[calls.drain], repeat="allow"),
    ):
        with pytest.raises(Pending):
            await other.call("drain", {"store": 4}, call_id="call-3", timeout=0)


@pytest.mark.parametrize(
    "result", [None, 3, "text", [1, 2], {}, {"a": 1}, {"result": 1}, {"result": {"result": 1}}]
)
async def test_a_result_is_the_same_whoever_asks(db: ActionDB, result: Any) -> None:
    gate = gate_of(db, tools=[Calls(result).drain])
    for _ in range(2):
        assert await gate.call("drain", {"store": 4}, call_id="call-1") == result


class Moved(BaseModel):
    result: int


class Broken(dict[str, Any]):
    def items(self) -> Any:
        raise OSError("gone")


async def test_no_result_fails_what_was_done(db: ActionDB) -> None:
    for number, (result, value) in enumerate(
        [(Moved(result=1), {"result": 1}), ((1, 2), [1, 2]), (Broken(a=1), None), (object(), None)]
    ):
        gate = gate_of(db, tools=[Calls(result).drain], run_id=f"run-{number}")
        for _ in range(2):
            answer = await gate.call("drain", {"store": 4}, call_id="call-1")
            assert answer == value or (value is None and "result_not_kept" in answer)


# ------ two phases


async def test_who_executes_it_says_how_it_ended(db: ActionDB, gate: Any, calls: Calls) -> None:
    tickets = [
        await gate.propose("drain", {"store": store}, call_id=f"call-{store}") for store in (1, 2)
    ]
    done, failed = [await gate.begin(each) for each in tickets]
    with pytest.raises(Pending):
        await gate.begin(tickets[0], timeout=0)
    assert await done.done(7) == 7
    await failed.failed(ValueError("no such store"))
    assert await gate.settle(tickets[0]) == 7
    with pytest.raises(ExecutionFailed, match="ValueError: no such store"):
        await gate.begin(tickets[1])
    with pytest.raises(Conflict, match="executed already"):
        await gate.begin(tickets[0])
    assert calls.seen == []


async def test_how_it_ended_can_be_said_in_any_words(db: ActionDB, gate: Any) -> None:
    for number, words in enumerate(("x\0", "\ud800", "long" * 100_000)):
        ticket = await gate.propose("drain", {"store": number}, call_id=f"call-{number}")
        await (await gate.begin(ticket)).failed(words)
        with pytest.raises(ExecutionFailed):
            await gate.settle(ticket)


async def test_a_gate_that_leaves_it_to_workers_begins_nothing(db: ActionDB, calls: Calls) -> None:
    gate = gate_of(db, tools=[calls.drain], execute="worker")
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    with pytest.raises(InvalidValue, match="execute"):
        await gate.begin(ticket)


async def test_what_is_not_to_be_executed_does_not_begin(db: ActionDB, gate: Any) -> None:
    await rule(db, action_name="drain")
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    await db.reject_proposal(ticket.proposal_id, by="mia", reason="no")
    with pytest.raises(Rejected):
        await gate.begin(ticket)


# ------ restarts, tickets and arguments


async def test_another_program_goes_on(db: ActionDB, gate: Any, calls: Calls) -> None:
    await rule(db, action_name="drain")
    tickets = [
        await gate.propose("drain", {"store": store}, call_id=f"call-{store}") for store in (1, 2)
    ]
    await gate.propose("drain", {"store": "x"}, call_id="call-3")
    restarted = gate_of(db, tools=[calls.drain])
    assert await restarted.pending() == tickets
    text = tickets[0].to_json()
    assert len(text) < 120
    await approve(db, tickets[0])
    assert await restarted.settle(Ticket.from_json(text)) == {"moved": 3}
    assert await restarted.pending() == tickets[1:]


async def test_a_ticket_is_of_its_run(db: ActionDB, gate: Any, calls: Calls) -> None:
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    with pytest.raises(InvalidValue, match="another run"):
        await gate_of(db, tools=[calls.drain], run_id="run-2").settle(ticket)
    # The function that runs is that of the proposal.
    gate.tool("wipe")(calls.drain)
    with pytest.raises(InvalidValue, match="another tool"):
        await gate.settle(Ticket(ticket.proposal_id, "run-1", "call-1", "wipe"))
    with pytest.raises(NotFound):
        await gate.settle(Ticket(99, "run-1", "call-1", "drain"))
    assert calls.seen == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"proposal_id": "1"}', "null", "\ud800"])
def test_what_is_no_ticket_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="ticket"):
        Ticket.from_json(text)


async def test_without_tools_a_call_needs_its_handler(db: ActionDB) -> None:
    gate = gate_of(db)
    ticket = await gate.propose("anything", {"a": 1}, call_id="call-1")
    with pytest.raises(InvalidValue, match="handler"):
        await gate.settle(ticket)
    assert await gate.settle(ticket, handler=lambda a: a + 1) == 2
    # It is settled: nothing has to run.
    assert await gate.settle(ticket) == 2


async def test_a_handler_takes_the_place_of_the_tool(gate: Any, calls: Calls) -> None:
    seen: list[Any] = []

    def handler(**arguments: Any) -> str:
        seen.append(arguments)
        return "ok"

    assert await gate.call("drain", {"store": "4"}, call_id="c", handler=handler) == "ok"
    assert (seen, calls.seen) == ([{"store": 4, "fast": False}], [])


async def test_tools_take_what_their_signature_says(db: ActionDB) -> None:
    class Where(BaseModel):
        store: int

    seen: list[Any] = []
    gate = gate_of(db)

    @gate.tool()
    def move(where: Where, at: datetime, *, json: str = "x", **more: int) -> None:
        seen.append((where, at, json, more))

    def positional(store: int, /) -> None: ...

    for wrong in (positional, move, lambda *stores: None):
        with pytest.raises(InvalidValue):
            gate.tool()(wrong)
    arguments = {"where": {"store": 4}, "at": "2026-01-02T03:04:05Z", "extra": "5"}
    ticket = await gate.propose("move", arguments, call_id="call-1")
    await gate.settle(ticket)
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert seen == [(Where(store=4), at, "x", {"extra": 5})]
    stored = (await found(db, ticket)).parameters
    assert stored == {"where": {"store": 4}, "at": "2026-01-02T03:04:05Z", "json": "x", "extra": 5}
    with pytest.raises(Refused, match="extra"):
        await gate.call("move", {**arguments, "extra": "many"}, call_id="call-2")


@pytest.mark.parametrize(
    "settings",
    [
        {"run_id": ""},
        {"run_id": None},
        {"agent_id": " "},
        {"agent_id": "ledger"},
        {"requester": ""},
        {"requester_type": "robot"},
        {"parent_id": 0},
        {"execute": "there"},
        {"repeat": "sometimes"},
        {"worker": "ledger"},
        {"lease": timedelta(0)},
    ],
)
async def test_arguments_are_checked(db: ActionDB, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        gate_of(db, **settings)


async def test_options_of_tools_are_checked(gate: Any, calls: Calls) -> None:
    for wrong in (
        {"max_retries": -1},
        {"expires_in": timedelta(0)},
        {"on_cancel": "maybe"},
        {"name": "drain"},
    ):
        with pytest.raises(InvalidValue):
            gate.tool(**{"name": "other", **wrong})(calls.drain)


async def test_timeouts_are_checked(gate: Any) -> None:
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    for wrong in (-1, float("nan"), True):
        with pytest.raises(InvalidValue):
            await gate.settle(ticket, timeout=wrong)


def test_errors_can_be_pickled() -> None:
    for kind in (Rejected, Pending, EffectUnknown):
        error: GateError = kind(3, "why", by="mia", end_code="rejected")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (str(again), again.__dict__) == (str(error), error.__dict__)
    assert issubclass(Rejected, NotExecuted)
