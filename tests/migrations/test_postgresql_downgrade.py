"""Revisions 0004 and 0005 down and up again on a server: the same rows, or a refusal where work would be lost."""

from collections.abc import Mapping

import pytest

from operator_core.actions import ActionStatus, WouldLoseData
from operator_core.db import ActionDB, migrate
from tests.conftest import proposal
from tests.databases import Databases, query
from tests.migrations.postgresql_tools import (
    PLAIN_ROWS,
    alembic,
    alembic_here,
    catalogue,
    ledger_at,
    made_by,
    snapshot,
    version,
)
from tests.migrations.tools import Rows

# What somebody said or did with the columns of revision 0005, each alone.
WORK = {
    "action_proposals": {
        "priority": "-1",
        "scheduled_at": "'2026-01-01'",
        "expires_at": "'2999-01-01'",
        "max_retries": "1",
        "retry_delay": "0.5",
        "max_retry_delay": "301",
        "retry_count": "1",
        "next_retry_at": "'2026-01-01'",
        "last_error": "''",
    },
    "action_records": {
        "worker": "'w1'",
        "lease_expires_at": "'2026-01-01'",
        "outcome_unknown": "true",
    },
}
LIVED_IN = """
UPDATE action_proposals SET status = 'validated', status_changed_by = 'eve', status_reason = 'fits',
    status_changed_at = now() WHERE id = 2;
INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) VALUES ('new', '{ "a":-0.0}', 'r', now());
INSERT INTO action_records (proposal_id, started_by, success, completed_at) VALUES (1, 'eve', true, now());
"""


def columns_at(postgres: Databases, revision: str) -> dict[str, str]:
    """The columns that each of the tables has at a revision."""
    found: dict[str, list[str]] = {}
    for kind, name, _ in made_by(postgres, revision):
        if kind == "column" and not name.startswith("operator_core"):
            table, _, column = name.partition(".")
            found.setdefault(table, []).append(column)
    return {table: ", ".join(names) for table, names in found.items()}


def rows(url: str, of: Mapping[str, str]) -> dict[str, Rows]:
    """Every row as text, which keeps JSON as it was written."""
    return {
        table: query(url, f"SELECT ROW({names})::text FROM {table} ORDER BY id")
        for table, names in of.items()
    }


@pytest.mark.parametrize("revision", ["0003", "0004"])
def test_down_and_up_again_keeps_every_row(postgres: Databases, revision: str) -> None:
    url = ledger_at(postgres, "0001", PLAIN_ROWS)
    migrate.upgrade(url, f"{int(revision) + 1:04}")
    query(url, LIVED_IN)
    kept = columns_at(postgres, revision)
    before = rows(url, kept)
    assert [len(found) for found in before.values()] == [12, 4, 4, 2]
    alembic_here(url, "downgrade", revision)
    assert version(url) == [revision]
    assert catalogue(url) == made_by(postgres, revision)
    assert rows(url, kept) == before
    migrate.upgrade(url)
    assert catalogue(url) == made_by(postgres, "head")
    assert rows(url, kept) == before


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table in WORK for column in WORK[table]]
)
def test_work_is_not_lost_by_a_downgrade(postgres: Databases, table: str, column: str) -> None:
    # Where a row may be inserted with any of them.
    url = ledger_at(postgres, "0007")
    value = WORK[table][column]
    insert = "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at"
    query(url, f"{insert}) VALUES ('a', '{{}}', 'r', now())")
    if table == "action_proposals":
        query(url, f"{insert}, {column}) VALUES ('a', '{{}}', 'r', now(), {value})")
    else:
        ended = "now()" if column == "outcome_unknown" else "NULL"
        query(
            url,
            f"INSERT INTO action_records (proposal_id, completed_at, {column}) VALUES (1, {ended}, {value})",
        )
    migrate.upgrade(url)
    before = snapshot(url)
    for said in ({}, {"discard-work": "no"}, {"discard-history": "yes", "discard-data": "yes"}):
        with pytest.raises(WouldLoseData, match=f"^{table} has rows .*discard-work"):
            alembic_here(url, "downgrade", "0004", x=said)
    assert snapshot(url) == before


async def test_work_is_discarded_only_by_who_says_so(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    async with ActionDB(url, actor="planner") as db:
        for number in range(3):
            status = ActionStatus.VALIDATED
            await db.create_proposal(proposal(status=status, priority=number, max_retries=number))
        taken = {each.proposal.priority: each.record.id for each in await db.claim("w1", limit=3)}
        await db.fail(taken[2], "no leader")
    query(
        url,
        f"UPDATE action_records SET outcome_unknown = true, completed_at = now() WHERE id = {taken[0]}",
    )
    kept = columns_at(postgres, "0004")
    before = rows(url, kept)
    alembic(url, "downgrade", "0004", x=["discard-work=yes"])
    assert version(url) == ["0004"]
    assert catalogue(url) == made_by(postgres, "0004")
    assert rows(url, kept) == before
    migrate.upgrade(url)
    assert catalogue(url) == made_by(postgres, "head")
    assert rows(url, kept) == before
    told = "SELECT DISTINCT priority, max_retries, retry_count, next_retry_at, last_error, version FROM action_proposals"
    assert query(url, told) == [(0, 0, 0, None, None, 1)]
    # Older than any transaction to come.
    assert query(url, "SELECT DISTINCT transaction_id FROM action_events") == [(0,)]
    async with ActionDB(url) as db:
        for id_ in (1, 2, 3):
            assert not (await db.get_records_for_proposal(id_)).corrupt
        assert [event.proposal_id async for event in db.events()] == [
            event.proposal_id for event in await db.history()
        ]


async def test_a_called_off_retry_is_forgotten_only_by_who_says_so(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    async with ActionDB(url) as db:
        await db.create_proposal(proposal(status=ActionStatus.VALIDATED, max_retries=1))
        (claim,) = await db.claim("w1")
        await db.fail(claim.record.id, "no leader")
        await db.cancel_all_pending()
    with pytest.raises(WouldLoseData, match="discard-details"):
        alembic_here(url, "downgrade", "0007", x={})
    everything = [f"discard-{each}=yes" for each in ("details", "order", "work")]
    alembic(url, "downgrade", "0004", x=everything)
    assert catalogue(url) == made_by(postgres, "0004")
    told = query(url, "SELECT event_type FROM action_events ORDER BY id")
    assert {kind for (kind,) in told}.isdisjoint({"retry_scheduled", "retry_cancelled"})
    assert len(told) == 5
