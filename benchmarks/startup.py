"""Measures how long a program waits for the ledger: imports, and the first operation on a current file."""

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import table
from benchmarks.sides import OURS

__all__ = ["as_json", "report", "startup"]

_IMPORT = """
import time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
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

_MODULES = ("sqlalchemy", "sqlalchemy.ext.asyncio", "pydantic", "aiosqlite", "operator_core.db")
_FIRST_NAME = "open, one read, close on a current file, once imported"


def _run(*arguments: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", *arguments], check=True, capture_output=True, text=True
    )
    return [float(word) for word in done.stdout.split()]


async def startup(folder: Path, rounds: int, progress: Callable[[str], None]) -> dict[str, float]:
    """The median seconds of each, every one in its own process, in turns."""
    progress("imports")
    path = folder / "current.db"
    await OURS.make(path, 1)
    seconds: dict[str, list[float]] = {name: [] for name in (*_MODULES, _FIRST_NAME)}
    for number in range(-1, rounds):  # the first round reads the modules from the disk
        for module in _MODULES:
            found = _run(_IMPORT.format(module=module))[-1]
            if number >= 0:
                seconds[module].append(found)
        found = _run(_FIRST, str(path))[-1]
        if number >= 0:
            seconds[_FIRST_NAME].append(found)
    return {name: statistics.median(each) for name, each in seconds.items()}


def report(seconds: dict[str, float]) -> str:
    """The result as text."""
    rows = [
        (name if name == _FIRST_NAME else f"import {name}", f"{each * 1000:.0f}")
        for name, each in seconds.items()
    ]
    return "\n\n".join(
        [
            "In a new process each; Alembic is not imported",
            table(("what", "milliseconds"), rows),
        ]
    )


def as_json(seconds: dict[str, float]) -> dict[str, Any]:
    """The result as JSON values."""
    return {"seconds": seconds}
