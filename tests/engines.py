"""Engines of a service's own that the tests use beside an open ledger."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_dbapi
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from operator_core.db.sql.sqlite_library import OPEN_OPTIONS, dbapi


def engine_on(place: str | Path, **options: Any) -> AsyncEngine:
    """On a server's URL by asyncpg, or on a file by the ledger's own SQLite library.

    `create_async_engine` alone uses Python's sqlite3, which a process must not mix with another library on one file.
    """
    if "://" in str(place):
        url = str(place).replace("postgresql://", "postgresql+asyncpg://")
        return create_async_engine(url, **options)
    return create_async_engine(f"sqlite+aiosqlite:///{place}", module=_adapted(), **options)


def _adapted() -> Any:
    def connect(*arguments: Any, **settings: Any) -> aiosqlite.Connection:
        return aiosqlite.Connection(
            lambda: dbapi.connect(*arguments, **OPEN_OPTIONS, **settings), 64
        )

    module = SimpleNamespace(
        **{name: getattr(dbapi, name) for name in dir(dbapi) if not name.startswith("_")}
    )
    module.connect = connect
    module.Connection = aiosqlite.Connection
    module.__version__ = aiosqlite.__version__
    return AsyncAdapt_aiosqlite_dbapi(module, dbapi)  # type: ignore[arg-type]
