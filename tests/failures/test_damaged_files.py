"""Files that are no ledger, or no longer one: a clear error, and not a byte is changed."""

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.errors import (
    ActionError,
    CorruptRow,
    StorageCorrupt,
    StorageError,
    StorageUnavailable,
    UnmanagedSchema,
)
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.failures.cancelling import Bench
from tests.failures.harness import proposal

PAGE = 4096


def contents(folder: Path) -> dict[str, str]:
    """Every file below the folder and what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "a folder"
        for path in sorted(folder.rglob("*"))
    }


async def make_ledger(path: Path, proposals: int = 50) -> None:
    async with ActionDB(path) as db:
        await Bench(db).prepare()
        await db.create_proposals(
            [proposal(parameters={"n": n, "text": "x" * 500}) for n in range(proposals)]
        )


def a_text(path: Path) -> None:
    path.write_text("This is a shopping list, and not a database.\n" * 200)


def a_short_text(path: Path) -> None:
    path.write_text("hello")


def a_folder(path: Path) -> None:
    path.mkdir()


def without_parent(path: Path) -> None:
    assert not path.parent.exists()


def a_strangers_database(path: Path) -> None:
    with closing(dbapi.connect(path)) as connection:
        connection.execute("CREATE TABLE shopping (item TEXT)")
        connection.execute("INSERT INTO shopping VALUES ('milk')")
        connection.commit()


NO_LEDGERS: dict[str, tuple[Callable[[Path], None], str, type[ActionError]]] = {
    "text": (a_text, "ledger.db", StorageCorrupt),
    "short text": (a_short_text, "ledger.db", StorageCorrupt),
    "folder": (a_folder, "ledger.db", StorageUnavailable),
    "missing parent": (without_parent, "nowhere/ledger.db", StorageUnavailable),
    "stranger": (a_strangers_database, "ledger.db", UnmanagedSchema),
}


async def naive_open(path: Path) -> None:
    """The planted bug: makes its table wherever there is none, and does not look what else is there."""
    with closing(dbapi.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS action_proposals (id INTEGER PRIMARY KEY)")


async def ledger_open(path: Path) -> None:
    async with ActionDB(path):
        pass


async def check_refused(
    opening: Callable[[Path], Any], path: Path, folder: Path, expected: type[ActionError]
) -> None:
    """Fails unless opening raises what is expected and leaves every byte in the folder as it was."""
    before = contents(folder)
    raised: Exception | None = None
    try:
        await opening(path)
    except Exception as error:
        raised = error
    assert isinstance(raised, expected), repr(raised)
    assert contents(folder) == before


@pytest.mark.parametrize("what", NO_LEDGERS)
async def test_what_is_no_ledger_is_refused_untouched(what: str, tmp_path: Path) -> None:
    make, name, expected = NO_LEDGERS[what]
    make(tmp_path / name)
    await check_refused(ledger_open, tmp_path / name, tmp_path, expected)


@pytest.mark.parametrize("what", NO_LEDGERS)
async def test_planted_an_opening_that_makes_tables_anywhere_is_caught(
    what: str, tmp_path: Path
) -> None:
    make, name, expected = NO_LEDGERS[what]
    make(tmp_path / name)
    with pytest.raises(AssertionError):
        await check_refused(naive_open, tmp_path / name, tmp_path, expected)


async def read_all(path: Path) -> list[Any]:
    async with ActionDB(path) as db:
        proposals, events = await db.list_proposals(), await db.history()
        if proposals.corrupt or events.corrupt:
            raise (*proposals.corrupt, *events.corrupt)[0]
        records = [await db.get_records_for_proposal(each.id or 0) for each in proposals]
        return [proposals, events, records, await db.count_proposals()]


async def check_right_or_refused(path: Path, expected: list[Any]) -> str:
    """Fails unless what is read is right, or an error of the storage; says which."""
    before = path.read_bytes()
    try:
        seen = await read_all(path)
    except (StorageError, CorruptRow) as error:
        outcome = type(error).__name__
    else:
        assert seen == expected, "a damaged file was read as something else"
        outcome = "read"
    assert path.read_bytes() == before
    return outcome


async def test_a_truncated_file_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await make_ledger(path)
    expected, whole = await read_all(path), path.read_bytes()
    outcomes: Counter[str] = Counter()
    for size in [100, 1000, *range(PAGE, len(whole), PAGE), len(whole) - 100]:
        # What is missing of a last page, SQLite takes for zeros: then it is the row that is damaged.
        path.write_bytes(whole[:size])
        outcomes[await check_right_or_refused(path, expected)] += 1
    print(f"truncated: {dict(outcomes)}")
    assert set(outcomes) <= {"StorageCorrupt", "CorruptRow"}
    assert outcomes["StorageCorrupt"] >= len(whole) // PAGE


@pytest.mark.parametrize("byte", [b"\xff", b"\0", b"A"])
async def test_an_overwritten_page_is_never_read_as_something_else(
    byte: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    await make_ledger(path)
    expected, whole = await read_all(path), path.read_bytes()
    outcomes: Counter[str] = Counter()
    for start in range(0, len(whole), PAGE):
        path.write_bytes(whole[:start] + byte * PAGE + whole[start + PAGE :])
        outcomes[await check_right_or_refused(path, expected)] += 1
    print(f"pages overwritten with {byte!r}: {dict(outcomes)}")
    # Pages of an index that these reads don't use, and free ones, are not missed.
    assert set(outcomes) <= {"StorageCorrupt", "CorruptRow", "read"}
    assert outcomes["StorageCorrupt"] > len(whole) // PAGE // 3


async def test_a_write_to_a_damaged_file_is_refused_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await make_ledger(path)
    with closing(dbapi.connect(path)) as connection:
        sql = "SELECT rootpage FROM sqlite_master WHERE name = 'action_proposals'"
        (root,) = connection.execute(sql).fetchone()
    damaged = bytearray(path.read_bytes())
    damaged[(root - 1) * PAGE : root * PAGE] = b"\xff" * PAGE
    path.write_bytes(damaged)
    async with ActionDB(path) as db:
        with pytest.raises(StorageCorrupt):
            await db.create_proposal(proposal())
        with pytest.raises(StorageCorrupt):
            await db.cancel_all_pending()
    assert path.read_bytes() == damaged


async def test_planted_a_reader_that_takes_errors_for_no_rows_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await make_ledger(path)
    expected, whole = await read_all(path), path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    async def naive_read() -> list[Any]:
        try:
            return await read_all(path)
        except ActionError:
            return []

    assert expected
    with pytest.raises(AssertionError):
        assert await naive_read() == expected
