"""Units of work inside the transaction of an AsyncSession that a service brings: joined, never committed."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from operator_core.actions.errors import ActionError, NotOpen
from operator_core.db import migrate
from operator_core.db.borrowed import begin, in_savepoint, translated
from operator_core.db.driver_errors import read_damaged
from operator_core.db.engine import Unit, UnitRunner, check_process, no_waiting
from operator_core.db.finishing import finish

__all__ = ["SessionRunner"]

T = TypeVar("T")


class SessionRunner:
    """Runs units of work inside the transaction of a session that belongs to someone else."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._pid: int | None = None

    async def open(self) -> None:
        """Checks the schema; it can't be changed inside somebody's transaction, so behind is an error."""
        self._pid = os.getpid()
        await self.read(migrate.check_current)

    async def close(self) -> None:
        """Does nothing: the caller commits, rolls back and closes."""

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` in the caller's transaction, after what the session holds back is flushed."""
        return await self._run(partial(read_damaged, unit=unit))

    async def write(self, unit: Unit[T], *, single: bool = False) -> T:
        """As `read`, in a savepoint: if the unit fails, the caller's transaction is as it was."""
        return await self._run(partial(in_savepoint, unit=unit))

    async def _run(self, function: Callable[[Connection], T]) -> T:
        def work(session: Session) -> T:
            session.flush()
            return function(session.connection())

        check_process(self._pid)
        with translated():
            return await finish(self._session.run_sync(work))

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Refused."""
        raise no_waiting()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """All or nothing within the caller's transaction: a savepoint."""
        await self._run(begin)
        units = _SavepointRunner(self)
        try:
            async with self._session.begin_nested():
                yield units
        finally:
            units.over = True


class _SavepointRunner:
    """A `UnitRunner` inside a savepoint of somebody's session, for as long as that lasts."""

    def __init__(self, session: SessionRunner) -> None:
        self._session = session
        self.over = False

    async def read(self, unit: Unit[T]) -> T:
        """As the session's."""
        self._check_usable()
        return await self._session.read(unit)

    async def write(self, unit: Unit[T], *, single: bool = False) -> T:
        """As the session's."""
        self._check_usable()
        return await self._session.write(unit)

    def transaction(self) -> AbstractAsyncContextManager[UnitRunner]:
        """Refused, as inside the ledger's own transactions."""
        raise ActionError("a transaction() can't be opened inside another one")

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Refused."""
        raise no_waiting()

    def _check_usable(self) -> None:
        if self.over:
            raise NotOpen("the transaction is over")
