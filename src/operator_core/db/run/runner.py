"""The protocols of runners, which run units of work for `ActionDB` on any kind of database."""

import asyncio
import os
from collections.abc import Collection, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

from operator_core.actions.errors import ActionError, WrongProcess
from operator_core.db.sql.unit import Unit

__all__ = [
    "Runner",
    "UnitRunner",
    "check_outside",
    "check_process",
    "inside",
    "is_inside",
    "no_waiting",
]

T = TypeVar("T")


class UnitRunner(Protocol):
    """Runs units of work."""

    @property
    def commits(self) -> bool:
        """Whether each unit is a transaction of its own, and is durable when the call returns."""
        ...

    async def read(self, unit: Unit[T]) -> T:
        """Runs a unit that changes nothing."""
        ...

    async def write(self, unit: Unit[T]) -> T:
        """Runs a unit as one transaction, or inside a transaction as one part that is kept as a whole or not at all.

        A `SingleStatement` needs no transaction around it.
        """
        ...

    def transaction(self) -> "AbstractAsyncContextManager[UnitRunner]":
        """A block in which all units form one transaction."""
        ...

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """A block with an event that is set after every possible commit of any program.

        Clear it, look at the ledger, then wait for it. Raises `ActionError` inside a transaction, which does not see
        the commits of others, or would wait for itself.
        """
        ...


class Runner(UnitRunner, Protocol):
    """A `UnitRunner` that is opened and closed."""

    async def open(self) -> None:
        """Opens the ledger and ensures that its schema is current. Raises `SchemaError` or `StorageError`."""
        ...

    async def close(self) -> None:
        """Waits for running calls and releases everything. A second call does nothing."""
        ...


# The transactions that contain the running task. Tasks that it starts inherit them, because a caller waits for the
# tasks of `gather` and `wait_for` as for a direct call.
_INSIDE: ContextVar[tuple[object, ...]] = ContextVar("operator_core_inside", default=())


@contextmanager
def inside(transaction: object) -> Generator[None]:
    """A block that marks itself, and the tasks started in it, as inside `transaction`."""
    before = _INSIDE.get()
    _INSIDE.set((*before, transaction))
    try:
        yield
    finally:
        _INSIDE.set(before)


def is_inside(under_way: Collection[object]) -> bool:
    """Whether the caller is inside one of the transactions `under_way`."""
    return bool(under_way) and any(each in under_way for each in _INSIDE.get())


def check_outside(under_way: Collection[object]) -> None:
    """Raises `ActionError` if the caller is inside one of the transactions `under_way`.

    Its call would wait for that transaction, which in turn waits for the call.
    """
    if is_inside(under_way):
        raise ActionError(
            "inside transaction(), call the methods of the object that it yields: "
            "this call would wait for the transaction that it is in"
        )


def no_waiting() -> ActionError:
    """The error for waiting inside a transaction."""
    return ActionError("can't wait for changes inside a transaction: wait outside it")


def check_process(opened_in: int | None) -> None:
    """Raises `WrongProcess` in a fork of the process `opened_in`: a fork has none of its threads."""
    if opened_in is not None and os.getpid() != opened_in:
        raise WrongProcess(opened_in, os.getpid())
