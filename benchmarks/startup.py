"""Measures how long a program waits for the ledger: imports, the command line, and the first operation on a current file."""

import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.report import table, times
from benchmarks.sides import OURS

__all__ = ["COMMAND", "PROMISED", "as_json", "behind", "report", "startup"]

# The time of the processor, which other programs on the machine change less.
_IMPORT = """
import time
start = time.process_time()
import {module}
print(time.process_time() - start)
"""

_FIRST = """
import asyncio, sys, time
start = time.perf_counter()
from operator_core.db import ActionDB
imported = time.perf_counter()

async def main(path):
    async with ActionDB(path) as db:
        assert await db.get_proposal(1) is not None

asyncio.run(main(sys.argv[1]))
print(imported - start, time.perf_counter() - imported)
assert "alembic" not in sys.modules, "Alembic was imported without need"
"""

_COMMAND = """
import sys
from operator_core.cli import main
sys.argv = ["operator-core", "actions", "list", "--db-path", sys.argv[1]]
main()
"""

_SQLALCHEMY = "sqlalchemy.ext.asyncio"
_LEDGER = "operator_core.db"
_MODULES = ("sqlalchemy", _SQLALCHEMY, "pydantic", "aiosqlite", _LEDGER)
COMMAND = "operator-core actions list, the whole process"
_FIRST_NAME = "open, one read, close on a current file, once imported (elapsed time)"

PROMISED = {_LEDGER: 1.93, COMMAND: 2.79}
"""The promised ratios to the import of SQLAlchemy with its asyncio extension.

They are 450 ms and 650 ms on a machine where that import takes 233 ms.
"""


def _run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", *arguments], check=True, capture_output=True, text=True
    ).stdout


def _last(output: str) -> float:
    return float(output.split()[-1])


def _command(path: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "transfer_leader" in _run(_COMMAND, str(path))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def startup(folder: Path, rounds: int, progress: Callable[[str], None]) -> dict[str, float]:
    """The median seconds of each, every one in its own process, in turns."""
    progress("imports")
    path = folder / "current.db"
    await OURS.make(path, 1)
    seconds: dict[str, list[float]] = {name: [] for name in (*_MODULES, COMMAND, _FIRST_NAME)}
    for number in range(-1, rounds):  # the first round reads the modules from the disk
        found = {module: _last(_run(_IMPORT.format(module=module))) for module in _MODULES}
        found[COMMAND] = _command(path)
        found[_FIRST_NAME] = _last(_run(_FIRST, str(path)))
        if number >= 0:
            for name, each in found.items():
                seconds[name].append(each)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _ratio(seconds: dict[str, float], name: str) -> float:
    return seconds[name] / seconds[_SQLALCHEMY]


def behind(seconds: dict[str, float]) -> list[str]:
    """The parts of the start that take longer than promised."""
    return [name for name, most in PROMISED.items() if _ratio(seconds, name) > most]


def _promise(seconds: dict[str, float], name: str) -> Iterable[str]:
    if name not in PROMISED:
        return "", "", ""
    verdict = "BEHIND" if name in behind(seconds) else "ok"
    return times(_ratio(seconds, name)), times(PROMISED[name]), verdict


def report(seconds: dict[str, float]) -> str:
    """The result as text."""
    rows = [
        (
            f"import {name}" if name in _MODULES else name,
            f"{each * 1000:.0f}",
            *_promise(seconds, name),
        )
        for name, each in seconds.items()
    ]
    head = ("what", "milliseconds", f"/ import {_SQLALCHEMY}", "promised", "")
    return "\n\n".join(
        [
            "In a new process each, processor time; Alembic is not imported",
            table(head, rows),
        ]
    )


def as_json(seconds: dict[str, float]) -> dict[str, Any]:
    """The result as JSON values."""
    return {"seconds": seconds, "behind": behind(seconds)}
