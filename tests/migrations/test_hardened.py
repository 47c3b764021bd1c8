"""Revision 0008 on SQLite: rows that nothing could be done with are mended, and the history is kept to the letter."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions import ActionStatus, WouldLoseData
from operator_core.db import ActionDB, migrate
from tests.conftest import proposal
from tests.migrations.tools import (
    Rows,
    alembic,
    alembic_here,
    catalogue,
    contents,
    is_sound,
    opened,
    query,
    rows_of,
    sequences,
    version,
)

TIME = "'2026-01-01 00:00:00.000000'"
BASE = "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, status"
OLD_EVENT = (
    "id, proposal_id, record_id, event_type, from_status, to_status, success, actor, reason, "
    "occurred_at, transaction_id"
)


@pytest.fixture(scope="module")
def at_0007(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one upgrade to revision 0007 makes of no file at all."""
    path = tmp_path_factory.mktemp("at_0007") / "ledger.db"
    migrate.upgrade(f"sqlite:///{path}", "0007")
    return path


@pytest.fixture
def old(at_0007: Path, tmp_path: Path) -> Path:
    """A ledger of revision 0007 in which something happened."""
    path = Path(shutil.copy(at_0007, tmp_path / "old.db"))
    with opened(path) as connection:
        for _ in range(4):
            connection.execute(f"{BASE}) VALUES ('a', '{{}}', 'r', {TIME}, 'validated')")
        connection.execute("UPDATE action_proposals SET status = 'executing' WHERE id = 2")
        connection.execute("INSERT INTO action_records (proposal_id, worker) VALUES (2, 'w')")
        connection.execute(f"UPDATE action_records SET success = 0, completed_at = {TIME}")
        connection.execute(
            f"UPDATE action_proposals SET status = 'failed', next_retry_at = {TIME} WHERE id = 2"
        )
        # Of a row that is gone.
        connection.execute("UPDATE sqlite_sequence SET seq = 900 WHERE name = 'action_events'")
    return path


def upgrade(path: Path) -> None:
    migrate.upgrade(f"sqlite:///{path}")


def test_the_history_is_kept_to_the_letter(old: Path, fresh: Path) -> None:
    before, ids = contents(old), sequences(old)
    events = rows_of(old, "action_events", OLD_EVENT)
    upgrade(old)
    assert catalogue(old) == catalogue(fresh)
    assert rows_of(old, "action_events", OLD_EVENT) == events
    assert query(old, "SELECT DISTINCT version, worker FROM action_events") == [(None, None)]
    assert sequences(old) == ids
    after = contents(old)
    assert {name: rows for name, rows in after.items() if name != "action_events"} == {
        name: rows for name, rows in before.items() if name != "action_events"
    }
    with opened(old) as connection:
        connection.execute("UPDATE action_proposals SET status = 'cancelled' WHERE id = 1")
    told = "SELECT id, from_status, to_status, version FROM action_events ORDER BY id DESC LIMIT 1"
    assert query(old, told) == [(901, "validated", "cancelled", 2)]
    assert is_sound(old)


@pytest.mark.parametrize(
    ("column", "value", "mended"),
    [
        ("version", 2**63 - 1, 2**62),
        ("version", -(2**63), 1),
        ("version", 0, 1),
        ("version", "x", 1),
        ("version", 1.5, 1),
        ("version", b"1", 1),
        ("version", 2**40, 2**40),
        ("retry_count", 2**63 - 1, 1_000_000),
        ("retry_count", -(2**31), 0),
        ("retry_count", "x", 0),
        ("priority", 2**63 - 1, 32767),
        ("priority", -(2**63), -32768),
        ("priority", "x", 0),
        ("max_retries", 2**63 - 1, 1000),
        ("max_retries", -1, 0),
        ("retry_delay", -1e300, 0.0),
        ("retry_delay", 1e300, 604_800.0),
        ("retry_delay", float("inf"), 604_800.0),
        ("retry_delay", "NaN", 1.0),
        ("max_retry_delay", float("-inf"), 0.0),
        ("max_retry_delay", b"", 300.0),
        ("max_retry_delay", 0.25, 0.25),
    ],
)
async def test_a_row_that_stopped_others_is_mended(
    old: Path, column: str, value: object, mended: object
) -> None:
    with opened(old) as connection:
        for status in ("validated", "failed"):
            connection.execute(
                f"{BASE}, {column}) VALUES ('a', '{{}}', 'r', {TIME}, '{status}', ?)", [value]
            )
    before = query(old, "SELECT count(*), max(id) FROM action_events")
    upgrade(old)
    assert query(old, f"SELECT {column} FROM action_proposals WHERE id > 4") == [(mended,)] * 2
    assert query(old, "SELECT count(*), max(id) FROM action_events") == before
    async with ActionDB(old) as db:
        assert not (await db.list_proposals()).corrupt
        await db.retry(6)
        taken = await db.claim("w", limit=10)
        assert {each.proposal.id for each in taken} >= {1, 5, 6}
        await db.fail_many({each.record.id: "no" for each in taken if each.record.id})
        await db.create_proposal(proposal(status=ActionStatus.VALIDATED))
        await db.cancel_all_pending()
        counts = await db.count_proposals()
        assert counts[ActionStatus.VALIDATED] == 0


