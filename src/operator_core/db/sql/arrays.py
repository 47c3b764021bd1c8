"""Conditions on a list of values in one parameter: an array on PostgreSQL, JSON text on SQLite."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Dialect, Text, bindparam, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine

__all__ = ["each", "listed"]


class _JSONList(TypeDecorator[Sequence[Any]]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> str:
        return json.dumps(value)


def _many(name: str, kind: TypeEngine[Any]) -> Any:
    return bindparam(name, type_=ARRAY(kind).with_variant(_JSONList(), "sqlite"))


class _among(FunctionElement[Any]):  # noqa: N801 - used in statements like a SQL function
    # Not Boolean: SQLite has no such type, so SQLAlchemy compares it with 1, and then no index is used.
    type = NullType()
    inherit_cache = True


@compiles(_among)
def _among_array(element: _among, compiler: SQLCompiler, **options: Any) -> str:
    column, many = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} = ANY ({many})"


@compiles(_among, "sqlite")
def _among_json(element: _among, compiler: SQLCompiler, **options: Any) -> str:
    column, many = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({many}))"  # noqa: S608


def listed(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether the column, of numbers or text, is in the parameter `name`, a list of any length."""
    kind = BigInteger() if isinstance(column.type, BigInteger) else Text()
    return _among(column, _many(name, kind))


def each(name: str) -> TableValuedAlias:
    """The numbers of the parameter `name` as a table with a column `value`, on SQLite."""
    return func.json_each(_many(name, BigInteger())).table_valued("value", name=f"each_{name}")
