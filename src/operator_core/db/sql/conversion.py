"""Functions that convert rows to models, one for each row class, generated from its columns.

The generated code builds one dictionary and converts each value in place, as code written by hand does. A loop over
the columns of a row would take several times as long. The attrs package generates its `__init__` in the same way.
"""

import json
import linecache
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar, cast

from pydantic_core import from_json
from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, Text
from sqlalchemy.types import TypeEngine

from operator_core.actions.errors import CorruptRow
from operator_core.db.sql.base import JSONText, UTCDateTime

__all__ = ["Reader", "converter", "decode_time", "to_ids", "to_names", "to_path"]

T = TypeVar("T")


class Reader(NamedTuple):
    """The conversion of the values of one column.

    `read` is the type that a value must have, a mapping from stored values, or a function that raises for a value that
    it can't read. NULL becomes None if the column is nullable, unless the reader `reads_null`. `problem` is the text
    of the `CorruptRow`.
    """

    read: type[Any] | dict[Any, Any] | Callable[[Any], Any]
    problem: str
    reads_null: bool = False


# The exceptions of a reader for an invalid value.
_UNREADABLE: Final = (ValueError, TypeError, KeyError, OverflowError)

_fromisoformat = datetime.fromisoformat


def decode_time(value: Any) -> datetime:
    """Returns a stored time as aware UTC; text without an offset is UTC. Raises ValueError or TypeError."""
    if isinstance(value, datetime):
        return value if value.tzinfo is UTC else value.astimezone(UTC)
    try:
        # The form that the ledger writes; six times faster than setting tzinfo afterwards.
        return _fromisoformat(value + "+00:00")
    except ValueError:
        time = _fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _to_json_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        raise TypeError
    found: Any = from_json(value, allow_inf_nan=False, cache_strings="keys")
    if _maybe_huge(value):
        json.loads(value, parse_float=_finite)
    if type(found) is not dict:
        raise TypeError
    return cast("dict[str, Any]", found)


# Numbers that may exceed the range of a float: the parser reads them as infinity without an error.
_maybe_large_exponent = re.compile(r"[eE]\+?\d{3}").search
_many_digits = re.compile(r"\d{300}").search


def _maybe_huge(text: str) -> bool:
    # One regular expression for both would take three times as long.
    return bool(_maybe_large_exponent(text) or (len(text) >= 300 and _many_digits(text)))


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _to_number(value: Any) -> float:
    # SQLite stores whole numbers of a REAL column as integers, and RETURNING returns integers.
    if type(value) is not float and type(value) is not int:
        raise TypeError
    return float(value)


def to_ids(value: Any) -> tuple[int, ...]:
    """Returns the ids of a JSON list; NULL is an empty tuple."""
    if value is None:
        return ()
    if not isinstance(value, str):
        raise TypeError
    found: Any = from_json(value)
    if type(found) is not list or any(type(each) is not int for each in cast("list[Any]", found)):
        raise TypeError
    return tuple(cast("list[int]", found))


def to_path(value: Any) -> tuple[str | int, ...] | None:
    """Returns the steps of a JSON list of keys and indices; NULL is None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError
    found: Any = from_json(value)
    if type(found) is not list or any(
        type(each) not in (int, str) for each in cast("list[Any]", found)
    ):
        raise TypeError
    return tuple(cast("list[str | int]", found))


def to_names(value: Any) -> tuple[str, ...]:
    """Returns the texts of a JSON list."""
    found: Any = from_json(value)
    if type(found) is not list or any(type(each) is not str for each in cast("list[Any]", found)):
        raise TypeError
    return tuple(cast("list[str]", found))


_BY_TYPE: Final[dict[type[TypeEngine[Any]], Reader]] = {
    UTCDateTime: Reader(decode_time, "is not a time"),
    JSONText: Reader(_to_json_object, "is not a JSON object"),
    Text: Reader(str, "is not text"),
    Integer: Reader(int, "is not an integer"),
    BigInteger: Reader(int, "is not an integer"),
    Double: Reader(_to_number, "is not a number"),
    Boolean: Reader({0: False, 1: True}, "is not a truth value"),
}


def converter(
    columns: Sequence[Column[Any]],
    make: Callable[[dict[str, Any]], T],
    others: Mapping[str, Reader],
) -> Callable[[Sequence[Any]], T]:
    """Returns a function that converts a row of one table's `columns` and passes their values to `make`.

    The type of a column decides how it is read, unless `others` has a reader for it. The function raises `CorruptRow`
    for a row that can't be read.
    """
    table = columns[0].table.description
    readers = [others.get(column.key) or _BY_TYPE[type(column.type)] for column in columns]
    namespace: dict[str, Any] = {"make": make, "UNREADABLE": _UNREADABLE}
    tests: list[str] = []
    values: list[str] = []
    for place, (column, reader) in enumerate(zip(columns, readers, strict=True)):
        test, value = _code(place, column, reader)
        namespace[f"read_{place}"] = reader.read
        tests += test
        values.append(f"            {column.key!r}: {value},")
    namespace["corrupt"] = _finder(table, columns, readers)
    lines = [
        "def convert(row):",
        f"    ({', '.join(f'value_{place}' for place in range(len(columns)))},) = row",
        "    try:",
        f"        if not ({' and '.join(tests) or 'True'}):",
        "            raise TypeError",
        "        return make({",
        *values,
        "        })",
        "    except UNREADABLE:",
        "        raise corrupt(row) from None",
    ]
    source = "\n".join(lines) + "\n"
    file = f"<the conversion of rows of {table}>"
    # Tracebacks and debuggers read the source from this cache.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), namespace)  # noqa: S102 - built from the names of our own columns
    return namespace["convert"]


def _code(place: int, column: Column[Any], reader: Reader) -> tuple[list[str], str]:
    """The conditions on a value, and the expression that converts it."""
    value, read = f"value_{place}", f"read_{place}"
    may_be_null = bool(column.nullable) and not reader.reads_null
    if isinstance(reader.read, type):
        test = f"type({value}) is {read}"
        return [f"({value} is None or {test})" if may_be_null else test], value
    converted = f"{read}[{value}]" if isinstance(reader.read, dict) else f"{read}({value})"
    return [], f"None if {value} is None else {converted}" if may_be_null else converted


def _read(read: Any, value: object) -> None:
    if isinstance(read, dict):
        read[value]
    elif not isinstance(read, type):
        read(value)
    elif type(value) is not read:
        raise TypeError


def _finder(
    table: str, columns: Sequence[Column[Any]], readers: Sequence[Reader]
) -> Callable[[Sequence[Any]], CorruptRow]:
    """Returns a function that finds the unreadable column of a row; it runs only after the conversion has failed."""
    id_at = [column.key for column in columns].index("id")

    def corrupt(row: Sequence[Any]) -> CorruptRow:
        for column, reader, value in zip(columns, readers, row, strict=True):
            if value is None and column.nullable:
                continue
            try:
                _read(reader.read, value)
            except _UNREADABLE:
                return CorruptRow(table, row[id_at], column.key, reader.problem)
        return CorruptRow(table, row[id_at], "a column", "is damaged")

    return corrupt
