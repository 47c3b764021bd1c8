"""Runs concurrent units with the same batch as one statement.

Two concurrent statements are enough: while one waits for the server, the next is filled. Units that arrive
meanwhile are queued and sent together, so that a unit costs less under more load. A single caller does not wait
for others.
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
"""The maximum number of rows of a statement with several callers: the first caller waits for the last row."""

# An error of the server or the connection would occur again. After an unknown outcome a second run could make
# the same change twice.
_NOBODYS_FAULT: Final = (Busy, CommitOutcomeUnknown, StorageError)


class _Waiting(NamedTuple):
    unit: SingleStatement[Any]
    batch: Batch[Any, Any]
    answer: asyncio.Future[Any]


class Batcher:
    """Runs groups of units by `run`, which returns their results in order; a failure does not affect other callers.

    If no other unit is running, `run_alone` runs the unit.
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
        """Runs `unit`, whose batch is `batch`, together with the waiting units.

        If the caller is cancelled, the unit takes effect as a whole or not at all.
        """
        if not self._running:
            # No statement runs, so there are no units to wait for: the caller's own task runs this one.
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
