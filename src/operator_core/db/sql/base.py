"""The declarative base, its naming convention, and the column types of the ledger."""

from datetime import datetime
from typing import Any, cast

from pydantic_core import to_json
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
"""SQLite's clock, which has milliseconds, in the text form of `UTCDateTime`."""


BIGINT = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit integer; on SQLite, the type of a primary key must be named INTEGER for it to be the row's id."""


DOUBLE: TypeEngine[float] = cast(TypeEngine[float], Double().with_variant(Float(), "sqlite"))
"""A 64-bit floating-point number."""


class Base(DeclarativeBase):
    """The base class of the ledger's tables."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


def encode_time(value: datetime) -> str:
    """Returns a time in UTC as ``YYYY-MM-DD HH:MM:SS.ffffff``.

    This is the convention of SQLite, whose CURRENT_TIMESTAMP and datetime() are UTC without an offset, and the form
    of SQLAlchemy's DateTime on SQLite. The text has a fixed width, so it sorts by time.
    """
    return to_utc(value).isoformat(" ", "microseconds").removesuffix("+00:00")


def encode_json(value: Any, path: str, limit: int) -> str:
    """Returns `value`, which `to_json_object` has checked, as JSON text of at most `limit` bytes.

    Raises `InvalidValue` for `path` if the text is larger.
    """
    text = to_json(value)
    if len(text) > limit:
        raise InvalidValue(path, f"must not be larger than {limit} bytes as JSON")
    return text.decode()


# The next two types do not convert results: SQLAlchemy would call Python once for each value of each row. The `rows`
# module converts all columns of a raw row at once, which is several times faster.


class UTCDateTime(TypeDecorator[datetime]):
    """A time: text in UTC on SQLite, timestamptz on PostgreSQL. Results are the driver's raw values."""

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
    """JSON whose text is preserved: text on SQLite, ``json`` on PostgreSQL.

    ``jsonb`` is not used: it changes -0.0 to 0.0 and 1e2 to 100, and sorts keys. Parameters and results are the encoded
    text (see `encode_json`), whatever the driver does for the type.
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
    """The PostgreSQL type of an array of a column's values; JSON is an array of text."""
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
