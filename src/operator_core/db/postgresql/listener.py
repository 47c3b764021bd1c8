"""Hearing of what is committed on a PostgreSQL server: LISTEN on a connection of its own."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from operator_core.db.run.backoff import pause
from operator_core.db.run.cancellation import finish

__all__ = ["ServerChanges"]

logger = logging.getLogger(__name__)

CHANNEL: Final = "operator_core_events"
"""What the trigger of the history notifies."""


class ServerChanges:
    """Rings while somebody listens. A connection that is lost is made again, and rings for what was missed."""

    def __init__(self, engine: AsyncEngine, ring: Callable[[], None]) -> None:
        # The same way to connect, beside the pool: who listens takes no connection from who works.
        self._pool = engine.sync_engine.pool.recreate()
        self._ring = ring
        self._tried = asyncio.Event()
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """From when it returns on, nothing is missed, unless the server can't be reached yet."""
        self._task = asyncio.create_task(self._run())
        await self._tried.wait()

    async def stop(self) -> None:
        """Closes the connection."""
        while self._task is not None and not self._task.done():
            # More than once, if need be: `asyncio.wait_for`, by which older psycopg waits, loses on Python 3.11
            # a cancellation that comes in the turn of a notification (bpo-37658).
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=0.1)

    async def _run(self) -> None:
        while True:
            self._failures += 1
            try:
                await self._listen()
            except Exception as error:
                logger.warning("not listening for changes: %s", type(error).__name__)
            self._tried.set()
            self._ring()
            await pause(self._failures, first=0.05, longest=5.0)

    async def _listen(self) -> None:
        """Listens until the connection is lost."""
        connection = await greenlet_spawn(self._pool.connect)
        try:
            raw: Any = connection.driver_connection
            listen = _asyncpg if hasattr(raw, "add_listener") else _psycopg
            await listen(raw, self._heard)
        finally:
            with suppress(Exception):
                await finish(greenlet_spawn(connection.invalidate))

    def _heard(self) -> None:
        self._failures = 0
        self._tried.set()
        self._ring()


async def _asyncpg(raw: Any, heard: Callable[[], None]) -> None:
    lost = asyncio.Event()

    def gone(_: object) -> None:
        lost.set()

    def notified(*_: object) -> None:
        heard()

    raw.add_termination_listener(gone)
    await raw.add_listener(CHANNEL, notified)
    # What was committed before it listened.
    heard()
    await lost.wait()


async def _psycopg(raw: Any, heard: Callable[[], None]) -> None:
    await raw.set_autocommit(True)
    await raw.execute(f"LISTEN {CHANNEL}")
    heard()
    async for _ in raw.notifies():
        heard()
