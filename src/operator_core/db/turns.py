"""A lock for coroutines of several event loops."""

import asyncio
import threading
from collections import deque
from concurrent.futures import Future

__all__ = ["Turns"]


class Turns:
    """As `asyncio.Lock`, which belongs to one event loop; a loop that was closed gives its turn back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, Future[None]]] = deque()

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._holder is None or self._holder.is_closed():
                self._holder = loop
                return
            turn: Future[None] = Future()
            self._waiting.append((loop, turn))
        try:
            await asyncio.wrap_future(turn)
        except asyncio.CancelledError:
            if not turn.cancelled():
                # It came at the same moment.
                self._pass_on()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        with self._lock:
            while self._waiting:
                loop, turn = self._waiting.popleft()
                if not loop.is_closed() and turn.set_running_or_notify_cancel():
                    self._holder = loop
                    turn.set_result(None)
                    return
            self._holder = None
