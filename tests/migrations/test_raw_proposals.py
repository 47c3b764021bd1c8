"""Raw SQL against proposals and tickets: the database itself keeps the promises.

Each test runs on connections as other tools have them: with SQLite's defaults (foreign keys off),
with foreign keys on, with recursive triggers, and with both.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.raw_tools import SETTINGS, empty, refused

LONG_AGO = "2020-01-01 00:00:00.000000"
FAR_OFF = "2999-01-01 00:00:00.000000"


@pytest.fixture(autouse=True)
def _no_thread_left() -> None:
    """No thread is started here, and looking for one would cost more than the tests."""


@pytest.fixture(params=SETTINGS)
def db(request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    """A ledger with two tickets and three proposals: without a ticket, with one, one that failed."""
    with empty(request.param) as connection:
        fill(connection)
        yield connection


def fill(connection: dbapi.Connection) -> None:
    for key in ("first", "second"):
        connection.execute(
            "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message, "
            "updated_at) VALUES (?, 'i', 't', 't', 'm', '2000-01-01 00:00:00')",
            [key],
        )
    for ticket, status in ((None, "proposed"), (1, "validated"), (None, "failed")):
        connection.execute(
            "INSERT INTO action_proposals (ticket_id, action_name, parameters, reason, status, "
            "proposed_at, updated_at, scheduled_at, max_retries) "
            "VALUES (?, 'a', '{}', 'r', ?, ?, ?, ?, 3)",
            [ticket, status, LONG_AGO, LONG_AGO, LONG_AGO],
        )


def one(db: dbapi.Connection, sql: str, *parameters: Any) -> Any:
    (row,) = db.execute(sql, parameters).fetchall()
    return row[0] if len(row) == 1 else row


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("action_name", "'b'"),
        ("action_type", "'tool'"),
        ("parameters", "'{\"a\":1}'"),
        ("ticket_id", "2"),
        ("ticket_id", "NULL"),
        ("reason", "'other'"),
        ("reason", "NULL"),
        ("proposed_by", "'eve'"),
        ("proposed_at", "'2026-01-01 00:00:00.000000'"),
        ("created_at", "'2026-01-01 00:00:00.000000'"),
        ("PARAMETERS", "x'7b7d'"),
        ("priority", "7"),
        ("priority", "NULL"),
        ("scheduled_at", "'2026-01-01 00:00:00.000000'"),
        ("scheduled_at", "NULL"),
        ("expires_at", "'2026-01-01 00:00:00.000000'"),
        ("max_retries", "4"),
        ("max_retries", "NULL"),
        ("retry_delay", "0.5"),
        ("max_retry_delay", "1e9"),
    ],
)
def test_what_was_proposed_can_not_be_edited(db: dbapi.Connection, column: str, value: str) -> None:
    for verb in ("UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"):
        refused(
            db,
            f"{verb} action_proposals SET {column} = {value} WHERE id = 2",
            "action_proposals_immutable",
        )


def test_what_becomes_of_it_may_be_said(db: dbapi.Connection) -> None:
    said = "next_retry_at = 'x', last_error = 'no leader'"
    db.execute(f"UPDATE action_proposals SET {said}, priority = priority WHERE id = 3")
    assert one(db, "SELECT next_retry_at, last_error FROM action_proposals WHERE id = 3") == (
        "x",
        "no leader",
    )


@pytest.mark.parametrize("count", ["2", "-1", "retry_count + 1", "NULL", "'x'", "9e99"])
def test_retries_are_counted_by_retries_alone(db: dbapi.Connection, count: str) -> None:
    for verb in ("UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"):
        for id in (1, 2, 3):
            sql = f"{verb} action_proposals SET retry_count = {count} WHERE id = {id}"
            refused(db, sql, "action_proposals_retries")
    again = "UPDATE action_proposals SET status = 'validated', retry_count = {} WHERE id = 3"
    for wrong in ("2", "-1", "NULL"):
        refused(db, again.format(wrong), "action_proposals_retries")
    db.execute(again.format("retry_count + 1"))
    assert one(db, "SELECT status, retry_count FROM action_proposals WHERE id = 3") == (
        "validated",
        1,
    )


@pytest.mark.parametrize(
    "change",
    [
        "status_changed_by = 'eve'",
        "status_changed_by = 'raw SQL', status_reason = NULL, status_changed_at = 'x'",
        "status_changed_by = NULL",
        "status_reason = 'y'",
        f"status_changed_at = '{FAR_OFF}'",
        f"status = status, status_changed_by = 'eve', status_changed_at = '{FAR_OFF}'",
        f"status_reason = 'y', version = version + 1, updated_at = '{FAR_OFF}'",
        f"last_error = 'e', status_changed_by = 'eve', status_changed_at = '{FAR_OFF}', version = 99",
    ],
)
def test_who_acts_is_not_said_without_an_act(db: dbapi.Connection, change: str) -> None:
    for verb in ("UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"):
        refused(db, f"{verb} action_proposals SET {change}", "action_proposals_attributed")


@pytest.mark.parametrize("name", ["id", "rowid", "oid", "_rowid_"])
def test_a_proposal_keeps_its_id_by_whatever_name(db: dbapi.Connection, name: str) -> None:
    for new in (99, 1, -1):
        refused(
            db,
            f"UPDATE OR REPLACE action_proposals SET {name} = {new} WHERE id = 2",
            "action_proposals_not_renumbered",
        )


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM action_proposals",
        "DELETE FROM action_proposals WHERE id = 3",
        "REPLACE INTO action_proposals (id, action_name, parameters, reason, proposed_at) "
        "VALUES (3, 'b', '{}', 'r', 't')",
        "INSERT OR REPLACE INTO action_proposals (rowid, action_name, parameters, reason, proposed_at) "
        "VALUES (3, 'b', '{}', 'r', 't')",
        "INSERT OR IGNORE INTO action_proposals (id, action_name, parameters, reason, proposed_at) "
        "VALUES (3, 'b', '{}', 'r', 't')",
        "INSERT INTO action_proposals (id, action_name, parameters, reason, proposed_at) "
        "VALUES (3, 'b', '{}', 'r', 't') ON CONFLICT (id) DO UPDATE SET status = 'validated'",
    ],
)
def test_a_proposal_is_neither_deleted_nor_replaced(db: dbapi.Connection, sql: str) -> None:
    refused(db, sql, "action_proposals_not_")


@pytest.mark.parametrize("id", [-1, 0, -(2**63)])
def test_an_id_that_would_block_the_table_is_refused(db: dbapi.Connection, id: int) -> None:
    insert = (
        "INSERT INTO action_proposals (id, action_name, parameters, reason, proposed_at) "
        f"VALUES ({{}}, 'b', '{{{{}}}}', 'r', '{LONG_AGO}')"
    )
    refused(db, insert.format(id), "an id is positive")
    assert db.execute(insert.format("NULL")).lastrowid == 4


def test_a_proposal_needs_a_ticket_that_exists(db: dbapi.Connection) -> None:
    refused(
        db,
        "INSERT INTO action_proposals (ticket_id, action_name, parameters, reason, proposed_at) "
        "VALUES (77, 'a', '{}', 'r', 't')",
    )


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM tickets WHERE id = 1",
        "DELETE FROM tickets",
        "UPDATE tickets SET id = 9 WHERE id = 1",
        "UPDATE OR REPLACE tickets SET rowid = 2 WHERE id = 1",
    ],
)
def test_a_ticket_that_a_proposal_refers_to_stays(db: dbapi.Connection, sql: str) -> None:
    refused(db, sql)


def test_a_ticket_that_nobody_refers_to_may_go(db: dbapi.Connection) -> None:
    db.execute("DELETE FROM tickets WHERE id = 2")
    assert one(db, "SELECT count(*) FROM tickets") == 1


@pytest.mark.parametrize(("column", "value"), [("status", "bogus"), ("action_type", "magic")])
def test_an_unknown_status_or_type_is_refused(
    db: dbapi.Connection, column: str, value: str
) -> None:
    refused(
        db,
        f"INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, {column}) "
        f"VALUES ('a', '{{}}', 'r', 't', '{value}')",
        f"ck_action_proposals_{column}",
    )
    refused(db, f"UPDATE action_proposals SET {column} = '{value}' WHERE id = 1")
    refused(db, f"UPDATE OR IGNORE action_proposals SET {column} = '{value}' WHERE id = 1")


@pytest.mark.parametrize("id", [2, 3])
def test_a_null_does_not_become_a_status_by_default(db: dbapi.Connection, id: int) -> None:
    """OR REPLACE puts a column's default where NULL is refused: a way back to proposed."""
    refused(
        db, f"UPDATE OR REPLACE action_proposals SET status = NULL WHERE id = {id}", "lifecycle"
    )


