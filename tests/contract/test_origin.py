"""Who asks, which agent acts, and where the call comes from: kept, found again, and the same on every backend."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionError,
    ActionProposal,
    ActionStatus,
    Conflict,
    EndCode,
    InvalidValue,
    NotFound,
    ProposalRequest,
    RequesterType,
    StoredProposal,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from operator_core.db.ledger.queries import FILTERS
from operator_core.db.verbs.proposals import ProposalFilters
from tests.actions.traces import NO_TRACES, TRACES
from tests.conftest import proposal

S = ActionStatus

pytestmark = pytest.mark.two_backends

ORIGIN: dict[str, Any] = {
    "requester_id": "u-17",
    "requester_type": RequesterType.USER,
    "agent_id": "store-operator",
    "run_id": "run-1",
    "call_id": "call-1",
    "traceparent": TRACES[0],
}


async def test_it_is_stored_as_given(db: ActionDB) -> None:
    parent = await db.create_proposal(proposal(**ORIGIN))
    child = {**ORIGIN, "call_id": "call-2", "parent_id": parent.id}
    made = await db.create_proposal(proposal(**child))
    several = await db.create_proposals(
        [proposal(**{**child, "call_id": f"call-{n}"}) for n in (3, 4)] + [proposal()]
    )
    for each, call in zip((made, *several[:2]), ("call-2", "call-3", "call-4"), strict=True):
        assert each == await db.get_proposal(each.id)
        assert {name: getattr(each, name) for name in child} == {**child, "call_id": call}
    none = several[2]
    assert [getattr(none, name) for name in child] == [None] * len(child)
    (claim,) = [
        await db.claim_proposal(each.id, "w")
        for each in await db.create_proposals([proposal(status=S.VALIDATED, agent_id="a")])
    ]
    assert claim.proposal.agent_id == "a"


@pytest.mark.parametrize("name", ["requester_id", "agent_id", "run_id", "call_id"])
def test_a_name_is_checked(name: str) -> None:
    for value in ("", " ", "x" * 256, "a\0", "\ud800"):
        with pytest.raises(InvalidValue) as caught:
            proposal(**{name: value})
        assert caught.value.path == name


def test_a_trace_is_checked() -> None:
    for trace in TRACES:
        assert proposal(traceparent=trace).traceparent == trace
    for trace in NO_TRACES:
        with pytest.raises(InvalidValue, match="W3C Trace Context") as caught:
            proposal(traceparent=trace)
        assert caught.value.path == "traceparent"


async def test_a_call_has_one_proposal_in_its_run(db: ActionDB) -> None:
    call = {"run_id": "run", "call_id": "call"}
    first = await db.create_proposal(proposal(**call))
    assert await db.find_call("run", "call") == first
    assert await db.find_call("run", "other") is None
    assert await db.find_call("other", "call") is None
    for again in (
        db.create_proposal(proposal(**call)),
        db.create_proposal(proposal(**call), idempotency_key="key"),
        db.create_proposals([proposal(), proposal(**call)]),
        db.create_workflow(WorkflowProposal(name="w"), [proposal(**call)]),
    ):
        with pytest.raises(Conflict, match=f"proposal {first.id} is already the one") as caught:
            await again
        assert caught.value.id == first.id
    with pytest.raises(InvalidValue) as twice:
        await db.create_proposals([proposal(run_id="r", call_id="c") for _ in range(2)])
    assert twice.value.path == "call_id"
    # Of calls without a run, and of runs without a call, there may be several.
    for half in ({"run_id": "run"}, {"call_id": "call"}):
        await db.create_proposals([proposal(**half) for _ in range(2)])
    assert await db.create_proposal(proposal(run_id="other", call_id="call"))
    assert sum((await db.count_proposals()).values()) == 6


async def test_twins_with_a_key_and_a_call_get_one_proposal(db: ActionDB) -> None:
    for n in range(20):
        call = {"run_id": "run", "call_id": f"call-{n}"}
        made = await asyncio.gather(
            *(db.create_proposal(proposal(**call), idempotency_key=f"key-{n}") for _ in range(6))
        )
        assert len({each.id for each in made}) == 1
        assert sum(not each.replayed for each in made) == 1


async def test_an_attempt_with_another_trace_finds_the_first(db: ActionDB) -> None:
    first = await db.create_proposal(proposal(traceparent=TRACES[0]), idempotency_key="key")
    again = await db.create_proposal(proposal(traceparent=TRACES[1]), idempotency_key="key")
    assert again == first
    assert again.replayed


async def test_a_child_is_of_its_parents_run(db: ActionDB) -> None:
    parent = await db.create_proposal(proposal(run_id="run"))
    for run in (None, "other"):
        with pytest.raises(InvalidValue) as caught:
            await db.create_proposal(proposal(parent_id=parent.id, run_id=run))
        assert caught.value.path == "run_id"
    with pytest.raises(NotFound) as missing:
        await db.create_proposals([proposal(), proposal(parent_id=999)])
    assert (missing.value.kind, missing.value.id) == ("proposal", 999)
    alone = await db.create_proposal(proposal())
    assert (await db.create_proposal(proposal(parent_id=alone.id))).parent_id == alone.id


async def test_nothing_of_it_changes(db: ActionDB, raw: Any) -> None:
    made = await db.create_proposal(proposal(**ORIGIN))
    for name, value in {**ORIGIN, "parent_id": 1, "requester_type": "system"}.items():
        new = value if name in ("parent_id", "requester_type") else f"{value}x"
        for text in (f"'{new}'", "NULL"):
            if name == "parent_id" and text == "NULL":
                continue
            with pytest.raises(Exception, match="action_proposals_immutable"):
                await raw(f"UPDATE action_proposals SET {name} = {text} WHERE id = {made.id}")
    assert await db.get_proposal(made.id) == made


def numbered(found: list[StoredProposal]) -> list[str]:
    return [each.action_name for each in reversed(found)]


async def test_every_filter_finds_what_matches(db: ActionDB) -> None:
    parent = await db.create_proposal(proposal("p", run_id="r"))
    before = datetime.now(UTC) - timedelta(hours=1)
    made = {
        "requester": {"requester_id": "u", "requester_type": RequesterType.USER},
        "system": {"requester_id": "s", "requester_type": RequesterType.SYSTEM},
        "agent": {"agent_id": "a"},
        "child": {"run_id": "r", "parent_id": parent.id, "call_id": "c"},
        "trace": {"traceparent": TRACES[0]},
    }
    await db.create_proposals([proposal(name, **values) for name, values in made.items()])
    worked = await db.create_proposal(proposal("worked", status=S.VALIDATED))
    await db.claim_proposal(worked.id, "w-1", actor="ops")
    await db.create_proposal(proposal("over", status=S.FAILED))
    every = ["p", *made, "worked", "over"]
    asked: list[tuple[ProposalFilters, list[str]]] = [
        ({}, every),
        ({"requester_id": "u"}, ["requester"]),
        ({"requester_type": RequesterType.SYSTEM}, ["system"]),
        ({"agent_id": "a"}, ["agent"]),
        ({"run_id": "r"}, ["p", "child"]),
        ({"run_id": "r", "call_id": "c"}, ["child"]),
        ({"call_id": "c"}, ["child"]),
        ({"parent_id": parent.id}, ["child"]),
        ({"traceparent": TRACES[0]}, ["trace"]),
        ({"actor": "ops"}, ["worked"]),
        ({"worker": "w-1"}, ["worked"]),
        ({"worker": "w-2"}, []),
        ({"created_after": before}, every),
        ({"created_before": before}, []),
        ({"created_after": worked.created_at}, ["worked", "over"]),
        ({"end_code": EndCode.FAILED}, ["over"]),
        ({"end_code": EndCode.FAILED, "action_name": "p"}, []),
        ({"end_code": EndCode.DENIED}, []),
        ({"created_after": before, "created_before": parent.created_at}, []),
        ({"agent_id": "a", "run_id": "r"}, []),
        ({"agent_id": None, "action_name": "p"}, ["p"]),
    ]
    assert {name for filters, _ in asked for name in filters} >= set(FILTERS) - {
        "before",
        "after",
        "search",
        "ticket_id",
        "proposed_by",
    }
    for filters, names in asked:
        assert numbered(await db.list_proposals(**filters)) == names
        assert numbered([each async for each in db.iter_proposals(**filters)]) == names
        assert sum((await db.count_proposals(**filters)).values()) == len(names)
        for status in (S.PROPOSED, [S.EXECUTING, S.PROPOSED]):
            found = await db.list_proposals(status, limit=1, **filters)
            assert len(found) <= 1
            assert all(each.action_name in names for each in found)


async def test_a_filter_is_checked(db: ActionDB) -> None:
    wrong: list[tuple[str, Any]] = [
        ("requester_id", ""),
        ("requester_type", "robot"),
        ("agent_id", 7),
        ("run_id", "\0"),
        ("parent_id", 0),
        ("call_id", "x" * 256),
        ("traceparent", "00"),
        ("actor", " "),
        ("worker", []),
        ("search", ""),
        ("search", 4),
        ("created_after", "soon"),
        ("created_before", datetime(1960, 1, 1, tzinfo=UTC)),
    ]
    for name, value in wrong:
        filters: Any = {name: value}
        for call in (db.list_proposals, db.count_proposals):
            with pytest.raises(InvalidValue) as caught:
                await call(**filters)
            assert caught.value.path == name
    unknown: Any = {"color": "red"}
    for call in (db.list_proposals, db.count_proposals):
        with pytest.raises(TypeError, match="unexpected keyword argument 'color'"):
            await call(**unknown)
    with pytest.raises(InvalidValue):
        await db.find_call("", "call")


async def test_it_is_part_of_the_digest(db: ActionDB) -> None:
    made = await db.create_proposal(proposal(**ORIGIN))
    assert made.digest == proposal(**ORIGIN).digest
    for name in ("requester_id", "requester_type", "agent_id", "run_id"):
        assert proposal(**{**ORIGIN, name: None}).digest != made.digest
    for name in ("call_id", "traceparent"):
        assert proposal(**{**ORIGIN, name: None}).digest == made.digest


async def test_a_request_and_an_import_have_it(db: ActionDB) -> None:
    request = ProposalRequest(action_name="a", reason="r", **ORIGIN)
    assert (await db.create_proposal(request)).requester_id == "u-17"
    done = ActionProposal(action_name="a", reason="r", status=S.COMPLETED, agent_id="a")
    assert (await db.create_proposal(done)).agent_id == "a"


async def test_a_refused_one_leaves_nothing(db: ActionDB) -> None:
    with pytest.raises(ActionError):
        await db.create_proposals([proposal(agent_id="a"), proposal(parent_id=77)])
    assert not await db.list_proposals()
