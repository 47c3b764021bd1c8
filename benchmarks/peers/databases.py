"""The run's own databases on the server, a new one for each turn; the end of the run drops them all."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

__all__ = ["Databases", "Written", "databases"]

Written = dict[str, tuple[float, float]]
"""For each table, the rows and index entries of a create."""

_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes")

# ANALYZE reads tables of this size completely, so that it also counts the entries of partial indexes.
_WRITTEN = """
SELECT t.relname, t.reltuples, sum(i.reltuples)
FROM pg_class t
JOIN pg_index x ON x.indrelid = t.oid
JOIN pg_class i ON i.oid = x.indexrelid
WHERE t.relkind = 'r' AND t.reltuples > 0
    AND t.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
GROUP BY 1, 2 ORDER BY 1
"""


class Databases:
    """Creates and drops databases, never while the clock runs."""

    def __init__(self, conn: asyncpg.Connection, url: str) -> None:
        self._conn = conn
        self._url = url
        self._made: list[str] = []

    async def new(self, name: str, template: str = "template1") -> str:
        """The URL of a new database, a copy of the template with that URL or name."""
        name = f"operator_core_bench_{os.getpid()}_{name}"
        template = urlsplit(template).path.lstrip("/")
        await self._conn.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        self._made.append(name)
        # So that no turn pays for the writes of others.
        await self._conn.execute("CHECKPOINT")
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()

    async def drop(self, url: str) -> None:
        await self._drop(urlsplit(url).path.lstrip("/"))

    async def drop_all(self) -> None:
        for name in list(self._made):
            await self._drop(name)

    async def _drop(self, name: str) -> None:
        await self._conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        self._made.remove(name)

    async def settings(self) -> dict[str, str]:
        """The server's version and the settings that the figures depend on."""
        return {
            "PostgreSQL": await self._conn.fetchval("SHOW server_version"),
            **{name: await self._conn.fetchval(f"SHOW {name}") for name in _SETTINGS},
        }

    @staticmethod
    async def written(url: str, creates: int) -> Written:
        """The rows and index entries of one create, after `creates` of them; smaller tables are left out."""
        conn = await asyncpg.connect(url)
        try:
            await conn.execute("ANALYZE")
            found = await conn.fetch(_WRITTEN)
        finally:
            await conn.close()
        return {
            table: (rows / creates, entries / creates)
            for table, rows, entries in found
            if rows >= creates
        }


@asynccontextmanager
async def databases(url: str) -> AsyncIterator[Databases]:
    """Databases on the server at the URL, whose user must be a superuser."""
    conn = await asyncpg.connect(url)
    try:
        made = Databases(conn, url)
        try:
            yield made
        finally:
            await made.drop_all()
    finally:
        await conn.close()
