"""A rule, a grant, a halt or a limit ends once. Not even the statement that ends it can change what it was."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from sqlalchemy import Boolean, Column, Double, Integer, Table

from operator_core.actions import Rule
from operator_core.db import ActionDB
from operator_core.db.sql.base import JSONText, UTCDateTime
from operator_core.db.sql.tables import GRANTS, HALTS, LIMITS, RULES
from tests.conftest import ON_SERVER, RawSQL

pytestmark = pytest.mark.two_backends

WHY: Final = {"by": "lead", "reason": "r"}
MAKE: Final[dict[Table, Callable[[ActionDB], Awaitable[object]]]] = {
    RULES: lambda db: db.add_rule(Rule(name="r", action_name="drain_*"), **WHY),
    GRANTS: lambda db: db.grant(
        by="ann", action_name="drain_*", max_uses=1, reason="r", valid_until=datetime(2999, 1, 1, tzinfo=UTC)
    ),
    HALTS: lambda db: db.halt(**WHY, cancel=False),
    LIMITS: lambda db: db.set_limit("r", action_name="drain_*", max_starts=1, window=60, **WHY),
}  # fmt: skip
ENDS: Final = ("revoke", "resume", "remove")


def ending(table: Table, backend: str) -> str:
    """The assignments that end a row, as its verb has them."""
    word = next(each for each in ENDS if f"{each}_reason" in table.c)
    past = f"{word}d" if word.endswith("e") else f"{word}ed"
    now = "clock_timestamp()" if backend in ON_SERVER else "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
    return f"{past}_at = {now}, {past}_by = 'lead', {word}_reason = 'r'"


def other(column: Column[Any], backend: str) -> str:
    """Another value than it has, in SQL."""
    if isinstance(column.type, UTCDateTime):
        return "'2031-01-01 00:00:00.000000'"
    if isinstance(column.type, Boolean):
        return f"NOT {column.name}"
    if isinstance(column.type, JSONText):
        return "'[\"other\"]'"
    if isinstance(column.type, Integer | Double):
        return f'coalesce("{column.name}", 0) + 1'
    return "'other'"


@pytest.mark.parametrize("table", MAKE, ids=lambda table: table.name)
async def test_it_ends_as_it_was(db: ActionDB, raw: RawSQL, backend: str, table: Table) -> None:
    await MAKE[table](db)
    ends = ending(table, backend)
    names = {each.partition(" =")[0] for each in ends.split(", ")}
    kept = [column for column in table.c if column.name not in names and column.name != "id"]
    select = f"SELECT {', '.join(column.compile().string for column in table.c)} FROM {table.name}"
    before = await raw(select)
    refused = r"immutable|can only be updated to DEFAULT"
    for column in (table.c.id, *kept):
        with pytest.raises(Exception, match=refused):
            await raw(f'UPDATE {table.name} SET "{column.name}" = {other(column, backend)}, {ends}')
    assert await raw(select) == before
    await raw(f"UPDATE {table.name} SET {ends}")
    ((ended,),) = await raw(
        f"SELECT count(*) FROM {table.name} WHERE {sorted(names)[-1]} IS NOT NULL"
    )
    assert ended == 1
