"""Conditions that hold for every row, and tell PostgreSQL's planner how many of them to expect.

It plans by statistics. A young table has none, and a queue's are never right: what waits comes and goes
within a second, and a plan is kept until the next ANALYZE. Made when nothing waited, it would read and
sort all that does; made when a table was one page, it would read all of it ever after. These say the same
whatever the statistics say, and so does the plan: by index, a few at a time.

The numbers are the planner's own defaults (PostgreSQL, src/include/utils/selfuncs.h): one row in 200
where it knows nothing of two expressions that are to be equal, 199 in 200 for IS NOT NULL, a tenth of
all for a LIMIT that it can't see.
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

__all__ = ["any_number", "few", "few_in", "nearly_all"]


def few(number: ColumnElement[int]) -> ColumnElement[bool]:
    """True of every number; taken for true of one row in 200."""
    return number + literal_column("0") == number


def few_in(text: ColumnElement[str], value: str) -> ColumnElement[bool]:
    """Whether a text is `value`; taken for true of one row in 200, however often it is there."""
    return text + literal_column("''", Text()) == literal_column(f"'{value}'", Text())


def nearly_all(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether all conditions hold; taken for true of nearly every row."""
    return case((and_(*conditions), literal_column("1", Integer()))).is_not(None)


def any_number(limit: BindParameter[int]) -> Any:
    """For a LIMIT, which is then planned for whatever its value: in the order of an index, as far as it goes."""
    return select(limit).scalar_subquery()
