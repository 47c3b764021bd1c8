"""Measures the limits of the disk, of SQLite itself and of threads, in the same run."""

import os
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

__all__ = ["LIMITS", "limits"]

_Limit = Callable[[Path, int], float]
"""Takes a folder and a count of operations; returns operations a second."""

_PAGE = b"\0" * 4096


def _fdatasync(folder: Path, count: int) -> float:
    file = os.open(folder / "synced", os.O_CREAT | os.O_WRONLY, 0o600)
    sync = getattr(os, "fdatasync", os.fsync)
    try:
        # Over existing pages, like a write-ahead log that is used again.
        os.write(file, _PAGE * count)
        os.fsync(file)
        start = time.perf_counter()
        for number in range(count):
            os.pwrite(file, _PAGE, number * len(_PAGE))
            sync(file)
        return count / (time.perf_counter() - start)
    finally:
        os.close(file)


def _hop(folder: Path, count: int) -> float:
    there: SimpleQueue[bool] = SimpleQueue()
    back: SimpleQueue[bool] = SimpleQueue()

    def answer() -> None:
        while there.get():
            back.put(True)

    thread = threading.Thread(target=answer)
    thread.start()
    start = time.perf_counter()
    for _ in range(count):
        there.put(True)
        back.get()
    seconds = time.perf_counter() - start
    there.put(False)
    thread.join()
    return count / seconds


def _insert(journal: str) -> _Limit:
    def measure(folder: Path, count: int) -> float:
        conn = sqlite3.connect(folder / f"{journal}.db", isolation_level=None)
        try:
            conn.execute(f"PRAGMA journal_mode = {journal}")
            conn.execute("PRAGMA synchronous = FULL")
            conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, payload TEXT)")
            payload = "x" * 300
            start = time.perf_counter()
            for _ in range(count):
                conn.execute("BEGIN IMMEDIATE")
                conn.execute("INSERT INTO t (payload) VALUES (?)", (payload,))
                conn.execute("COMMIT")
            return count / (time.perf_counter() - start)
        finally:
            conn.close()

    return measure


LIMITS: dict[str, _Limit] = {
    "fdatasync of a page": _fdatasync,
    "sqlite3 INSERT + commit, WAL, FULL (operator-core's settings)": _insert("WAL"),
    "sqlite3 INSERT + commit, DELETE, FULL (the baseline's settings)": _insert("DELETE"),
    # Both sides pay for it. It costs five times as much if each message wakes a sleeping processor; then the side
    # with fewer messages gains more.
    "message to another thread and back": _hop,
}


def limits(folder: Path, count: int, rounds: int) -> dict[str, float]:
    """The medians of all limits, measured in turns."""
    found: dict[str, list[float]] = {name: [] for name in LIMITS}
    for number in range(rounds):
        for index, (name, limit) in enumerate(LIMITS.items()):
            place = folder / f"limit-{number}-{index}"
            place.mkdir()
            found[name].append(limit(place, count))
    return {name: statistics.median(each) for name, each in found.items()}
