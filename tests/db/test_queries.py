"""Every query of the ledger uses the index that it was given, and sorts nothing."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import event

from operator_core.actions import ActionStatus, InvalidTransition
from operator_core.db import ActionDB, events, proposals, records
from operator_core.db.engine import Unit
from tests.conftest import proposal

S = ActionStatus

PRIMARY_KEY = "USING INTEGER PRIMARY KEY (rowid"
NEWEST_FIRST = "SCAN action_proposals"  # backwards along the primary key; LIMIT ends it

LIST: Callable[..., Any] = proposals.list_proposals

QUERIES: list[tuple[str, Unit[Any], str]] = [
    ("get", lambda c: proposals.get_proposal(c, 5), PRIMARY_KEY),
    ("list", lambda c: LIST(c, limit=50), NEWEST_FIRST),
    ("list before", lambda c: LIST(c, before=500, limit=50), PRIMARY_KEY),
    ("list status", lambda c: LIST(c, [S.FAILED], limit=50), "idx_action_proposals_status"),
    (
        "list status before",
        lambda c: LIST(c, [S.FAILED], before=9, limit=50),
        "idx_action_proposals_status (status=? AND id<?)",
    ),
    ("list statuses", lambda c: LIST(c, list(S), limit=50), "idx_action_proposals_status"),
    ("list ticket", lambda c: LIST(c, ticket_id=1, limit=50), "idx_action_proposals_ticket"),
    (
        "list name",
        lambda c: LIST(c, action_name="x", limit=50),
        "idx_action_proposals_action_name",
    ),
    ("list by", lambda c: LIST(c, proposed_by="x", limit=50), "idx_action_proposals_proposed_by"),
    ("count", proposals.count_proposals, "COVERING INDEX idx_action_proposals_status"),
    (
        "move",
        lambda c: proposals.update_proposal_status(c, 5, S.VALIDATED, actor="a", reason=None),
        PRIMARY_KEY,
    ),
    (
        "cancel all",
        lambda c: proposals.cancel_all_pending(c, actor="a", reason=None),
        "idx_action_proposals_status (status=?)",
    ),
    ("record", lambda c: records.get_record(c, 5), PRIMARY_KEY),
    (
        "records",
        lambda c: records.get_records_for_proposal(c, 5),
        "idx_action_records_proposal (proposal_id=?)",
    ),
    ("history", lambda c: events.list_events(c, after=50, limit=50), PRIMARY_KEY),
    (
        "history of one",
        lambda c: events.list_events(c, 5, after=3, limit=50),
        "idx_action_events_proposal (proposal_id=? AND id>?)",
    ),
]


@pytest.mark.parametrize("analysed", [False, True], ids=["fresh", "analysed"])
@pytest.mark.parametrize(("unit", "index"), [q[1:] for q in QUERIES], ids=[q[0] for q in QUERIES])
async def test_each_query_uses_its_index(unit: Unit[Any], index: str, analysed: bool) -> None:
    async with ActionDB(":memory:") as db:
        # As ledgers are: nearly all of it is over.
        await db.create_proposals(
            proposal(
                f"action_{n % 20}",
                status=S.COMPLETED if n % 20 else list(S)[n // 20 % 6],
                proposed_by=f"agent-{n % 20}",
            )
            for n in range(1000)
        )
        if analysed:
            await db._units.write(lambda conn: conn.exec_driver_sql("ANALYZE"))

        def explained(conn: Any) -> str:
            statements: list[tuple[str, Any]] = []

            def note(_c: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
                statements.append((sql, parameters))

            event.listen(conn, "before_cursor_execute", note)
            try:
                with suppress(InvalidTransition):
                    unit(conn)
            finally:
                event.remove(conn, "before_cursor_execute", note)
            sql, parameters = statements[0]
            plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all()
            return "\n".join(row[-1] for row in plan)

        plan = await db._units.write(explained)
    assert index in plan
    if "UNION" not in plan and "COMPOUND" not in plan:
        assert "TEMP B-TREE" not in plan
    if index != NEWEST_FIRST and index != "COVERING INDEX idx_action_proposals_status":
        assert "SCAN action_" not in plan, plan


async def test_many_creates_and_the_kill_switch_are_few_statements() -> None:
    statements: list[str] = []

    def counted(unit: Unit[Any]) -> Unit[Any]:
        def run(conn: Any) -> Any:
            def note(_c: Any, _cursor: Any, sql: str, *_: Any) -> None:
                statements.append(sql.split()[0])

            event.listen(conn, "before_cursor_execute", note)
            try:
                return unit(conn)
            finally:
                event.remove(conn, "before_cursor_execute", note)

        return run

    async with ActionDB(":memory:") as db:
        batch = proposals.Batch([], [])
        for _ in range(2500):
            batch.add(proposal(), actor="agent", max_json_bytes=1 << 20)
        await db._units.write(counted(lambda conn: proposals.create_proposals(conn, [batch])))
        assert statements == ["INSERT"] * 3  # of a thousand rows each
        statements.clear()
        unit = counted(lambda c: proposals.cancel_all_pending(c, actor="a", reason=None))
        assert await db._units.write(unit) == 2500
        assert statements == ["UPDATE"]


async def test_the_plan_would_show_a_missing_index() -> None:
    async with ActionDB(":memory:") as db:
        plan = await db._units.write(
            lambda conn: conn.exec_driver_sql(
                "EXPLAIN QUERY PLAN SELECT * FROM action_proposals WHERE reason = 'x' ORDER BY reason"
            ).all()
        )
    assert "SCAN action_proposals" in plan[0][-1]
