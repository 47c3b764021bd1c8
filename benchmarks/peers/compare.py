"""Measures the works in turns: first ours, then each peer's, each turn in a new database, never two at once."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.peers.databases import Written
from benchmarks.peers.process import Worker
from benchmarks.peers.worker import Answer, Job
from benchmarks.peers.works import ACTORS, TASKS
from benchmarks.sides import OURS as LEDGER

__all__ = [
    "OURS",
    "QUICK",
    "SQLITE_WORKS",
    "SYNC",
    "WORKS",
    "Compared",
    "Places",
    "Sizes",
    "Turns",
    "Work",
    "compare",
    "jobs",
    "sides_of",
]

OURS = "operator-core"
SYNC = "operator-core (sync)"


@dataclass(frozen=True)
class Sizes:
    """The amount of each work in one turn."""

    create: int = 1000
    create_each: int = 40
    """By each of the 64 tasks."""
    bulk: int = 5000
    """In calls of 1,000."""
    cycle: int = 400
    act: int = 400
    drain: int = 2000
    dbos: int = 100
    limit: int = 1000


QUICK = Sizes(create=40, create_each=2, bulk=100, cycle=20, act=32, drain=200, dbos=5, limit=50)


@dataclass(frozen=True)
class Work:
    """A work, the ledger's promise in it, and the peers of that promise."""

    name: str
    asked: str
    """The worker's name for it."""
    size: Callable[[Sizes], int]
    promised: float | None
    """The promised ratio to the speed of the fastest of `against`."""
    against: tuple[str, ...]
    reported: tuple[str, ...] = ()
    """Peers that are measured too, without a promise."""
    ours: str = OURS
    """The ledger's side that makes the promise."""

    @property
    def sides(self) -> tuple[str, ...]:
        return (self.ours, *self.against, *self.reported)


_ACT = "create, approve, claim, complete, one after another"
_ACT_BY_TASKS = f"create, approve, claim, complete, {ACTORS} tasks"

WORKS = (
    Work(
        "create, one after another",
        "create",
        lambda sizes: sizes.create,
        1.0,
        ("procrastinate", "pgqueuer"),
        ("dbos",),
    ),
    Work(
        "create, 64 tasks, pool of 20",
        "create_by_tasks",
        lambda sizes: TASKS * sizes.create_each,
        1.0,
        ("procrastinate", "pgqueuer"),
    ),
    Work(
        "bulk create of 1,000",
        "create_in_bulk",
        lambda sizes: sizes.bulk,
        1.0,
        ("procrastinate",),
        ("pgqueuer",),
    ),
    Work(
        "claim(1) and complete, one after another",
        "cycle",
        lambda sizes: sizes.cycle,
        1.0,
        ("procrastinate", "pgqueuer"),
    ),
    Work(
        "drain 2,000, claims of 10",
        "drain_by_10",
        lambda sizes: sizes.drain,
        1.0,
        ("procrastinate", "pgqueuer"),
    ),
    Work(
        "drain 2,000, claims of 100",
        "drain_by_100",
        lambda sizes: sizes.drain,
        None,
        ("pgqueuer",),
    ),
    Work(_ACT, "act", lambda sizes: sizes.act, 1.5, ("agentbarrier",)),
    Work(_ACT_BY_TASKS, "act_by_tasks", lambda sizes: sizes.act, 4.0, ("agentbarrier",)),
)

SQLITE_WORKS = (
    Work(
        "validated, claim(1), complete, one after another",
        "cycle",
        lambda sizes: sizes.cycle,
        3.0,
        ("dbos",),
    ),
    Work(
        "create as validated, claim(1), complete, one after another",
        "create_and_cycle",
        lambda sizes: sizes.cycle,
        None,
        ("dbos",),
    ),
    Work(_ACT, "act", lambda sizes: sizes.act, 0.8, ("agentbarrier",)),
    Work(
        f"{_ACT}, without a loop", "act", lambda sizes: sizes.act, 1.2, ("agentbarrier",), ours=SYNC
    ),
    Work(_ACT_BY_TASKS, "act_by_tasks", lambda sizes: sizes.act, 2.0, ("agentbarrier",)),
)


