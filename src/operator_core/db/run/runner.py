"""What runs units of work: the one interface behind `ActionDB`, whatever the database."""

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
    "no_waiting",
]

T = TypeVar("T")


class UnitRunner(Protocol):
    """Where units of work run."""

    async def read(self, unit: Unit[T]) -> T:
        """Runs a unit that changes nothing."""
        ...

    async def write(self, unit: Unit[T]) -> T:
        """Runs a unit as one transaction, or as one all-or-nothing part of the one it is in.

        A `SingleStatement` needs no transaction around it.
        """
        ...

    def transaction(self) -> "AbstractAsyncContextManager[UnitRunner]":
        """Several units as one transaction."""
        ...

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """An event that is set whenever somebody may have committed something, from entry on.

        Clear it, look, and wait for it. Raises `ActionError` inside a transaction, which sees nothing
        of what others commit, or would wait for itself.
        """
        ...


class Runner(UnitRunner, Protocol):
    """A `UnitRunner` that is opened and closed."""

    async def open(self) -> None:
        """Makes the ledger ready: the schema is current afterwards. Raises `SchemaError`, `StorageError`."""
        ...

    async def close(self) -> None:
        """Lets what is under way finish and gives everything back. Closing twice does nothing."""
        ...


# The transactions that the running task is inside of. Tasks that are started in there inherit them,
# because what `gather` and `wait_for` run is waited for as if it were called directly.
_INSIDE: ContextVar[tuple[object, ...]] = ContextVar("operator_core_inside", default=())


@contextmanager
def inside(transaction: object) -> Generator[None]:
    """Marks the block, and the tasks started in it, as inside `transaction`."""
    before = _INSIDE.get()
    _INSIDE.set((*before, transaction))
    try:
        yield
    finally:
        _INSIDE.set(before)


def check_outside(under_way: Collection[object]) -> None:
    """Raises `ActionError` if the caller is inside one of the transactions that are `under_way`.

    Its call would wait for that transaction, which waits for it.
    """
    if under_way and any(each in under_way for each in _INSIDE.get()):
        raise ActionError(
            "inside transaction(), call the methods of the object that it yields: "
            "this call would wait for the transaction that it is in"
        )


def no_waiting() -> ActionError:
    """What there is to say to who would wait inside a transaction."""
    return ActionError("inside a transaction there is nothing to wait for: wait outside it")


def check_process(opened_in: int | None) -> None:
    """Raises `WrongProcess` in a fork of the process `opened_in`: its threads are not there."""
    if opened_in is not None and os.getpid() != opened_in:
        raise WrongProcess(opened_in, os.getpid())