def test_updated_at_moves_on_every_update(db: dbapi.Connection) -> None:
    for change in (
        "validated_at = 'x'",
        "status = 'validated'",
        "last_error = 'y'",
        "status = status",
    ):
        before = one(db, "SELECT updated_at FROM action_proposals WHERE id = 1")
        db.execute(f"UPDATE action_proposals SET {change} WHERE id = 1")
        assert one(db, "SELECT updated_at FROM action_proposals WHERE id = 1") > before
    form = "____-__-__ __:__:__.______"
    assert one(db, "SELECT updated_at LIKE ? FROM action_proposals WHERE id = 1", form)


def test_updated_at_moves_forward_with_the_clock_set_back(db: dbapi.Connection) -> None:
    db.execute("UPDATE action_proposals SET updated_at = ? WHERE id = 1", [FAR_OFF])
    seen = [FAR_OFF]
    for change in ("validated_at = 'x'", "status = 'validated'", "status = 'executing'"):
        db.execute(f"UPDATE action_proposals SET {change} WHERE id = 1")
        seen.append(one(db, "SELECT updated_at FROM action_proposals WHERE id = 1"))
    assert seen == sorted(set(seen))
    assert seen[-1] < "2999-01-01 00:00:01"


def test_updated_at_is_the_writers_where_the_writer_sets_it(db: dbapi.Connection) -> None:
    for change, time in (
        ("validated_at = 'x'", "2030-01-01 00:00:00.000001"),
        ("status = 'validated'", "2030-01-01 00:00:00.000002"),
        ("status = 'executing'", "2030-01-01 00:00:00.000003"),
    ):
        db.execute(f"UPDATE action_proposals SET {change}, updated_at = ? WHERE id = 1", [time])
        assert one(db, "SELECT updated_at FROM action_proposals WHERE id = 1") == time


