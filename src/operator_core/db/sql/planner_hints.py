"""Conditions that fix the number of rows that PostgreSQL's planner expects, whatever its statistics are.

The planner uses statistics. A young table has none, and those of a queue are never right: its rows come and go within
a second, and a plan is kept until the next ANALYZE. A plan made for an empty queue would read and sort all rows that
wait later. A plan made for a table of one page would always read the whole table. With these conditions, the expected
number and thus the plan do not depend on the statistics: it reads a few rows at a time by an index.

The numbers are the planner's own defaults (PostgreSQL, src/include/utils/selfuncs.h): one row in 200 for the equality
of two expressions that it knows nothing about, 199 in 200 for IS NOT NULL, and a tenth of the rows for a LIMIT whose
value it can't see.
"""

from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Text,
    and_,
    case,
    literal_column,
    select,
)

__all__ = ["any_number", "few", "few_in", "nearly_all", "unseen"]


def few(number: ColumnElement[int]) -> ColumnElement[bool]:
    """True for every number; the planner expects one row in 200."""
    return number + literal_column("0") == number


def few_in(text: ColumnElement[str], value: str) -> ColumnElement[bool]:
    """Whether a text is `value`; the planner expects one row in 200, however frequent the value is."""
    return text + literal_column("''", Text()) == literal_column(f"'{value}'", Text())


def nearly_all(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether all conditions are true; the planner expects that of nearly every row."""
    return case((and_(*conditions), literal_column("1", Integer()))).is_not(None)


def unseen(limit: BindParameter[int]) -> ColumnElement[int]:
    """A LIMIT whose value SQLite's planner can't see.

    Newer versions plan for the value, if they are built with SQLITE_ENABLE_STAT4, and therefore compile the statement
    again for each execution. That takes ten times as long as a claim's search.
    """
    return limit + literal_column("0")


def any_number(limit: BindParameter[int]) -> Any:
    """A LIMIT whose value the planner can't see: it then plans to read the rows in the order of an index."""
    return select(limit).scalar_subquery()
