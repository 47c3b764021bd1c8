"""Raw SQL against records: an execution is one worker's, ends once, and is told of, for good."""

from collections.abc import Iterator

import pytest

from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.raw_tools import EVENTS, INSERT, SETTINGS, TIME, last_event, ledger, refused


@pytest.fixture(autouse=True)
def _no_thread_left() -> None:
    """No thread is started here, and looking for one would cost more than the tests."""


@pytest.fixture(params=SETTINGS)
def db(request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    """A ledger with one proposal and one record of it, which a worker holds."""
    with ledger(
        request.param,
        "INSERT INTO action_records (proposal_id, started_at, worker, lease_expires_at) "
        f"VALUES (1, '{TIME}', 'w1', '{TIME}')",
    ) as connection:
        yield connection


def test_a_records_start_and_finish_are_told(db: dbapi.Connection) -> None:
    db.execute(
        "UPDATE action_records SET success = 0, error_message = 'no leader', completed_by = 'w1', "
        f"completed_at = '{TIME}' WHERE id = 1"
    )
    assert last_event(db) == ("record_finished", 1, None, None, 0, "w1", "no leader")
    db.execute(
        "INSERT INTO action_records (proposal_id, success, completed_at, started_by) "
        f"VALUES (1, 1, '{TIME}', 'w2')"
    )
    assert db.execute(f"{EVENTS} WHERE record_id = 2 ORDER BY id").fetchall() == [
        ("record_started", 2, None, None, None, "w2", None),
        ("record_finished", 2, None, None, 1, "raw SQL", None),
    ]


def test_a_lease_may_move_as_long_as_its_record_is_open(db: dbapi.Connection) -> None:
    events = db.execute(EVENTS).fetchall()
    for until in ("2026-01-01 00:05:00.000000", "2026-01-01 00:00:01.000000", None):
        db.execute("UPDATE action_records SET lease_expires_at = ?", [until])
        row = db.execute("SELECT lease_expires_at, worker, completed_at FROM action_records")
        assert row.fetchall() == [(until, "w1", None)]
    assert db.execute(EVENTS).fetchall() == events


def test_an_unknown_outcome_ends_a_record(db: dbapi.Connection) -> None:
    db.execute(
        "UPDATE action_records SET outcome_unknown = 1, error_message = 'silent', "
        f"completed_by = 'ledger', completed_at = '{TIME}'"
    )
    assert last_event(db) == ("record_finished", 1, None, None, None, "ledger", "silent")
    db.execute(
        "INSERT INTO action_records (proposal_id, started_by, outcome_unknown, completed_at) "
        f"VALUES (1, 'w2', 1, '{TIME}')"
    )
    assert db.execute(f"{EVENTS} WHERE record_id = 2 ORDER BY id").fetchall() == [
        ("record_started", 2, None, None, None, "w2", None),
        ("record_finished", 2, None, None, None, "raw SQL", None),
    ]


@pytest.mark.parametrize(
    "change",
    [
        "success = success",
        "success = 0",
        "success = 1, outcome_unknown = 0",
        "outcome_unknown = 1, success = NULL",
        "success = NULL, completed_at = NULL",
        "error_message = 'x'",
        "result_data = '{}'",
        f"completed_at = '{TIME}'",
        "completed_by = 'eve'",
        "lease_expires_at = NULL",
        "worker = NULL",
        "outcome_unknown = 0, success = NULL, completed_at = NULL",
    ],
)
@pytest.mark.parametrize("outcome", ["success = 1", "success = 0", "outcome_unknown = 1"])
def test_an_outcome_is_final(db: dbapi.Connection, outcome: str, change: str) -> None:
    db.execute(f"UPDATE action_records SET {outcome}, completed_at = '2026-01-03 00:00:00.000000'")
    for verb in ("UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"):
        refused(db, f"{verb} action_records SET {change}", "action_records_immutable")


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE action_records SET proposal_id = 2",
        "UPDATE action_records SET started_at = 'x'",
        "UPDATE action_records SET started_by = 'eve'",
        "UPDATE action_records SET created_at = 'x'",
        "UPDATE OR REPLACE action_records SET rowid = 7",
        "UPDATE action_records SET success = 1",
        f"UPDATE action_records SET completed_at = '{TIME}'",
        "UPDATE action_records SET success = 2, completed_at = 'x'",
        "UPDATE action_records SET worker = 'eve'",
        "UPDATE OR IGNORE action_records SET worker = NULL",
        "UPDATE action_records SET outcome_unknown = 1",
        "UPDATE OR REPLACE action_records SET outcome_unknown = NULL",
        f"UPDATE action_records SET outcome_unknown = 1, success = 1, completed_at = '{TIME}'",
        f"UPDATE action_records SET outcome_unknown = 1, success = 0, completed_at = '{TIME}'",
        "DELETE FROM action_records",
        "REPLACE INTO action_records (id, proposal_id) VALUES (1, 1)",
        "INSERT OR IGNORE INTO action_records (id, proposal_id) VALUES (1, 1)",
        "INSERT INTO action_records (id, proposal_id) VALUES (1, 1) ON CONFLICT DO UPDATE SET success = 1",
        "INSERT INTO action_records (id, proposal_id) VALUES (-1, 1)",
        "INSERT INTO action_records (proposal_id) VALUES (77)",
        "INSERT INTO action_records (proposal_id, success) VALUES (1, 1)",
        "INSERT INTO action_records (proposal_id, completed_at) VALUES (1, 'x')",
        "INSERT INTO action_records (proposal_id, outcome_unknown) VALUES (1, 1)",
        "INSERT INTO action_records (proposal_id, outcome_unknown, success) VALUES (1, 1, 0)",
        "INSERT INTO action_records (proposal_id, outcome_unknown, success, completed_at) "
        "VALUES (1, 1, 1, 'x')",
    ],
)
def test_a_record_is_neither_edited_nor_deleted_nor_made_up(db: dbapi.Connection, sql: str) -> None:
    db.execute(INSERT)
    refused(db, sql)
