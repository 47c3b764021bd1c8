"""Measures the work of a service on the ledger and on the plain repository, in turns."""

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.floors import floors
from benchmarks.report import figure, table, times
from benchmarks.sides import BASELINE, OURS, Side

__all__ = ["QUICK", "WORKS", "Compared", "Sizes", "as_json", "compare", "report"]

TASKS = 64


@dataclass(frozen=True)
class Sizes:
    """The amount of each work in one round."""

    create: int = 400
    create_each: int = 20
    """By each of the 64 tasks."""
    get: int = 2000
    rows: int = 10_000
    """In the listed file, and in one bulk call."""
    list: int = 3
    life: int = 200
    open: int = 150
    floor: int = 500


QUICK = Sizes(create=40, create_each=2, get=100, rows=500, list=1, life=10, open=10, floor=50)

Clock = Callable[[], float]
Measure = Callable[[Side, Path, Sizes], Awaitable[float]]


@dataclass(frozen=True)
class Work:
    """A work, the promised ratio to the baseline's speed, and the measurement of each side."""

    name: str
    unit: str
    promised: float
    ours: Measure
    theirs: Measure


@dataclass(frozen=True)
class Compared:
    """The result of a work: units a second in each round."""

    name: str
    unit: str
    promised: float
    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def paired(self) -> list[float]:
        """The ratio of each round, which shows the noise of the machine."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def behind(self) -> bool:
        return self.ratio < self.promised


@asynccontextmanager
async def _file(side: Side, folder: Path, rows: int = 0) -> AsyncIterator[Any]:
    """`side`, open on a new file with `rows` rows, with warm connections and collected garbage."""
    path = folder / "ledger.db"
    await side.make(path, rows)
    async with side.open(path) as db:
        await db.get_proposal(1)
        await db.create_proposal(side.proposal(0))
        gc.collect()
        yield db


async def _create(side: Side, folder: Path, sizes: Sizes) -> float:
    async with _file(side, folder) as db:
        proposals = [side.proposal(number) for number in range(sizes.create)]
        start = time.perf_counter()
        for proposal in proposals:
            await db.create_proposal(proposal)
        return sizes.create / (time.perf_counter() - start)


async def _create_by_tasks(side: Side, folder: Path, sizes: Sizes) -> float:
    async def task(proposals: list[Any]) -> None:
        for proposal in proposals:
            await db.create_proposal(proposal)

    async with _file(side, folder) as db:
        shares = [[side.proposal(n) for n in range(sizes.create_each)] for _ in range(TASKS)]
        start = time.perf_counter()
        await asyncio.gather(*(task(share) for share in shares))
        return TASKS * sizes.create_each / (time.perf_counter() - start)


async def _get(side: Side, folder: Path, sizes: Sizes) -> float:
    async with _file(side, folder, min(sizes.rows, 1000)) as db:
        ids = [1 + number * 7 % min(sizes.rows, 1000) for number in range(sizes.get)]
        start = time.perf_counter()
        for id_ in ids:
            await db.get_proposal(id_)
        return sizes.get / (time.perf_counter() - start)


async def _list(side: Side, folder: Path, sizes: Sizes) -> float:
    async with _file(side, folder, sizes.rows - 1) as db:
        start = time.perf_counter()
        for _ in range(sizes.list):
            found = await db.list_proposals()
        seconds = time.perf_counter() - start
        assert len(found) == sizes.rows
        return sizes.list * sizes.rows / seconds


async def _life(side: Side, folder: Path, sizes: Sizes) -> float:
    result = {"moved": True, "took_ms": 84}
    async with _file(side, folder) as db:
        proposals = [side.proposal(number) for number in range(sizes.life)]
        start = time.perf_counter()
        for proposal in proposals:
            id_ = (await db.create_proposal(proposal)).id
            await db.update_proposal_status(id_, "validated")
            await db.update_proposal_status(id_, "executing")
            record = await db.create_record(side.record(id_))
            await db.update_record(record.id, True, result_data=result)
            await db.update_proposal_status(id_, "completed")
        return sizes.life / (time.perf_counter() - start)


async def _open(side: Side, folder: Path, sizes: Sizes) -> float:
    path = folder / "ledger.db"
    await side.make(path, 1)
    gc.collect()
    start = time.perf_counter()
    for _ in range(sizes.open):
        async with side.open(path) as db:
            await db.get_proposal(1)
    return sizes.open / (time.perf_counter() - start)


async def _bulk(side: Side, folder: Path, sizes: Sizes) -> float:
    async with _file(side, folder) as db:
        proposals = [side.proposal(number) for number in range(sizes.rows)]
        # As in a service, whose connection has written single proposals before.
        for proposal in proposals[:20]:
            await db.create_proposal(proposal)
        start = time.perf_counter()
        await db.create_proposals(proposals)
        return sizes.rows / (time.perf_counter() - start)


WORKS = (
    Work("create, one after another", "rows", 1.5, _create, _create),
    Work("create, 64 tasks", "rows", 1.5, _create_by_tasks, _create_by_tasks),
    Work("get by id, one after another", "rows", 1.0, _get, _get),
    Work("list 10,000 rows", "rows", 1.0, _list, _list),
    Work("whole life, one after another", "lives", 2.0, _life, _life),
    Work("open, one read, close", "times", 0.5, _open, _open),
    Work("bulk of 10,000 / create one by one", "rows", 20.0, _bulk, _create),
)


async def compare(
    folder: Path, sizes: Sizes, rounds: int, progress: Callable[[str], None]
) -> tuple[list[Compared], dict[str, float]]:
    """Measures each work in turns, ours and theirs, each turn on a new file; then the floors' medians."""
    found: list[Compared] = []
    for work in WORKS:
        progress(work.name)
        compared = Compared(work.name, work.unit, work.promised, [], [])
        for number in range(0 if sizes is QUICK else -1, rounds):
            for measure, side, into in (
                (work.ours, OURS, compared.ours),
                (work.theirs, BASELINE, compared.theirs),
            ):
                # The small round before the first one warms the caches and does not count.
                size = await _in_new_folder(measure, side, folder, QUICK if number < 0 else sizes)
                if number >= 0:
                    into.append(size)
        found.append(compared)
    progress("floors")
    return found, floors(folder, sizes.floor, rounds)