def sides_of(works: Iterable[Work]) -> list[str]:
    """The sides that do these works, each once."""
    return list(dict.fromkeys(side for work in works for side in work.sides))


@dataclass
class Compared:
    """The result of a work: units a second by each side, in each round."""

    work: Work
    figures: dict[str, list[float]]

    def median(self, side: str) -> float:
        return statistics.median(self.figures[side])

    @property
    def fastest(self) -> str:
        """The fastest peer of the promise, whose speed counts for the promise."""
        return max(self.work.against, key=self.median)

    def ratio(self, side: str) -> float:
        return self.median(self.work.ours) / self.median(side)

    def paired(self, side: str) -> list[float]:
        """The ratio of each round, which shows the noise of the machine."""
        pairs = zip(self.figures[self.work.ours], self.figures[side], strict=True)
        return [ours / theirs for ours, theirs in pairs]

    @property
    def behind(self) -> bool:
        return self.work.promised is not None and self.ratio(self.fastest) < self.work.promised


def jobs(count: int) -> list[Job]:
    """Jobs for all sides, with the arguments, reason and author of a realistic tool call."""
    kept = {"action_name", "parameters", "reason", "proposed_by"}
    return [LEDGER.proposal(each).model_dump(mode="json", include=kept) for each in range(count)]


class Places(Protocol):
    """Makes a new database for each turn."""

    async def new(self, name: str, template: str = ...) -> str: ...

    async def drop(self, url: str) -> None: ...

    async def written(self, url: str, creates: int) -> Written: ...


@dataclass
class Turns:
    """Gives each side its turn, in a copy of the database of the side's own installation."""

    databases: Places
    workers: Mapping[str, Worker]
    versions: dict[str, str] = field(default_factory=dict[str, str])
    written: dict[str, Written] = field(default_factory=dict[str, Written])
    """The rows and index entries of a create, by side; counted once."""
    _templates: dict[str, str] = field(default_factory=dict[str, str])

    async def install(self) -> None:
        for side, worker in self.workers.items():
            self._templates[side] = await self.databases.new(f"{side}_template")
            answer = await worker.ask("install", self._templates[side])
            self.versions |= answer["versions"]

    async def take(self, side: str, asked: str, jobs: list[Job]) -> float:
        """Runs the work on the side; returns units a second."""
        url = await self.databases.new(side, self._templates[side])
        answer = await self.workers[side].ask(asked, url, jobs)
        await self._count(side, url, answer)
        await self.databases.drop(url)
        return answer["per_second"]

    async def _count(self, side: str, url: str, answer: Answer) -> None:
        if side not in self.written and "creates" in answer:
            self.written[side] = await self.databases.written(url, answer["creates"])


def _in_turn(sides: tuple[str, ...], number: int) -> Iterable[str]:
    # Each side begins equally often, because a turn may leave the disk busy for the next one.
    first = number % len(sides)
    return (*sides[first:], *sides[:first])


async def compare(
    turns: Turns,
    sizes: Sizes,
    rounds: int,
    progress: Callable[[str], None],
    works: Iterable[Work] = WORKS,
) -> list[Compared]:
    """Measures each work in rounds; in each round every side has one turn."""
    found: list[Compared] = []
    for work in works:
        progress(work.name)
        compared = Compared(work, {side: [] for side in work.sides})
        for number in range(0 if sizes is QUICK else -1, rounds):
            # The small round before the first one warms the caches and does not count.
            size = QUICK if number < 0 else sizes
            for side in _in_turn(work.sides, max(number, 0)):
                count = size.dbos if side == "dbos" else work.size(size)
                speed = await turns.take(side, work.asked, jobs(count))
                if number >= 0:
                    compared.figures[side].append(speed)
        found.append(compared)
    return found
