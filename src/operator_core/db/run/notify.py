"""Waking who waits for something to be committed, on whichever thread and event loop they are."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

__all__ = ["Doorbell"]


class Doorbell:
    """Sets the events of all who listen, when it is rung."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @contextmanager
    def listening(self) -> Generator[asyncio.Event]:
        """An event that is set from now on whenever it rings. Clear it, look, and wait for it."""
        event = asyncio.Event()
        with self._lock:
            self._listeners[event] = asyncio.get_running_loop()
        try:
            yield event
        finally:
            with self._lock:
                del self._listeners[event]

    def ring(self) -> None:
        """Wakes everybody; may be called in any thread."""
        if not self._listeners:
            return
        with self._lock:
            listeners = list(self._listeners.items())
        for event, loop in listeners:
            # A loop that is closed has nobody to wake.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)
