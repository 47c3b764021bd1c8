"""A lock for coroutines of several event loops."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Final

__all__ = ["Turns"]

_LOOKS_EVERY: Final = 0.5
"""Seconds after which who waits looks whether the loop of who has the turn was closed."""


class Turns:
    """As `asyncio.Lock`, which belongs to one event loop; a loop that was closed gives its turn back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: _Turn | None = None
        self._waiting: deque[_Turn] = deque()

    @asynccontextmanager
    async def taken(self) -> AsyncGenerator[None]:
        """A block that nobody else is in; who asks first is first."""
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
            # One whose loop was closed may have lost it before.
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
    """One time that somebody has the lock, or waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.came: Future[None] = Future()
