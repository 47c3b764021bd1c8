"""The declarative base, its naming convention, and the column types of the ledger."""

import json
from datetime import datetime
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Dialect,
    Double,
    Float,
    Integer,
    MetaData,
    Text,
    type_coerce,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TIMESTAMP, TypeDecorator, TypeEngine

from operator_core.actions.errors import InvalidValue
from operator_core.actions.values import to_utc

__all__ = [
    "BIGINT",
    "DOUBLE",
    "SQLITE_NOW",
    "Base",
    "JSONText",
    "UTCDateTime",
    "array_of",
    "encode_json",
    "encode_time",
]

NAMING_CONVENTION = {
    "ix": "idx_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
"""SQLite's clock, which counts milliseconds, in the text form of `UTCDateTime`."""


BIGINT = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits; on SQLite the word must be INTEGER for a primary key to be the row's own id."""


DOUBLE: TypeEngine[float] = cast(TypeEngine[float], Double().with_variant(Float(), "sqlite"))
"""A floating-point number of 64 bits."""

# Made once: json.dumps makes an encoder for each call that asks for anything but its defaults.
_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Base(DeclarativeBase):
    """The tables of the ledger."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


def encode_time(value: datetime) -> str:
    """UTC as ``YYYY-MM-DD HH:MM:SS.ffffff``.

    SQLite's own convention (its CURRENT_TIMESTAMP and datetime() are UTC without saying so) and
    the form of SQLAlchemy's DateTime there; text of one width, so it sorts as time does.
    """
    return to_utc(value).isoformat(" ", "microseconds").removesuffix("+00:00")


def encode_json(value: Any, path: str, limit: int) -> str:
    """`value`, which `to_json_object` has checked, as JSON text of at most `limit` bytes.

    Raises `InvalidValue` at `path` if it is larger.
    """
    text = _to_json(value)
    # No character of UTF-8 takes more than four bytes, so most text need not be encoded to know.
    if len(text) * 4 > limit and len(text.encode()) > limit:
        raise InvalidValue(path, f"must not be larger than {limit} bytes as JSON")
    return text


# Neither type converts results: SQLAlchemy would call Python once for each value of each row. The
# ledger's `rows` module makes models of raw rows, all columns at once, which is several times faster.


class UTCDateTime(TypeDecorator[datetime]):
    """A moment: text in UTC on SQLite, timestamptz elsewhere. Results come as the driver gives them."""

    impl = TIMESTAMP(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Text())
        return dialect.type_descriptor(TIMESTAMP(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return encode_time(value) if dialect.name == "sqlite" else to_utc(value)


class JSONText(TypeDecorator[str]):
    """JSON kept as it was written: text on SQLite, ``json`` elsewhere, which keeps the text too.

    Not ``jsonb``, which makes 0.0 of -0.0 and 100 of 1e2, and sorts keys. Binds and results are the
    encoded text (see `encode_json`), whatever a driver would make of the type.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else postgresql.JSON())

    def bind_processor(self, dialect: Dialect) -> None:
        return None

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        return None

    def bind_expression(self, bindparam: BindParameter[Any]) -> ColumnElement[Any]:
        return _json_from_text(type_coerce(bindparam, Text))

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return _json_as_text(column)


def array_of(column: ColumnElement[Any]) -> ARRAY[Any]:
    """The type of an array of a column's values, as PostgreSQL takes them; JSON as text."""
    if isinstance(column.type, UTCDateTime):
        return ARRAY(TIMESTAMP(timezone=True))
    return ARRAY(Text() if isinstance(column.type, JSONText) else column.type)


class _json_from_text(FunctionElement[str]):  # noqa: N801
    type = Text()
    inherit_cache = True


class _json_as_text(FunctionElement[str]):  # noqa: N801
    type = Text()
    inherit_cache = True


@compiles(_json_from_text)
def _cast_to_json(element: _json_from_text, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS JSON)"


@compiles(_json_as_text)
def _cast_to_text(element: _json_as_text, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS TEXT)"


@compiles(_json_from_text, "sqlite")
@compiles(_json_as_text, "sqlite")
def _text_as_it_is(element: FunctionElement[str], compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)
