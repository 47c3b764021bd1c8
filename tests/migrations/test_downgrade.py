"""Down and up again: the same rows, or a refusal where something would be lost."""

import shutil
from pathlib import Path

import pytest

from operator_core.actions import ActionRecord, ActionStatus, WouldLoseData
from operator_core.db import ActionDB, migrate
from tests.conftest import proposal
from tests.migrations.conftest import Copy
from tests.migrations.tools import (
    TABLES,
    VERSION_TABLE,
    alembic,
    alembic_here,
    catalogue,
    contents,
    fingerprint,
    is_sound,
    opened,
    query,
    sequences,
    version,
)


@pytest.fixture
async def lived_in(tmp_path: Path) -> Path:
    """A ledger in which something happened."""
    path = tmp_path / "lived_in.db"
    async with ActionDB(path, actor="worker") as db:
        made = await db.create_proposals([proposal(parameters={"store": 2}), proposal()])
        assert made[0].id is not None
        await db.update_proposal_status(made[0].id, ActionStatus.VALIDATED, reason="fits")
        await db.update_proposal_status(made[0].id, ActionStatus.EXECUTING)
        record = await db.create_record(ActionRecord(proposal_id=made[0].id))
        assert record.id is not None
        await db.update_record(record.id, True, result_data={"moved": 1})
    return path


def test_an_adopted_ledger_goes_down_and_up_with_identical_rows(legacy: Path, fresh: Path) -> None:
    alembic_here(legacy, "upgrade", "head")
    before, ids = contents(legacy, TABLES[:3]), sequences(legacy)
    events = "SELECT id, proposal_id, record_id, event_type, to_status, success, actor FROM action_events"
    history = query(legacy, events)
    alembic_here(legacy, "downgrade", "0001")
    assert version(legacy) == ["0001"]
    assert {name for _, name, table, _ in catalogue(legacy) if table == "action_events"} == set()
    alembic_here(legacy, "upgrade", "head")
    assert contents(legacy, TABLES[:3]) == before
    assert query(legacy, events) == history
    assert sequences(legacy) == ids
    assert catalogue(legacy) == catalogue(fresh)
    assert is_sound(legacy)


def test_the_plain_schema_after_a_downgrade_is_as_its_own_revision_makes_it(
    fresh: Path, plain: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(fresh, tmp_path / "down.db"))
    alembic_here(path, "downgrade", "0001")

    def normalised(of: Path) -> list[tuple[str, str, str, str]]:
        # The name of a table that was renamed stands in quotes, which mean nothing.
        return [
            (kind, name, table, " ".join(str(sql).replace(f'"{table}"', table).split()))
            for kind, name, table, sql in catalogue(of)
        ]

    assert normalised(path) == normalised(plain)


def test_a_history_is_not_lost_by_a_downgrade(lived_in: Path) -> None:
    before = fingerprint(lived_in)
    complaint = alembic(lived_in, "downgrade", "0001", fails=True).stderr
    assert "action_events has rows that this downgrade would delete" in complaint
    assert fingerprint(lived_in) == before


def test_a_history_is_discarded_only_by_who_says_so(lived_in: Path, fresh: Path) -> None:
    columns = {
        table: ", ".join(
            name for (name,) in query(lived_in, f"SELECT name FROM pragma_table_info('{table}')")
        )
        for table in TABLES[:2]
    }
    kept = query(
        lived_in, "SELECT id, action_name, parameters, status, updated_at FROM action_proposals"
    )
    alembic(lived_in, "downgrade", "0001", x=["discard-history=yes"])
    assert version(lived_in) == ["0001"]
    migrate.upgrade(f"sqlite:///{lived_in}")
    again = query(
        lived_in, "SELECT id, action_name, parameters, status, updated_at FROM action_proposals"
    )
    assert again == kept
    assert {row[0] for row in query(lived_in, "SELECT actor FROM action_events")} == {"migration"}
    assert catalogue(lived_in) == catalogue(fresh)
    for table, names in columns.items():
        assert names == ", ".join(
            name for (name,) in query(lived_in, f"SELECT name FROM pragma_table_info('{table}')")
        )


def test_the_word_yes_is_needed(lived_in: Path) -> None:
    with pytest.raises(WouldLoseData):
        alembic_here(lived_in, "downgrade", "0001", "discard-history=no")
    assert version(lived_in) == [migrate.HEAD]


def test_a_proposal_of_raw_sql_is_history_too(fresh: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(fresh, tmp_path / "raw.db"))
    with opened(path) as connection:
        connection.execute(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
            "VALUES ('a', '{}', 'r', '2026-01-01 00:00:00.000000')"
        )
    with pytest.raises(WouldLoseData):
        alembic_here(path, "downgrade", "0001")


@pytest.mark.parametrize("table", TABLES[:3])
def test_rows_are_not_lost_by_going_down_to_nothing(legacy: Path, table: str) -> None:
    with opened(legacy) as connection:
        # The rows of one table are enough to refuse; those that refer to others keep them.
        if table == "tickets":
            connection.executescript("DELETE FROM action_records; DELETE FROM action_proposals")
        if table == "action_proposals":
            connection.executescript(
                "DELETE FROM action_records; UPDATE action_proposals SET ticket_id = NULL;"
                "DELETE FROM tickets"
            )
    migrate.upgrade(f"sqlite:///{legacy}", "0001")
    before = contents(legacy, TABLES[:3])
    with pytest.raises(WouldLoseData, match="has rows that this downgrade would delete; nothing"):
        alembic_here(legacy, "downgrade", "base")
    assert contents(legacy, TABLES[:3]) == before
    assert version(legacy) == ["0001"]


