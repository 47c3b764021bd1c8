"""What the server, its disk and the driver allow, in the same run."""

import statistics
import tempfile
from pathlib import Path

from benchmarks.floors import FLOORS
from benchmarks.peers.compare import Turns, jobs

__all__ = ["PLACE", "SIDE", "floors"]

SIDE = "floors"

_FDATASYNC = "fdatasync of a page"
# Where a server of the run's own has its data, too. /tmp may be in memory.
PLACE = "/var/tmp" if Path("/var/tmp").is_dir() else None
_ASKED = {
    "asyncpg INSERT, autocommit, one after another": "insert",
    "asyncpg SELECT 1, one after another": "select",
}


async def floors(turns: Turns, count: int, rounds: int) -> dict[str, float]:
    """The medians, in turns."""
    found: dict[str, list[float]] = {name: [] for name in (*_ASKED, _FDATASYNC)}
    for _ in range(rounds):
        for name, asked in _ASKED.items():
            found[name].append(await turns.take(SIDE, asked, jobs(count)))
        with tempfile.TemporaryDirectory(prefix="operator-core-bench-", dir=PLACE) as folder:
            found[_FDATASYNC].append(FLOORS[_FDATASYNC](Path(folder), count))
    return {name: statistics.median(each) for name, each in found.items()}
