"""Measures the work of a service on the ledger and on the plain repository, in turns."""

import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import works
from benchmarks.limits import limits
from benchmarks.report import figure, table, times
from benchmarks.sides import BASELINE, OURS, Side
from benchmarks.works import Sizes

__all__ = ["WORKS", "Compared", "as_json", "compare", "report"]

Measure = Callable[[Side, Path, Sizes], Awaitable[float]]
"""Does a work in an empty folder; returns units a second."""


@dataclass(frozen=True)
class Work:
    """A work, the promised ratio to the baseline's speed, and the measurement of each side."""

    name: str
    unit: str
    promised: float
    ours: Measure
    theirs: Measure
    at_most: float | None = None
    """The promised number of seconds for one unit."""


@dataclass(frozen=True)
class Compared:
    """The result of a work: units a second in each round."""

    name: str
    unit: str
    promised: float
    ours: list[float]
    theirs: list[float]
    at_most: float | None = None

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def paired(self) -> list[float]:
        """The ratio of each round, which shows the noise of the machine."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def behind(self) -> bool:
        slow = self.at_most is not None and 1 / statistics.median(self.ours) > self.at_most
        return slow or self.ratio < self.promised

    @property
    def asked(self) -> str:
        """The promise as text."""
        most = "" if self.at_most is None else f", {self.at_most * 1000:.1f} ms"
        return f"{times(self.promised)}{most}"


def _measured(work: works.Work) -> Measure:
    async def measure(side: Side, folder: Path, sizes: Sizes) -> float:
        path = folder / "ledger.db"
        await side.make(path, work.rows(sizes))
        async with side.open(path) as db:
            do = await works.prepared(work, db, side, sizes)
            start = time.perf_counter()
            await do()
            return work.units(sizes) / (time.perf_counter() - start)

    return measure


def _work(name: str, promised: float, ours: works.Work, theirs: works.Work | None = None) -> Work:
    return Work(name, ours.unit, promised, _measured(ours), _measured(theirs or ours))


async def _open(side: Side, folder: Path, sizes: Sizes) -> float:
    path = folder / "ledger.db"
    await side.make(path, 1)
    gc.collect()
    start = time.perf_counter()
    for _ in range(sizes.open):
        async with side.open(path) as db:
            await db.get_proposal(1)
    return sizes.open / (time.perf_counter() - start)


WORKS = (
    _work("create, one after another", 1.5, works.CREATE),
    _work("create, 64 tasks", 1.5, works.CREATE_BY_TASKS),
    _work("get by id, one after another", 1.0, works.GET),
    _work("list 10,000 rows", 1.0, works.LIST),
    _work("whole life, one after another", 2.0, works.LIFE),
    Work("open, one read, close", "times", 0.5, _open, _open, at_most=0.0013),
    _work("bulk of 10,000 / create one by one", 20.0, works.BULK, works.CREATE),
)


async def compare(
    folder: Path, sizes: Sizes, rounds: int, progress: Callable[[str], None]
) -> tuple[list[Compared], dict[str, float]]:
    """Measures each work in turns, ours and theirs, each turn on a new file; then the limits' medians."""
    found: list[Compared] = []
    for work in WORKS:
        progress(work.name)
        compared = Compared(work.name, work.unit, work.promised, [], [], work.at_most)
        for number in range(0 if sizes is works.QUICK else -1, rounds):
            for measure, side, into in (
                (work.ours, OURS, compared.ours),
                (work.theirs, BASELINE, compared.theirs),
            ):
                # The small round before the first one warms the caches and does not count.
                size = await _in_new_folder(
                    measure, side, folder, works.QUICK if number < 0 else sizes
                )
                if number >= 0:
                    into.append(size)
        found.append(compared)
    progress("limits")
    return found, limits(folder, sizes.limit, rounds)


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
            each.asked,
            "BEHIND" if each.behind else "ok",
        )
        for each in found
    ]
    limit_rows = [(name, figure(speed)) for name, speed in speeds.items()]
    return "\n\n".join(
        [
            f"Compared with plain aiosqlite, in turns, medians of {len(found[0].ours)} rounds",
            table(head, rows),
            "Both answer a write when it is on the disk (synchronous=FULL). operator-core uses WAL; the\n"
            "baseline uses aiosqlite's default, a rollback journal. operator-core also writes the event\n"
            "of each change, guards the lifecycle and checks every value; the baseline does not.",
            table(("limit", "a second"), limit_rows),
        ]
    )


def as_json(found: list[Compared], speeds: dict[str, float]) -> dict[str, Any]:
    """The result as JSON values."""
    return {
        "works": [{**asdict(each), "ratio": each.ratio, "behind": each.behind} for each in found],
        "limits": speeds,
    }
