"""Wakes the coroutines that wait for a commit, on any thread and event loop."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

__all__ = ["Doorbell"]


class Doorbell:
    """Sets the events of all listeners when it is rung."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @contextmanager
    def listening(self) -> Generator[asyncio.Event]:
        """A block with an event that is set at each ring. Clear it, look at the ledger, then wait for it."""
        event = asyncio.Event()
        with self._lock:
            self._listeners[event] = asyncio.get_running_loop()
        try:
            yield event
        finally:
            with self._lock:
                del self._listeners[event]

    def ring(self) -> None:
        """Wakes all listeners; may be called from any thread."""
        if not self._listeners:
            return
        with self._lock:
            listeners = list(self._listeners.items())
        for event, loop in listeners:
            # A closed loop has no coroutine to wake.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)
