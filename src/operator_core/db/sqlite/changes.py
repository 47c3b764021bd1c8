"""Noticing what other connections and processes commit to a SQLite file."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from operator_core.db.sqlite.connection import SqliteConnection

__all__ = ["LOOKS_EVERY", "SqliteChanges"]

LOOKS_EVERY: Final = 0.02
"""Seconds between two looks at ``PRAGMA data_version``, some 10 microseconds each (SQLite manual, "PRAGMA data_version")."""


class SqliteChanges:
    """Rings while somebody listens: looks at the file's version in a thread of its own."""

    def __init__(self, connection: SqliteConnection, ring: Callable[[], None]) -> None:
        self._connection = connection
        self._ring = ring
        self._stop = threading.Event()
        self._seen = 0
        self._started: Future[None] = Future()
        connection.submit(self._watch)

    @property
    def connection(self) -> SqliteConnection:
        """The connection, for whoever waits until it has ended."""
        return self._connection

    async def started(self) -> None:
        """From when it returns on, no change is missed; raises `StorageError` if the file can't be read."""
        # Shielded: several may wait for it, on several event loops.
        await asyncio.shield(asyncio.wrap_future(self._started))

    def end(self) -> None:
        """Ends the thread and closes the connection; waits for nothing."""
        self._stop.set()
        self._connection.end()

    async def ended(self) -> None:
        """Waits until that is done."""
        await self._connection.ended()

    def _version(self) -> int:
        return self._connection.raw.execute("PRAGMA data_version").fetchone()[0]

    def _watch(self) -> None:
        try:
            self._seen = self._version()
        except BaseException as error:
            self._started.set_exception(self._connection.translate(error))
            return
        self._started.set_result(None)
        while not self._stop.wait(LOOKS_EVERY):
            try:
                version = self._version()
            except sqlite3.Error:
                # Whoever listens looks for itself, and is told what is wrong.
                version = -1
            if version != self._seen:
                self._seen = version
                self._ring()
