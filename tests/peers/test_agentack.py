"""``agentack check`` finds nothing in the export of a ledger, and finds what somebody has changed behind its back."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from operator_core import Gate
from operator_core.actions import ActionStatus, Rule
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.gate import Denied, Refused, Ticket
from tests.clocks import PATIENCE

BIN = Path(sys.executable).parent


@pytest.fixture(params=["file", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return str(tmp_path / "ledger.db")
    url: str = request.getfixturevalue("server_ledger")
    return url


async def approve(db: ActionDB, ticket: Ticket, *people: str, roles: tuple[str, ...] = ()) -> None:
    seen = await db.get_proposal(ticket.proposal_id)
    assert seen is not None
    for person in people:
        await db.approve_proposal(seen.id, by=person, digest=seen.digest, roles=roles)


async def work(db: ActionDB) -> None:
    """Everything that a run may have: a quorum, a rejection, a denial, retries, a grant, a halt, an unknown outcome."""
    for rule in (
        Rule(name="drains", action_name="drain_*", approvals=2, valid_for=1800),
        Rule(name="no drops", action_name="drop_*", effect="deny"),
        Rule(name="moves", action_name="move_*", covers_retries=True),
        Rule(name="restarts", action_name="restart_*", roles=["sre"]),
    ):
        await db.add_rule(rule, by="lead", reason="change policy 4")
    gate = Gate(db, run_id="run-1", agent_id="planner", requester="u-17")
    failures = iter([RuntimeError("not yet")])

    @gate.tool()
    async def drain_store(store: int) -> str:
        return "drained"

    @gate.tool()
    async def drop_store(store: int) -> str:
        raise AssertionError

    @gate.tool()
    async def look(store: int) -> str:
        return "fine"

    @gate.tool(max_retries=2)
    async def move_store(store: int) -> str:
        for error in failures:
            raise error
        return "moved"

    @gate.tool()
    async def restart_node(node: str) -> str:
        return "restarted"

    async def propose(name: str, **arguments: object) -> Ticket:
        number = sum((await db.count_proposals()).values())
        return await gate.propose(name, arguments, call_id=f"call-{number}")

    drain = await propose("drain_store", store=1)
    await approve(db, drain, "maria", "noa")
    await gate.settle(drain)
    rejected = await propose("drain_store", store=2)
    await db.reject_proposal(rejected.proposal_id, by="maria", reason="it is needed")
    assert isinstance((await gate.outcome(await propose("drop_store", store=2))).error, Denied)
    await gate.settle(await propose("look", store=2))
    assert isinstance((await gate.outcome(await propose("look", stor=2))).error, Refused)
    move = await propose("move_store", store=3)
    await approve(db, move, "maria")
    await gate.settle(move)
    withdrawn = await propose("drain_store", store=4)
    await approve(db, withdrawn, "maria")
    await db.withdraw_approval(withdrawn.proposal_id, by="maria", reason="misread")
    await approve(db, withdrawn, "noa", "pia")
    await gate.settle(withdrawn)
    await db.grant(
        by="olga",
        roles=["sre"],
        action_name="restart_*",
        max_uses=2,
        valid_until=datetime.now(UTC) + timedelta(hours=1),
        reason="maintenance",
    )
    await gate.settle(await propose("restart_node", node="n1"))
    lost = await propose("restart_node", node="n2")
    begun = await gate.begin(lost)
    await begun.unknown("the connection was lost")
    await db.resolve_outcome(begun.claim.record.id, by="olga", succeeded=False, evidence="uptime")
    await approve(db, lost, "sven", roles=("sre",))
    seen = await db.get_proposal(lost.proposal_id)
    if seen is not None and seen.status is ActionStatus.FAILED:
        await db.retry(lost.proposal_id)
    claim = await db.claim_proposal(lost.proposal_id, "by hand")
    await db.complete(claim.record.id, {})
    await propose("look", store=9)
    await db.halt(by="lead", reason="stop", run_id="run-1")
    await db.resume(by="lead", reason="go on", run_id="run-1")
    await gate.settle(await propose("look", store=10))


def export(target: str, to: Path, *options: str) -> list[dict[str, object]]:
    where = ("--url" if "://" in target else "--db-path", target)
    command = [BIN / "operator-core", "actions", "export", "--format", "agentack", *options, *where]
    with to.open("wb") as file:
        subprocess.run(command, stdout=file, check=True, timeout=PATIENCE)
    return [json.loads(line) for line in to.read_bytes().splitlines()]


def check(trace: Path) -> tuple[int, str]:
    done = subprocess.run(
        [BIN / "agentack", "check", str(trace)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout + done.stderr


async def test_the_run_of_a_ledger_passes(target: str, tmp_path: Path) -> None:
    async with ActionDB(target) as db:
        await work(db)
    trace = tmp_path / "trace.jsonl"
    lines = export(target, trace, "--run", "run-1")
    assert check(trace)[0] == 0, check(trace)[1]
    types = [line["type"] for line in lines]
    assert {*types} == {
        "action_proposed",
        "approval_requested",
        "approval_decision",
        "action_executed",
        "action_blocked",
        "session_end",
    }
    assert {line["session_id"] for line in lines} == {"run-1"}


async def test_what_still_waits_or_is_halted_is_told(target: str, tmp_path: Path) -> None:
    async with ActionDB(target) as db:
        await db.add_rule(Rule(name="all"), by="lead", reason="policy")
        gate = Gate(db, run_id="run-1", agent_id="planner", requester="u-17")
        await gate.propose("drain", {}, call_id="call-1")
        trace = tmp_path / "trace.jsonl"
        export(target, trace)
        code, text = check(trace)
        assert (code, "ACK009" in text) == (3, True)
        await db.halt(by="lead", reason="stop")
    assert "interrupt" in [line["type"] for line in export(target, trace)]
    assert check(trace)[0] == 0


async def test_parameters_that_were_changed_behind_the_triggers_are_found(tmp_path: Path) -> None:
    target = str(tmp_path / "ledger.db")
    async with ActionDB(target) as db:
        await work(db)
    changed = str(tmp_path / "changed.db")
    shutil.copy(target, changed)
    connection = dbapi.connect(changed, isolation_level=None)
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("UPDATE action_proposals SET parameters = '{\"store\": 8}' WHERE id = 1")
    connection.close()
    trace = tmp_path / "trace.jsonl"
    export(changed, trace, "--run", "run-1")
    code, text = check(trace)
    assert (code, "ACK003" in text) == (1, True)


def test_only_a_run_selects(tmp_path: Path) -> None:
    command = [BIN / "operator-core", "actions", "export", "--format", "agentack"]
    done = subprocess.run(
        [*command, "--status", "failed", "--db-path", str(tmp_path / "x.db")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (2, 3)
