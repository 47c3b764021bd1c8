"""The declarative base, its naming convention, and the column types of the ledger."""

import json
from datetime import datetime
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
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
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TIMESTAMP, TypeDecorator, TypeEngine

from operator_core.actions.errors import InvalidValue
from operator_core.actions.values import MAX_DELAY, to_utc

__all__ = [
    "BIGINT",
    "DOUBLE",
    "SQLITE_NOW",
    "Base",
    "JSONText",
    "UTCDateTime",
    "after_jitter",
    "current_transaction",
    "encode_json",
    "encode_time",
    "from_now",
    "readable",
    "strictly_after",
    "ticket_now",
    "utcnow",
    "written_now",
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


class ticket_now(FunctionElement[str]):  # noqa: N801
    """The database's clock as the tickets' service writes it: SQLite's CURRENT_TIMESTAMP, text in UTC."""

    type = Text()
    inherit_cache = True


@compiles(ticket_now)
def _ticket_now(element: ticket_now, compiler: SQLCompiler, **_: Any) -> str:
    return "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"


@compiles(ticket_now, "sqlite")
def _ticket_now_sqlite(element: ticket_now, compiler: SQLCompiler, **_: Any) -> str:
    return "CURRENT_TIMESTAMP"


class utcnow(FunctionElement[datetime]):  # noqa: N801 - it stands in statements as SQL functions do
    """The database's clock, in the form that `UTCDateTime` stores."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(utcnow)
def _utcnow(element: utcnow, compiler: SQLCompiler, **_: Any) -> str:
    return "clock_timestamp()"


@compiles(utcnow, "sqlite")
def _utcnow_sqlite(element: utcnow, compiler: SQLCompiler, **_: Any) -> str:
    return SQLITE_NOW


class written_now(FunctionElement[datetime]):  # noqa: N801
    """As `utcnow`, and the same for all columns of a row."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(written_now)
def _written_now(element: written_now, compiler: SQLCompiler, **_: Any) -> str:
    return "statement_timestamp()"


@compiles(written_now, "sqlite")
def _written_now_sqlite(element: written_now, compiler: SQLCompiler, **_: Any) -> str:
    # The clock of SQLite stands still during a statement.
    return SQLITE_NOW


class current_transaction(FunctionElement[int]):  # noqa: N801
    """The transaction that writes, by a number that grows from one to the next; 0 on SQLite, which has one at a time."""

    type = BigInteger()
    inherit_cache = True


@compiles(current_transaction)
def _current_transaction(element: current_transaction, compiler: SQLCompiler, **_: Any) -> str:
    # Not before any that has completed: two that change one proposal, the second of which waited for the
    # first, may have got their own numbers in the other order.
    return (
        "greatest(pg_current_xact_id()::text::bigint, "
        "pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)"
    )


@compiles(current_transaction, "sqlite")
def _current_transaction_sqlite(
    element: current_transaction, compiler: SQLCompiler, **_: Any
) -> str:
    return "0"


class strictly_after(FunctionElement[datetime]):  # noqa: N801
    """The database's clock, or just after the time in the given column where the clock is not past it."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(strictly_after)
def _strictly_after(element: strictly_after, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    # A time at the end of what there is, which another tool set, gives way to the clock.
    after = f"CASE WHEN {column} < '9998-01-01 00:00:00+00' THEN {column} + interval '1 microsecond' END"
    return f"greatest(clock_timestamp(), {after})"


@compiles(strictly_after, "sqlite")
def _strictly_after_sqlite(element: strictly_after, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    after = f"strftime('%Y-%m-%d %H:%M:%f000', {column}, '+0.001 seconds')"
    # A time that another tool made unreadable, or none, gives way to the clock.
    return f"coalesce(max({SQLITE_NOW}, {after}), {SQLITE_NOW})"


class from_now(FunctionElement[datetime]):  # noqa: N801
    """The database's clock and so many seconds."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(from_now)
def _from_now(element: from_now, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"clock_timestamp() + make_interval(secs => {seconds})"


@compiles(from_now, "sqlite")
def _from_now_sqlite(element: from_now, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+.3f seconds', {seconds}))"


class after_jitter(FunctionElement[float]):  # noqa: N801
    """Seconds until the retry after `retry_count` others: exponential backoff with full jitter.

    Anything from none to ``min(max_retry_delay, retry_delay * 2 ** retry_count)``, so that what
    failed together does not come back together (M. Brooker, "Exponential Backoff And Jitter", AWS, 2015).
    """

    type = Float()
    inherit_cache = True


@compiles(after_jitter)
def _after_jitter(element: after_jitter, compiler: SQLCompiler, **options: Any) -> str:
    count, delay, most = (compiler.process(each, **options) for each in element.clauses)
    # Within what the ledger takes, whatever another tool wrote there.
    # A product too small for a float is an error on PostgreSQL, which would fail all of a statement.
    return (
        f"random() * greatest(1e-9, least({most}, {MAX_DELAY}, "
        f"least({delay}, {MAX_DELAY}) * power(2, least({count}, 60))))"
    )


@compiles(after_jitter, "sqlite")
def _after_jitter_sqlite(element: after_jitter, compiler: SQLCompiler, **options: Any) -> str:
    count, delay, most = (compiler.process(each, **options) for each in element.clauses)
    # SQLite's random() is any 64-bit integer, and its power() an option of how it was built.
    return (
        f"abs(random() % 1000000) / 1e6 * min({most}, {MAX_DELAY}, "
        f"min({delay}, {MAX_DELAY}) * (1 << min({count}, 60)))"
    )


class readable(FunctionElement[bool]):  # noqa: N801
    """Whether the ledger can read the JSON in a column of parameters, as far as the database can tell."""

    type = Boolean()
    inherit_cache = True


@compiles(readable)
def _readable(element: readable, compiler: SQLCompiler, **options: Any) -> str:
    (column,) = element.clauses
    # The column as it is, without the cast that results get.
    return f"action_ledger_readable({compiler.process(column, **options)})"


@compiles(readable, "sqlite")
def _readable_sqlite(element: readable, compiler: SQLCompiler, **options: Any) -> str:
    return "1"
