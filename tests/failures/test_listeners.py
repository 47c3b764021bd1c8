"""Listeners of a service's on SQLAlchemy's own classes: they reach every engine but the ledger's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, event
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import Pool

from operator_core.db import ActionDB, migrate
from tests.failures.harness import proposal

SETTINGS = ("synchronous", "foreign_keys", "busy_timeout", "query_only")
AS_THEY_SHOULD_BE = [2, 1, 10_000, 0]


def spoil(connection: Any) -> None:
    for pragma in ("synchronous=OFF", "foreign_keys=OFF", "busy_timeout=0", "query_only=ON"):
        connection.execute(f"PRAGMA {pragma}")


def spoil_connecting(connection: Any, *_: object) -> None:
    spoil(getattr(connection, "dbapi_connection", connection))


def spoil_engine_connecting(conn: Connection) -> None:
    spoil(conn.connection.dbapi_connection)


def rewrite(conn: object, cursor: object, sql: str, parameters: object, *_: object) -> Any:
    return sql.replace("INSERT INTO", "INSERT OR REPLACE INTO"), parameters


def spoil_and_go_on(cursor: Any, *_: object) -> None:
    spoil(cursor.connection)


def refuse(*_: object, **__: object) -> None:
    raise RuntimeError("a listener that fails")


LISTENERS: dict[str, tuple[type, str, Callable[..., Any], dict[str, Any]]] = {
    "connect": (Engine, "connect", spoil_connecting, {}),
    "connect on Pool": (Pool, "connect", spoil_connecting, {}),
    "connect on NullPool": (NullPool, "connect", spoil_connecting, {}),
    "first_connect": (Engine, "first_connect", spoil_connecting, {}),
    "checkout": (Engine, "checkout", spoil_connecting, {}),
    "checkin": (Pool, "checkin", spoil_connecting, {}),
    "engine_connect": (Engine, "engine_connect", spoil_engine_connecting, {}),
    "begin": (Engine, "begin", spoil_engine_connecting, {}),
    "begin on Connection": (Connection, "begin", spoil_engine_connecting, {}),
    "statements rewritten": (Engine, "before_cursor_execute", rewrite, {"retval": True}),
    "do_execute": (Engine, "do_execute", spoil_and_go_on, {}),
    "do_execute on Dialect": (Dialect, "do_execute", spoil_and_go_on, {}),
    "connect that raises": (Engine, "connect", refuse, {}),
    "checkout that raises": (Pool, "checkout", refuse, {}),
    "begin that raises": (Engine, "begin", refuse, {}),
    "engine_connect that raises": (Engine, "engine_connect", refuse, {}),
    "execution that raises": (Engine, "before_cursor_execute", refuse, {}),
    "execution on Connection that raises": (Connection, "before_execute", refuse, {}),
    "commit that raises": (Engine, "commit", refuse, {}),
    "rollback that raises": (Engine, "rollback", refuse, {}),
    "reset that raises": (Pool, "reset", refuse, {}),
}


@pytest.fixture(params=LISTENERS)
def listening(request: pytest.FixtureRequest) -> Iterator[None]:
    target, name, function, options = LISTENERS[request.param]
    event.listen(target, name, function, **options)
    yield
    event.remove(target, name, function)


async def settings(db: ActionDB) -> list[int]:
    def look(conn: Connection) -> list[int]:
        raw: Any = conn.connection.driver_connection
        return [raw.execute(f"PRAGMA {name}").fetchone()[0] for name in SETTINGS]

    return await db._units.write(look)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("target", ["memory", "file"])
async def test_the_ledgers_settings_hold_whatever_listens(target: str, tmp_path: Path) -> None:
    async with ActionDB(":memory:" if target == "memory" else tmp_path / "ledger.db") as db:
        made = await db.create_proposal(proposal())
        async with db.transaction() as tx:
            await tx.create_proposal(proposal())
        assert await db.get_proposal(made.id) == made
        assert await settings(db) == AS_THEY_SHOULD_BE
        assert len(await db.list_proposals()) == 2


@pytest.mark.usefixtures("listening")
async def test_an_upgrade_is_what_it_is_whatever_listens(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    migrate.upgrade(str(path), "0001")
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())
        assert await settings(db) == AS_THEY_SHOULD_BE


def test_planted_an_engine_of_create_engine_is_reached() -> None:
    from sqlalchemy import create_engine

    event.listen(Engine, "connect", spoil_connecting)
    try:
        engine = create_engine("sqlite://")
        with engine.connect() as conn:
            assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 0
        engine.dispose()
    finally:
        event.remove(Engine, "connect", spoil_connecting)
