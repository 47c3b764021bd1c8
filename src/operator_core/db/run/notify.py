"""Wakes those who wait for a commit: coroutines of any event loop, and threads."""

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

__all__ = ["Doorbell"]


class Doorbell:
    """Sets the events of all listeners when it is rung."""

    def __init__(self) -> None:
        # Without a lock, for which the garbage collector, which may end an abandoned listener at any point, would wait.
        # Each operation of a set is atomic.
        self._listeners: set[Callable[[], object]] = set()

    @contextmanager
    def listening(self) -> Generator[asyncio.Event]:
        """A block with an event that is set at each ring. Clear it, look at the ledger, then wait for it."""
        event, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            # A closed loop has no coroutine to wake.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)

        with self._calling(wake):
            yield event

    @contextmanager
    def listening_in_thread(self) -> Generator[threading.Event]:
        """As `listening`, for a thread that waits."""
        event = threading.Event()
        with self._calling(event.set):
            yield event

    @contextmanager
    def _calling(self, wake: Callable[[], object]) -> Generator[None]:
        try:
            self._listeners.add(wake)
            yield
        finally:
            self._listeners.discard(wake)

    def ring(self) -> None:
        """Wakes all listeners; may be called from any thread."""
        if self._listeners:
            for wake in self._listeners.copy():
                wake()
