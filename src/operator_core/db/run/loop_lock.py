"""A lock for coroutines that run in several event loops."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Final

__all__ = ["Turns"]

_LOOKS_EVERY: Final = 0.5
"""Seconds after which a waiting coroutine checks whether the event loop of the lock's holder was closed."""


class Turns:
    """A lock like `asyncio.Lock`, but for several event loops; closing a loop releases its lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: _Turn | None = None
        self._waiting: deque[_Turn] = deque()

    @asynccontextmanager
    async def taken(self) -> AsyncGenerator[None]:
        """A block that holds the lock; callers get it in the order of their calls."""
        turn = _Turn(asyncio.get_running_loop())
        try:
            await self._take(turn)
            yield
        finally:
            self._give_back(turn)

    async def _take(self, turn: "_Turn") -> None:
        with self._lock:
            self._waiting.append(turn)
            self._choose()
            if self._holder is turn:
                return
        came = asyncio.wrap_future(turn.came)
        while not (await asyncio.wait({came}, timeout=_LOOKS_EVERY))[0]:
            with self._lock:
                self._choose()

    def _give_back(self, turn: "_Turn") -> None:
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
            # A turn whose loop was closed may have lost the lock before.
            if turn is self._holder:
                self._holder = None
                self._choose()

    def _choose(self) -> None:
        while self._holder is None or self._holder.loop.is_closed():
            self._holder = self._waiting.popleft() if self._waiting else None
            if self._holder is None:
                return
            if not self._holder.loop.is_closed():
                self._holder.came.set_result(None)


class _Turn:
    """One use of the lock by one caller, which holds it or waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.came: Future[None] = Future()
