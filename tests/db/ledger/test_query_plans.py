"""Every query of the ledger uses the index that it was given, and sorts nothing."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions import ActionStatus
from operator_core.db import ActionDB
from operator_core.db.ledger import (
    executions,
    history,
    outcomes,
    proposals,
    queries,
    records,
    status,
)
from operator_core.db.ledger.history import Position
from operator_core.db.ledger.stops import Stop, cancel_pending
from operator_core.db.sql.unit import Unit
from tests.conftest import proposal
from tests.db.ledger.plans import listening, plans_on_postgresql, plans_on_sqlite

pytestmark = pytest.mark.timeout(300)  # the first of them makes the rows

S = ActionStatus

LIST: Callable[..., Any] = queries.list_proposals

BY_ID = "the primary key"
NEWEST_FIRST = "the primary key, backwards"  # LIMIT ends it
OLDEST_FIRST = "the primary key, forwards"
IN_ORDER = "the order of commits"

QUERIES: dict[str, tuple[Unit[Any], str]] = {
    "get": (lambda c: queries.get_proposal(c, 5), BY_ID),
    "list": (lambda c: LIST(c, limit=50), NEWEST_FIRST),
    "list before": (lambda c: LIST(c, before=500, limit=50), BY_ID),
    "list status": (lambda c: LIST(c, [S.FAILED], limit=50), "idx_action_proposals_status"),
    "list rare status": (lambda c: LIST(c, [S.CANCELLED], limit=50), "idx_action_proposals_status"),
    "list status before": (
        lambda c: LIST(c, [S.FAILED], before=9, limit=50),
        "idx_action_proposals_status",
    ),
    "list oldest": (lambda c: LIST(c, oldest_first=True, limit=50), OLDEST_FIRST),
    "list oldest after": (lambda c: LIST(c, oldest_first=True, after=500, limit=50), BY_ID),
    "list oldest of a status": (
        lambda c: LIST(c, [S.FAILED], oldest_first=True, after=9, limit=50),
        "idx_action_proposals_status",
    ),
    "list oldest of a run": (
        lambda c: LIST(c, run_id="run_7", oldest_first=True, after=9, limit=50),
        "idx_action_proposals_run",
    ),
    "list statuses": (lambda c: LIST(c, list(S), limit=50), "idx_action_proposals_status"),
    "list ticket": (lambda c: LIST(c, ticket_id=1, limit=50), "idx_action_proposals_ticket"),
    "list no such ticket": (
        lambda c: LIST(c, ticket_id=999, limit=50),
        "idx_action_proposals_ticket",
    ),
    "list name": (
        lambda c: LIST(c, action_name="action_7", limit=50),
        "idx_action_proposals_action_name",
    ),
    "list no such name": (
        lambda c: LIST(c, action_name="x", limit=50),
        "idx_action_proposals_action_name",
    ),
    "list by": (
        lambda c: LIST(c, proposed_by="agent_3", limit=50),
        "idx_action_proposals_proposed_by",
    ),
    "list run": (lambda c: LIST(c, run_id="run_7", limit=50), "idx_action_proposals_run"),
    "list no such run": (lambda c: LIST(c, run_id="x", limit=50), "idx_action_proposals_run"),
    "list parent": (lambda c: LIST(c, parent_id=2, limit=50), "idx_action_proposals_parent"),
    "list agent": (lambda c: LIST(c, agent_id="agent_3", limit=50), "idx_action_proposals_agent"),
    "list requester": (
        lambda c: LIST(c, requester_id="u_3", before=500, limit=50),
        "idx_action_proposals_requester",
    ),
    "call": (queries.find_call("run_7", "call_142"), "uq_action_proposals_call"),
    "count": (queries.count_proposals, "idx_action_proposals_status"),
    "count run": (
        lambda c: queries.count_proposals(c, run_id="run_7"),
        "idx_action_proposals_run",
    ),
    "move": (status.move_proposal(status.Move(1, S.VALIDATED, "a", None)), BY_ID),
    "move of a version": (status.move_proposal(status.Move(1, S.VALIDATED, "a", None, 1)), BY_ID),
    "retry": (
        status.move_proposal(status.Move(10, S.VALIDATED, "a", None, source=S.FAILED)),
        BY_ID,
    ),
    "record": (lambda c: records.get_record(c, 5), BY_ID),
    "end record": (
        executions.end(
            [executions.Ending(5, None, None)], executions.Manner(True, "a", leased=True)
        ),
        BY_ID,
    ),
    "unresolved": (lambda c: outcomes.unresolved(c, limit=50), "idx_action_records_unknown"),
    "records": (lambda c: records.get_records_for_proposal(c, 5), "idx_action_records_proposal"),
    "history": (lambda c: history.list_events(c, after=50, limit=50), BY_ID),
    "history of one": (
        lambda c: history.list_events(c, 5, after=3, limit=50),
        "idx_action_events_proposal",
    ),
    "position": (lambda c: history.position_of(c, 5), BY_ID),
    "next events": (lambda c: history.next_events(c, Position(5, 450_000), 50), IN_ORDER),
    "no more events": (lambda c: history.next_events(c, Position(50, 2_000_000), 50), IN_ORDER),
    "newest event": (history.newest_event, IN_ORDER),
}

GROUPED = "count run"
"""The rows of one run are grouped by status; there are few."""


@pytest.mark.parametrize("name", QUERIES)
async def test_each_query_uses_its_index_on_sqlite(name: str, million_file: Path) -> None:
    unit, index = QUERIES[name]
    words = {
        BY_ID: "USING INTEGER PRIMARY KEY (rowid",
        NEWEST_FIRST: "SCAN action_proposals",
        OLDEST_FIRST: "SCAN action_proposals",
        # Writers take turns: ids are in the order of commits. The newest is where the table ends.
        IN_ORDER: "SEARCH action_events",
    }
    for plan in await plans_on_sqlite(million_file, unit):
        assert words.get(index, index) in plan
        if "UNION" not in plan and "COMPOUND" not in plan and name != GROUPED:
            assert "TEMP B-TREE" not in plan
        if index not in (NEWEST_FIRST, OLDEST_FIRST) and name != "count":
            assert "SCAN action_" not in plan, plan
        if name == "list status before":
            assert "(status=? AND id<?)" in plan
        if name == "history of one":
            assert "(proposal_id=? AND id>?)" in plan


# A statement that is prepared gets a plan for its values the first times, and maybe one for all values
# afterwards: both must be good, also for values that are rarer than others.
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", QUERIES)
async def test_each_query_uses_its_index_on_postgresql(
    name: str, plans: str, million_url: str
) -> None:
    unit, index = QUERIES[name]
    words = {
        # Both find the one row, by its id.
        BY_ID: ("using pk_action_", "using idx_action_proposals_status"),
        NEWEST_FIRST: ("Index Scan Backward using pk_action_proposals",),
        OLDEST_FIRST: ("Index Scan using pk_action_proposals",),
        IN_ORDER: ("using idx_action_events_order",),
    }
    for plan in await plans_on_postgresql(million_url, unit, plans):
        if name == "count":
            # Every row counts, so all of the index is read, by one process or several; and nothing else.
            assert f"Index Only Scan using {index}" in plan, plan
            assert plan.count("Scan") == 1, plan
            continue
        assert "Seq Scan" not in plan, plan
        if name == "position" and "action_events.id = " not in plan and "(id = " not in plan:
            # Whether the events are of this server at all is asked first.
            assert "using idx_action_events_order" in plan, plan
            continue
        assert any(each in plan for each in words.get(index, (index,))), plan
        if index == BY_ID and name not in ("list before", "list oldest after", "history"):
            assert "id = " in plan, plan
        if "statuses" not in name and name != GROUPED:
            assert "Sort" not in plan, plan


async def test_many_creates_and_the_kill_switch_are_few_statements() -> None:
    statements: list[str] = []

    def counted(unit: Unit[Any]) -> Unit[Any]:
        def run(conn: Any) -> Any:
            with listening(conn) as said:
                result = unit(conn)
            statements.extend(sql.split()[0] for sql, _ in said)
            return result

        return run

    async with ActionDB(":memory:") as db:
        batch = proposals.NewProposals("agent", 1 << 20)
        for _ in range(2500):
            batch.add(proposal())
        await db._units.write(counted(lambda conn: proposals.create_proposals(conn, [batch])))
        assert statements == ["INSERT"] * 3  # of a thousand rows each
        statements.clear()
        unit = counted(partial(cancel_pending, stop=Stop(actor="a", reason=None)))
        assert await db._units.write(unit) == 2500
        # What depends on others is looked for first, and retries are called off last.
        assert statements == ["SELECT", "UPDATE", "UPDATE"]


async def test_the_plan_would_show_a_missing_index() -> None:
    async with ActionDB(":memory:") as db:
        plan = await db._units.write(
            lambda conn: conn.exec_driver_sql(
                "EXPLAIN QUERY PLAN SELECT * FROM action_proposals WHERE reason = 'x' ORDER BY reason"
            ).all()
        )
    assert "SCAN action_proposals" in plan[0][-1]
