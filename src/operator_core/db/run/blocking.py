"""Runners that run a unit in the calling thread and block it, and the adapter by which the verbs use one."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar, cast

from operator_core.actions.errors import ActionError, NotOpen
from operator_core.db.run.runner import UnitRunner, check_process, no_waiting
from operator_core.db.run.turn import Turn
from operator_core.db.sql.unit import Unit

__all__ = [
    "BlockingBlock",
    "BlockingRunner",
    "BlockingUnits",
    "NeverSuspending",
    "finished",
    "nested",
    "not_open",
]

T = TypeVar("T")


def finished(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never waits in an event loop, and returns its result.

    It may offer its turn, as ``asyncio.sleep(0)`` does; there is nobody to take it.
    """
    try:
        while work.send(None) is None:
            pass
    except StopIteration as end:
        return end.value
    work.close()
    raise RuntimeError("a synchronous call has waited for an event loop")


class BlockingUnits(Protocol):
    """As `UnitRunner`, without an event loop."""

    @property
    def commits(self) -> bool:
        """Whether each unit is a transaction of its own, and is durable when the call returns."""
        ...

    def read(self, unit: Unit[T]) -> T:
        """Runs a unit that changes nothing."""
        ...

    def write(self, unit: Unit[T]) -> T:
        """Runs a unit as one transaction, or as one part of a transaction."""
        ...

    @property
    def can_write(self) -> bool:
        """Whether a write by the calling thread would not wait for that thread itself.

        False in what the garbage collector runs in the middle of a call, or inside a transaction.
        """
        ...

    def transaction(self) -> "AbstractContextManager[BlockingUnits]":
        """A block in which all units form one transaction."""
        ...

    def changes(self) -> AbstractContextManager[threading.Event]:
        """A block with an event that is set after every possible commit of any program."""
        ...


class BlockingBlock:
    """What the `BlockingUnits` of a transaction() are on every database: its threads take turns."""

    commits = False

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._turn = Turn()

    @property
    def in_call(self) -> bool:
        """Whether the calling thread is in the middle of a call on this object."""
        return self._turn.is_mine

    @property
    def can_write(self) -> bool:
        """Whether the calling thread is not in the middle of a call on this object."""
        return not self.in_call

    def transaction(self) -> AbstractContextManager[BlockingUnits]:
        """Raises `ActionError`: a nested transaction is a part of the outer one that could be undone alone."""
        raise nested()

    def changes(self) -> AbstractContextManager[threading.Event]:
        """Raises `ActionError`: a transaction does not see the commits of others."""
        raise no_waiting()

    def _in_turn(self, call: Callable[[], T]) -> T:
        check_process(self._pid)
        return self._turn.run(call)


class BlockingRunner(BlockingUnits, Protocol):
    """A `BlockingUnits` that is opened and closed; any thread may use it."""

    def open(self) -> None:
        """Opens the ledger and ensures that its schema is current. Raises `SchemaError` or `StorageError`."""
        ...

    def close(self) -> None:
        """Waits for running calls and releases everything. A second call does nothing."""
        ...


class NeverSuspending:
    """A `UnitRunner` whose coroutines never suspend, so that they need no event loop."""

    def __init__(self, units: BlockingUnits) -> None:
        self._units = units

    @property
    def commits(self) -> bool:
        """As `BlockingUnits.commits`."""
        return self._units.commits

    @property
    def can_write(self) -> bool:
        """As `BlockingUnits.can_write`."""
        return self._units.can_write

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` in the calling thread."""
        return self._units.read(unit)

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` in the calling thread."""
        return self._units.write(unit)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """A block whose units form one transaction."""
        with self._units.transaction() as units:
            yield NeverSuspending(units)

    @asynccontextmanager
    async def changes(self) -> AsyncGenerator[asyncio.Event]:
        """A block with an event of threads, which `BlockingVerbs` waits for."""
        with self._units.changes() as changed:
            yield cast(asyncio.Event, changed)


def not_open() -> NotOpen:
    """The error for a call on a ledger that is not open."""
    return NotOpen("the ledger is not open: use `with SyncActionDB(...) as db:`")


def nested() -> ActionError:
    """The error for a transaction inside another one."""
    return ActionError("a transaction() can't be opened inside another one")
