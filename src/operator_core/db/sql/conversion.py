"""How a row becomes a model: one function for each row class, generated from its columns.

A loop over the columns of a row would take several times as long as the generated code, which is written
as by hand: one dictionary, each value converted in place. The attrs package makes its `__init__` so.
"""

import json
import linecache
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar, cast

from pydantic_core import from_json
from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, Table, Text
from sqlalchemy.types import TypeEngine

from operator_core.actions.errors import CorruptRow
from operator_core.db.sql.base import JSONText, UTCDateTime

__all__ = ["Reader", "converter", "decode_time", "to_ids"]

T = TypeVar("T")


class Reader(NamedTuple):
    """How a value of a column is read.

    `read` is the type that it must have, a mapping from what is stored, or a function, which raises for what it can't
    read. NULL is None where the column is nullable, unless the reader `reads_null`.
    """

    read: type[Any] | dict[Any, Any] | Callable[[Any], Any]
    problem: str
    reads_null: bool = False


# What reading raises when there is something else in a value's place.
_UNREADABLE: Final = (ValueError, TypeError, KeyError, OverflowError)

_fromisoformat = datetime.fromisoformat


def decode_time(value: Any) -> datetime:
    """A stored time as aware UTC; text without an offset is UTC. Raises ValueError or TypeError."""
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


# What can be a number beyond a float's range: the parser reads it as infinity and reports nothing.
_maybe_large_exponent = re.compile(r"[eE]\+?\d{3}").search
_many_digits = re.compile(r"\d{300}").search


def _maybe_huge(text: str) -> bool:
    # One expression for both would take three times as long.
    return bool(_maybe_large_exponent(text) or (len(text) >= 300 and _many_digits(text)))


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _to_number(value: Any) -> float:
    # SQLite keeps whole numbers of a REAL column as integers, and RETURNING shows them so.
    if type(value) is not float and type(value) is not int:
        raise TypeError
    return float(value)


def to_ids(value: Any) -> tuple[int, ...]:
    """A JSON list of ids, or NULL for none."""
    if value is None:
        return ()
    if not isinstance(value, str):
        raise TypeError
    found: Any = from_json(value)
    if type(found) is not list or any(type(each) is not int for each in cast("list[Any]", found)):
        raise TypeError
    return tuple(cast("list[int]", found))


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
    table: Table,
    names: Sequence[str],
    make: Callable[[dict[str, Any]], T],
    others: Mapping[str, Reader],
) -> Callable[[Sequence[Any]], T]:
    """A function of a row with the columns `names` that returns what `make` makes of their values.

    Each column is read as its type says, or as `others` says. The function raises `CorruptRow` for a row that
    can't be read.
    """
    columns = [table.c[name] for name in names]
    readers = [others.get(column.key) or _BY_TYPE[type(column.type)] for column in columns]
    namespace: dict[str, Any] = {"make": make, "UNREADABLE": _UNREADABLE}
    tests: list[str] = []
    values: list[str] = []
    for place, (column, reader) in enumerate(zip(columns, readers, strict=True)):
        test, value = _code(place, column, reader)
        namespace[f"read_{place}"] = reader.read
        tests += test
        values.append(f"            {column.key!r}: {value},")
    namespace["corrupt"] = _finder(table.name, columns, readers)
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
    file = f"<the conversion of rows of {table.name}>"
    # Where tracebacks and debuggers find it.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), namespace)  # noqa: S102 - made of the names of our own columns
    return namespace["convert"]


def _code(place: int, column: Column[Any], reader: Reader) -> tuple[list[str], str]:
    """The conditions that a value must meet, and the expression that converts it."""
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
    """Finds the column of a row that can't be read: only after the row has failed."""
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
