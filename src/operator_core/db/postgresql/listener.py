"""Detects commits on a PostgreSQL server by LISTEN on a separate connection."""

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
"""The channel that the history's trigger notifies."""


class ServerChanges:
    """Calls `ring` for each notification. After a lost connection it connects again, and rings for missed ones."""

    def __init__(self, engine: AsyncEngine, ring: Callable[[], None]) -> None:
        # A separate pool with the same settings, so that listening takes no connection from units of work.
        self._pool = engine.sync_engine.pool.recreate()
        self._ring = ring
        self._tried = asyncio.Event()
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts to listen; no commit after its return is missed, unless the server can't be reached yet."""
        self._task = asyncio.create_task(self._run())
        await self._tried.wait()

    async def stop(self) -> None:
        """Stops listening and closes the connection."""
        while self._task is not None and not self._task.done():
            # Several times if needed. Older psycopg waits by `asyncio.wait_for`, which on Python 3.11 loses a
            # cancellation that arrives in the same turn as a notification (bpo-37658).
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
            await listen(raw, self._on_notification)
        finally:
            with suppress(Exception):
                await finish(greenlet_spawn(connection.invalidate))

    def _on_notification(self) -> None:
        self._failures = 0
        self._tried.set()
        self._ring()


async def _asyncpg(raw: Any, on_notification: Callable[[], None]) -> None:
    lost = asyncio.Event()

    def gone(_: object) -> None:
        lost.set()

    def notified(*_: object) -> None:
        on_notification()

    raw.add_termination_listener(gone)
    await raw.add_listener(CHANNEL, notified)
    # For commits from before LISTEN.
    on_notification()
    await lost.wait()


async def _psycopg(raw: Any, on_notification: Callable[[], None]) -> None:
    await raw.set_autocommit(True)
    await raw.execute(f"LISTEN {CHANNEL}")
    on_notification()
    async for _ in raw.notifies():
        on_notification()
