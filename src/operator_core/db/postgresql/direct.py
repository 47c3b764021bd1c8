"""Runs shortcuts directly on asyncpg, without SQLAlchemy's execution and its greenlet."""

from functools import cached_property
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Dialect

from operator_core.db.postgresql.attempts import outcome_unknown
from operator_core.db.sql.execution import Statements
from operator_core.db.sql.unit import Shortcut, Unanswered

__all__ = ["Direct"]

T = TypeVar("T")


# For all ledgers of the process: a service that opens one for each operation would otherwise compile each time. The
# dialects of the ledger's own engines differ only in what they have read from the server, by its version.
_STATEMENTS: Final[dict[tuple[object, ...], Statements]] = {}


class Direct:
    """Runs shortcuts on asyncpg's connections, compiled for `dialect`, that of an engine of the ledger's own."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    @cached_property
    def _statements(self) -> Statements:
        # The version is known as soon as there has been a connection.
        version = self._dialect.server_version_info or ()
        return _STATEMENTS.setdefault(version, Statements(self._dialect))

    async def run(self, connection: Any, shortcut: Shortcut[T]) -> T | Unanswered:
        """Runs `shortcut` on `connection`, in autocommit; raises asyncpg's exceptions.

        Raises `CommitOutcomeUnknown` if what it did can't be read afterwards.
        """
        compiled = self._statements.compiled(shortcut.statement, shortcut.parameters)
        arguments = compiled.arguments(shortcut.parameters)
        answer = shortcut.answer(await connection.fetch(compiled.text, *arguments))
        if not isinstance(answer, Shortcut):
            return answer
        try:
            return await self.run(connection, cast("Shortcut[T]", answer))
        except Exception as error:
            raise outcome_unknown(error) from error
