"""Checks the references, ids and dependencies of a ledger's rows."""

from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    not_,
    select,
    true,
    union_all,
)

from operator_core.cli.findings import Check, Verdict
from operator_core.cli.overview import UNHANDLED
from operator_core.db.sql.base import Base
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.tables import (
    DECISIONS,
    DEPENDENCIES,
    EVENTS,
    GRANTS,
    LIMITS,
    NUMBERED,
    PROPOSALS,
    RECORDS,
    REQUIREMENTS,
    RULES,
    STARTS,
    TICKETS,
    WORKFLOWS,
)

__all__ = ["LAST_ID", "ROW_CHECKS"]

LAST_ID: Final = 2**62 - 1
"""The largest id that the schema accepts; the numbering itself can go further."""


_REFERENCES: Final = (
    (PROPOSALS.c.ticket_id, TICKETS),
    (PROPOSALS.c.workflow_id, WORKFLOWS),
    (WORKFLOWS.c.ticket_id, TICKETS),
    (RECORDS.c.proposal_id, PROPOSALS),
    (DEPENDENCIES.c.proposal_id, PROPOSALS),
    (DEPENDENCIES.c.depends_on_id, PROPOSALS),
    (EVENTS.c.proposal_id, PROPOSALS),
    (EVENTS.c.record_id, RECORDS),
    (STARTS.c.limit_id, LIMITS),
    (STARTS.c.proposal_id, PROPOSALS),
    (PROPOSALS.c.supersedes_id, PROPOSALS),
    (REQUIREMENTS.c.proposal_id, PROPOSALS),
    (REQUIREMENTS.c.rule_id, RULES),
    (DECISIONS.c.proposal_id, PROPOSALS),
    (DECISIONS.c.requirement_id, REQUIREMENTS),
    (DECISIONS.c.grant_id, GRANTS),
    (DECISIONS.c.withdraws_id, DECISIONS),
)


def _dangling(_: Connection) -> Any:
    def one(column: ColumnElement[Any], parent: FromClause) -> Any:
        child: Any = column.table  # pyright: ignore
        row = child.c.id if "id" in child.c else child.c.proposal_id
        # An alias, in case a table refers to itself.
        target = parent.alias("parent")
        return (
            select(
                literal(child.name).label("child"),
                row.label("row"),
                literal(parent.name).label("parent"),  # pyright: ignore
                column.label("target"),
            )
            .outerjoin_from(child, target, target.c.id == column)
            .where(column.is_not(None), target.c.id.is_(None))
        )

    wrong = union_all(*(one(column, parent) for column, parent in _REFERENCES)).subquery()
    return select(*wrong.c)


def _bad_ids(_: Connection) -> Any:
    tables = [Base.metadata.tables[name] for name in NUMBERED]
    outside = (
        select(
            literal(table.name).label("name"), table.c.id, literal("is out of range").label("why")
        ).where(not_(table.c.id.between(1, LAST_ID)))
        for table in tables
    )
    twice = (
        select(literal(table.name), table.c.id, literal("is there more than once"))
        .group_by(table.c.id)
        .having(func.count() > 1)
        for table in tables
    )
    wrong = union_all(*outside, *twice).subquery()
    return select(*wrong.c)


def _bad_edges(conn: Connection) -> Any:
    """Compares ``depends_on`` with the rows of the edges: each dependency must be in both."""
    named: Any
    listed = PROPOSALS.c.depends_on
    if is_sqlite(conn):
        # The check of rows reports a value that is not a JSON array.
        is_array = and_(func.json_valid(listed) == 1, func.json_type(listed) == "array")
        named = func.json_each(case((is_array, listed), else_="[]")).table_valued("value")
    else:
        is_array = func.json_typeof(listed) == "array"
        array = case((is_array, listed), else_=cast("[]", listed.type))
        named = func.json_array_elements_text(array).table_valued("value")
    expected = (
        select(
            PROPOSALS.c.id.label("id"),
            cast(named.c.value, Text).label("other"),
            literal(1).label("side"),
        )
        .select_from(PROPOSALS.join(named, true()))
        .where(listed.is_not(None))
        .distinct()
    )
    edges = select(DEPENDENCIES.c.proposal_id, cast(DEPENDENCIES.c.depends_on_id, Text), literal(2))
    both = union_all(expected, edges).subquery()
    sides = func.sum(both.c.side)
    problem = case((sides == 1, "has no edge for it"), else_="does not name it, and has an edge")
    return (
        select(both.c.id, both.c.other, problem)
        .group_by(both.c.id, both.c.other)
        .having(sides != 3)
    )


ROW_CHECKS: Final = (
    Check(
        "foreign keys",
        "{0} row {1} refers to a row of {2} that isn't there: {3}",
        _dangling,
        "every referenced row exists",
    ),
    Check("ids", "{0}: the id {1} {2}", _bad_ids, "all are unique and in range"),
    Check(
        "dependencies",
        "proposal {0}, which depends on {1}: depends_on {2}",
        _bad_edges,
        "the edges match depends_on",
    ),
    Check(
        "workers",
        "{0} waits, and no worker has handled it yet",
        lambda _: UNHANDLED,
        "none of the waiting actions is new to the workers",
        # A new action is no fault; only whoever looks knows whether a worker will come.
        Verdict.OK,
    ),
)
"""The checks of references, ids and dependencies, and of what waits."""
