"""However a ledger on a server came about, its catalogue is the same to the letter."""

from pathlib import Path

import pytest

from operator_core.actions import WouldLoseData
from operator_core.db import migrate
from tests.databases import Databases, query
from tests.migrations.postgresql_tools import (
    PLAIN_ROWS,
    alembic,
    alembic_here,
    catalogue,
    columns,
    contents,
    ledger_at,
    made_by,
    psql,
    script,
    snapshot,
    unversioned,
    version,
)
from tests.migrations.tools import NUMBERED, TABLES, VERSION_TABLE, Rows


@pytest.fixture
def fresh(postgres: Databases) -> Rows:
    """The catalogue that one upgrade of an empty database makes."""
    return made_by(postgres, "head")


def test_a_fresh_catalogue_holds_what_was_promised(fresh: Rows) -> None:
    names = {(kind, name) for kind, name, _ in fresh}
    tables = {name for kind, name, text in fresh if kind == "relation" and text[0] == "r"}
    assert tables == {*TABLES, VERSION_TABLE}
    assert names >= {
        ("index", "idx_action_proposals_status"),
        ("index", "idx_action_events_proposal"),
        ("trigger", "action_proposals.action_proposals_guard"),
        ("trigger", "action_events.action_events_not_deleted"),
        ("constraint", "action_proposals.ck_action_proposals_status"),
        ("function", "action_ledger_refuse"),
        ("sequence", "action_events_id_seq"),
    }
    assert {text[0] for kind, _, text in fresh if kind == "trigger"} == {"O"}
    assert all("t" in text.split() for kind, _, text in fresh if kind == "index")


def test_every_id_is_the_databases_to_give(fresh: Rows) -> None:
    found = {name: text for kind, name, text in fresh if kind == "column"}
    assert found["tickets.id"] == "1 bigint not null identity d"
    for table in NUMBERED[1:]:
        assert found[f"{table}.id"] == "1 bigint not null identity a"


def test_upgrading_by_alembic_gives_the_same_catalogue(postgres_url: str, fresh: Rows) -> None:
    alembic(postgres_url, "upgrade", "head")
    assert catalogue(postgres_url) == fresh
    assert version(postgres_url) == [migrate.HEAD]


def test_upgrading_step_by_step_gives_the_same_catalogue(postgres_url: str, fresh: Rows) -> None:
    for revision in migrate.REVISIONS:
        migrate.upgrade(postgres_url, revision)
        assert version(postgres_url) == [revision]
    assert catalogue(postgres_url) == fresh


def test_an_adopted_database_has_the_same_catalogue(postgres: Databases, fresh: Rows) -> None:
    url = unversioned(postgres)
    migrate.upgrade(url)
    assert catalogue(url) == fresh
    assert version(url) == [migrate.HEAD]


