"""Every query of the ledger uses the index that it was given, and sorts nothing."""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, LiteralString, cast

import pytest
from psycopg.sql import Literal
from sqlalchemy import Connection, event

from operator_core.actions import ActionError, ActionStatus
from operator_core.db import ActionDB, events, migrate, proposal_queries, proposals, records
from operator_core.db.engine import Unit
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from tests.conftest import proposal
from tests.databases import Databases, connected

S = ActionStatus

LIST: Callable[..., Any] = proposal_queries.list_proposals

BY_ID = "the primary key"
NEWEST_FIRST = "the primary key, backwards"  # LIMIT ends it

QUERIES: dict[str, tuple[Unit[Any], str]] = {
    "get": (lambda c: proposal_queries.get_proposal(c, 5), BY_ID),
    "list": (lambda c: LIST(c, limit=50), NEWEST_FIRST),
    "list before": (lambda c: LIST(c, before=500, limit=50), BY_ID),
    "list status": (lambda c: LIST(c, [S.FAILED], limit=50), "idx_action_proposals_status"),
    "list rare status": (lambda c: LIST(c, [S.EXECUTING], limit=50), "idx_action_proposals_status"),
    "list status before": (
        lambda c: LIST(c, [S.FAILED], before=9, limit=50),
        "idx_action_proposals_status",
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
    "count": (proposal_queries.count_proposals, "idx_action_proposals_status"),
    "move": (
        lambda c: proposals.update_proposal_status(c, 5, S.VALIDATED, actor="a", reason=None),
        BY_ID,
    ),
    "cancel all": (
        lambda c: proposals.cancel_all_pending(c, actor="a", reason=None),
        "idx_action_proposals_status",
    ),
    "record": (lambda c: records.get_record(c, 5), BY_ID),
    "end record": (
        lambda c: records.update_record(c, 5, True, None, None, actor="a"),
        BY_ID,
    ),
    "records": (lambda c: records.get_records_for_proposal(c, 5), "idx_action_records_proposal"),
    "history": (lambda c: events.list_events(c, after=50, limit=50), BY_ID),
    "history of one": (
        lambda c: events.list_events(c, 5, after=3, limit=50),
        "idx_action_events_proposal",
    ),
}

ROWS = 1_000_000

# As ledgers are: nearly all of it is over, and some of everything is rare.
PROPOSALS = """
INSERT INTO action_proposals
    (ticket_id, action_name, parameters, reason, status, proposed_at, proposed_by, status_changed_by)
SELECT CASE WHEN n % 100 = 0 THEN 1 + n % 50 END, 'action_' || (n % 20),
    '{"region_id":4711,"from_store":2,"keyspace":"orders/eu-central/shard-0017","labels":["hot","rebalance"]}',
    'store 2 holds 61 % of the leaders and answers slowly',
    CASE WHEN n % 2000 = 1 THEN 'proposed' WHEN n % 2000 = 2 THEN 'validated'
        WHEN n % 10 = 0 THEN 'failed' ELSE 'completed' END,
    '2026-01-01 00:00:00.000000', 'agent_' || (n % 5), 'a'
FROM numbers"""
RECORDS = """
INSERT INTO action_records (proposal_id, started_at, completed_at, success)
SELECT n, '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', true FROM numbers"""
EVENTS = """
INSERT INTO action_events (proposal_id, event_type, actor, occurred_at)
SELECT n, 'proposal_created', 'a', '2026-01-01 00:00:00.000000' FROM numbers"""
TICKETS = """
INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message)
SELECT 'v', 'i', 't', 't', 'm' FROM numbers WHERE n <= 50"""


def statement_of(conn: Connection, unit: Unit[Any]) -> tuple[str, Any]:
    """The first statement that `unit` runs, and its parameters; what it changes is undone."""
    said: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        said.append((sql, parameters))

    event.listen(conn, "before_cursor_execute", note)
    try:
        with suppress(ActionError):
            unit(conn)
    finally:
        event.remove(conn, "before_cursor_execute", note)
    return said[0]


# ------ SQLite


@pytest.fixture(scope="module", params=["fresh", "analysed"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A million rows of each kind, the planner's statistics made or not."""
    path = tmp_path_factory.mktemp("queries") / "ledger.db"
    made = sqlite3.connect(path, isolation_level=None)
    made.executescript(SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
    triggers = made.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        made.execute(f"DROP TRIGGER {name}")
    made.executescript("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")
    numbers = f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})"
    for fill in (TICKETS, PROPOSALS, RECORDS, EVENTS):
        made.execute(numbers + fill)
    for _, sql in triggers:
        made.execute(sql)
    if request.param == "analysed":
        made.execute("ANALYZE")
    made.close()
    return path


@pytest.mark.parametrize("name", QUERIES)
async def test_each_query_uses_its_index_on_sqlite(name: str, file: Path) -> None:
    unit, index = QUERIES[name]

    def explained(conn: Connection) -> str:
        sql, parameters = statement_of(conn, unit)
        plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all()
        return "\n".join(row[-1] for row in plan)

    async with ActionDB(file) as db:
        with pytest.raises(Undone) as undone:
            await db._units.write(undoing(explained))
    plan = undone.value.args[0]
    words = {BY_ID: "USING INTEGER PRIMARY KEY (rowid", NEWEST_FIRST: "SCAN action_proposals"}
    assert words.get(index, index) in plan
    if "UNION" not in plan and "COMPOUND" not in plan:
        assert "TEMP B-TREE" not in plan
    if index != NEWEST_FIRST and name != "count":
        assert "SCAN action_" not in plan, plan
    if name == "list status before":
        assert "(status=? AND id<?)" in plan
    if name == "history of one":
        assert "(proposal_id=? AND id>?)" in plan


class Undone(Exception):
    """Carries what a unit found out of the transaction that it undoes."""


def undoing(unit: Unit[str]) -> Unit[None]:
    def run(conn: Connection) -> None:
        raise Undone(unit(conn))

    return run


# ------ PostgreSQL


@pytest.fixture(scope="module")
def url(postgres: Databases) -> str:
    """A million rows of each kind on a server, and the planner's statistics as autovacuum makes them."""
    url = postgres.new()
    migrate.upgrade(url)
    with connected(url) as conn:
        conn.execute("SET session_replication_role = replica")
        numbers = f"WITH numbers AS (SELECT generate_series(1, {ROWS}) AS n)"
        for fill in (TICKETS, PROPOSALS, RECORDS, EVENTS):
            conn.execute(cast(LiteralString, numbers + fill))
        conn.execute("VACUUM ANALYZE")
    return url


# A statement that is prepared gets a plan for its values the first times, and maybe one for all values
# afterwards: both must be good, also for values that are rarer than others.
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", QUERIES)
async def test_each_query_uses_its_index_on_postgresql(name: str, plans: str, url: str) -> None:
    unit, index = QUERIES[name]

    def explained(conn: Connection) -> str:
        with conn.begin_nested() as undo:
            sql, parameters = statement_of(conn, unit)
            undo.rollback()
        values = ", ".join(Literal(each).as_string(None) for each in parameters)
        conn.exec_driver_sql(f"SET LOCAL plan_cache_mode = {plans}")
        conn.exec_driver_sql(f"PREPARE explained AS {sql}")
        given = f"({values})" if values else ""
        plan = conn.exec_driver_sql(f"EXPLAIN EXECUTE explained{given}").all()
        lines = "\n".join(row[0] for row in plan)
        conn.exec_driver_sql("DEALLOCATE explained")
        return lines

    async with ActionDB(url) as db:
        with pytest.raises(Undone) as undone:
            await db._units.write(undoing(explained))
    plan = undone.value.args[0]
    if name == "count":
        # Every row counts, and the server may read them by index or not, as it finds cheaper.
        assert "Parallel" in plan or index in plan, plan
        return
    assert "Seq Scan" not in plan, plan
    words = {BY_ID: "pk_action_", NEWEST_FIRST: "Index Scan Backward using pk_action_proposals"}
    assert words.get(index, index) in plan, plan
    if "statuses" not in name:
        assert "Sort" not in plan, plan


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
