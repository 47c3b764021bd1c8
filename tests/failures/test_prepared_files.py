"""Files that somebody has prepared: opening them ends, runs nothing of theirs, and can be cancelled."""

import asyncio
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.errors import ActionError, StorageUnavailable, UnmanagedSchema
from operator_core.db import ActionDB, migrate
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sqlite import work_limit
from operator_core.db.sqlite.handle import connect
from tests.engines import engine_on
from tests.failures.harness import PATIENCE, check_lock_free
from tests.failures.test_damaged_files import contents

FOREVER = (
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {} FROM c WHERE x < 0"
)
VERSION = migrate.VERSION_TABLE


def version_table(revision: str) -> str:
    return (
        f"CREATE TABLE {VERSION} (version_num VARCHAR(32) NOT NULL, "
        f"CONSTRAINT {VERSION}_pkc PRIMARY KEY (version_num)); "
        f"INSERT INTO {VERSION} VALUES ('{revision}');"
    )


DISGUISED: dict[str, str] = {
    "an endless view": f"CREATE VIEW {VERSION} AS {FOREVER.format(repr('0001') + ' AS version_num')}",
    "an endless view in other letters": (
        f"CREATE VIEW {VERSION.upper()} AS {FOREVER.format(repr('0001') + ' AS version_num')}"
    ),
    "a view at head": f"CREATE VIEW {VERSION} AS SELECT '{migrate.HEAD}' AS version_num",
    "a view behind": f"CREATE VIEW {VERSION} AS SELECT '0001' AS version_num",
    "a virtual table": f"CREATE VIRTUAL TABLE {VERSION} USING fts5(version_num)",
    "a view of proposals": (
        version_table(migrate.HEAD) + f"CREATE VIEW action_proposals AS {FOREVER.format('x AS id')}"
    ),
    "a view of proposals, behind": (
        version_table("0001") + f"CREATE VIEW Action_Proposals AS {FOREVER.format('x AS id')}"
    ),
    "a virtual table of events": (
        version_table(migrate.HEAD) + "CREATE VIRTUAL TABLE action_events USING fts5(actor)"
    ),
    "only a view of tickets": f"CREATE VIEW tickets AS {FOREVER.format('x AS id')}",
}


def prepare(path: Path, script: str) -> None:
    with closing(dbapi.connect(path)) as connection:
        connection.executescript(script)


@pytest.mark.parametrize("upgrade", [True, False])
@pytest.mark.parametrize("what", DISGUISED)
async def test_what_stands_in_a_tables_place_is_refused_untouched(
    what: str, upgrade: bool, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    prepare(path, DISGUISED[what])
    before = contents(tmp_path)
    with pytest.raises(UnmanagedSchema, match=r"there is a (view|virtual table)"):
        await asyncio.wait_for(ActionDB(path, upgrade=upgrade).open(), PATIENCE)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("what", DISGUISED)
async def test_a_borrowed_engine_refuses_them_too(what: str, tmp_path: Path) -> None:
    prepare(tmp_path / "ledger.db", DISGUISED[what])
    engine = engine_on(tmp_path / "ledger.db")
    with pytest.raises(UnmanagedSchema, match=r"there is a (view|virtual table)"):
        await asyncio.wait_for(ActionDB(engine).open(), PATIENCE)
    await engine.dispose()


def behind_with_a_trigger(path: Path) -> None:
    migrate.upgrade(str(path), "0001")
    work = FOREVER.format("x")
    prepare(
        path,
        f"CREATE TRIGGER t1 AFTER UPDATE ON {VERSION} BEGIN {work}; END;"
        f"CREATE TRIGGER t2 BEFORE DELETE ON {VERSION} BEGIN {work}; END;"
        f"CREATE TRIGGER t3 BEFORE INSERT ON {VERSION} BEGIN {work}; END;",
    )


async def test_an_upgrade_that_never_ends_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A hundredth of the real limit, which takes some ten seconds.
    monkeypatch.setattr(work_limit, "_TO_UPGRADE", 10_000_000)
    path = tmp_path / "ledger.db"
    behind_with_a_trigger(path)
    with pytest.raises(UnmanagedSchema, match="more work"):
        await asyncio.wait_for(ActionDB(path).open(), PATIENCE)
    check_lock_free(path)
    with closing(dbapi.connect(path)) as connection:
        assert connection.execute(f"SELECT version_num FROM {VERSION}").fetchone() == ("0001",)


async def test_the_limit_leaves_a_full_ledgers_upgrade_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    migrate.upgrade(str(path), "0001")
    prepare(
        path,
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 5000) "
        "INSERT INTO action_proposals (action_name, reason, parameters, proposed_at) "
        "SELECT 'a', 'r', '{}', '2026-01-01 00:00:00.000000' FROM c",
    )
    limit = work_limit.WorkLimit()
    limit.allow_upgrade(path.stat().st_size)
    allowed = limit._left
    with closing(connect(str(path), busy_timeout=1)) as raw:
        from operator_core.db.sqlite.handle import over

        with limit.watching(raw):
            migrate.make_current(over(raw), busy_timeout=1)
    used = allowed - limit._left
    print(f"upgrading {path.stat().st_size} bytes took {used} steps of {allowed}")
    assert used * 5 < allowed


