"""Shortcuts on asyncpg itself: what SQLAlchemy compiled once, without SQLAlchemy in each execution.

For one statement in autocommit SQLAlchemy's execution, with the greenlet under it, costs as much of the
processor's time again as asyncpg and the protocol do. Nothing of it is needed there: the text is
compiled and cached, the values are of the driver's types after the columns' own conversion.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

from sqlalchemy import Dialect, Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

from operator_core.db.sql.unit import Shortcut, Unanswered

__all__ = ["Direct"]

T = TypeVar("T")

_GIVEN: Final = object()


class _Parameter(NamedTuple):
    name: str
    value: Any
    """As it stands in the statement, or `_GIVEN` with each execution."""
    convert: Callable[[Any], Any] | None


class _Compiled(NamedTuple):
    text: str
    parameters: Sequence[_Parameter]


class Direct:
    """Runs shortcuts on connections of asyncpg's, in statements of `dialect`."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        # By the names of what is given too: an INSERT has a column for each. Statements are built once in
        # the life of the program, so these are few.
        self._compiled: dict[tuple[Executable, tuple[str, ...]], _Compiled] = {}

    async def run(self, connection: Any, shortcut: Shortcut[T]) -> T | Unanswered:
        """One round trip on `connection`, in autocommit; raises what asyncpg raises."""
        key = (shortcut.statement, tuple(shortcut.parameters))
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = self._compile(shortcut)
        given = shortcut.parameters
        arguments = [
            value
            if value is not _GIVEN
            else (given[name] if convert is None else convert(given[name]))
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
            return _Parameter(bind.key, _GIVEN, convert)
        # A value that stands in the statement.
        value = bind.effective_value
        return _Parameter(name, value if convert is None else convert(value), None)
