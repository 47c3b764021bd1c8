"""Measures the limits of the server, its disk and the driver, in the same run."""

import statistics
import tempfile
from pathlib import Path

from benchmarks.limits import LIMITS
from benchmarks.peers.compare import Turns, jobs

__all__ = ["PLACE", "SIDE", "limits"]

SIDE = "limits"

_FDATASYNC = "fdatasync of a page"
# A server that the run starts has its data there too. /tmp may be in memory.
PLACE = "/var/tmp" if Path("/var/tmp").is_dir() else None
_WORKS = {
    "asyncpg INSERT, autocommit, one after another": "insert",
    "asyncpg SELECT 1, one after another": "select",
}


async def limits(turns: Turns, count: int, rounds: int) -> dict[str, float]:
    """The medians of all limits, measured in turns."""
    found: dict[str, list[float]] = {name: [] for name in (*_WORKS, _FDATASYNC)}
    for _ in range(rounds):
        for name, work in _WORKS.items():
            found[name].append(await turns.take(SIDE, work, jobs(count)))
        with tempfile.TemporaryDirectory(prefix="operator-core-bench-", dir=PLACE) as folder:
            found[_FDATASYNC].append(LIMITS[_FDATASYNC](Path(folder), count))
    return {name: statistics.median(each) for name, each in found.items()}
