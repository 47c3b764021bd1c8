"""Runs shortcuts directly on asyncpg, with SQL that SQLAlchemy compiles once.

For one statement in autocommit, SQLAlchemy's execution and its greenlet cost as much processor time as asyncpg
and the protocol do. They are not needed there: the SQL is compiled and cached, and the columns' own conversion
turns the values into the driver's types.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

from sqlalchemy import Dialect, Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

from operator_core.db.sql.unit import Shortcut, Unanswered

__all__ = ["Direct"]

T = TypeVar("T")

_BOUND: Final = object()


class _Parameter(NamedTuple):
    name: str
    value: Any
    """The constant in the statement, or `_BOUND` if each execution passes a value."""
    convert: Callable[[Any], Any] | None


class _Compiled(NamedTuple):
    text: str
    parameters: Sequence[_Parameter]


class Direct:
    """Runs shortcuts on asyncpg's connections, compiled for `dialect`."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        # The key includes the parameters' names: an INSERT has a column for each. A program builds each
        # statement once, so the entries are few.
        self._compiled: dict[tuple[Executable, tuple[str, ...]], _Compiled] = {}

    async def run(self, connection: Any, shortcut: Shortcut[T]) -> T | Unanswered:
        """Runs `shortcut` in one round trip on `connection`, in autocommit; raises asyncpg's exceptions."""
        key = (shortcut.statement, tuple(shortcut.parameters))
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = self._compile(shortcut)
        values = shortcut.parameters
        arguments = [
            value
            if value is not _BOUND
            else (values[name] if convert is None else convert(values[name]))
            for name, value, convert in compiled.parameters
        ]
        return shortcut.answer(await connection.fetch(compiled.text, *arguments))

    def _compile(self, shortcut: Shortcut[Any]) -> _Compiled:
        statement = cast(ClauseElement, shortcut.statement)
        compiled = statement.compile(dialect=self._dialect, column_keys=list(shortcut.parameters))
        assert isinstance(compiled, SQLCompiler)
        return _Compiled(
            compiled.string,
            [self._parameter(compiled, name, shortcut) for name in compiled.positiontup or ()],
        )

    def _parameter(self, compiled: SQLCompiler, name: str, shortcut: Shortcut[Any]) -> _Parameter:
        bind = compiled.binds[name]
        convert = bind.type.dialect_impl(self._dialect).bind_processor(self._dialect)
        if bind.key in shortcut.parameters:
            return _Parameter(bind.key, _BOUND, convert)
        # A constant in the statement.
        value = bind.effective_value
        return _Parameter(name, value if convert is None else convert(value), None)
