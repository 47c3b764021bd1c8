"""Raw SQL against records on a server: an execution is one worker's, ends once, and is told of, for good."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.databases import connected
from tests.migrations.postgresql_tools import DB, one, refused, sql

INSERT = "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at"
VALUES = "VALUES ('a', '{}', 'why', '2026-01-01 00:00+00'"
EVENTS = "SELECT event_type, record_id, from_status, to_status, success, actor, reason FROM action_events"


@pytest.fixture
def db(server_ledger: str) -> Iterator[DB]:
    """A ledger with one proposal and one record of it, which a worker holds."""
    with connected(server_ledger) as connection:
        sql(connection, f"{INSERT}) {VALUES})")
        sql(
            connection,
            "INSERT INTO action_records (proposal_id, started_at, worker, lease_expires_at) "
            "VALUES (1, now(), 'w1', now())",
        )
        yield connection


def last_event(db: DB) -> Any:
    return one(db, f"{EVENTS} ORDER BY id DESC LIMIT 1")


def test_a_records_start_and_finish_are_told(db: DB) -> None:
    sql(
        db,
        "UPDATE action_records SET success = false, error_message = 'no leader', completed_by = 'w1', "
        "completed_at = now() WHERE id = 1",
    )
    assert last_event(db) == ("record_finished", 1, None, None, False, "w1", "no leader")
    sql(
        db,
        "INSERT INTO action_records (proposal_id, success, completed_at, started_by) "
        "VALUES (1, true, now(), 'w2')",
    )
    assert sql(db, f"{EVENTS} WHERE record_id = 2 ORDER BY id") == [
        ("record_started", 2, None, None, None, "w2", None),
        ("record_finished", 2, None, None, True, "raw SQL", None),
    ]


def test_a_lease_may_move_as_long_as_its_record_is_open(db: DB) -> None:
    events = sql(db, EVENTS)
    for until in ("2026-01-01 00:05:00+00", "2026-01-01 00:00:01+00", None):
        sql(db, "UPDATE action_records SET lease_expires_at = %s", until)
        held = "SELECT lease_expires_at = %s, worker, completed_at FROM action_records"
        assert one(db, held, until) == (until and True, "w1", None)
    assert sql(db, EVENTS) == events


def test_an_unknown_outcome_ends_a_record(db: DB) -> None:
    sql(
        db,
        "UPDATE action_records SET outcome_unknown = true, error_message = 'silent', "
        "completed_by = 'ledger', completed_at = now()",
    )
    assert last_event(db) == ("record_finished", 1, None, None, None, "ledger", "silent")
    sql(
        db,
        "INSERT INTO action_records (proposal_id, started_by, outcome_unknown, completed_at) "
        "VALUES (1, 'w2', true, now())",
    )
    assert sql(db, f"{EVENTS} WHERE record_id = 2 ORDER BY id") == [
        ("record_started", 2, None, None, None, "w2", None),
        ("record_finished", 2, None, None, None, "raw SQL", None),
    ]


@pytest.mark.parametrize(
    "change",
    [
        "success = false",
        "success = success",
        "success = NULL, completed_at = NULL",
        "error_message = 'x'",
        "result_data = '{}'",
        "completed_at = now()",
        "completed_by = 'eve'",
        "lease_expires_at = NULL",
        "worker = NULL",
        "success = true, outcome_unknown = false",
        "outcome_unknown = true, success = NULL",
        "outcome_unknown = false, success = NULL, completed_at = NULL",
    ],
)
@pytest.mark.parametrize("outcome", ["success = true", "success = false", "outcome_unknown = true"])
def test_an_outcome_is_final(db: DB, outcome: str, change: str) -> None:
    sql(db, f"UPDATE action_records SET {outcome}, completed_at = '2026-01-03'")
    refused(db, f"UPDATE action_records SET {change}", "action_records_immutable")


AS_FIRST = "INSERT INTO action_records (id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (1, 1)"


@pytest.mark.parametrize(
    ("statement", "by"),
    [
        ("UPDATE action_records SET proposal_id = 2", "action_records_immutable"),
        ("UPDATE action_records SET started_at = '2026-01-01'", "action_records_immutable"),
        ("UPDATE action_records SET started_at = NULL", "action_records_immutable"),
        ("UPDATE action_records SET started_by = 'eve'", "action_records_immutable"),
        ("UPDATE action_records SET created_at = '2026-01-01'", "action_records_immutable"),
        ("UPDATE action_records SET id = DEFAULT", "action_records_immutable"),
        ("UPDATE action_records SET success = true", "action_records_immutable"),
        ("UPDATE action_records SET completed_at = now()", "action_records_immutable"),
        ("UPDATE action_records SET success = true, completed_at = 'infinity'", "_times"),
        ("UPDATE action_records SET lease_expires_at = 'infinity'", "_times"),
        ("UPDATE action_records SET lease_expires_at = '1969-12-31'", "_times"),
        ("UPDATE action_records SET worker = 'eve'", "action_records_immutable"),
        ("UPDATE action_records SET worker = NULL", "action_records_immutable"),
        ("UPDATE action_records SET outcome_unknown = true", "action_records_immutable"),
        ("UPDATE action_records SET outcome_unknown = NULL", "action_records_immutable"),
        (
            "UPDATE action_records SET outcome_unknown = true, success = true, completed_at = now()",
            "action_records_immutable",
        ),
        (
            "UPDATE action_records SET outcome_unknown = true, success = false, completed_at = now()",
            "action_records_immutable",
        ),
        ("DELETE FROM action_records", "action_records_not_deleted"),
        ("DELETE FROM action_records WHERE id = 7", "action_records_not_deleted"),
        ("TRUNCATE action_records CASCADE", "action_records_not_deleted"),
        (AS_FIRST, "pk_action_records"),
        (f"{AS_FIRST} ON CONFLICT (id) DO UPDATE SET proposal_id = 2", "action_records_immutable"),
        (f"{AS_FIRST} ON CONFLICT (id) DO UPDATE SET success = true", "action_records_immutable"),
        (AS_FIRST.replace("(1, 1)", "(-1, 1)"), "ck_action_records_id"),
        ("INSERT INTO action_records (proposal_id) VALUES (77)", "fk_action_records_proposal_id"),
        ("INSERT INTO action_records (proposal_id, success) VALUES (1, true)", "_outcome_dated"),
        (
            "INSERT INTO action_records (proposal_id, completed_at) VALUES (1, now())",
            "_outcome_dated",
        ),
        (
            "INSERT INTO action_records (proposal_id, outcome_unknown) VALUES (1, true)",
            "_outcome_dated",
        ),
        (
            "INSERT INTO action_records (proposal_id, outcome_unknown, success, completed_at) "
            "VALUES (1, true, true, now())",
            "_outcome_dated",
        ),
    ],
)
def test_a_record_is_neither_edited_nor_deleted_nor_made_up(
    db: DB, statement: str, by: str
) -> None:
    sql(db, f"{INSERT}) {VALUES})")
    refused(db, statement, by)
