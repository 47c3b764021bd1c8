"""Units of work inside the transaction of an AsyncSession that a service brings: joined, never committed."""

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
    """Runs units of work inside the transaction of a session that belongs to someone else.

    `check_ready` raises `SchemaError` or `StorageError` unless the ledger can be used on the session's connection.
    `check_still_ready` does so before each unit, for what the service may have set meanwhile.
    """

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
        """Checks the schema; it can't be changed inside somebody's transaction, so behind is an error."""
        self._pid = os.getpid()
        await self.read(self._check_ready)

    async def close(self) -> None:
        """Does nothing: the caller commits, rolls back and closes."""

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` in the caller's transaction, after what the session holds back is flushed; if it fails, that stands."""
        return await self._run(partial(read_in_savepoint, unit=unit))

    async def write(self, unit: Unit[T]) -> T:
        """As `read`, in a savepoint: if the unit fails, the caller's transaction is as it was."""
        return await self._run(partial(in_savepoint, unit=unit))

    async def _run(self, function: Callable[[Connection], T]) -> T:
        def work(session: Session) -> T:
            # What the session holds back is the service's, and so is what is wrong with it.
            session.flush()
            return self._on_connection(session, function)

        check_process(self._pid)
        return await finish(self._session.run_sync(work))

    def _on_connection(self, session: Session, function: Callable[[Connection], T]) -> T:
        """Runs `function` on the session's connection; what the database says to it is the ledger's to translate."""
        try:
            conn = session.connection()
        except InvalidRequestError:
            # The session is of no use, by what the service did with it.
            raise
        except Exception as error:
            raise _translated(error) from error
        with translated(_translated):
            self._check_still_ready(conn)
            return function(conn)

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Refused."""
        raise no_waiting()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """All or nothing within the caller's transaction: a savepoint."""
        await self._run(begin)
        savepoint = self._session.begin_nested()
        with translated(_translated):
            await finish(savepoint.start())
        units = _SavepointRunner(self)
        try:
            yield units
            # Flushed here, so that only the RELEASE is left, which is the ledger's.
            await finish(self._session.run_sync(Session.flush))
            with translated(_translated):
                await finish(savepoint.__aexit__(None, None, None))
        except BaseException as error:
            # If this fails too, what its caller must see is why the block has ended.
            with suppress(SQLAlchemyError):
                await finish(savepoint.__aexit__(type(error), error, error.__traceback__))
            raise
        finally:
            units.over = True


def _translated(error: BaseException) -> BaseException:
    return translate(error, server=True)


class _SavepointRunner:
    """A `UnitRunner` inside a savepoint of somebody's session, for as long as that lasts."""

    def __init__(self, session: SessionRunner) -> None:
        self._session = session
        self.over = False

    async def read(self, unit: Unit[T]) -> T:
        """As the session's."""
        self._check_usable()
        return await self._session.read(unit)

    async def write(self, unit: Unit[T]) -> T:
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