def test_what_the_history_did_not_know_is_in_it(old: Path) -> None:
    """Of a status that was changed while no trigger was there, and of an event that somebody made up."""
    with opened(old) as connection:
        for name in ("action_proposals_lifecycle", "action_proposals_status_changed"):
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE action_proposals SET status = 'completed' WHERE id = 3")
        connection.execute(
            "INSERT INTO action_events (proposal_id, event_type, from_status, to_status, actor, occurred_at) "
            f"VALUES (4, 'status_changed', 'validated', 'cancelled', 'eve', {TIME})"
        )
        for name, sql in catalogue_of("0007"):
            if name in ("action_proposals_lifecycle", "action_proposals_status_changed"):
                connection.execute(sql)
    last = sequences(old)["action_events"]
    upgrade(old)
    told = f"SELECT proposal_id, event_type, from_status, to_status, version, actor FROM action_events WHERE id > {last}"
    assert query(old, told) == [
        (3, "status_changed", "validated", "completed", None, "migration"),
        (4, "status_changed", "cancelled", "validated", None, "migration"),
    ]
    with opened(old) as connection:
        connection.execute(
            "UPDATE action_proposals SET status = 'cancelled' WHERE status = 'validated'"
        )
    assert query(old, "SELECT count(*) FROM action_proposals WHERE status = 'cancelled'") == [(2,)]


def catalogue_of(revision: str) -> Rows:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        migrate.upgrade(f"sqlite:///{path}", revision)
        return query(
            path, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid"
        )


def test_a_ledger_with_half_of_its_ids_used_up_has_the_other_half(old: Path) -> None:
    with opened(old) as connection:
        connection.execute(
            f"INSERT INTO action_proposals (id, action_name, parameters, reason, proposed_at) VALUES ({2**62 + 5}, 'a', '{{}}', 'r', {TIME})"
        )
    upgrade(old)
    with opened(old) as connection:
        connection.execute(f"{BASE}) VALUES ('a', '{{}}', 'r', {TIME}, 'proposed')")
    assert query(old, "SELECT max(id) FROM action_proposals") == [(2**62 + 6,)]


# ------ And back


def triggers(path: Path) -> list[Any]:
    """In the order in which they were made, of which SQLite runs the last one first."""
    return query(
        path, "SELECT tbl_name, name FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid"
    )


def test_down_it_is_as_it_was_to_the_letter(old: Path, at_0007: Path) -> None:
    before, ids = contents(old), sequences(old)
    upgrade(old)
    alembic_here(old, "downgrade", "0007")
    assert version(old) == ["0007"]
    assert catalogue(old) == catalogue(at_0007)
    assert contents(old) == before
    assert sequences(old) == ids
    # An end comes before what ends along with it.
    names = [name for _, name in triggers(old)]
    assert names.index("action_proposals_cascade") < names.index("action_proposals_status_changed")
    upgrade(old)
    assert contents(old)["action_proposals"] == before["action_proposals"]


@pytest.mark.parametrize("event_type", ["retry_scheduled", "retry_cancelled"])
def test_a_retrys_history_is_not_lost_by_a_downgrade(
    old: Path, at_0007: Path, event_type: str
) -> None:
    upgrade(old)
    time = "NULL" if event_type == "retry_cancelled" else "'2030-01-01 00:00:00.000000'"
    with opened(old) as connection:
        connection.execute(f"UPDATE action_proposals SET next_retry_at = {time} WHERE id = 2")
    kinds = "SELECT event_type FROM action_events ORDER BY id DESC LIMIT 1"
    assert query(old, kinds) == [(event_type,)]
    before, ids = contents(old), sequences(old)
    for said in ([], ["discard-details=no"], ["discard-history=yes", "discard-work=yes"]):
        with pytest.raises(WouldLoseData, match=r"^action_events has rows .*discard-details"):
            alembic_here(old, "downgrade", "0007", *said)
        assert contents(old) == before
    assert version(old) == [migrate.HEAD]
    others = [row for row in rows_of(old, "action_events", OLD_EVENT) if row[3] != event_type]
    alembic(old, "downgrade", "0007", x=["discard-details=yes"])
    assert catalogue(old) == catalogue(at_0007)
    assert rows_of(old, "action_events", OLD_EVENT) == others
    assert sequences(old) == ids
