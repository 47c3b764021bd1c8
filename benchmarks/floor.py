"""Measures the ledger beside its floor: its own statements by its SQLite library, without the ledger's Python.

The floor has the ledger's file, connection settings, statements and transactions. It has no models, no SQLAlchemy, no
other thread and no event loop, and does not check whether the file was replaced. A second floor has no triggers.
"""

import gc
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import works
from benchmarks.replay import Statement, recording, run
from benchmarks.report import figure, spread, table, times
from benchmarks.sides import OURS
from benchmarks.works import Sizes
from operator_core.db import SyncActionDB
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sqlite.handle import connect

__all__ = ["DISK", "IN_MEMORY", "TMPFS", "WORKS", "Compared", "as_json", "floor", "report"]

DISK, TMPFS = "disk", "tmpfs"

IN_MEMORY = Path("/dev/shm")
"""The folder of Linux in memory, where a durable write costs nothing."""


@dataclass(frozen=True)
class Work:
    """A work, and the promised ratio of the ledger's time to the floor's, by place."""

    name: str
    work: works.Work
    promised: Mapping[str, float]


WORKS = (
    Work("create, one after another", works.CREATE, {DISK: 1.6}),
    Work("whole life, six calls", works.LIFE, {DISK: 1.5}),
    Work("claim(1) and complete", works.CYCLE, {DISK: 1.8}),
    Work("get by id, one after another", works.GET, {TMPFS: 3.0}),
    Work("bulk create of 10,000, a row", works.BULK, {TMPFS: 1.25}),
    Work("list 10,000, a row", works.LIST, {DISK: 3.2}),
    Work("cancel_all_pending of 1,000, a row", works.CANCEL, {DISK: 1.2}),
)


@dataclass(frozen=True)
class Compared:
    """The result of a work in one place: seconds a unit in each round."""

    name: str
    place: str
    promised: float | None
    ours: list[float]
    sync: list[float]
    floor: list[float]
    without_triggers: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.floor)

    @property
    def sync_ratio(self) -> float:
        return statistics.median(self.sync) / statistics.median(self.floor)

    @property
    def ratio_without_triggers(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.without_triggers)

    @property
    def paired(self) -> list[float]:
        """The ratio of each round, which shows the noise of the machine."""
        return [ours / floor for ours, floor in zip(self.ours, self.floor, strict=True)]

    @property
    def behind(self) -> bool:
        return self.promised is not None and self.ratio > self.promised


class _Awaitable:
    """The verbs of a `SyncActionDB` as coroutines that never suspend, which the works await."""

    def __init__(self, db: SyncActionDB) -> None:
        self._db = db

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._db, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            return verb(*arguments, **options)

        setattr(self, name, call)
        return call


_State = list[tuple[Any, ...]]


class _Turns:
    """The turns of a work in one folder, each on its own copy of the same file."""

    def __init__(self, work: works.Work, sizes: Sizes, folder: Path) -> None:
        self._work = work
        self._sizes = sizes
        self._folder = folder
        self._template = folder / "template.db"
        self._untimed: list[Statement] = []
        self._timed: list[Statement] = []
        self._state: _State = []

    async def record(self) -> None:
        """Records the work's statements, in a round of the ledger that warms its caches and does not count."""
        await OURS.make(self._template, self._work.rows(self._sizes))
        with recording() as recorded, self._copy() as path:
            async with OURS.open(path) as db:
                do = await works.prepared(self._work, db, OURS, self._sizes)
                before = len(recorded)
                await do()
                after = len(recorded)
            self._state = _state(path)
        # A connection of the floor has its settings already.
        self._untimed = [each for each in recorded[:before] if "PRAGMA" not in each.sql]
        self._timed = recorded[before:after]

    async def ours(self) -> float:
        with self._copy() as path:
            async with OURS.open(path) as db:
                seconds = await self._timed_on(db)
            return self._a_unit(seconds, path)

    async def sync(self) -> float:
        with self._copy() as path:
            with SyncActionDB(path) as db:
                seconds = await self._timed_on(_Awaitable(db))
            return self._a_unit(seconds, path)

    async def _timed_on(self, db: Any) -> float:
        do = await works.prepared(self._work, db, OURS, self._sizes)
        start = time.perf_counter()
        await do()
        return time.perf_counter() - start

    async def floor(self) -> float:
        with self._copy() as path:
            return self._replay(path)

    async def without_triggers(self) -> float:
        with self._copy() as path:
            with closing(dbapi.connect(path, isolation_level=None)) as conn:
                names = conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
                for (name,) in names.fetchall():
                    conn.execute(f'DROP TRIGGER "{name}"')
            return self._replay(path)

    def _replay(self, path: Path) -> float:
        with closing(connect(str(path), busy_timeout=5.0, how="rw")) as conn:
            run(conn, self._untimed)
            gc.collect()
            start = time.perf_counter()
            run(conn, self._timed)
            seconds = time.perf_counter() - start
        return self._a_unit(seconds, path)

    def _a_unit(self, seconds: float, path: Path) -> float:
        assert _state(path) == self._state, "this turn did not do what the ledger does"
        return seconds / self._work.units(self._sizes)

    @contextmanager
    def _copy(self) -> Generator[Path]:
        path = self._folder / "ledger.db"
        shutil.copyfile(self._template, path)
        with path.open("rb") as file:
            # So that no turn pays for the write of the copy.
            os.fsync(file)
        try:
            yield path
        finally:
            for each in self._folder.glob(f"{path.name}*"):
                each.unlink()


