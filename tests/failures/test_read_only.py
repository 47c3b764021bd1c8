"""Files and folders that can't be written: reads work where SQLite can read, writes say why not."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.failures.cancelling import EVENTS, OPERATIONS, Bench
from tests.failures.harness import proposal, run, snapshot

READS = [name for name in OPERATIONS if name not in EVENTS]


@pytest.fixture
def path() -> Iterator[Path]:
    """A ledger with something in it, in a folder that everyone can reach (pytest's are not)."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        ledger = Path(folder) / "place" / "ledger.db"
        ledger.parent.mkdir()
        asyncio.run(fill(ledger))
        yield ledger
        ledger.parent.chmod(0o755)


async def fill(path: Path) -> None:
    async with ActionDB(path) as db:
        await Bench(db).prepare()


@contextmanager
def with_modes(path: Path, file: int, folder: int) -> Iterator[None]:
    for each in path.parent.iterdir():
        each.chmod(file)
    path.parent.chmod(folder)
    yield
    path.parent.chmod(0o755)


def check_reads_only(told: dict[str, str]) -> None:
    """Fails unless every read worked and every write said that the storage is read-only."""
    assert told["open"] == "done"
    assert {told[name] for name in READS} == {"done"}
    assert {told[name] for name in EVENTS} == {"StorageReadOnly"}


def try_all(path: Path, user: str = "nobody", *how: str) -> dict[str, str]:
    (told,) = run("read_only.py", path, user, *how)
    return told


def test_a_read_only_file_can_be_read_and_says_so_to_writers(path: Path) -> None:
    before = snapshot(path)
    with with_modes(path, file=0o444, folder=0o777):
        check_reads_only(try_all(path))
    assert snapshot(path) == before


def test_a_read_only_folder_can_be_read_while_a_writer_has_the_ledger_open(path: Path) -> None:
    before = snapshot(path)
    with closing(dbapi.connect(path, isolation_level=None)) as writer:
        # An open reader keeps the write-ahead log and its index in being.
        writer.execute("BEGIN")
        writer.execute("SELECT count(*) FROM action_proposals").fetchone()
        with with_modes(path, file=0o444, folder=0o555):
            check_reads_only(try_all(path))
    assert snapshot(path) == before


def test_a_read_only_folder_can_be_read_where_the_file_has_no_write_ahead_log(path: Path) -> None:
    with closing(dbapi.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    before = path.read_bytes()
    with with_modes(path, file=0o444, folder=0o555):
        check_reads_only(try_all(path))
    with with_modes(path, file=0o666, folder=0o555):
        check_reads_only(try_all(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("file", [0o444, 0o666])
def test_a_read_only_folder_without_the_log_is_said_at_opening(path: Path, file: int) -> None:
    # SQLite can't read a file in WAL mode where it can't make the log's index.
    before = path.read_bytes()
    with with_modes(path, file=file, folder=0o555):
        assert try_all(path) == {"open": "StorageReadOnly"}
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["ledger.db"]


@pytest.mark.parametrize("file", [0o444, 0o666])
def test_without_upgrading_a_copy_in_a_read_only_folder_can_be_read(path: Path, file: int) -> None:
    before = path.read_bytes()
    with with_modes(path, file=file, folder=0o555):
        check_reads_only(try_all(path, "nobody", "unchanged"))
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["ledger.db"]


def test_without_upgrading_a_read_only_file_can_be_read(path: Path) -> None:
    before = snapshot(path)
    with with_modes(path, file=0o444, folder=0o777):
        check_reads_only(try_all(path, "nobody", "unchanged"))
    assert snapshot(path) == before


@pytest.mark.parametrize("grow", [False, True])
async def test_a_file_taken_for_one_that_nobody_changes_is_read_anew_when_somebody_does(
    path: Path, grow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The folder is writable for who writes, and not for who reads.
    monkeypatch.setattr(os, "access", lambda *_: False)
    async with ActionDB(path, upgrade=False) as reader:
        before = await reader.count_proposals()
        assert list(path.parent.glob("*-wal")) == []
        async with ActionDB(path) as writer:
            await writer.create_proposals([proposal() for _ in range(500 if grow else 1)])
            seen = await reader.count_proposals()
            assert sum(seen.values()) == sum(before.values()) + (500 if grow else 1)
        await asyncio.gather(*(reader.count_proposals() for _ in range(5)))
        assert await reader.count_proposals() == seen


def test_a_file_that_may_not_be_read_or_made_is_unavailable(path: Path) -> None:
    with with_modes(path, file=0, folder=0o777):
        assert try_all(path) == {"open": "StorageUnavailable"}
    path.unlink()
    with with_modes(path, file=0, folder=0o555):
        assert try_all(path) == {"open": "StorageUnavailable"}
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write what is read-only")
def test_planted_the_same_as_root_is_caught(path: Path) -> None:
    with with_modes(path, file=0o444, folder=0o555), pytest.raises(AssertionError):
        check_reads_only(try_all(path, "root"))
