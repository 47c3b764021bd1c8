"""Runs the ledger's own statements, by the driver alone where that is possible.

For one statement, SQLAlchemy's execution costs as much processor time as the driver and the database do. It is not
needed for a statement that is built once per program: its text is compiled and cached, and the columns' own
conversion turns the parameters into the driver's types.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

__all__ = ["Compiled", "DirectConnection", "Statements", "execute_text", "fetch", "insert_rows"]

_BOUND: Final = object()

# The compiler's own text between the parts of an INSERT; the values are parameters and calls of functions.
_VALUES: Final = " VALUES "
_RETURNING: Final = " RETURNING "


class _Parameter(NamedTuple):
    name: str
    value: Any
    """The constant in the statement, or `_BOUND` if each execution passes a value."""
    convert: Callable[[Any], Any] | None


class Compiled(NamedTuple):
    """A statement as text for a driver with positional parameters."""

    text: str
    parameters: Sequence[_Parameter]

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Returns the driver's positional arguments for the named `values`."""
        return [
            value
            if value is not _BOUND
            else (values[name] if convert is None else convert(values[name]))
            for name, value, convert in self.parameters
        ]

    def text_for(self, count: int) -> str:
        """Returns the text of an INSERT of one row with RETURNING, with `count` rows in its place."""
        before, _, rest = self.text.partition(_VALUES)
        row, _, after = rest.rpartition(_RETURNING)
        return before + _VALUES + ", ".join([row] * count) + _RETURNING + after


class Statements:
    """Compiles statements for one dialect and keeps the results; each must be built once per program."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        # The key includes the parameters' names: an INSERT has a column for each.
        self._compiled: dict[tuple[Executable, tuple[str, ...]], Compiled] = {}

    def compiled(self, statement: Executable, values: Mapping[str, Any]) -> Compiled:
        """Returns `statement`, compiled for parameters with the names of `values`."""
        key = (statement, tuple(values))
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = self._compile(statement, values)
        return found

    def _compile(self, statement: Executable, values: Mapping[str, Any]) -> Compiled:
        compiled = cast(ClauseElement, statement).compile(
            dialect=self._dialect, column_keys=list(values)
        )
        assert isinstance(compiled, SQLCompiler)
        # A list in place of one value would need other text for each length.
        assert not compiled.post_compile_params
        return Compiled(
            compiled.string,
            [self._parameter(compiled, name, values) for name in compiled.positiontup or ()],
        )

    def _parameter(self, compiled: SQLCompiler, name: str, values: Mapping[str, Any]) -> _Parameter:
        bind = compiled.binds[name]
        convert = bind.type.dialect_impl(self._dialect).bind_processor(self._dialect)
        if bind.key in values:
            return _Parameter(bind.key, _BOUND, convert)
        if bind.required:
            raise KeyError(bind.key)
        # A constant in the statement.
        value = bind.effective_value
        return _Parameter(name, value if convert is None else convert(value), None)


class DirectConnection(Connection):
    """A connection that can run statements by its driver alone."""

    @property
    def is_watched(self) -> bool:
        """Whether a log or a listener needs SQLAlchemy's own execution."""
        raise NotImplementedError

    def fetch(self, statement: Executable, values: Mapping[str, Any]) -> Sequence[Any]:
        """As the function `fetch`."""
        raise NotImplementedError

    def insert(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        """As the function `insert_rows`."""
        raise NotImplementedError

    def execute_text(self, text: str) -> None:
        """As the function `execute_text`."""
        raise NotImplementedError


def fetch(conn: Connection, statement: Executable, values: Mapping[str, Any]) -> Sequence[Any]:
    """Executes `statement` and returns its rows, if it has any, as sequences of the driver's values.

    The statement must be built once per program, because its text may be compiled and kept. Raises SQLAlchemy's
    `DBAPIError`.
    """
    if isinstance(conn, DirectConnection) and not conn.is_watched:
        return conn.fetch(statement, values)
    result = conn.execute(statement, values)
    return result.all() if result.returns_rows else ()


def insert_rows(
    conn: Connection, statement: Executable, rows: Sequence[Mapping[str, Any]]
) -> Sequence[Any]:
    """Executes `statement`, an INSERT of one row with RETURNING, for all rows; returns what it returns, in any order.

    All rows must have the same columns. Raises what `fetch` raises.
    """
    if isinstance(conn, DirectConnection) and not conn.is_watched:
        return conn.insert(statement, rows)
    return conn.execute(statement, rows).all()


def execute_text(conn: Connection, text: str) -> None:
    """Executes SQL text without parameters and rows. Raises SQLAlchemy's `DBAPIError`."""
    if isinstance(conn, DirectConnection) and not conn.is_watched:
        conn.execute_text(text)
    else:
        conn.exec_driver_sql(text)
