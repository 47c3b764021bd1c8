"""Raw SQL against the history: who did what is told by the database, once, for good."""

from collections.abc import Iterator

import pytest

from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.raw_tools import EVENTS, INSERT, SETTINGS, TIME, last_event, ledger, refused


@pytest.fixture(autouse=True)
def _no_thread_left() -> None:
    """No thread is started here, and looking for one would cost more than the tests."""


@pytest.fixture(params=SETTINGS)
def db(request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    """A ledger with one proposal and one record of it, both by raw SQL."""
    record = f"INSERT INTO action_records (proposal_id, started_at) VALUES (1, '{TIME}')"
    with ledger(request.param, record) as connection:
        yield connection


def count(db: dbapi.Connection) -> int:
    return db.execute("SELECT count(*) FROM action_events").fetchone()[0]


def test_raw_inserts_are_told_as_such(db: dbapi.Connection) -> None:
    assert db.execute(f"{EVENTS} ORDER BY id").fetchall() == [
        ("proposal_created", None, None, "proposed", None, "raw SQL", "why"),
        ("record_started", 1, None, None, None, "raw SQL", None),
    ]
    by = db.execute("SELECT status_changed_by, status_changed_at IS NULL FROM action_proposals")
    assert by.fetchall() == [("raw SQL", 0)]


@pytest.mark.parametrize("verb", ["UPDATE", "UPDATE OR IGNORE", "UPDATE OR REPLACE"])
@pytest.mark.parametrize("more", ["", ", status_changed_by = 'eve'", ", status_changed_at = NULL"])
def test_a_raw_move_is_told_as_such_whoever_moved_before(
    db: dbapi.Connection, verb: str, more: str
) -> None:
    db.execute(
        "UPDATE action_proposals SET status = 'validated', status_changed_by = 'alice', "
        "status_reason = 'fits', status_changed_at = '2026-01-02 00:00:00.000000' WHERE id = 1"
    )
    assert last_event(db) == (
        "status_changed",
        None,
        "proposed",
        "validated",
        None,
        "alice",
        "fits",
    )
    db.execute(f"{verb} action_proposals SET status = 'cancelled'{more} WHERE id = 1")
    assert last_event(db) == (
        "status_changed",
        None,
        "validated",
        "cancelled",
        None,
        "raw SQL",
        None,
    )
    row = db.execute(
        "SELECT status_changed_by, status_reason, status_changed_at FROM action_proposals"
    )
    by, reason, at = row.fetchone()
    assert (by, reason) == ("raw SQL", None)
    assert at > "2026-01-02 00:00:00.000000"
    assert count(db) == 4


def test_a_writer_can_not_say_when_it_was(db: dbapi.Connection) -> None:
    (created,) = db.execute("SELECT occurred_at FROM action_events WHERE id = 1").fetchone()
    db.execute(
        "UPDATE action_proposals SET status = 'cancelled', status_changed_by = 'eve', "
        "status_changed_at = '1999-01-01 00:00:00.000000' WHERE id = 1"
    )
    (cancelled,) = db.execute("SELECT max(occurred_at) FROM action_events").fetchone()
    assert cancelled >= created > "2020"
    assert last_event(db)[5] == "eve"


def test_an_update_that_leaves_the_status_adds_no_event(db: dbapi.Connection) -> None:
    before = count(db)
    db.execute("UPDATE action_proposals SET status = status")
    db.execute("UPDATE action_proposals SET status = 'proposed', validated_at = 'x'")
    db.execute("UPDATE action_records SET error_message = 'not yet final'")
    assert count(db) == before


def test_one_statement_on_many_rows_tells_of_each(db: dbapi.Connection) -> None:
    for _ in range(4):
        db.execute(INSERT)
    before = count(db)
    db.execute("UPDATE action_proposals SET status = 'cancelled'")
    assert count(db) == before + 5


def test_a_statement_that_fails_tells_nothing(db: dbapi.Connection) -> None:
    db.execute(INSERT)
    db.execute("UPDATE action_proposals SET status = 'cancelled' WHERE id = 2")
    refused(db, "UPDATE action_proposals SET status = 'validated'", "lifecycle")


EVENT = "INTO action_events (id, proposal_id, event_type, actor, occurred_at) VALUES"


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE action_events SET actor = 'eve'",
        "UPDATE action_events SET actor = actor",
        "UPDATE OR IGNORE action_events SET reason = NULL",
        "UPDATE OR REPLACE action_events SET id = 1 WHERE id = 2",
        "UPDATE OR REPLACE action_events SET rowid = 1 WHERE id = 2",
        "DELETE FROM action_events",
        "DELETE FROM action_events WHERE id = 2",
        f"INSERT OR REPLACE {EVENT} (1, 1, 'record_started', 'eve', 'x')",
        f"REPLACE {EVENT} (1, 1, 'record_started', 'eve', 'x')",
        f"INSERT OR IGNORE {EVENT} (1, 1, 'record_started', 'eve', 'x')",
        f"INSERT {EVENT} (1, 1, 'record_started', 'eve', 'x') ON CONFLICT (id) DO UPDATE SET actor = 'eve'",
        f"INSERT {EVENT} (1, 1, 'record_started', 'eve', 'x') ON CONFLICT DO NOTHING",
    ],
)
def test_the_history_is_append_only(db: dbapi.Connection, sql: str) -> None:
    refused(db, sql, "the history is append-only")


@pytest.mark.parametrize(
    "values",
    [
        "(-1, 1, 'record_started', 'eve', 'x')",
        "(0, 1, 'record_started', 'eve', 'x')",
        "(NULL, 77, 'record_started', 'eve', 'x')",
        "(NULL, 1, 'made_up', 'eve', 'x')",
        "(NULL, 1, 'record_started', NULL, 'x')",
    ],
)
def test_an_event_of_nothing_is_refused(db: dbapi.Connection, values: str) -> None:
    refused(db, f"INSERT {EVENT} {values}")


def test_an_event_of_no_record_is_refused(db: dbapi.Connection) -> None:
    refused(
        db,
        "INSERT INTO action_events (proposal_id, record_id, event_type, actor, occurred_at) "
        f"VALUES (1, 77, 'record_started', 'eve', '{TIME}')",
    )
