"""The runner of units of work inside the transaction of a service's `AsyncSession`, which it never commits."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from operator_core.actions.errors import ActionError, NotOpen
from operator_core.db.run.borrowed import begin, in_savepoint, read_in_savepoint, translated
from operator_core.db.run.cancellation import finish
from operator_core.db.run.runner import UnitRunner, check_process, no_waiting
from operator_core.db.sql.errors import translate
from operator_core.db.sql.unit import Unit

__all__ = ["SessionRunner"]

T = TypeVar("T")


class SessionRunner:
    """Runs units of work inside the transaction of a session that belongs to the service.

    `check_ready` raises `SchemaError` or `StorageError` unless the ledger can be used on the session's connection.
    `check_still_ready` does the same before each unit, because the service may have changed settings of the session.
    """

    commits = False

    def __init__(
        self,
        session: AsyncSession,
        check_ready: Callable[[Connection], None],
        check_still_ready: Callable[[Connection], None],
    ) -> None:
        self._session = session
        self._check_ready = check_ready
        self._check_still_ready = check_still_ready
        self._pid: int | None = None

    async def open(self) -> None:
        """Checks the schema; an older one is an error, as it can't be upgraded inside the service's transaction."""
        self._pid = os.getpid()
        await self.read(self._check_ready)

    async def close(self) -> None:
        """Does nothing: the service commits, rolls back and closes its session."""

    async def read(self, unit: Unit[T]) -> T:
        """Flushes the session and runs `unit` in its transaction; if `unit` fails, the flushed changes stay."""
        return await self._run(partial(read_in_savepoint, unit=unit))

    async def write(self, unit: Unit[T]) -> T:
        """As `read`, in a savepoint: if `unit` fails, only its own changes are rolled back."""
        return await self._run(partial(in_savepoint, unit=unit))

    async def _run(self, function: Callable[[Connection], T]) -> T:
        def work(session: Session) -> T:
            # Unflushed objects belong to the service, so errors of the flush are raised unchanged.
            session.flush()
            return self._on_connection(session, function)

        check_process(self._pid)
        return await finish(self._session.run_sync(work))

    def _on_connection(self, session: Session, function: Callable[[Connection], T]) -> T:
        """Runs `function` on the session's connection, and converts its driver exceptions to the ledger's own."""
        try:
            conn = session.connection()
        except InvalidRequestError:
            # The service has left the session in an unusable state.
            raise
        except Exception as error:
            raise _translated(error) from error
        with translated(_translated):
            self._check_still_ready(conn)
            return function(conn)

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Raises `ActionError`: a transaction does not see the commits of others."""
        raise no_waiting()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """A savepoint in the service's transaction: all changes of the block are kept, or none."""
        await self._run(begin)
        savepoint = self._session.begin_nested()
        with translated(_translated):
            await finish(savepoint.start())
        units = _SavepointRunner(self)
        try:
            yield units
            # The flush runs first and its errors belong to the service; then only the RELEASE is left.
            await finish(self._session.run_sync(Session.flush))
            with translated(_translated):
                await finish(savepoint.__aexit__(None, None, None))
        except BaseException as error:
            # If this fails too, the caller must still see the error that ended the block.
            with suppress(SQLAlchemyError):
                await finish(savepoint.__aexit__(type(error), error, error.__traceback__))
            raise
        finally:
            units.over = True


def _translated(error: BaseException) -> BaseException:
    return translate(error, server=True)


class _SavepointRunner:
    """A `UnitRunner` inside a savepoint of a service's session; it raises `NotOpen` after the block has ended."""

    commits = False

    def __init__(self, session: SessionRunner) -> None:
        self._session = session
        self.over = False

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` as `SessionRunner.read` does."""
        self._check_usable()
        return await self._session.read(unit)

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` as `SessionRunner.write` does."""
        self._check_usable()
        return await self._session.write(unit)

    def transaction(self) -> AbstractAsyncContextManager[UnitRunner]:
        """Raises `ActionError`, as inside the ledger's own transactions."""
        raise ActionError("a transaction() can't be opened inside another one")

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Raises `ActionError`: a transaction does not see the commits of others."""
        raise no_waiting()

    def _check_usable(self) -> None:
        if self.over:
            raise NotOpen("the transaction is over")
