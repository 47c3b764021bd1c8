"""The examples of all frameworks: a call waits for another process, survives a kill, and runs exactly once."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from operator_core.db import SyncActionDB
from tests.clocks import PATIENCE
from tests.distribution import ROOT

AGENTS = sorted((ROOT / "examples" / "agents").glob("with_*.py"))


class Agent:
    """One of the examples, in a process of its own."""

    def __init__(self, program: Path, folder: Path, ledger: str) -> None:
        self.command = [sys.executable, "-W", "default", str(program), str(folder), ledger]
        self.folder = folder
        self.ledger = ledger
        self.lines: list[str] = []

    def start(self) -> None:
        self.lines = []
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)

    def until_it_waits(self) -> int:
        """Returns the proposal that waits for a person."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if " waits: " in line:
                return int(line.split()[1])
        raise AssertionError(f"the agent ended with {self.process.wait()}: {self.lines}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE)

    def end(self) -> list[str]:
        """Waits for the end; returns the lines that the model was told."""
        rest, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0
        lines = [*self.lines, *rest.splitlines()]
        return [line.strip() for line in lines if line.startswith("told: ")]

    def approve(self, proposal_id: int) -> None:
        with SyncActionDB(self.ledger) as db:
            seen = db.get_proposal(proposal_id)
            assert seen is not None
            db.approve_proposal(proposal_id, by="maria", digest=seen.digest)

    def reject(self, proposal_id: int, reason: str) -> None:
        with SyncActionDB(self.ledger) as db:
            db.reject_proposal(proposal_id, by="maria", reason=reason)

    def effects(self) -> list[str]:
        """What the tools did."""
        return (self.folder / "stores.log").read_text().splitlines()

    def executions(self) -> list[tuple[str, str, int]]:
        """The executed proposals: name, status, number of executions."""
        with SyncActionDB(self.ledger) as db:
            return [
                (one.action_name, one.status.value, len(db.get_records_for_proposal(one.id)))
                for one in reversed(db.list_proposals())
            ]


@pytest.fixture
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A file, unless the test says that it runs on a server too."""
    if getattr(request, "param", "file") == "file":
        return str(tmp_path / "ledger.db")
    url: str = request.getfixturevalue("server_ledger")
    return url


@pytest.fixture(params=AGENTS, ids=lambda path: path.stem)
def agent(request: pytest.FixtureRequest, tmp_path: Path, ledger: str) -> Iterator[Agent]:
    agent = Agent(request.param, tmp_path, ledger)
    agent.start()
    yield agent
    if agent.process.poll() is None:
        agent.kill()


ALL = ["read 4", "drained 4 slowly"]
EXECUTED = [("read_metrics", "completed", 1), ("drain_store", "completed", 1)]


def is_told_everything(told: list[str]) -> None:
    assert len(told) == 3, told
    assert "0.97" in told[0]
    assert "store 4 is drained" in told[1]
    assert "agents are stopped" in told[2]


def test_a_call_waits_for_the_decision_of_another_process(agent: Agent) -> None:
    agent.approve(agent.until_it_waits())
    is_told_everything(agent.end())
    assert agent.effects() == ALL
    assert agent.executions() == EXECUTED


@pytest.mark.parametrize("ledger", ["file", "postgresql"], indirect=True)
def test_an_agent_that_is_killed_while_it_waits_goes_on_when_started_again(agent: Agent) -> None:
    waiting = agent.until_it_waits()
    agent.kill()
    agent.start()
    assert agent.until_it_waits() == waiting
    agent.kill()
    agent.approve(waiting)
    agent.start()
    told = agent.end()
    assert "store 4 is drained" in told[-2]
    assert "agents are stopped" in told[-1]
    assert agent.effects() == ALL
    assert agent.executions() == EXECUTED


def test_an_agent_that_has_ended_executes_nothing_again(agent: Agent) -> None:
    agent.approve(agent.until_it_waits())
    agent.end()
    agent.start()
    agent.end()
    assert agent.effects() == ALL
    assert agent.executions() == EXECUTED


def test_a_rejected_call_is_not_executed_and_the_model_is_told_why(agent: Agent) -> None:
    agent.reject(agent.until_it_waits(), "store 4 is needed")
    told = agent.end()
    assert "store 4 is needed" in told[1]
    assert "maria" in told[1]
    assert agent.effects() == ["read 4"]