def test_all_the_way_down_is_refused_as_a_whole(legacy: Path) -> None:
    """The first step down would pass, the second refuses; the first is undone with it."""
    migrate.upgrade(f"sqlite:///{legacy}")
    before = (contents(legacy), catalogue(legacy))
    with pytest.raises(WouldLoseData):
        alembic_here(legacy, "downgrade", "base")
    assert (contents(legacy), catalogue(legacy)) == before
    assert version(legacy) == [migrate.HEAD]


def test_rows_are_discarded_only_by_who_says_so(lived_in: Path, fresh: Path) -> None:
    alembic_here(lived_in, "downgrade", "base", "discard-history=yes", "discard-data=yes")
    assert {row[2] for row in catalogue(lived_in)} == {VERSION_TABLE, "sqlite_sequence"}
    migrate.upgrade(f"sqlite:///{lived_in}")
    assert catalogue(lived_in) == catalogue(fresh)
    assert all(not rows for rows in contents(lived_in).values())


@pytest.mark.parametrize("how", ["alembic", "ActionDB"])
async def test_an_empty_ledger_goes_down_to_nothing_and_up_again(
    fresh: Path, tmp_path: Path, how: str
) -> None:
    path = Path(shutil.copy(fresh, tmp_path / "empty.db"))
    alembic_here(path, "downgrade", "base")
    assert version(path) == []
    if how == "alembic":
        alembic(path, "upgrade", "head")
    else:
        async with ActionDB(path) as db:
            await db.create_proposal(proposal())
    assert catalogue(path) == catalogue(fresh)
    assert version(path) == [migrate.HEAD]


def test_a_workflow_that_raw_sql_has_made_is_not_lost_either(copy: Copy) -> None:
    path = copy("workflow.db")
    with opened(path) as connection:
        connection.execute("INSERT INTO workflows (name) VALUES ('w')")
    before = contents(path)
    with pytest.raises(WouldLoseData, match=r"^workflows has rows .*discard-history"):
        alembic_here(path, "downgrade", "0001")
    assert contents(path) == before
    alembic_here(path, "downgrade", "0001", "discard-history=yes")
    assert version(path) == ["0001"]


async def test_what_was_discarded_leaves_a_ledger_that_can_be_read(
    tmp_path: Path, fresh: Path
) -> None:
    path = tmp_path / "worked_in.db"
    async with ActionDB(path, actor="planner") as db:
        for number in range(3):
            status = ActionStatus.VALIDATED
            await db.create_proposal(proposal(status=status, priority=number, max_retries=number))
        taken = {each.proposal.priority: each.record.id for each in await db.claim("w1", limit=3)}
        await db.fail(taken[2], "no leader")
    alembic_here(path, "downgrade", "0001", "discard-history=yes")
    migrate.upgrade(f"sqlite:///{path}")
    assert catalogue(path) == catalogue(fresh)
    async with ActionDB(path) as db:
        for id_ in (1, 2, 3):
            assert len(await db.get_records_for_proposal(id_)) == 1
        assert not (await db.list_proposals()).corrupt
    planned = "SELECT DISTINCT priority, max_retries, next_retry_at, version FROM action_proposals"
    assert query(path, planned) == [(0, 0, None, 1)]
    assert is_sound(path)


async def test_a_halt_is_history_and_goes_only_if_told(fresh: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(fresh, tmp_path / "halted.db"))
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())
        await db.halt(by="oncall", reason="stop", run_id="run-1")
    with pytest.raises(WouldLoseData, match="action_halts"):
        alembic_here(path, "downgrade", "0004")
    assert version(path) == [migrate.HEAD]
    alembic_here(path, "downgrade", "0004", "discard-history=yes")
    assert query(path, "SELECT event_type FROM action_events") == [("proposal_created",)]
    migrate.upgrade(f"sqlite:///{path}")
    async with ActionDB(path) as db:
        assert len(await db.history()) == 1
        await db.create_proposal(proposal(run_id="run-1"))
    assert catalogue(path) == catalogue(fresh)


async def test_limits_and_exclusive_keys_go_only_if_told(fresh: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(fresh, tmp_path / "limited.db"))
    async with ActionDB(path) as db:
        await db.create_proposal(proposal(exclusive_key="a"))
    with pytest.raises(WouldLoseData, match="action_proposals"):
        alembic_here(path, "downgrade", "0007")
    async with ActionDB(path) as db:
        await db.set_limit("all", window=60.0, max_starts=1, by="oncall", reason="careful")
    with pytest.raises(WouldLoseData, match="action_limits"):
        alembic_here(path, "downgrade", "0007")
    assert version(path) == [migrate.HEAD]
    alembic_here(path, "downgrade", "0007", "discard-history=yes")
    assert query(path, "SELECT event_type FROM action_events") == [("proposal_created",)]
    migrate.upgrade(f"sqlite:///{path}")
    async with ActionDB(path) as db:
        assert await db.limits(active=False) == []
    assert catalogue(path) == catalogue(fresh)
