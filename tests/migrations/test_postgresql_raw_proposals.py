"""Raw SQL against proposals and tickets on a server: the database itself keeps the promises."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product

import psycopg
import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation, IntegrityError

from operator_core.actions import ActionStatus
from operator_core.actions.lifecycle import can_move
from tests.databases import connected
from tests.migrations.postgresql_tools import DB, one, refused, sql

FAR_OFF = datetime(2999, 1, 1, tzinfo=UTC)

ROWS = """
INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message, updated_at) VALUES
    ('first', 'i', 't', 't', 'm', '2000-01-01 00:00:00'), ('second', 'i', 't', 't', 'm', '2000-01-01 00:00:00');
INSERT INTO action_proposals (ticket_id, action_name, parameters, reason, status, proposed_at, created_at,
    updated_at, scheduled_at, max_retries) VALUES
    (NULL, 'a', '{}', 'r', 'proposed', '2020-01-01 00:00+00', '2020-01-01 00:00+00', '2020-01-01 00:00+00',
        '2020-01-01 00:00+00', 3),
    (1, 'a', '{"b": 1}', 'r', 'validated', '2020-01-01 00:00+00', '2020-01-01 00:00+00', '2020-01-01 00:00+00',
        '2020-01-01 00:00+00', 3),
    (NULL, 'a', '{}', 'r', 'failed', '2020-01-01 00:00+00', '2020-01-01 00:00+00', '2020-01-01 00:00+00',
        '2020-01-01 00:00+00', 3);
