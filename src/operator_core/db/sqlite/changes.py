"""Detects commits that other connections and processes make to a SQLite file."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sqlite.connection import SqliteConnection

__all__ = ["LOOKS_EVERY", "SqliteChanges"]

LOOKS_EVERY: Final = 0.02
"""Seconds between two reads of ``PRAGMA data_version``.

A read takes about 10 microseconds (SQLite manual, "PRAGMA data_version").
"""


class SqliteChanges:
    """Calls `ring` after each commit of another connection; polls the file's version in its own thread."""

    def __init__(self, connection: SqliteConnection, ring: Callable[[], None]) -> None:
        self._connection = connection
        self._ring = ring
        self._stop = threading.Event()
        self._seen = 0
        self._polled_in: int | None = None
        self._started: Future[None] = Future()
        # An interrupt in the wait for a future can keep the future's lock for ever, and the thread would wait for it.
        self._starting = threading.Lock()
        self._starting.acquire()
        connection.submit(self._watch)

    @property
    def connection(self) -> SqliteConnection:
        """The polling connection; callers use it to wait until its thread has ended."""
        return self._connection

    async def started(self) -> None:
        """Waits until polling has begun; no later change is missed. Raises `StorageError` if the file can't be read."""
        # Shielded: several callers may await this future, on several event loops.
        await asyncio.shield(asyncio.wrap_future(self._started))

    def wait_started(self) -> None:
        """As `started`, and blocks the thread."""
        with self._starting:
            pass
        self._started.result()

    def end(self) -> None:
        """Stops the thread and closes the connection, without waiting."""
        self._stop.set()
        self._connection.end()

    def join(self) -> None:
        """Waits until the thread has ended and the connection is closed; blocks the thread."""
        # The garbage collector may end an abandoned listener in this very thread.
        if threading.get_ident() != self._polled_in:
            self._connection.join()

    def _version(self) -> int:
        return self._connection.raw.execute("PRAGMA data_version").fetchone()[0]

    def _start(self) -> bool:
        try:
            self._seen = self._version()
        except BaseException as error:
            self._started.set_exception(self._connection.translate(error))
            return False
        self._started.set_result(None)
        return True

    def _watch(self) -> None:
        self._polled_in = threading.get_ident()
        try:
            started = self._start()
        finally:
            self._starting.release()
        while started and not self._stop.wait(LOOKS_EVERY):
            try:
                version = self._version()
            except dbapi.Error:
                # Rings anyway: the listener then reads the ledger and gets the error.
                version = -1
            if version != self._seen:
                self._seen = version
                self._ring()
