"""Workers killed, or stopped for longer than their lease and then let go on: nothing is lost or done twice."""

import asyncio
import os
import random
import selectors
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from operator_core.actions.types import ActionProposal, ActionStatus
from tests.failures.harness import PATIENCE, Child, proposal, start
from tests.failures.server_harness import await_no_session
from tests.failures.worker_processes import UNFINISHED, Figures, Place, fill, reckon, seen

WORKERS = 4
LEASE = 1.5
"""Seconds. Much more than an execution takes, and little to wait for."""

LOOK = 0.1
"""Seconds between two looks at the ledger."""

on_each = pytest.mark.parametrize("backend", ["file", "postgresql"])


class Worker:
    """A worker's process, and since when it is stopped."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.name = name
        self.child: Child = start("mortal_worker.py", *arguments, name)
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        # It need not wait for the others.
        self.child.stdin.write(b"\n")
        self.child.stdin.flush()
        self.pipe = self.child.stdout.fileno()
        self.stopped: float | None = None

    def hear(self) -> int:
        """How many executions it says that it has begun."""
        text = os.read(self.pipe, 1 << 16)
        assert text, f"{self.name} ended by itself with {self.child.wait()}"
        return text.count(b"start ")

    def stop(self) -> None:
        self.child.send_signal(signal.SIGSTOP)
        self.stopped = time.monotonic()

    def go_on(self) -> None:
        self.child.send_signal(signal.SIGCONT)
        self.stopped = None

    def dismiss(self) -> None:
        """Ends the worker's input, and waits until it has ended what it has begun."""
        self.child.communicate(timeout=PATIENCE)
        assert self.child.returncode == 0, f"{self.name} ended with {self.child.returncode}"

    def kill(self) -> None:
        self.child.kill()
        self.child.communicate()


class Crew:
    """Keeps workers at work, and sends the signals one after another to who is in the middle of it."""

    def __init__(
        self, place: Place, diary: Path, signals: list[int], every: int, habit: str
    ) -> None:
        self.place, self.signals, self.every = place, signals, every
        self.arguments = (place, diary, LEASE, habit, "right")
        self.names = (f"worker-{number}" for number in count())
        self.workers: list[Worker] = []
        self.selector = selectors.DefaultSelector()
        self.heard = 0
        self.deadline = 0.0

    def hire(self) -> None:
        worker = Worker(next(self.names), *self.arguments)
        self.workers.append(worker)
        self.selector.register(worker.pipe, selectors.EVENT_READ, worker)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        try:
            for _ in range(WORKERS):
                self.hire()
            yield
            for worker in self.workers:
                worker.dismiss()
        finally:
            for worker in self.workers:
                worker.kill()
            self.selector.close()

    def run(self) -> None:
        """Until everything is done and ended."""
        look = 0.0
        self.deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < self.deadline, seen(self.place, UNFINISHED)
            for key, _ in self.selector.select(timeout=0.02):
                self.hear(key.data)
            if (now := time.monotonic()) < look:
                continue
            look = now + LOOK
            held = [worker for worker in self.workers if worker.stopped]
            for worker in held:
                self.let_go_if_fenced(worker)
            if not held and not seen(self.place, UNFINISHED):
                return

    def hear(self, worker: Worker) -> None:
        begun = worker.hear()
        self.deadline = time.monotonic() + PATIENCE
        self.heard += begun
        if not begun or not self.signals or self.heard < self.every or worker.stopped:
            return
        self.heard = 0
        if self.signals.pop() == signal.SIGSTOP:
            worker.stop()
            return
        self.selector.unregister(worker.pipe)
        self.workers.remove(worker)
        worker.kill()
        self.hire()

    def let_go_if_fenced(self, worker: Worker) -> None:
        """Lets a stopped worker go on when its leases were taken away."""
        assert worker.stopped is not None
        silent = time.monotonic() - worker.stopped
        sql = (
            f"SELECT id FROM action_records WHERE worker = '{worker.name}' AND completed_at IS NULL"
        )
        # If it was stopped in the middle of a unit it holds locks, and nobody can take anything away.
        if silent > LEASE + 3 or (silent > LEASE and not seen(self.place, sql)):
            worker.go_on()


def proposals(number: int, max_retries: int) -> list[ActionProposal]:
    """Half of them may not be run again by themselves."""
    retries = {"max_retries": max_retries, "retry_delay": 0.1}
    return [
        proposal(status=ActionStatus.VALIDATED, **(retries if each % 2 else {}))
        for each in range(number)
    ]


def signals(kills: int, stops: int) -> list[int]:
    them = [signal.SIGKILL] * kills + [signal.SIGSTOP] * stops
    random.Random(kills).shuffle(them)
    return [int(each) for each in them]


async def survive(
    place: Place,
    diary: Path,
    number: int,
    *,
    kills: int,
    stops: int,
    max_retries: int = 2,
    habit: str = "sound",
) -> Figures:
    await fill(place, proposals(number, max_retries))
    crew = Crew(place, diary, signals(kills, stops), number // (kills + stops + 1), habit)
    began = time.monotonic()
    with crew.at_work():
        await asyncio.to_thread(crew.run)
    assert not crew.signals, "not every signal was sent"
    if not isinstance(place, Path):
        await_no_session(place)
    print(f"\nkills={kills} stops={stops} seconds={time.monotonic() - began:.1f}", end="")
    return reckon(place, diary)


def check_had_teeth(figures: Figures, kills: int) -> None:
    """Fails if nobody was met in the middle of an execution."""
    assert figures.unknown >= kills / 2
    assert figures.lost
    assert figures.executions > figures.proposals


@on_each
async def test_killed_and_stopped_workers_lose_and_double_nothing(
    place: Place, tmp_path: Path
) -> None:
    figures = await survive(place, tmp_path / "diary", 120, kills=3, stops=4)
    check_had_teeth(figures, kills=3)


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["file", "postgresql", "psycopg"])
async def test_dozens_of_killed_and_stopped_workers_lose_and_double_nothing(
    place: Place, tmp_path: Path
) -> None:
    figures = await survive(place, tmp_path / "diary", 500, kills=40, stops=25)
    check_had_teeth(figures, kills=40)


@pytest.mark.parametrize(
    ("habit", "caught"),
    [("requeues", "started more often than they may be"), ("insists", "in their history")],
)
async def test_planted_a_worker_that_takes_silence_or_fencing_lightly_is_caught(
    habit: str, caught: str, tmp_path: Path
) -> None:
    place, diary = tmp_path / "ledger.db", tmp_path / "diary"
    with pytest.raises(AssertionError, match=caught):
        await survive(place, diary, 40, kills=1, stops=3, max_retries=0, habit=habit)