def test_upgrading_twice_changes_nothing(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    before = snapshot(url)
    migrate.upgrade(url)
    assert snapshot(url) == before


def test_the_offline_script_run_by_psql_gives_the_same_catalogue(
    postgres_url: str, fresh: Rows, tmp_path: Path
) -> None:
    psql(postgres_url, alembic("postgresql://", "upgrade", "head", "--sql").stdout, tmp_path)
    assert catalogue(postgres_url) == fresh
    assert version(postgres_url) == [migrate.HEAD]


def test_the_offline_scripts_are_one_transaction(postgres_url: str, tmp_path: Path) -> None:
    up = script("upgrade", "head", x={"lock-timeout": "0.25"})
    assert "SET LOCAL lock_timeout = '250ms'" in up
    half = up[: up.index("CREATE TRIGGER action_records_not_deleted")]
    assert "syntax error" in psql(postgres_url, half + "\nnonsense;", tmp_path, fails=True)
    assert catalogue(postgres_url) == []


def test_the_offline_scripts_go_down_and_up_with_rows(
    postgres: Databases, fresh: Rows, tmp_path: Path
) -> None:
    url = ledger_at(postgres, "0001", PLAIN_ROWS)
    before, plain = contents(url, columns(url)), catalogue(url)
    psql(url, script("upgrade", "0001:head"), tmp_path)
    assert catalogue(url) == fresh
    psql(url, script("downgrade", f"{migrate.HEAD}:0001"), tmp_path)
    assert catalogue(url) == plain
    assert contents(url, columns(url)) == before


def test_down_to_nothing_and_up_again_gives_the_same_catalogue(
    postgres: Databases, fresh: Rows
) -> None:
    url = ledger_at(postgres, "head")
    alembic_here(url, "downgrade", "base")
    assert version(url) == []
    assert {name for kind, name, _ in catalogue(url) if kind in ("relation", "function")} == {
        VERSION_TABLE,
        f"{VERSION_TABLE}_pkc",
    }
    migrate.upgrade(url)
    assert catalogue(url) == fresh


def test_the_plain_schema_after_a_downgrade_is_as_its_own_revision_makes_it(
    postgres: Databases, fresh: Rows
) -> None:
    url = ledger_at(postgres, "head")
    alembic_here(url, "downgrade", "0001")
    assert catalogue(url) == made_by(postgres, "0001")
    migrate.upgrade(url)
    assert catalogue(url) == fresh


LIVED_IN = """
UPDATE action_proposals SET status = 'validated', status_changed_by = 'eve', status_reason = 'fits',
    status_changed_at = now() WHERE id = 2;
INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) VALUES ('new', '{}', 'r', now());
INSERT INTO action_records (proposal_id, started_by, success, completed_at) VALUES (1, 'eve', true, now());
"""
KEPT = "SELECT id, proposal_id, record_id, event_type, to_status, success, actor FROM action_events ORDER BY id"


def test_an_adopted_ledger_goes_down_and_up_with_identical_rows(
    postgres: Databases, fresh: Rows
) -> None:
    url = unversioned(postgres)
    plain = columns(url)
    before = contents(url, plain)
    migrate.upgrade(url)
    history = query(url, KEPT)
    alembic_here(url, "downgrade", "0001")
    assert columns(url) == plain
    migrate.upgrade(url)
    assert contents(url, plain) == before
    assert query(url, KEPT) == history
    assert catalogue(url) == fresh


def test_a_history_is_not_lost_by_a_downgrade(postgres: Databases) -> None:
    url = ledger_at(postgres, "0001", PLAIN_ROWS)
    migrate.upgrade(url)
    query(url, LIVED_IN)
    before = snapshot(url)
    complaint = alembic(url, "downgrade", "0001", fails=True).stderr
    assert "action_events has rows that this downgrade would delete; nothing was" in complaint
    for revision in ("0001", "base"):
        for discard in ({}, {"discard-history": "no"}, {"discard-data": "yes"}):
            with pytest.raises(WouldLoseData):
                alembic_here(url, "downgrade", revision, x=discard)
    assert snapshot(url) == before


def test_a_history_is_discarded_only_by_who_says_so(postgres: Databases, fresh: Rows) -> None:
    url = ledger_at(postgres, "0001", PLAIN_ROWS)
    plain = columns(url)
    migrate.upgrade(url)
    query(url, LIVED_IN)
    before = contents(url, plain)
    alembic(url, "downgrade", "0001", x=["discard-history=yes"])
    assert contents(url, plain) == before
    migrate.upgrade(url)
    assert contents(url, plain) == before
    assert query(url, "SELECT DISTINCT actor FROM action_events") == [("migration",)]
    assert catalogue(url) == fresh


@pytest.mark.parametrize(
    ("table", "emptied"),
    [
        ("tickets", "DELETE FROM action_records; DELETE FROM action_proposals"),
        (
            "action_proposals",
            "DELETE FROM action_records; UPDATE action_proposals SET ticket_id = NULL; DELETE FROM tickets",
        ),
    ],
)
def test_rows_are_not_lost_by_going_down_to_nothing(
    postgres: Databases, table: str, emptied: str
) -> None:
    url = ledger_at(postgres, "0001", PLAIN_ROWS)
    query(url, emptied)
    before = snapshot(url)
    with pytest.raises(WouldLoseData, match=f"^{table} has rows"):
        alembic_here(url, "downgrade", "base")
    assert snapshot(url) == before


def test_rows_are_discarded_only_by_who_says_so(postgres: Databases, fresh: Rows) -> None:
    url = ledger_at(postgres, "0001", PLAIN_ROWS)
    migrate.upgrade(url)
    query(url, LIVED_IN)
    discard = {"discard-history": "yes", "discard-data": "yes"}
    alembic_here(url, "downgrade", "base", x=discard)
    migrate.upgrade(url)
    assert catalogue(url) == fresh
    assert [query(url, f"SELECT count(*) FROM {table}") for table in TABLES] == [[(0,)]] * len(
        TABLES
    )


def test_ids_of_rows_that_are_gone_are_not_given_again(postgres: Databases) -> None:
    url = unversioned(postgres)
    migrate.upgrade(url)
    query(url, LIVED_IN)
    assert query(url, "SELECT max(id) FROM action_proposals") == [(5,)]
