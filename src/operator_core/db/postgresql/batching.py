"""Runs concurrent units with the same key as one statement.

Two concurrent statements are enough: while one waits for the server, the next is filled. Units that arrive
meanwhile are queued and sent together, so that a unit costs less under more load. A single caller does not wait
for others.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, NamedTuple, TypeVar, cast

from operator_core.actions.errors import Busy, CommitOutcomeUnknown, StorageError
from operator_core.db.sql.unit import UNANSWERED, Shared, Shortcut, SingleStatement

__all__ = ["Batcher"]

T = TypeVar("T")

_AT_ONCE: Final = 2

_MAX_ROWS: Final = 1000
"""The maximum number of rows of a statement with several callers: the first caller waits for the last row."""

# An error of the server or the connection would occur again. After an unknown outcome a second run could make
# the same change twice.
_NOBODYS_FAULT: Final = (Busy, CommitOutcomeUnknown, StorageError)


class _Waiting(NamedTuple):
    shared: Shared[Any, Any]
    answer: asyncio.Future[Any]


class _Lane:
    """The units of one key: those that wait, and the number of statements that run."""

    __slots__ = ("queue", "running", "single")

    def __init__(self) -> None:
        self.queue: deque[_Waiting] = deque()
        self.running = 0
        # Whether a single caller runs, which may wait for a lock: it keeps no statement of others from running.
        self.single = True


class Batcher:
    """Runs units together by `run`, which runs one statement for all of them, or else alone by `run_alone`.

    A unit runs alone in its caller's task if no other unit of its key is running, if the statement did not answer it,
    or if the statement failed. So a failure or a locked row does not affect other callers.
    """

    def __init__(
        self,
        run: Callable[[Shortcut[list[Any]]], Awaitable[list[Any]]],
        run_alone: Callable[[SingleStatement[Any]], Awaitable[Any]],
    ) -> None:
        self._run = run
        self._run_alone = run_alone
        self._lanes: dict[Hashable, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, unit: SingleStatement[T], shared: Shared[Any, T]) -> T:
        """Runs `unit`, whose `shared` this is, together with the waiting units of the same key.

        If the caller is cancelled, the unit takes effect as a whole or not at all.
        """
        lane = self._lanes.get(shared.key)
        if lane is None:
            # No statement runs, so there are no units to wait for: the caller's own task runs this one.
            lane = self._lanes[shared.key] = _Lane()
            try:
                return await self._run_alone(unit)
            finally:
                lane.single = False
                self._leave(shared.key, lane)
        waiting = _Waiting(shared, asyncio.get_running_loop().create_future())
        lane.queue.append(waiting)
        if lane.running < _AT_ONCE:
            lane.running += 1
            task = asyncio.create_task(self._drain(shared.key, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        answer = await waiting.answer
        return await self._run_alone(unit) if answer is UNANSWERED else cast(T, answer)

    async def _drain(self, key: Hashable, lane: _Lane) -> None:
        try:
            while group := _next_group(lane.queue):
                await self._run_group(group)
        finally:
            lane.running -= 1
            self._leave(key, lane)

    def _leave(self, key: Hashable, lane: _Lane) -> None:
        if not (lane.single or lane.running):
            del self._lanes[key]

    async def _run_group(self, group: list[_Waiting]) -> None:
        error = None
        try:
            together = group[0].shared.together([each.shared.argument for each in group])
            results = await self._run(together)
        except Exception as failure:
            results = [UNANSWERED] * len(group)
            if isinstance(failure, _NOBODYS_FAULT):
                error = failure
        for each, result in zip(group, results, strict=True):
            if each.answer.done():
                continue
            if error is None:
                each.answer.set_result(result)
            else:
                each.answer.set_exception(error)


def _next_group(queue: deque[_Waiting]) -> list[_Waiting]:
    group: list[_Waiting] = []
    rows = 0
    while queue and (not group or rows + queue[0].shared.size <= _MAX_ROWS):
        first = queue.popleft()
        if not first.answer.cancelled():
            group.append(first)
            rows += first.shared.size
    return group