def test_updated_at_never_goes_back(db: dbapi.Connection) -> None:
    now = one(db, "SELECT updated_at FROM action_proposals WHERE id = 1")
    db.execute("UPDATE action_proposals SET updated_at = '1999-01-01 00:00:00.000000' WHERE id = 1")
    assert one(db, "SELECT updated_at FROM action_proposals WHERE id = 1") > now


def test_an_unreadable_updated_at_gives_way_to_the_clock(db: dbapi.Connection) -> None:
    db.execute("UPDATE action_proposals SET updated_at = 'zzz' WHERE id = 1")
    db.execute("UPDATE action_proposals SET status = 'cancelled' WHERE id = 1")
    assert one(db, "SELECT status, updated_at < '2999' FROM action_proposals WHERE id = 1") == (
        "cancelled",
        1,
    )


VERSIONS = "SELECT version FROM action_proposals ORDER BY id"
CLAIMED = "status = 'executing', status_changed_by = 'w', status_changed_at = '2026-01-02 00:00:00.000000'"


def test_the_version_counts_each_update(db: dbapi.Connection) -> None:
    for version, change in enumerate(
        (
            "validated_at = 'x'",
            "status = 'validated'",
            "status = status",
            "version = version",
            CLAIMED,
            "last_error = 'e'",
            "updated_at = '2999-01-01 00:00:00.000000'",
            "status = 'failed', updated_at = '2999-01-01 00:00:01.000000', version = version + 1",
        ),
        2,
    ):
        db.execute(f"UPDATE action_proposals SET {change} WHERE id = 1")
        assert db.execute(VERSIONS).fetchall() == [(version,), (1,), (1,)]
    db.execute("UPDATE action_proposals SET last_error = NULL")
    assert db.execute(VERSIONS).fetchall() == [(version + 1,), (2,), (2,)]


def test_a_refused_update_is_not_counted(db: dbapi.Connection) -> None:
    db.execute("UPDATE OR IGNORE action_proposals SET version = NULL")
    assert db.execute(VERSIONS).fetchall() == [(1,), (1,), (1,)]
    refused(db, "UPDATE action_proposals SET version = NULL", "version")


def test_the_version_is_nobodys_to_set(db: dbapi.Connection) -> None:
    for version, change in enumerate(
        (
            "version = 99",
            "version = 0",
            "version = -1",
            "version = 'x'",
            "version = version - 1",
            "version = version + 1",
            "version = 99, status = 'validated'",
            f"version = 0, {CLAIMED}",
            "version = 99, updated_at = '2999-01-01 00:00:00.000000'",
        ),
        2,
    ):
        db.execute(f"UPDATE action_proposals SET {change} WHERE id = 1")
        assert db.execute(VERSIONS).fetchall() == [(version,), (1,), (1,)]
    # The column's default in its place would be a step back.
    refused(db, "UPDATE OR REPLACE action_proposals SET version = NULL WHERE id = 1", "version")
    db.execute("UPDATE OR REPLACE action_proposals SET version = NULL WHERE id = 2")
    assert db.execute(VERSIONS).fetchall() == [(version,), (2,), (1,)]


def test_a_tickets_updated_at_moves_unless_it_is_set(db: dbapi.Connection) -> None:
    db.execute("UPDATE tickets SET held = 1 WHERE id = 1")
    assert one(db, "SELECT updated_at FROM tickets WHERE id = 1") > "2020"
    db.execute("UPDATE tickets SET held = 0, updated_at = 'mine' WHERE id = 1")
    assert one(db, "SELECT updated_at FROM tickets WHERE id = 1") == "mine"