def _state(path: Path) -> _State:
    """The number of proposals in each status, and of records with each outcome."""
    with closing(dbapi.connect(path)) as conn:
        return [
            *conn.execute("SELECT status, count(*) FROM action_proposals GROUP BY 1 ORDER BY 1"),
            *conn.execute("SELECT success, count(*) FROM action_records GROUP BY 1 ORDER BY 1"),
        ]


@contextmanager
def _places(folder: Path) -> Generator[Mapping[str, Path]]:
    if not IN_MEMORY.is_dir():
        yield {DISK: folder}
        return
    with tempfile.TemporaryDirectory(prefix="operator-core-bench-", dir=IN_MEMORY) as in_memory:
        yield {DISK: folder, TMPFS: Path(in_memory)}


async def floor(
    folder: Path, sizes: Sizes, rounds: int, progress: Callable[[str], None]
) -> list[Compared]:
    """Measures each work in rounds; in each round, each side has one turn in each place.

    The places are `folder` and, where `IN_MEMORY` exists, a new folder in it.
    """
    found: list[Compared] = []
    with _places(folder) as places:
        for number, work in enumerate(WORKS):
            progress(f"floor of {work.name}")
            found += await _compare(work, number, places, sizes, rounds)
    return found


async def _compare(
    work: Work, number: int, places: Mapping[str, Path], sizes: Sizes, rounds: int
) -> list[Compared]:
    taken: list[tuple[_Turns, Compared]] = []
    for place, folder in places.items():
        own = folder / str(number)
        own.mkdir()
        turns = _Turns(work.work, sizes, own)
        await turns.record()
        taken.append((turns, Compared(work.name, place, work.promised.get(place), [], [], [], [])))
    for round_ in range(rounds):
        for turns, compared in taken:
            each = [
                (turns.ours, compared.ours),
                (turns.sync, compared.sync),
                (turns.floor, compared.floor),
                (turns.without_triggers, compared.without_triggers),
            ]
            # Each begins equally often, because a turn may leave the disk busy for the next one.
            first = round_ % len(each)
            for turn, into in (*each[first:], *each[:first]):
                into.append(await turn())
    return [compared for _, compared in taken]


def report(found: list[Compared]) -> str:
    """The result as text."""
    head = (
        "work",
        "floor, microseconds",
        "operator-core / floor",
        "(min-max)",
        "SyncActionDB / floor",
        "/ floor without triggers",
        "promised",
        "",
    )
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(each.name for each in found):
        rows.append((name, "", "", "", "", "", "", ""))
        by_place = {each.place: each for each in found if each.name == name}
        rows.extend(_line(place, by_place.get(place)) for place in (DISK, TMPFS))
    return "\n\n".join(
        [
            f"Compared with the floor, in turns, medians of {len(found[0].ours)} rounds",
            table(head, rows),
            "The floor is the SQLite library with the ledger's own statements, parameters, transactions, schema\n"
            "and settings, without the ledger's Python. Ratios are of times, so less is better. ActionDB hands each call\n"
            "to a thread and back; SyncActionDB does not.",
        ]
    )


def _line(place: str, each: Compared | None) -> tuple[str, ...]:
    if each is None:
        return f"  {place}", "skipped", f"no {IN_MEMORY}", "", "", "", "", ""
    return (
        f"  {place}",
        figure(statistics.median(each.floor) * 1e6),
        times(each.ratio),
        spread(each.paired),
        times(each.sync_ratio),
        times(each.ratio_without_triggers),
        *(
            ("", "")
            if each.promised is None
            else (times(each.promised), "BEHIND" if each.behind else "ok")
        ),
    )


def as_json(found: list[Compared]) -> dict[str, Any]:
    """The result as JSON values."""
    return {
        "works": [
            {
                **asdict(each),
                "ratio": each.ratio,
                "sync_ratio": each.sync_ratio,
                "ratio_without_triggers": each.ratio_without_triggers,
                "behind": each.behind,
            }
            for each in found
        ]
    }
