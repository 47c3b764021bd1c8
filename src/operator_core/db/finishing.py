"""Work on a connection that goes to its end whatever becomes of the caller."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["finish", "finish_here"]

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

    The caller waits for a future of its own beside the one that `work` waits for, so that a
    cancellation does not reach it; then the rest of `work` goes to a task.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            waiting: asyncio.Future[Any] = work.send(None)
        except StopIteration as done:
            return done.value
        # What a task does with a future that a coroutine gives it (PEP 3156, asyncio.tasks).
        waiting._asyncio_future_blocking = False
        beside = loop.create_future()
        waiting.add_done_callback(lambda _, beside=beside: beside.done() or beside.set_result(None))
        try:
            await beside
        except asyncio.CancelledError:
            with suppress(BaseException):
                await finish(_rest(work, waiting))
            raise


async def _rest(work: Coroutine[Any, Any, T], waiting: asyncio.Future[Any]) -> T:
    return await _go_on(work, waiting)


@types.coroutine
def _go_on(work: Coroutine[Any, Any, T], waiting: asyncio.Future[Any]) -> Generator[Any, Any, T]:
    try:
        while True:
            waiting._asyncio_future_blocking = True
            try:
                yield waiting
            except BaseException as error:
                waiting = work.throw(error)
            else:
                waiting = work.send(None)
    except StopIteration as done:
        return done.value
