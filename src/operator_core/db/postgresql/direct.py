"""Runs shortcuts directly on asyncpg, without SQLAlchemy's execution and its greenlet."""

from typing import Any, TypeVar

from sqlalchemy import Dialect

from operator_core.db.sql.execution import Statements
from operator_core.db.sql.unit import Shortcut, Unanswered

__all__ = ["Direct"]

T = TypeVar("T")


class Direct:
    """Runs shortcuts on asyncpg's connections, compiled for `dialect`."""

    def __init__(self, dialect: Dialect) -> None:
        self._statements = Statements(dialect)

    async def run(self, connection: Any, shortcut: Shortcut[T]) -> T | Unanswered:
        """Runs `shortcut` in one round trip on `connection`, in autocommit; raises asyncpg's exceptions."""
        compiled = self._statements.compiled(shortcut.statement, shortcut.parameters)
        arguments = compiled.arguments(shortcut.parameters)
        return shortcut.answer(await connection.fetch(compiled.text, *arguments))