@pytest.mark.parametrize("upgrade", [True, False])
async def test_an_opening_that_is_cancelled_ends(upgrade: bool, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    if upgrade:
        behind_with_a_trigger(path)
    else:
        prepare(path, DISGUISED["an endless view"])
    db = ActionDB(path, upgrade=upgrade)
    opening = asyncio.create_task(db.open())
    await asyncio.sleep(0.1)
    opening.cancel()
    async with asyncio.timeout(PATIENCE):
        (answer,) = await asyncio.gather(opening, return_exceptions=True)
    assert isinstance(answer, asyncio.CancelledError | UnmanagedSchema)
    check_lock_free(path)


async def test_an_opening_that_is_cancelled_while_it_waits_for_a_lock_ends_at_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    migrate.upgrade(str(path), "0001")
    with closing(dbapi.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        opening = asyncio.create_task(ActionDB(path, busy_timeout=PATIENCE).open())
        await asyncio.wait({opening}, timeout=1)
        opening.cancel()
        async with asyncio.timeout(PATIENCE / 2):
            with pytest.raises(asyncio.CancelledError):
                await opening
        other.execute("ROLLBACK")
    # Its thread ends when it has the lock; the upgrade is done whole or not at all.
    for thread in threading.enumerate():
        if "connection_worker" in repr(getattr(thread, "_target", "")):
            await asyncio.to_thread(thread.join, PATIENCE)
    with closing(dbapi.connect(path)) as connection:
        (revision,) = connection.execute(f"SELECT version_num FROM {VERSION}").fetchone()
    assert revision in ("0001", migrate.HEAD)


async def test_functions_with_effects_are_not_for_the_files_own_sql(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path):
        pass
    prepare(
        path,
        "CREATE TRIGGER theirs AFTER INSERT ON action_proposals "
        "BEGIN SELECT load_extension('nothing'); END",
    )
    from tests.conftest import proposal

    async with ActionDB(path) as db:
        with pytest.raises(ActionError) as caught:
            await db.create_proposal(proposal())
    assert isinstance(caught.value, StorageUnavailable)
    async with ActionDB(path) as db:
        assert (
            await db._units.read(
                lambda conn: conn.exec_driver_sql("PRAGMA trusted_schema").scalar()
            )
            == 0
        )


# Python 3.11 can not ask SQLite for its defensive mode.
if sys.version_info >= (3, 12):

    async def test_sql_cant_write_to_the_schemas_table(tmp_path: Path) -> None:
        def attempt(conn: Any) -> None:
            conn.exec_driver_sql("PRAGMA writable_schema = ON")
            conn.exec_driver_sql("UPDATE sqlite_master SET sql = ''")

        async with ActionDB(tmp_path / "ledger.db") as db:
            with pytest.raises(ActionError):
                await db._units.write(attempt)
