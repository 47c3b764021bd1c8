"""Ledgers that nobody closes: a warning that names them, and no thread or file left open."""

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from operator_core.db import ActionDB
from tests.failures.harness import PATIENCE, check_lock_free, proposal


def open_files(path: Path) -> list[str]:
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return [each for each in links if each.startswith(str(path.parent))]


def connection_threads() -> list[threading.Thread]:
    return [
        each
        for each in threading.enumerate()
        if "connection_worker" in repr(getattr(each, "_target", ""))
    ]


async def only_open(db: ActionDB) -> None:
    pass


async def read(db: ActionDB) -> None:
    await asyncio.gather(*(db.list_proposals() for _ in range(10)))


async def write(db: ActionDB) -> None:
    await db.create_proposal(proposal())


async def transact(db: ActionDB) -> None:
    async with db.transaction() as tx:
        await tx.create_proposal(proposal())


async def listen(db: ActionDB) -> None:
    async with db.changes():
        await db.create_proposal(proposal())


async def leave_inside(db: ActionDB) -> None:
    async def hold() -> None:
        async with db.transaction() as tx:
            await tx.create_proposal(proposal())
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)


async def leave_listening(db: ActionDB) -> None:
    async def hold() -> None:
        async with db.changes():
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)


USES: dict[str, Callable[[ActionDB], Coroutine[Any, Any, None]]] = {
    each.__name__: each
    for each in (only_open, read, write, transact, listen, leave_inside, leave_listening)
}


@pytest.mark.parametrize("target", ["memory", "file"])
@pytest.mark.parametrize("use", USES)
def test_an_unclosed_ledger_warns_and_gives_everything_back(
    use: str, target: str, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    place = ":memory:" if target == "memory" else path

    async def work() -> None:
        db = await ActionDB(place).open()
        await USES[use](db)

    def leave() -> None:
        loop = asyncio.new_event_loop()
        # A loop that ends its tasks would end a transaction too; this one just stops.
        loop.run_until_complete(work())
        loop.close()
        del loop
        gc.collect()

    with pytest.warns(ResourceWarning, match=f"unclosed ledger {place}"):
        leave()
    for thread in connection_threads():
        thread.join(PATIENCE)
    assert connection_threads() == []
    if target == "file":
        assert open_files(path) == []
        check_lock_free(path)


@pytest.mark.parametrize("target", ["memory", "file"])
def test_a_closed_one_and_one_that_was_never_open_do_not(target: str, tmp_path: Path) -> None:
    place = ":memory:" if target == "memory" else tmp_path / "ledger.db"

    async def work() -> None:
        async with ActionDB(place) as db:
            await db.create_proposal(proposal())
        ActionDB(place)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(work())
        gc.collect()
    assert [each for each in caught if "ledger" in str(each.message)] == []


def test_an_opening_that_fails_leaves_nothing_and_does_not_warn(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("a text\n" * 100)

    async def work() -> None:
        with pytest.raises(Exception, match="not a SQLite database"):
            await ActionDB(tmp_path / "ledger.db").open()

    asyncio.run(work())
    gc.collect()
    assert connection_threads() == []
    assert open_files(tmp_path / "ledger.db") == []
