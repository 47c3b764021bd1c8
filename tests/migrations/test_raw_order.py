"""Raw SQL on what depends on what: what starts, what is executed, and what ends along with what."""

from collections.abc import Iterator
from time import thread_time
from typing import Final

import pytest

from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.raw_tools import (
    RECORD,
    SETTINGS,
    TIME,
    empty,
    insert,
    propose,
    refused,
    refused_row,
)

PAST: Final = TIME
FUTURE: Final = "2999-01-01 00:00:00.000000"
STARTED: Final = (
    "status = 'executing', status_changed_by = 'w', status_changed_at = '2026-01-02 00:00:00.000000', "
    "version = version + 1, updated_at = '2998-01-01 00:00:00.000000'"
)


@pytest.fixture(autouse=True)
def _no_thread_left() -> None:
    """No thread is started here, and looking for one would cost more than the tests."""


@pytest.fixture(params=SETTINGS)
def db(request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    with empty(request.param) as connection:
        yield connection


def told(db: dbapi.Connection) -> list[tuple[object, ...]]:
    """Every move, in the order of the history."""
    return db.execute(
        "SELECT proposal_id, from_status, to_status, version, actor, reason FROM action_events "
        "WHERE event_type <> 'proposal_created' ORDER BY id"
    ).fetchall()


# ------ What starts


@pytest.mark.parametrize(
    ("values", "by"),
    [
        ({"scheduled_at": FUTURE}, "action_proposals_not_due"),
        ({"scheduled_at": "9998-12-31 23:59:59.999999"}, "action_proposals_not_due"),
        ({"expires_at": PAST}, "action_proposals_expired"),
        ({"expires_at": PAST, "scheduled_at": FUTURE}, "action_proposals_"),
        ({"depends_on": "[1]"}, "action_proposals_dependency_pending"),
        ({"depends_on": "[2]"}, "action_proposals_dependency_pending"),
        ({"depends_on": "[3,2]"}, "action_proposals_dependency_pending"),
        ({"depends_on": "[4]", "wait_on_failure": 1}, "action_proposals_dependency_pending"),
        ({"depends_on": "[5]", "wait_on_failure": 1}, "action_proposals_dependency_pending"),
    ],
)
def test_what_may_not_start_does_not(
    db: dbapi.Connection, values: dict[str, object], by: str
) -> None:
    for status in ("proposed", "executing", "completed", "cancelled", "failed"):
        propose(db, status=status)
    id = propose(db, status="validated", **values)
    for verb in ("UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"):
        for change in ("status = 'executing'", STARTED):
            refused(db, f"{verb} action_proposals SET {change} WHERE id = {id}", by)
    # It may still end, and something that has started elsewhere may be written down.
    db.execute(f"UPDATE action_proposals SET status = 'cancelled' WHERE id = {id}")
    for status in ("executing", "completed"):
        propose(db, status=status, **values)


def test_what_may_start_does(db: dbapi.Connection) -> None:
    propose(db, status="completed")
    for values in (
        {},
        {"scheduled_at": PAST},
        {"expires_at": FUTURE},
        {"scheduled_at": PAST, "expires_at": FUTURE, "depends_on": "[1]"},
        {"depends_on": "[]"},
    ):
        id = propose(db, status="validated", **values)
        db.execute(f"UPDATE action_proposals SET status = 'executing' WHERE id = {id}")


def test_dependencies_are_not_asked_of_the_json(db: dbapi.Connection) -> None:
    """Whatever a writer may have said of the order, the edges decide."""
    propose(db)
    propose(db, status="validated", depends_on="[1]")
    refused(db, "UPDATE action_proposals SET depends_on = NULL WHERE id = 2", "immutable")
    db.execute("UPDATE action_proposals SET status = 'cancelled' WHERE id = 1")
    assert told(db)[-1][:3] == (2, "validated", "cancelled")


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_nothing_is_executed_for_what_has_ended(db: dbapi.Connection, status: str) -> None:
    propose(db, status=status)
    for values in (RECORD, {**RECORD, "worker": "w", "lease_expires_at": FUTURE}):
        refused_row(db, "action_records", values, "action_records_proposal_ended")
    for outcome in ({"success": 1}, {"success": 0}, {"outcome_unknown": 1}):
        insert(db, "action_records", {**RECORD, "completed_at": TIME, **outcome})


@pytest.mark.parametrize("status", ["proposed", "validated", "executing"])
def test_something_is_executed_for_what_has_not(db: dbapi.Connection, status: str) -> None:
    propose(db, status=status)
    insert(db, "action_records", RECORD)
    db.execute("UPDATE action_proposals SET status = 'cancelled'")
    # What is under way has an end all the same.
    db.execute(f"UPDATE action_records SET success = 1, completed_at = '{TIME}'")


# ------ What ends along with what


def chain(db: dbapi.Connection, length: int) -> None:
    db.execute("BEGIN")
    for id in range(1, length + 1):
        propose(db, depends_on=f"[{id - 1}]" if id > 1 else None, status="validated")
    db.execute("COMMIT")


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_a_chain_of_any_length_ends_cause_before_effect(db: dbapi.Connection, end: str) -> None:
    length = 10_000
    chain(db, length)
    how = "was cancelled"
    if end == "failed":
        how = "failed"
        db.execute("UPDATE action_proposals SET status = 'executing' WHERE id = 1")
    db.execute(f"UPDATE action_proposals SET status = '{end}' WHERE id = 1")
    why = f"proposal 1, which it depends on, {how}"
    assert told(db)[-length + 1 :] == [
        (id, "validated", "cancelled", 2, "ledger", why) for id in range(2, length + 1)
    ]
    versions = "SELECT DISTINCT version, status FROM action_proposals WHERE id > 1"
    assert db.execute(versions).fetchall() == [(2, "cancelled")]


def test_a_chain_costs_what_its_links_cost(db: dbapi.Connection) -> None:
    times: list[float] = []
    for length in (1000, 8000):
        with empty("") as other:
            other.execute(
                f"PRAGMA recursive_triggers = {db.execute('PRAGMA recursive_triggers').fetchone()[0]}"
            )
            chain(other, length)
            best = thread_time()
            other.execute("UPDATE action_proposals SET status = 'cancelled' WHERE id = 1")
            times.append(thread_time() - best)
    # Eight times as long for eight times as many, or 64 times.
    assert times[1] < 30 * times[0]


def test_a_level_of_any_width_ends_with_what_it_needs(db: dbapi.Connection) -> None:
    propose(db)
    db.execute("BEGIN")
    for _ in range(3000):
        propose(db, depends_on="[1]")
    last = propose(db, depends_on=str(list(range(2, 1002))))
    db.execute("COMMIT")
    db.execute("UPDATE action_proposals SET status = 'cancelled' WHERE id = 1")
    assert [each[0] for each in told(db)] == list(range(1, last + 1))


def test_calling_off_a_retry_ends_what_depends_on_it(db: dbapi.Connection) -> None:
    propose(db, status="executing")
    db.execute(f"UPDATE action_proposals SET status = 'failed', next_retry_at = '{FUTURE}'")
    propose(db, depends_on="[1]")
    propose(db, depends_on="[2]")
    propose(db, depends_on="[1]", wait_on_failure=1)
    propose(db, depends_on="[4]")
    db.execute("UPDATE action_proposals SET next_retry_at = NULL WHERE id = 1")
    why = "proposal 1, which it depends on, failed"
    assert told(db)[1:] == [
        (1, "failed", "failed", 3, "raw SQL", None),
        (2, "proposed", "cancelled", 2, "ledger", why),
        (3, "proposed", "cancelled", 2, "ledger", why),
    ]
    # What waited ends by itself, and what depends on that with it.
    db.execute("UPDATE action_proposals SET status = 'cancelled' WHERE id = 4")
    assert [each[:3] for each in told(db)[4:]] == [
        (4, "proposed", "cancelled"),
        (5, "proposed", "cancelled"),
    ]


def test_what_depends_on_what_has_ended_badly_is_cancelled_at_once(db: dbapi.Connection) -> None:
    propose(db, status="cancelled")
    propose(db, depends_on="[1]")
    propose(db, depends_on="[1]", wait_on_failure=1)
    propose(db, depends_on="[2]", status="validated")
    assert db.execute("SELECT id, status, version FROM action_proposals").fetchall() == [
        (1, "cancelled", 1),
        (2, "cancelled", 2),
        (3, "proposed", 1),
        (4, "cancelled", 2),
    ]
    events = (
        "SELECT proposal_id, event_type, version FROM action_events WHERE proposal_id IN (2, 4)"
    )
    assert db.execute(f"{events} ORDER BY id").fetchall() == [
        (2, "proposal_created", 1),
        (2, "status_changed", 2),
        (4, "proposal_created", 1),
        (4, "status_changed", 2),
    ]


def test_what_is_put_back_after_what_it_needs_has_ended_ends_with_all_behind_it(
    db: dbapi.Connection,
) -> None:
    propose(db)
    propose(db, depends_on="[1]", status="executing", max_retries=3)
    db.execute(
        f"UPDATE action_proposals SET status = 'failed', next_retry_at = '{FUTURE}' WHERE id = 2"
    )
    propose(db, depends_on="[2]")
    propose(db, depends_on="[3]")
    db.execute("UPDATE action_proposals SET status = 'cancelled' WHERE id = 1")
    assert len(told(db)) == 2
    db.execute("UPDATE action_proposals SET status = 'validated' WHERE id = 2")
    why = "proposal 2, which it depends on, was cancelled"
    assert told(db)[2:] == [
        (2, "failed", "validated", 3, "raw SQL", None),
        (
            2,
            "validated",
            "cancelled",
            4,
            "ledger",
            "a proposal that it depends on has failed or was cancelled",
        ),
        (3, "proposed", "cancelled", 2, "ledger", why),
        (4, "proposed", "cancelled", 2, "ledger", why),
    ]


def test_one_statement_may_end_a_chain_from_any_link(db: dbapi.Connection) -> None:
    chain(db, 50)
    db.execute("UPDATE action_proposals SET status = 'cancelled' WHERE id >= 20")
    db.execute("UPDATE action_proposals SET status = 'cancelled' WHERE id < 20")
    assert [each[0] for each in told(db)] == [*range(20, 51), *range(1, 20)]
    # Of the first of each statement it was said who; the rest follows from it.
    assert [each[0] for each in told(db) if each[4] == "raw SQL"] == [20, 1]