async def _in_new_folder(measure: Measure, side: Side, folder: Path, sizes: Sizes) -> float:
    place = folder / f"{side.name}-{time.monotonic_ns()}"
    place.mkdir()
    speed = await measure(side, place, sizes)
    for file in place.iterdir():
        file.unlink()
    return speed


def report(found: list[Compared], speeds: dict[str, float]) -> str:
    """The result as text."""
    head = ("work", "unit", "operator-core/s", "baseline/s", "ratio", "(min-max)", "promised", "")
    rows = [
        (
            each.name,
            each.unit,
            figure(statistics.median(each.ours)),
            figure(statistics.median(each.theirs)),
            times(each.ratio),
            f"({min(each.paired):.2f}-{max(each.paired):.2f})",
            times(each.promised),
            "BEHIND" if each.behind else "ok",
        )
        for each in found
    ]
    floor_rows = [(name, figure(speed)) for name, speed in speeds.items()]
    return "\n\n".join(
        [
            f"Compared with plain aiosqlite, in turns, medians of {len(found[0].ours)} rounds",
            table(head, rows),
            "Both answer a write when it is on the disk (synchronous=FULL). operator-core uses WAL; the\n"
            "baseline uses aiosqlite's default, a rollback journal. operator-core also writes the event\n"
            "of each change, guards the lifecycle and checks every value; the baseline does not.",
            table(("floor", "a second"), floor_rows),
        ]
    )


def as_json(found: list[Compared], speeds: dict[str, float]) -> dict[str, Any]:
    """The result as JSON values."""
    return {
        "works": [{**asdict(each), "ratio": each.ratio, "behind": each.behind} for each in found],
        "floors": speeds,
    }
