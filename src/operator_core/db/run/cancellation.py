"""Work on a connection that finishes even if its caller is cancelled."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

__all__ = ["finish", "finish_here", "finish_or_give_back"]

T = TypeVar("T")


async def finish(
    work: Coroutine[Any, Any, T], *, may_stop: Callable[[], bool] = lambda: False
) -> T:
    """Runs `work` to its end; if the caller is cancelled, the cancellation is raised after that end.

    A connection is thus never rolled back or returned to its pool while `work` uses it. If `may_stop` returns true at
    the cancellation, `work` is cancelled too. `work` runs in its own task: drivers implement timeouts by cancelling the
    task that they run in. That would look like a cancellation of the caller.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
            if may_stop():
                task.cancel()
        except BaseException:
            break
    if cancelled is not None:
        # Nobody reads this outcome, and asyncio logs an exception that was never retrieved.
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()


async def finish_here(work: Coroutine[Any, Any, T]) -> T:
    """As `finish`, for `work` that sets no timeouts: it runs in the caller's task, which saves creating one.

    The task waits for the same future as `work`, so that no extra turn of the event loop is needed. A cancellation does
    not reach that future: it is noticed when the wait is over, and raised when `work` has ended.
    """
    result, cancelled = await _to_the_end(work)
    if cancelled is not None:
        raise cancelled
    return result


async def finish_or_give_back(
    work: Coroutine[Any, Any, T], give_back: Callable[[T], Coroutine[Any, Any, None]]
) -> T:
    """As `finish_here`; if the caller was cancelled, `give_back` gets the result before the cancellation is raised."""
    result, cancelled = await _to_the_end(work)
    if cancelled is not None:
        await finish(give_back(result))
        raise cancelled
    return result


class _OutOfReach:
    """A future with the protocol that tasks use (PEP 3156, asyncio.isfuture), which the waiting task can't cancel."""

    __slots__ = ("_asyncio_future_blocking", "_future")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future
        # A coroutine sets this flag on the future that it yields to its task, and has just set it on this one.
        future._asyncio_future_blocking = False
        self._asyncio_future_blocking = True

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._future.get_loop()

    def add_done_callback(
        self, callback: Callable[[asyncio.Future[Any]], object], **options: Any
    ) -> None:
        self._future.add_done_callback(callback, **options)

    def cancelled(self) -> bool:
        return self._future.cancelled()

    def cancel(self, msg: object = None) -> bool:
        # The task then remembers the cancellation and raises it when it resumes.
        return False


@types.coroutine
def _to_the_end(
    work: Coroutine[Any, Any, T],
) -> Generator[Any, Any, tuple[T, asyncio.CancelledError | None]]:
    """Returns the result of `work` and a cancellation that arrived meanwhile; raises the latter if `work` failed."""
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            waiting: asyncio.Future[Any] | None = work.send(None)
        except BaseException as error:
            if isinstance(error, StopIteration):
                return error.value, cancelled
            if cancelled is not None:
                raise cancelled from None
            raise
        try:
            yield None if waiting is None else _OutOfReach(waiting)
        except asyncio.CancelledError as error:
            if waiting is None or not waiting.cancelled():
                cancelled = error
        except GeneratorExit:
            work.close()
            raise
        except BaseException:  # noqa: S110 - `work` gets the error of the wait from the future itself
            pass
