"""Raw SQL against the history on a server: who did what is told by the database, for good."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg.errors import NotNullViolation

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


@pytest.mark.parametrize(
    "change",
    [
        "status_changed_by = 'alice', status_changed_at = clock_timestamp()",
        "status_changed_by = 'alice'",
        "status_changed_by = NULL",
        "status_changed_at = clock_timestamp()",
        "status_changed_at = NULL",
        "status_reason = 'fits'",
        "status_reason = ''",
        "status_reason = 'fits', status = status, validated_at = now()",
    ],
)
def test_who_acted_changes_only_with_what_they_did(db: DB, change: str) -> None:
    refused(db, f"UPDATE action_proposals SET {change}", "^action_proposals_attributed: ")
    sql(db, "UPDATE action_proposals SET status = 'cancelled'")
    assert last_event(db)[5:] == ("raw SQL", None)
    sql(db, "UPDATE action_proposals SET status_reason = status_reason, last_error = 'e'")
    assert count(db) == 3


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


def test_an_event_knows_its_transaction(db: DB) -> None:
    """Ids are given before the commit, so that only this tells what may still come before an event."""
    with db.transaction():
        sql(db, f"{INSERT}) {VALUES})")
        sql(db, "UPDATE action_records SET success = true, completed_at = now()")
        here = one(db, "SELECT pg_current_xact_id()::text::bigint")
    told = sql(db, "SELECT transaction_id FROM action_events ORDER BY id")
    assert told[2:] == [(here,), (here,)]
    assert 0 < told[0][0] < told[1][0] < here


def test_who_listens_is_woken_by_what_is_committed(db: DB, server_ledger: str) -> None:
    with connected(server_ledger) as listener:
        sql(listener, "LISTEN operator_core_events")
        with db.transaction(force_rollback=True):
            sql(db, "UPDATE action_proposals SET status = 'cancelled'")
        sql(db, "NOTIFY operator_core_events, 'the end of what was to be silent'")
        sql(db, f"{INSERT}) {VALUES}), ('b', '{{}}', 'r', now())")
        sql(db, "UPDATE action_records SET success = true, completed_at = now()")
        heard = [each.payload for each in listener.notifies(timeout=10, stop_after=3)]
    assert heard == ["the end of what was to be silent", "", ""]


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
    # Who would insert is stopped before it comes to an update.
    inserts = "INSERT" in statement
    refused(
        db,
        statement,
        "only the triggers write the history" if inserts else "the history is append-only",
    )


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (f"{NUMBERED} VALUES (1, 1, 'record_started', 'eve', now())", psycopg.IntegrityError),
        (f"{NUMBERED} VALUES (-1, 1, 'record_started', 'eve', now())", psycopg.IntegrityError),
        (f"{EVENT} VALUES (77, 'record_started', 'eve', now())", psycopg.IntegrityError),
        (f"{EVENT} VALUES (1, 'made_up', 'eve', now())", psycopg.IntegrityError),
        (f"{EVENT} VALUES (1, 'record_started', NULL, now())", psycopg.IntegrityError),
        (f"{EVENT} VALUES (1, 'record_started', 'eve', 'infinity')", psycopg.IntegrityError),
        (
            "INSERT INTO action_events (proposal_id, record_id, event_type, actor, occurred_at) "
            "VALUES (1, 77, 'record_started', 'eve', now())",
            psycopg.IntegrityError,
        ),
    ],
)
def test_an_event_of_nothing_is_refused(db: DB, statement: str, error: type[psycopg.Error]) -> None:
    refused(db, statement, error=error)
