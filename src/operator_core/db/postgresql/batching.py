"""Concurrent units with the same batch run as one statement.

Two statements at once are enough: while one waits for the server, the next is filled. What arrives meanwhile
queues up and goes together, so that the more there is to do the less each costs; a caller on its own waits
for nobody.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

from operator_core.actions.errors import Busy, CommitOutcomeUnknown, StorageError
from operator_core.db.sql.unit import Batch, SingleStatement

__all__ = ["Batcher"]

T = TypeVar("T")

_AT_ONCE: Final = 2

_MAX_ROWS: Final = 1000
"""How many rows a statement takes at the most, if more than one caller's: the first waits for the last."""

# What came of the server or of the connection would come again, and after an unknown outcome a second
# run might do the same twice.
_NOBODYS_FAULT: Final = (Busy, CommitOutcomeUnknown, StorageError)


class _Waiting(NamedTuple):
    unit: SingleStatement[Any]
    batch: Batch[Any, Any]
    answer: asyncio.Future[Any]


class Batcher:
    """Runs groups of units by `run`, which answers in their order; nobody pays for a neighbour's failure.

    A unit that nobody is waiting with is run by `run_alone`.
    """

    def __init__(
        self,
        run: Callable[[Sequence[SingleStatement[Any]]], Awaitable[list[Any]]],
        run_alone: Callable[[SingleStatement[Any]], Awaitable[Any]],
    ) -> None:
        self._run = run
        self._run_alone = run_alone
        self._queue: deque[_Waiting] = deque()
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, unit: SingleStatement[T], batch: Batch[Any, T]) -> T:
        """Runs `unit`, which has this `batch`, with whatever waits beside it; a cancelled caller's unit is whole or absent."""
        if not self._running:
            # Nobody waits, so nobody needs to be waited for: the caller's own task does it.
            self._running += 1
            try:
                return await self._run_alone(unit)
            finally:
                self._running -= 1
                self._fill()
        answer = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(unit, batch, answer))
        self._fill()
        return cast(T, await answer)

    def _fill(self) -> None:
        if self._queue and self._running < _AT_ONCE:
            self._running += 1
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        try:
            while group := self._next_group():
                await self._run_group(group)
        finally:
            self._running -= 1

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        rows = 0
        while self._queue:
            first = self._queue[0]
            if group and (
                first.batch.each is not group[0].batch.each or rows + first.batch.size > _MAX_ROWS
            ):
                break
            self._queue.popleft()
            if not first.answer.cancelled():
                group.append(first)
                rows += first.batch.size
        return group

    async def _run_group(self, group: list[_Waiting]) -> None:
        try:
            results = await self._run([each.unit for each in group])
        except Exception as error:
            if len(group) > 1 and not isinstance(error, _NOBODYS_FAULT):
                for each in group:
                    await self._run_group([each])
                return
            for each in group:
                if not each.answer.done():
                    each.answer.set_exception(error)
        else:
            for each, result in zip(group, results, strict=True):
                if not each.answer.done():
                    each.answer.set_result(result)
