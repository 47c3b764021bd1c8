"""Statements that PostgreSQL runs for several callers at once, each of whom changes one row.

The parameters are arrays, so that the text is the same for any number of callers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Executable, Select, Table, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.selectable import CTE, TableValuedAlias
from sqlalchemy.types import TypeEngine

from operator_core.db.sql.planner_hints import few
from operator_core.db.sql.unit import UNANSWERED, Shortcut, Unanswered

__all__ = ["calls_of", "free_rows", "together"]

T = TypeVar("T")


def calls_of(columns: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    """The table of the calls; the values of its column `id` are the array in the parameter `ids`."""
    arrays = (bindparam(f"{name}s", type_=ARRAY(kind)) for name, kind in columns.items())
    named = (column(name, kind) for name, kind in columns.items())
    return func.unnest(*arrays).table_valued(*named).render_derived(name="calls")


def free_rows(
    calls: TableValuedAlias, table: Table, *conditions: ColumnElement[bool], lock: Sequence[Table]
) -> CTE:
    """The calls whose row of `table` meets the conditions and is not locked, with the rows of `lock` locked.

    It waits for no other transaction, and so it can't deadlock. The lock is that of an UPDATE.
    """
    found: Select[Any] = (
        select(*calls.c)
        .where(table.c.id == calls.c.id, few(calls.c.id), *conditions)
        .order_by(table.c.id)
        .with_for_update(of=lock, skip_locked=True, key_share=True)
    )
    return found.cte("free")


def together(
    calls: Sequence[Mapping[str, Any]],
    *,
    statement: Executable,
    result: Callable[[Sequence[Any]], T],
) -> Shortcut[list[T | Unanswered]]:
    """The `statement` for these calls, each with the values of the columns of `calls_of`.

    Each row that it returns starts with the id of a call, and `result` converts it to the result of that call. Of
    several calls with one id, only the first is part of the statement.
    """
    first: dict[int, int] = {}
    for place, call in enumerate(calls):
        first.setdefault(call["id"], place)
    parameters = {f"{name}s": [calls[place][name] for place in first.values()] for name in calls[0]}

    def answer(rows: Sequence[Any]) -> list[T | Unanswered]:
        answers: list[T | Unanswered] = [UNANSWERED] * len(calls)
        for row in rows:
            answers[first[row[0]]] = result(row)
        return answers

    return Shortcut(statement, parameters, answer, explains=())
