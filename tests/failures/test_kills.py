"""Writers killed with SIGKILL, over and over: what was acknowledged is there, and nothing is half there."""

import asyncio
import os
import random
import selectors
import signal
import time
from pathlib import Path

import pytest

from operator_core.db import ActionDB
from tests.failures.harness import Child, check_whole, lost, rows, start

WRITERS = 3


class Writer:
    """A child that writes, what it has acknowledged, and the moment at which it is to die."""

    def __init__(self, path: Path, mode: str, dice: random.Random) -> None:
        self.child: Child = start("writer.py", path, mode)
        assert self.child.stdout is not None
        self.pipe = self.child.stdout.fileno()
        self.printed = b""
        # Some die while they start, or while they open the ledger; most while they write.
        self.early = dice.random() < 0.25
        self.after = dice.uniform(0, 0.8) if self.early else dice.uniform(0, 0.15)
        self.deadline = time.monotonic() + self.after if self.early else None

    def hear(self) -> None:
        text = os.read(self.pipe, 1 << 16)
        assert text, f"a writer ended by itself with {self.child.wait()}"
        self.printed += text
        if self.deadline is None:
            self.deadline = time.monotonic() + self.after

    def kill(self) -> list[str]:
        """Kills it; what stands in the pipe then was acknowledged too."""
        self.child.kill()
        rest, _ = self.child.communicate()
        assert self.child.returncode == -signal.SIGKILL
        return (self.printed + rest).decode().splitlines()


def kill_writers(path: Path, kills: int, mode: str = "ledger") -> list[str]:
    """Keeps three writers at work and kills each at some moment; gives back all acknowledgements."""
    dice = random.Random(kills)
    acknowledged: list[str] = []
    writers: list[Writer] = []
    started = 0
    with selectors.DefaultSelector() as selector:
        try:
            while started < kills or writers:
                while len(writers) < WRITERS and started < kills:
                    writers.append(Writer(path, mode, dice))
                    selector.register(writers[-1].pipe, selectors.EVENT_READ, writers[-1])
                    started += 1
                for key, _ in selector.select(timeout=0.01):
                    key.data.hear()
                now = time.monotonic()
                for writer in [each for each in writers if each.deadline and each.deadline <= now]:
                    selector.unregister(writer.pipe)
                    writers.remove(writer)
                    acknowledged += writer.kill()
        finally:
            for writer in writers:
                writer.kill()
    return acknowledged


def check_kept(path: Path, acknowledged: list[str]) -> None:
    missing = lost(path, acknowledged)
    assert not missing, f"{len(missing)} acknowledged writes are lost"
    check_whole(path)


def kill_and_check(path: Path, kills: int) -> None:
    acknowledged = kill_writers(path, kills)
    missing = lost(path, acknowledged)
    (kept,) = rows(path, "SELECT count(*) FROM action_proposals")[0]
    print(
        f"kills={kills} acknowledged={len(acknowledged)} lost={len(missing)} proposals in file={kept}"
    )
    assert acknowledged
    check_kept(path, acknowledged)


def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    kill_and_check(tmp_path / "ledger.db", kills=15)


@pytest.mark.soak
def test_hundreds_of_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    kill_and_check(tmp_path / "ledger.db", kills=300)


def test_planted_a_writer_that_acknowledges_before_the_commit_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    async def make() -> None:
        async with ActionDB(path):
            pass

    asyncio.run(make())
    acknowledged = kill_writers(path, kills=4, mode="early")
    print(f"planted: acknowledged={len(acknowledged)} lost={len(lost(path, acknowledged))}")
    with pytest.raises(AssertionError, match="acknowledged writes are lost"):
        check_kept(path, acknowledged)
