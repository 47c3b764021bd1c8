"""Ledgers of a million rows, made once for all tests that look at plans."""

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import LiteralString, cast

import pytest

from operator_core.db import migrate
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sql.sqlite_library import dbapi
from tests.databases import Databases, connected

ROWS = 1_000_000

# As ledgers are: nearly all of it is over, and some of everything is rare. What is over was scheduled,
# leased and to expire as what waits is: a thousand, of which a quarter is not due yet and an eighth
# came too late.
FILL = (
    """
INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message)
SELECT 'v', 'i', 't', 't', 'm' FROM numbers WHERE n <= 50""",
    """
INSERT INTO action_proposals
    (ticket_id, action_name, parameters, reason, status, proposed_at, proposed_by, status_changed_by,
    priority, scheduled_at, expires_at, max_retries, next_retry_at, depends_on,
    requester_id, agent_id, run_id, call_id, parent_id)
SELECT CASE WHEN n % 100 = 0 THEN 1 + n % 50 END, 'action_' || (n % 20),
    '{"region_id":4711,"from_store":2,"keyspace":"orders/eu-central/shard-0017","labels":["hot","rebalance"]}',
    'store 2 holds 61 % of the leaders and answers slowly',
    CASE WHEN n % 2000 = 1 THEN 'proposed' WHEN n % 1000 = 2 THEN 'validated'
        WHEN n % 2000 = 3 THEN 'executing' WHEN n % 10 = 0 THEN 'failed' ELSE 'completed' END,
    TIME('2026-01-01 00:00:00.000000'), 'agent_' || (n % 5), 'a', n / 1000 % 3,
    CASE n / 1000 % 4 WHEN 0 THEN TIME('2026-01-01 00:00:00.000000') WHEN 1 THEN TIME('2999-01-01 00:00:00.000000') END,
    CASE n / 1000 % 8 WHEN 2 THEN TIME('2026-01-01 00:00:00.000000') WHEN 3 THEN TIME('2999-01-01 00:00:00.000000') END,
    3, CASE n % 1000 WHEN 10 THEN TIME('2026-01-01 00:00:00.000000') WHEN 20 THEN TIME('2999-01-01 00:00:00.000000') END,
    CASE WHEN n % 10 = 2 AND n / 1000 % 8 > 3 THEN JSON('[' || (n - 1) || ']') END,
    CASE WHEN n % 4 = 0 THEN 'u_' || (n % 5) END, CASE WHEN n % 2 = 0 THEN 'agent_' || (n % 5) END,
    CASE WHEN n % 2 = 0 THEN 'run_' || (n / 20) END, CASE WHEN n % 2 = 0 THEN 'call_' || n END,
    CASE WHEN n % 20 = 4 THEN n - 2 END
FROM numbers""",
    """
INSERT INTO action_dependencies (proposal_id, depends_on_id)
SELECT n, n - 1 FROM numbers WHERE n % 10 = 2 AND n / 1000 % 8 > 3""",
    """
INSERT INTO action_records
    (proposal_id, started_at, completed_at, success, outcome_unknown, worker, lease_expires_at)
SELECT n, TIME('2026-01-01 00:00:00.000000'),
    CASE WHEN n % 2000 <> 3 THEN TIME('2026-01-01 00:00:00.000000') END,
    CASE WHEN n % 2000 <> 3 AND n % 1000 <> 30 THEN true END, n % 1000 = 30,
    'w', CASE n / 2000 % 2 WHEN 0 THEN TIME('2999-01-01 00:00:00.000000') ELSE TIME('2026-01-01 00:00:00.000000') END
FROM numbers""",
    """
INSERT INTO outcome_resolutions (record_id, proposal_id, succeeded, resolved_by, evidence)
SELECT n, n, false, 'mia', 'e' FROM numbers WHERE n % 2000 = 30""",
    """
INSERT INTO action_events (proposal_id, event_type, actor, occurred_at, transaction_id)
SELECT n, 'proposal_created', 'a', TIME('2026-01-01 00:00:00.000000'), 1 + n / 100000 FROM numbers""",
)


@pytest.fixture(scope="session")
def _million_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("million") / "fresh.db"
    made = dbapi.connect(path, isolation_level=None)
    made.executescript(SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
    # Triggers would tell of each row, and an index is made in a fraction of what it takes to keep it.
    later = made.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql <> ''"
    ).fetchall()
    for kind, name, _ in later:
        made.execute(f"DROP {kind} {name}")
    made.executescript("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")
    numbers = f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})"
    for fill in FILL:
        made.execute(numbers + fill.replace("TIME(", "(").replace("JSON(", "("))
    for *_, sql in later:
        made.execute(sql)
    made.close()
    yield path
    path.unlink()


@pytest.fixture(scope="session", params=["fresh", "analysed"])
def million_file(request: pytest.FixtureRequest, _million_file: Path) -> Iterator[Path]:
    """A file of a million rows of each kind, the planner's statistics made or not."""
    if request.param == "fresh":
        yield _million_file
        return
    path = Path(shutil.copy(_million_file, _million_file.with_name("analysed.db")))
    with closing(dbapi.connect(path, isolation_level=None)) as analysed:
        analysed.execute("ANALYZE")
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def million_url(postgres: Databases) -> str:
    """A million rows of each kind on a server, and the planner's statistics as autovacuum makes them."""
    url = postgres.new()
    migrate.upgrade(url)
    with connected(url) as conn:
        conn.execute("SET session_replication_role = replica")
        indexes = conn.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index "
            "WHERE indrelid::regclass::text LIKE 'action_%' AND NOT indisprimary"
        ).fetchall()
        for name, _ in indexes:
            conn.execute(cast(LiteralString, f"DROP INDEX {name}"))
        numbers = f"WITH numbers AS (SELECT generate_series(1, {ROWS}) AS n)"
        for fill in FILL:
            typed = fill.replace("TIME(", "timestamptz(").replace("JSON(", "json(")
            conn.execute(cast(LiteralString, numbers + typed))
        for _, definition in indexes:
            conn.execute(cast(LiteralString, definition))
        conn.execute("VACUUM ANALYZE")
        # An autovacuum that began before a row was written keeps its page from being marked as visible to all.
        while conn.execute(_NOT_ALL_VISIBLE).fetchall():
            time.sleep(0.1)
            conn.execute("VACUUM")
    return url


_NOT_ALL_VISIBLE = "SELECT relname FROM pg_class WHERE relname LIKE 'action_%' AND relkind = 'r' AND relallvisible < relpages"
