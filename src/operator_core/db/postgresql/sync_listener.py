"""Detects commits on a PostgreSQL server by LISTEN, from a thread with a connection of its own."""

import logging
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine

from operator_core.db.postgresql.listener import CHANNEL
from operator_core.db.run.backoff import delay

__all__ = ["SyncServerChanges"]

logger = logging.getLogger(__name__)


class SyncServerChanges:
    """As `ServerChanges`, in a thread: calls `ring` for each notification, and after a lost connection."""

    def __init__(self, engine: Engine, ring: Callable[[], None]) -> None:
        # A separate pool with the same settings, so that listening takes no connection from units of work.
        self._pool = engine.pool.recreate()
        self._ring = ring
        self._tried = threading.Event()
        self._failures = 0
        # A byte from `stop` ends the wait for the server.
        self._waker, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="operator-core-listener", daemon=True
        )

    def start(self) -> None:
        """Starts to listen, without waiting."""
        self._thread.start()

    def wait_started(self) -> None:
        """Waits for the first try; no commit after its return is missed, unless the server can't be reached yet."""
        self._tried.wait()

    def stop(self) -> None:
        """Stops listening and closes the connection."""
        self._stopped.set()
        # The thread has closed it if it has ended before.
        with suppress(OSError):
            self._waker.send(b"\0")
        if not self._thread.is_alive():
            self._close()
        elif self._thread is not threading.current_thread():
            # It is the current one if the garbage collector ends an abandoned listener in it.
            self._thread.join()

    def _close(self) -> None:
        self._waker.close()
        self._woken.close()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._failures += 1
                try:
                    self._listen()
                except Exception as error:
                    logger.warning("not listening for changes: %s", type(error).__name__)
                self._tried.set()
                self._ring()
                self._stopped.wait(delay(self._failures, first=0.05, longest=5.0))
        finally:
            self._tried.set()
            self._close()

    def _listen(self) -> None:
        """Listens until the connection is lost or `stop` is called."""
        connection = self._pool.connect()
        try:
            raw: Any = connection.driver_connection
            raw.autocommit = True
            raw.execute(f"LISTEN {CHANNEL}")
            # For commits from before LISTEN.
            self._on_notification()
            with selectors.DefaultSelector() as selector:
                selector.register(raw.fileno(), selectors.EVENT_READ)
                selector.register(self._woken, selectors.EVENT_READ)
                while not self._stopped.is_set():
                    selector.select()
                    # A byte that is not from `stop` must not end every wait from then on.
                    with suppress(BlockingIOError):
                        self._woken.recv(64)
                    # Raises if the connection is lost.
                    raw.pgconn.consume_input()
                    while raw.pgconn.notifies() is not None:
                        self._on_notification()
        finally:
            with suppress(Exception):
                connection.invalidate()

    def _on_notification(self) -> None:
        self._failures = 0
        self._tried.set()
        self._ring()
