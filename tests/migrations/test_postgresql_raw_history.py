"""Raw SQL against records and the history on a server: who did what is told by the database, for good."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation, NotNullViolation

from tests.databases import connected
from tests.migrations.postgresql_tools import DB, one, refused, sql

INSERT = "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at"
VALUES = "VALUES ('a', '{}', 'why', '2026-01-01 00:00+00'"
EVENTS = "SELECT event_type, record_id, from_status, to_status, success, actor, reason FROM action_events"


@pytest.fixture
def db(server_ledger: str) -> Iterator[DB]:
    """A ledger with one proposal and one record of it, both by raw SQL."""
    with connected(server_ledger) as connection:
        sql(connection, f"{INSERT}) {VALUES})")
        sql(connection, "INSERT INTO action_records (proposal_id, started_at) VALUES (1, now())")
        yield connection


def last_event(db: DB) -> Any:
    return one(db, f"{EVENTS} ORDER BY id DESC LIMIT 1")


def count(db: DB) -> int:
    return one(db, "SELECT count(*) FROM action_events")


def said(db: DB) -> Any:
    return one(
        db,
        "SELECT status_changed_by, status_reason, status_changed_at FROM action_proposals WHERE id = 1",
    )


def test_raw_inserts_are_told_as_such(db: DB) -> None:
    assert sql(db, f"{EVENTS} ORDER BY id") == [
        ("proposal_created", None, None, "proposed", None, "raw SQL", "why"),
        ("record_started", 1, None, None, None, "raw SQL", None),
    ]
    by, reason, at = said(db)
    assert (by, reason) == ("raw SQL", None)
    assert isinstance(at, datetime)


def test_a_raw_insert_that_says_who_acts_is_told_so(db: DB) -> None:
    sql(db, f"{INSERT}, status, status_changed_by) {VALUES}, 'completed', 'import')")
    assert last_event(db) == ("proposal_created", None, None, "completed", None, "import", "why")


MOVE = (
    "UPDATE action_proposals SET status = '{}', status_changed_by = '{}', status_reason = 'fits', "
    "status_changed_at = {}"
)


@pytest.mark.parametrize(
    "more",
    [
        "",
        ", status_changed_by = 'eve'",
        ", status_changed_by = 'eve', status_reason = 'mine', status_changed_at = status_changed_at",
        ", status_changed_by = 'eve', status_changed_at = NULL",
        ", status_changed_by = NULL, status_changed_at = clock_timestamp()",
    ],
)
def test_a_raw_move_is_told_as_such_whoever_moved_before(db: DB, more: str) -> None:
    sql(db, MOVE.format("validated", "alice", "'2999-01-01'"))
    assert last_event(db)[2:] == ("proposed", "validated", None, "alice", "fits")
    before = said(db)[2]
    sql(db, f"UPDATE action_proposals SET status = 'cancelled'{more} WHERE id = 1")
    assert last_event(db)[2:] == ("validated", "cancelled", None, "raw SQL", None)
    by, reason, at = said(db)
    assert (by, reason) == ("raw SQL", None)
    assert at > before
    assert count(db) == 4


def test_a_name_left_beforehand_does_not_count(db: DB) -> None:
    sql(
        db,
        "UPDATE action_proposals SET status_changed_by = 'alice', status_changed_at = clock_timestamp()",
    )
    assert count(db) == 2
    sql(db, "UPDATE action_proposals SET status = 'cancelled'")
    assert last_event(db)[5:] == ("raw SQL", None)


def test_a_writer_can_not_say_when_it_was(db: DB) -> None:
    with db.transaction():
        sql(db, MOVE.format("cancelled", "eve", "'1999-01-01'"))
        sql(db, "UPDATE action_records SET success = true, completed_at = '1999-01-01'")
    times = [row[0] for row in sql(db, "SELECT occurred_at FROM action_events ORDER BY id")]
    assert times == sorted(set(times))
    assert times[0].year > 2020
    assert "eve" in {row[5] for row in sql(db, EVENTS)}


def test_an_update_that_leaves_the_status_adds_no_event(db: DB) -> None:
    for change in ("status = status", "status = 'proposed', validated_at = now()"):
        sql(db, f"UPDATE action_proposals SET {change}")
    sql(db, "UPDATE action_records SET error_message = 'not yet final', completed_by = 'w'")
    assert count(db) == 2


def test_many_rows_of_one_statement_are_told_in_the_order_of_their_ids(db: DB) -> None:
    sql(db, f"{INSERT}) {VALUES}), ('b', '{{}}', 'r', now()), ('c', '{{}}', 'r', now())")
    sql(db, f"{INSERT}) SELECT 'd', '{{}}', n::text, now() FROM generate_series(300, 1, -1) n")
    created = (
        "SELECT proposal_id FROM action_events WHERE event_type = 'proposal_created' ORDER BY id"
    )
    assert sql(db, created) == [(n,) for n in range(1, 305)]
    sql(db, "UPDATE action_proposals SET status = 'cancelled' WHERE id > 4")
    cancelled = "SELECT proposal_id FROM action_events WHERE to_status = 'cancelled' ORDER BY 1"
    assert sql(db, cancelled) == [(n,) for n in range(5, 305)]


def test_rows_that_are_copied_in_are_told(db: DB) -> None:
    with db.cursor().copy(
        f"COPY action_proposals {INSERT.partition('proposals ')[2]}) FROM STDIN"
    ) as copy:
        for n in range(50):
            copy.write_row(("copied", '{"n": 1}', str(n), "2026-01-01 00:00+00"))
    told = "SELECT proposal_id, actor, reason FROM action_events WHERE proposal_id > 1 ORDER BY id"
    assert sql(db, told) == [(n + 2, "raw SQL", str(n)) for n in range(50)]
    with db.cursor().copy("COPY action_records (proposal_id) FROM STDIN") as copy:
        copy.write_row((2,))
        copy.write_row((3,))
    told = "SELECT proposal_id, record_id, actor FROM action_events WHERE record_id > 1 ORDER BY id"
    assert sql(db, told) == [(2, 2, "raw SQL"), (3, 3, "raw SQL")]


def test_an_insert_that_becomes_an_update_is_told_as_one(db: DB) -> None:
    insert = (
        "INSERT INTO action_proposals (id, action_name, parameters, reason, proposed_at) "
        "OVERRIDING SYSTEM VALUE VALUES (1, 'b', '{}', 'r', now()) ON CONFLICT (id) DO "
    )
    sql(db, insert + "NOTHING")
    assert count(db) == 2
    sql(db, insert + "UPDATE SET status = 'cancelled', status_changed_by = 'eve'")
    assert last_event(db)[2:] == ("proposed", "cancelled", None, "raw SQL", None)
    assert count(db) == 3


def test_a_statement_that_fails_tells_nothing(db: DB) -> None:
    sql(db, f"{INSERT}) {VALUES})")
    sql(db, "UPDATE action_proposals SET status = 'cancelled' WHERE id = 2")
    refused(db, "UPDATE action_proposals SET status = 'validated'", "lifecycle")
    refused(db, f"{INSERT}) {VALUES}), ('a', '{{}}', NULL, now())", error=NotNullViolation)


def test_a_transaction_that_is_rolled_back_tells_nothing(db: DB) -> None:
    before = count(db)
    with db.transaction(force_rollback=True):
        sql(db, "UPDATE action_proposals SET status = 'cancelled'")
        assert count(db) == before + 1
    assert count(db) == before


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
    ],
)
def test_an_outcome_is_final(db: DB, change: str) -> None:
    sql(db, "UPDATE action_records SET success = true, completed_at = '2026-01-03'")
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
    ],
)
def test_a_record_is_neither_edited_nor_deleted_nor_made_up(
    db: DB, statement: str, by: str
) -> None:
    sql(db, f"{INSERT}) {VALUES})")
    refused(db, statement, by)


EVENT = "INSERT INTO action_events (proposal_id, event_type, actor, occurred_at) "
NUMBERED = "INSERT INTO action_events (id, proposal_id, event_type, actor, occurred_at) OVERRIDING SYSTEM VALUE "


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE action_events SET actor = 'eve'",
        "UPDATE action_events SET actor = actor",
        "UPDATE action_events SET id = DEFAULT",
        "UPDATE action_events SET reason = NULL WHERE false",
        "DELETE FROM action_events",
        "DELETE FROM action_events WHERE id = 2",
        "TRUNCATE action_events",
        f"{NUMBERED} VALUES (1, 1, 'record_started', 'eve', now()) ON CONFLICT (id) DO UPDATE SET actor = 'eve'",
        f"{NUMBERED} VALUES (9, 1, 'record_started', 'eve', now()) ON CONFLICT (id) DO UPDATE SET actor = 'eve'",
        "MERGE INTO action_events USING (SELECT 1) one ON true WHEN MATCHED THEN DELETE",
        "MERGE INTO action_events USING (SELECT 1) one ON true WHEN MATCHED THEN UPDATE SET actor = 'eve'",
    ],
)
def test_the_history_is_append_only(db: DB, statement: str) -> None:
    if statement.startswith("MERGE") and db.info.server_version < 150000:
        pytest.skip("MERGE is of PostgreSQL 15 and later")
    refused(db, statement, "the history is append-only")


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (f"{NUMBERED} VALUES (1, 1, 'record_started', 'eve', now())", psycopg.IntegrityError),
        (f"{NUMBERED} VALUES (-1, 1, 'record_started', 'eve', now())", CheckViolation),
        (f"{EVENT} VALUES (77, 'record_started', 'eve', now())", ForeignKeyViolation),
        (f"{EVENT} VALUES (1, 'made_up', 'eve', now())", CheckViolation),
        (f"{EVENT} VALUES (1, 'record_started', NULL, now())", NotNullViolation),
        (f"{EVENT} VALUES (1, 'record_started', 'eve', 'infinity')", CheckViolation),
        (
            "INSERT INTO action_events (proposal_id, record_id, event_type, actor, occurred_at) "
            "VALUES (1, 77, 'record_started', 'eve', now())",
            ForeignKeyViolation,
        ),
    ],
)
def test_an_event_of_nothing_is_refused(db: DB, statement: str, error: type[psycopg.Error]) -> None:
    refused(db, statement, error=error)