"""


@pytest.fixture
def db(server_ledger: str) -> Iterator[DB]:
    """Two tickets and three proposals: without a ticket, with one, one that failed."""
    with connected(server_ledger) as connection:
        connection.execute(ROWS)
        yield connection


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("action_name", "'b'"),
        ("action_type", "'tool'"),
        ("parameters", "'{\"a\": 1}'"),
        # The same to jsonb, and not what was proposed.
        ("parameters", "'{\"b\":1}'"),
        ("ticket_id", "2"),
        ("ticket_id", "NULL"),
        ("reason", "'other'"),
        ("reason", "NULL"),
        ("proposed_by", "'eve'"),
        ("proposed_at", "'2026-01-01'"),
        ("created_at", "now()"),
        ("created_at", "NULL"),
        ("priority", "7"),
        ("priority", "NULL"),
        ("scheduled_at", "'2026-01-01'"),
        ("scheduled_at", "NULL"),
        ("expires_at", "'2026-01-01'"),
        ("max_retries", "4"),
        ("max_retries", "DEFAULT"),
        ("retry_delay", "0.5"),
        ("max_retry_delay", "'infinity'"),
    ],
)
def test_what_was_proposed_can_not_be_edited(db: DB, column: str, value: str) -> None:
    by = "action_proposals_immutable: what was proposed can not be edited"
    refused(db, f"UPDATE action_proposals SET {column} = {value} WHERE id = 2", by)
    refused(
        db,
        f"UPDATE action_proposals SET ({column}, status) = ROW ({value}, 'cancelled') WHERE id = 2",
        by,
    )


def test_what_was_proposed_may_be_said_again(db: DB) -> None:
    sql(
        db,
        "UPDATE action_proposals SET action_name = action_name, parameters = parameters, "
        "ticket_id = ticket_id, created_at = created_at, priority = priority, "
        "scheduled_at = scheduled_at, max_retries = max_retries, retry_delay = 1.0",
    )


def test_what_becomes_of_it_may_be_said(db: DB) -> None:
    said = "next_retry_at = '2026-01-01', last_error = 'no leader'"
    sql(db, f"UPDATE action_proposals SET {said} WHERE id = 3")
    row = "SELECT retry_count, next_retry_at = '2026-01-01', last_error FROM action_proposals"
    assert one(db, f"{row} WHERE id = 3") == (0, True, "no leader")


@pytest.mark.parametrize("at", ["retry_count + 1", "retry_count - 1", "2", "-2147483648"])
def test_retries_are_counted_with_the_retry_only(db: DB, at: str) -> None:
    by = "^action_proposals_retries: "
    for id_ in (1, 2, 3):
        refused(db, f"UPDATE action_proposals SET retry_count = {at} WHERE id = {id_}", by)
    again = f"UPDATE action_proposals SET status = 'validated', retry_count = {at} WHERE id = 3"
    if at != "retry_count + 1":
        refused(db, again, by)
        return
    refused(db, again.replace("validated", "proposed"), "action_proposals_(lifecycle|retries): ")
    sql(db, again)
    assert one(db, "SELECT retry_count FROM action_proposals WHERE id = 3") == 1


@pytest.mark.parametrize(
    ("change", "by", "error"),
    [
        ("SET id = DEFAULT WHERE id = 2", "action_proposals_not_renumbered", IntegrityError),
        # PostgreSQL's own refusal.
        ("SET id = 99 WHERE id = 2", "can only be updated to DEFAULT", psycopg.Error),
    ],
)
def test_a_proposal_keeps_its_id(db: DB, change: str, by: str, error: type[psycopg.Error]) -> None:
    refused(db, f"UPDATE action_proposals {change}", by, error)


def with_id(id: int, time: str = "now()") -> str:
    return (
        "INSERT INTO action_proposals (id, action_name, parameters, reason, proposed_at) "
        f"OVERRIDING SYSTEM VALUE VALUES ({id}, 'b', '{{}}', 'r', {time})"
    )


@pytest.mark.parametrize(
    ("statement", "by"),
    [
        ("DELETE FROM action_proposals", "action_proposals_not_deleted"),
        ("DELETE FROM action_proposals WHERE id = 3", "action_proposals_not_deleted"),
        ("DELETE FROM action_proposals WHERE false", "action_proposals_not_deleted"),
        ("WITH gone AS (DELETE FROM action_proposals RETURNING id) SELECT * FROM gone", "_deleted"),
        ("TRUNCATE action_proposals CASCADE", "action_proposals_not_deleted"),
        ("TRUNCATE tickets CASCADE", "action_proposals_not_deleted"),
        (
            "TRUNCATE action_proposals, action_records, action_events, tickets, action_dependencies, workflows, outcome_resolutions, action_limits, action_starts, action_rules, action_requirements, action_decisions, action_grants",
            "_not_deleted",
        ),
        (with_id(2), "pk_action_proposals"),
        (
            f"{with_id(2)} ON CONFLICT (id) DO UPDATE SET action_name = EXCLUDED.action_name",
            "immutable",
        ),
        (f"{with_id(2)} ON CONFLICT (id) DO UPDATE SET status = 'proposed'", "lifecycle"),
    ],
)
def test_a_proposal_is_neither_deleted_nor_replaced(db: DB, statement: str, by: str) -> None:
    refused(db, statement, by)


def test_truncating_what_others_refer_to_is_refused_by_postgresql_itself(db: DB) -> None:
    refused(db, "TRUNCATE tickets", "cannot truncate a table referenced", psycopg.Error)
    refused(db, "TRUNCATE action_proposals", "cannot truncate a table referenced", psycopg.Error)


def test_merge_keeps_to_the_rules(db: DB) -> None:
    if db.info.server_version < 150000:
        pytest.skip("MERGE is of PostgreSQL 15 and later")
    merge = (
        "MERGE INTO action_proposals USING (VALUES (1), (2), (99)) wanted (id) "
        "ON action_proposals.id = wanted.id WHEN MATCHED THEN {} "
        "WHEN NOT MATCHED THEN INSERT (action_name, parameters, reason, proposed_at) "
        "VALUES ('new', '{{}}', 'r', now())"
    )
    refused(db, merge.format("DELETE"), "action_proposals_not_deleted")
    refused(db, merge.format("UPDATE SET reason = 'x'"), "action_proposals_immutable")
    refused(db, merge.format("UPDATE SET status = 'executing'"), "action_proposals_lifecycle")
    sql(db, merge.format("UPDATE SET status = 'cancelled'"))
    told = sql(db, "SELECT proposal_id, to_status, actor FROM action_events WHERE id > 3")
    assert sorted(told) == [(n, "cancelled", "raw SQL") for n in (1, 2)] + [
        (one(db, "SELECT max(id) FROM action_proposals"), "proposed", "raw SQL")
    ]


@pytest.mark.parametrize(
    ("start", "to"), list(product(ActionStatus, ActionStatus)), ids=lambda status: status.value
)
def test_a_raw_update_moves_along_the_lifecycle_only(
    db: DB, start: ActionStatus, to: ActionStatus
) -> None:
    insert = (
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, status) "
        "VALUES ('a', '{}', 'r', now(), %s) RETURNING id"
    )
    id_ = one(db, insert, start.value)
    move = f"UPDATE action_proposals SET status = '{to}' WHERE id = {id_}"
    if start is not to and not can_move(start, to):
        refused(db, move, "action_proposals_lifecycle: the lifecycle has no such step")
        return
    sql(db, move)
    told = sql(db, "SELECT from_status, to_status FROM action_events WHERE proposal_id = %s", id_)
    moved = [] if start is to else [(start.value, to.value)]
    assert told == [(None, start.value), *moved]


@pytest.mark.parametrize(("column", "value"), [("status", "bogus"), ("action_type", "magic")])
def test_an_unknown_status_or_type_is_refused(db: DB, column: str, value: str) -> None:
    insert = (
        f"INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, {column}) "
        "VALUES ('a', '{}', 'r', now(), '" + value + "')"
    )
    refused(db, insert, f"ck_action_proposals_{column}", CheckViolation)
    refused(db, f"UPDATE action_proposals SET {column} = '{value}'")
    refused(db, f"UPDATE action_proposals SET {column} = NULL")


@pytest.mark.parametrize("id", [-1, 0, -(2**63), 2**62, 2**63 - 1])
def test_an_id_that_no_ledger_gives_is_refused(db: DB, id: int) -> None:
    refused(db, with_id(id), "ck_action_proposals_id", CheckViolation)


@pytest.mark.parametrize(
    "time", ["infinity", "-infinity", "1969-12-31 23:59:59.999999+00", "9999-01-01 00:00:00+00"]
)
def test_a_time_that_python_can_not_hold_is_refused(db: DB, time: str) -> None:
    refused(db, with_id(9, f"'{time}'"), "_times")
    for column in ("validated_at", "cancelled_at", "status_changed_at", "next_retry_at"):
        status = ", status = 'cancelled'" if column == "status_changed_at" else ""
        update = f"UPDATE action_proposals SET {column} = '{time}'{status} WHERE id < 3"
        refused(db, update, "_times", CheckViolation)
    for column in ("scheduled_at", "expires_at"):
        insert = f"INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, {column}) "
        refused(
            db, f"{insert} VALUES ('a', '{{}}', 'r', now(), '{time}')", "_times", CheckViolation
        )


def test_a_proposal_needs_a_ticket_that_exists(db: DB) -> None:
    insert = (
        "INSERT INTO action_proposals (ticket_id, action_name, parameters, reason, proposed_at) "
    )
    refused(db, insert + "VALUES (77, 'a', '{}', 'r', now())", "ticket_id", ForeignKeyViolation)


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM tickets", "DELETE FROM tickets WHERE id = 1", "UPDATE tickets SET id = id + 10"],
)
def test_a_ticket_that_a_proposal_refers_to_stays(db: DB, statement: str) -> None:
    refused(db, statement, "fk_action_proposals_ticket_id_tickets", ForeignKeyViolation)


def test_a_ticket_that_nobody_refers_to_may_go(db: DB) -> None:
    sql(db, "DELETE FROM tickets WHERE id = 2")
    assert one(db, "SELECT count(*) FROM tickets") == 1


UPDATED = "SELECT updated_at FROM action_proposals WHERE id = 1"


def test_updated_at_moves_on_every_update(db: DB) -> None:
    seen = [one(db, UPDATED)]
    with db.transaction():
        for change in (
            "validated_at = now()",
            "status = 'validated'",
            "last_error = 'y'",
            "status = status",
            "updated_at = updated_at",
            "updated_at = '1999-01-01'",
        ):
            sql(db, f"UPDATE action_proposals SET {change} WHERE id = 1")
            seen.append(one(db, UPDATED))
    assert seen == sorted(set(seen))
    assert seen[1] > seen[0] + timedelta(days=1)


def test_updated_at_moves_forward_with_the_clock_set_back(db: DB) -> None:
    sql(db, "UPDATE action_proposals SET updated_at = %s WHERE id = 1", FAR_OFF)
    for n, change in enumerate(
        ("validated_at = now()", "status = 'validated'", "updated_at = '2026-01-01'"), 1
    ):
        sql(db, f"UPDATE action_proposals SET {change} WHERE id = 1")
        assert one(db, UPDATED) == FAR_OFF + n * timedelta(microseconds=1)


def test_updated_at_is_the_writers_where_the_writer_moves_it_forward(db: DB) -> None:
    for n, change in enumerate(("validated_at = now()", "status = 'validated'")):
        time = FAR_OFF + n * timedelta(microseconds=1)
        sql(db, f"UPDATE action_proposals SET {change}, updated_at = %s WHERE id = 1", time)
        assert one(db, UPDATED) == time


def test_updated_at_is_never_nothing(db: DB) -> None:
    refused(db, "UPDATE action_proposals SET updated_at = NULL", "updated_at")


VERSIONS = "SELECT version FROM action_proposals ORDER BY id"
CLAIMED = "status = 'executing', status_changed_by = 'w', status_changed_at = now()"


def test_the_version_counts_each_update(db: DB) -> None:
    for version, change in enumerate(
        (
            "validated_at = now()",
            "status = 'validated'",
            "status = status",
            "version = version",
            CLAIMED,
            "last_error = 'e'",
            "next_retry_at = now()",
            "updated_at = '2999-01-01'",
            "status = 'failed', updated_at = '2999-01-02', version = version + 1",
        ),
        2,
    ):
        sql(db, f"UPDATE action_proposals SET {change} WHERE id = 1")
        assert sql(db, VERSIONS) == [(version,), (1,), (1,)]
    sql(db, "UPDATE action_proposals SET last_error = NULL")
    assert sql(db, VERSIONS) == [(version + 1,), (2,), (2,)]


def test_the_version_is_nobodys_to_set(db: DB) -> None:
    for version, change in enumerate(
        (
            "version = 99",
            "version = 0",
            "version = -1",
            "version = NULL",
            "version = DEFAULT",
            "version = version - 1",
            "version = version + 1",
            "version = 99, status = 'validated'",
            f"version = 0, {CLAIMED}",
            "version = 99, updated_at = '2999-01-01'",
            "version = 99, next_retry_at = now()",
        ),
        2,
    ):
        sql(db, f"UPDATE action_proposals SET {change} WHERE id = 1")
        assert sql(db, VERSIONS) == [(version,), (1,), (1,)]


def test_a_tickets_updated_at_moves_unless_it_is_set(db: DB) -> None:
    sql(db, "UPDATE tickets SET held = true WHERE id = 1")
    now = datetime.now(UTC)
    moved = datetime.fromisoformat(one(db, "SELECT updated_at || '+00' FROM tickets WHERE id = 1"))
    assert timedelta(0) <= now - moved < timedelta(minutes=1)
    sql(db, "UPDATE tickets SET held = false, updated_at = 'mine' WHERE id = 1")
    assert one(db, "SELECT updated_at FROM tickets WHERE id = 1") == "mine"
    assert one(db, "SELECT updated_at FROM tickets WHERE id = 2") == "2000-01-01 00:00:00"
