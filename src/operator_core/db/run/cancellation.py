"""Work on a connection that goes to its end whatever becomes of the caller."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

__all__ = ["finish", "finish_here", "finish_or_give_back"]

T = TypeVar("T")


async def finish(
    work: Coroutine[Any, Any, T], *, may_stop: Callable[[], bool] = lambda: False
) -> T:
    """Runs `work` to its end; a cancellation of the caller waits for that, and then goes on its way.

    So nothing is ever under way on a connection that is being rolled back or given back. Where
    `work` `may_stop` at that moment, it is cancelled too. It runs in a task of its own, because drivers
    time out by cancelling the task that they run in, and nobody could tell that from the caller's.
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
        # Its outcome is nobody's any more; asyncio complains of one that was never looked at.
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()


async def finish_here(work: Coroutine[Any, Any, T]) -> T:
    """As `finish`, for `work` that sets no timeouts: in the caller's task, which saves making one.

    The task waits for what `work` waits for, so that nothing goes round the loop once more, but a
    cancellation does not reach that: it is heard when the wait is over, and goes on its way at the end.
    """
    result, cancelled = await _to_the_end(work)
    if cancelled is not None:
        raise cancelled
    return result


async def finish_or_give_back(
    work: Coroutine[Any, Any, T], give_back: Callable[[T], Coroutine[Any, Any, None]]
) -> T:
    """As `finish_here`; what comes of `work` when its caller is gone is given back before the cancellation goes on."""
    result, cancelled = await _to_the_end(work)
    if cancelled is not None:
        await finish(give_back(result))
        raise cancelled
    return result


class _OutOfReach:
    """A future as a task sees it (PEP 3156, asyncio.isfuture), which can't be cancelled by that task."""

    __slots__ = ("_asyncio_future_blocking", "_future")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future
        # What a coroutine says that gives a task a future to wait for, and has just said of this one.
        future._asyncio_future_blocking = False
        self._asyncio_future_blocking = True

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._future.get_loop()

    def add_done_callback(
        self, callback: Callable[[asyncio.Future[Any]], object], **said: Any
    ) -> None:
        self._future.add_done_callback(callback, **said)

    def cancelled(self) -> bool:
        return self._future.cancelled()

    def cancel(self, msg: object = None) -> bool:
        # The task keeps it in mind, and raises it where it goes on.
        return False


@types.coroutine
def _to_the_end(
    work: Coroutine[Any, Any, T],
) -> Generator[Any, Any, tuple[T, asyncio.CancelledError | None]]:
    """What came of `work`, and the cancellation that came meanwhile; that alone if `work` failed."""
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
        except BaseException:  # noqa: S110 - how the wait has failed, `work` hears from the future itself
            pass
