"""What ends with another, what may start, and what is told: decided by rows, in linear time, whatever a session did."""

import time
from collections.abc import Iterator
from itertools import product
from typing import Any, Final

import psycopg
import pytest
from psycopg.errors import IntegrityError

from tests.databases import connected
from tests.migrations.postgresql_tools import DB, one, refused, sql

INSERT: Final = "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, status"
STATUSES: Final = "SELECT status FROM action_proposals ORDER BY id"


@pytest.fixture
def db(server_ledger: str) -> Iterator[DB]:
    with connected(server_ledger) as session:
        yield session


def make(db: DB, needed: str | None = None, status: str = "validated", **more: str) -> int:
    """A proposal, by raw SQL."""
    values = {"depends_on": f"'{needed}'" if needed else "NULL", **more}
    return one(
        db,
        f"{INSERT}, {', '.join(values)}) VALUES ('a', '{{}}', 'r', now(), '{status}', "
        f"{', '.join(values.values())}) RETURNING id",
    )


def move(db: DB, id_: int, status: str) -> None:
    sql(db, f"UPDATE action_proposals SET status = '{status}' WHERE id = {id_}")


def reasons(db: DB) -> dict[int, str]:
    told = "SELECT proposal_id, reason FROM action_events WHERE actor = 'ledger' ORDER BY id"
    found = sql(db, told)
    assert len(found) == len(dict(found)), "told twice"
    return dict(found)


# ------ settings and texts decide nothing

SETTINGS: Final = ("linked", "ended_badly", "cascade")


@pytest.mark.parametrize(("name", "value"), list(product(SETTINGS, ("off", "on", "", "1 {}"))))
def test_no_setting_decides_what_depends_on_what(db: DB, name: str, value: str) -> None:
    setting = f", set_config('operator_core.{name}', '{value}', true)"
    sql(db, f"SET operator_core.{name} = '{value}'")
    root = make(db)
    insert = f"{INSERT}, depends_on) VALUES ('a', '{{}}', 'r', now(), 'validated', '[{root}]') RETURNING id"
    behind = one(db, insert + setting)[0]
    assert sql(db, "SELECT * FROM action_dependencies") == [(behind, root)]
    cancel = f"UPDATE action_proposals SET status = 'cancelled' WHERE id = {root} RETURNING id"
    sql(db, cancel + setting)
    assert sql(db, STATUSES) == [("cancelled",), ("cancelled",)]


def test_no_text_of_an_actor_decides_what_a_chain_is_told(db: DB) -> None:
    root, last = make(db), 1
    for _ in range(3):
        last = make(db, f"[{last}]")
    forged = "proposal 77, which it depends on, failed"
    sql(
        db,
        "UPDATE action_proposals SET status = 'cancelled', status_changed_by = 'ledger', "
        "status_reason = %s, status_changed_at = now() + interval '1 second' WHERE id = %s",
        forged,
        root,
    )
    told = f"proposal {root}, which it depends on, was cancelled"
    assert reasons(db) == {1: forged, 2: told, 3: told, 4: told}


# ------ cascades


def test_each_names_the_first_beginning_of_its_chain(db: DB) -> None:
    a, b, c = make(db), make(db), make(db)
    of_b = make(db, f"[{b}]")
    of_c = make(db, f"[{c}]")
    of_both = make(db, f"[{of_c}, {of_b}]")
    waits = make(db, f"[{a}]", wait_on_failure="true")
    behind = make(db, f"[{waits}]")
    of_a = make(db, f"[{a}, {of_both}]", status="proposed")
    done = make(db, f"[{a}]", status="completed")
    of_done = make(db, f"[{done}]")
    move(db, c, "executing")
    sql(
        db,
        f"UPDATE action_proposals SET status = CASE id WHEN {c} THEN 'failed' ELSE 'cancelled' END "
        f"WHERE id IN ({a}, {b}, {c})",
    )
    cancelled, failed = "which it depends on, was cancelled", "which it depends on, failed"
    assert reasons(db) == {
        of_b: f"proposal {b}, {cancelled}",
        of_c: f"proposal {c}, {failed}",
        of_both: f"proposal {b}, {cancelled}",
        of_a: f"proposal {a}, {cancelled}",
    }
    assert list(reasons(db)) == sorted(reasons(db)), "a cause comes before what it causes"
    left = sql(
        db, f"SELECT status FROM action_proposals WHERE id IN ({waits}, {behind}, {of_done})"
    )
    assert left == [("validated",)] * 3
    ends = sql(
        db,
        "SELECT proposal_id FROM action_events WHERE to_status IN ('failed', 'cancelled') ORDER BY id",
    )
    assert {id_ for (id_,) in ends[:3]} == {a, b, c}


def test_what_is_just_being_started_is_not_cancelled_nor_what_depends_on_it(
    db: DB, server_ledger: str
) -> None:
    root = make(db)
    first = make(db, f"[{root}]", status="proposed")
    behind = make(db, f"[{first}]")
    beside = make(db, f"[{root}]")
    sql(db, f"UPDATE action_proposals SET status = 'executing' WHERE id = {root}")
    with psycopg.connect(server_ledger) as other, connected(server_ledger) as third:
        # As another tool may, past the ledger's own promises: whatever moves it, it is not pending any more.
        other.execute("SET LOCAL session_replication_role = replica")
        other.execute(f"UPDATE action_proposals SET status = 'executing' WHERE id = {first}")
        third.execute("SET statement_timeout = '100s'")
        waiting = third.pgconn
        waiting.send_query(
            f"UPDATE action_proposals SET status = 'failed' WHERE id = {root}".encode()
        )
        waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        deadline = time.monotonic() + 100
        while one(db, waits) == 0:
            assert time.monotonic() < deadline
        other.commit()
        while (result := waiting.get_result()) is not None:
            assert result.error_message == b""
    found = dict(sql(db, "SELECT id, status FROM action_proposals"))
    assert found == {root: "failed", first: "executing", behind: "validated", beside: "cancelled"}


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_what_would_be_forgotten_is_refused(db: DB, level: str) -> None:
    make(db, f"[{make(db)}]")
    with pytest.raises(IntegrityError, match=r"^action_proposals_cascade: "), db.transaction():
        sql(db, f"SET TRANSACTION ISOLATION LEVEL {level}")
        move(db, 1, "cancelled")
    assert sql(db, STATUSES) == [("validated",), ("validated",)]


# ------ what may start


@pytest.mark.parametrize(
    ("column", "time", "by"),
    [
        ("scheduled_at", "now() + interval '1 hour'", "action_proposals_not_due"),
        ("scheduled_at", "now() - interval '1 hour'", None),
        ("expires_at", "now() - interval '1 hour'", "action_proposals_expired"),
        ("expires_at", "statement_timestamp()", "action_proposals_expired"),
        ("expires_at", "now() + interval '1 hour'", None),
    ],
)
def test_what_is_not_due_or_has_expired_does_not_start(
    db: DB, column: str, time: str, by: str | None
) -> None:
    id_ = make(db, **{column: time})
    start = f"UPDATE action_proposals SET status = 'executing' WHERE id = {id_}"
    if by:
        refused(db, start, f"^{by}: ")
    else:
        sql(db, start)
    # What has been started elsewhere may be written down.
    make(db, status="executing", **{column: time})


def test_a_retry_does_not_start_before_its_time_nor_before_what_was_planned(db: DB) -> None:
    id_ = make(db, status="failed", scheduled_at="now() + interval '1 hour'")
    sql(db, "UPDATE action_proposals SET next_retry_at = '2026-01-01'")
    assert one(db, "SELECT next_retry_at = scheduled_at FROM action_proposals")
    sql(db, "UPDATE action_proposals SET status = 'validated', retry_count = 1")
    refused(db, f"UPDATE action_proposals SET status = 'executing' WHERE id = {id_}", "not_due")


@pytest.mark.parametrize("status", ["proposed", "validated", "executing", "failed", "cancelled"])
def test_what_depends_on_something_undone_does_not_start(db: DB, status: str) -> None:
    done, undone = make(db, status="completed"), make(db, status=status)
    id_ = make(db, f"[{done}, {undone}]", wait_on_failure="true")
    start = f"UPDATE action_proposals SET status = 'executing' WHERE id = {id_}"
    refused(db, start, "^action_proposals_dependency_pending: ")
    free = make(db, f"[{done}]")
    move(db, free, "executing")


# ------ what is told

EVENTS: Final = "SELECT event_type, from_status, to_status, actor, reason, version FROM action_events ORDER BY id"


def test_every_change_of_what_runs_or_when_is_told_once(db: DB) -> None:
    id_ = make(db, status="failed")
    said = "status_changed_by = 'oncall', status_reason = 'later', status_changed_at = clock_timestamp()"
    for change in (
        "next_retry_at = '2999-01-01'",
        f"next_retry_at = '2998-01-01', {said}",
        "next_retry_at = next_retry_at, last_error = 'e'",
        "next_retry_at = NULL",
        "next_retry_at = NULL, validated_at = now()",
        "status = 'validated', retry_count = retry_count + 1, next_retry_at = '2020-01-01'",
        "next_retry_at = '2021-01-01'",
        f"status = 'cancelled', next_retry_at = NULL, {said}",
    ):
        sql(db, f"UPDATE action_proposals SET {change} WHERE id = {id_}")
    assert sql(db, EVENTS) == [
        ("proposal_created", None, "failed", "raw SQL", "r", 1),
        ("retry_scheduled", "failed", "failed", "raw SQL", None, 2),
        ("retry_scheduled", "failed", "failed", "oncall", "later", 3),
        ("retry_cancelled", "failed", "failed", "raw SQL", None, 5),
        ("status_changed", "failed", "validated", "raw SQL", None, 7),
        ("retry_scheduled", "validated", "validated", "raw SQL", None, 8),
        ("status_changed", "validated", "cancelled", "oncall", "later", 9),
    ]
    assert one(db, "SELECT version FROM action_proposals") == 9


def test_a_retry_that_is_called_off_cancels_what_depends_on_it(db: DB) -> None:
    root = make(db, status="failed")
    sql(db, "UPDATE action_proposals SET next_retry_at = '2999-01-01'")
    behind = make(db, f"[{root}]")
    sql(db, f"UPDATE action_proposals SET next_retry_at = NULL WHERE id = {root}")
    assert reasons(db) == {behind: f"proposal {root}, which it depends on, failed"}
    late = make(db, f"[{root}]")
    told = f"SELECT event_type, version FROM action_events WHERE proposal_id = {late} ORDER BY id"
    assert sql(db, told) == [("proposal_created", 1), ("status_changed", 2)]


def test_an_event_of_a_record_says_who_did_it_and_whose_it_is(db: DB) -> None:
    id_ = make(db)
    sql(
        db,
        f"INSERT INTO action_records (proposal_id, started_by, worker) VALUES ({id_}, 'planner', 'w')",
    )
    sql(db, f"INSERT INTO action_records (proposal_id) VALUES ({id_})")
    sql(
        db,
        "UPDATE action_records SET success = true, completed_at = now(), completed_by = 'oncall' WHERE worker = 'w'",
    )
    told = "SELECT event_type, actor, worker, version FROM action_events WHERE record_id IS NOT NULL ORDER BY id"
    assert sql(db, told) == [
        ("record_started", "planner", "w", None),
        ("record_started", "raw SQL", None, None),
        ("record_finished", "oncall", "w", None),
    ]


# ------ in linear time on a connection that has done single ones before


def warm(db: DB) -> None:
    """Every plan is kept that a session keeps, made for one row."""
    for _ in range(12):
        root = make(db)
        make(db, f"[{root}]")
        move(db, root, "executing")
        sql(db, f"INSERT INTO action_records (proposal_id, worker) VALUES ({root}, 'w')")
        sql(
            db,
            "UPDATE action_records SET success = false, completed_at = now() WHERE completed_at IS NULL",
        )
        move(db, root, "failed")
        move(db, make(db), "cancelled")


def rows(db: DB, count: int) -> None:
    sql(
        db,
        f"{INSERT}) SELECT 'bulk', '{{}}', 'r', now(), 'validated' FROM generate_series(1, {count})",
    )


def behind(db: DB, query: str) -> None:
    """Proposals that depend on others, whose list of ids is what the query returns."""
    sql(
        db,
        f"{INSERT}, depends_on) SELECT 'behind', '{{}}', 'r', now(), 'validated', needed::text::json "
        f"FROM ({query}) AS given (needed)",
    )


def cancel_all(db: DB, count: int) -> str:
    rows(db, count)
    return "UPDATE action_proposals SET status = 'cancelled' WHERE status = 'validated'"


def cancel_one_of_many(db: DB, count: int) -> str:
    root = make(db)
    behind(db, f"SELECT '[{root}]' FROM generate_series(1, {count})")
    return f"UPDATE action_proposals SET status = 'cancelled' WHERE id = {root}"


def cancel_many_with_one(db: DB, count: int) -> str:
    rows(db, count)
    behind(
        db,
        "SELECT json_build_array(id) FROM action_proposals WHERE action_name = 'bulk' AND status = 'validated'",
    )
    return "UPDATE action_proposals SET status = 'cancelled' WHERE action_name = 'bulk' AND status = 'validated'"


def create_behind(db: DB, count: int) -> str:
    rows(db, count)
    return (
        f"{INSERT}, depends_on) SELECT 'behind', '{{}}', 'r', now(), 'validated', json_build_array(id) "
        f"FROM (SELECT id FROM action_proposals ORDER BY id DESC LIMIT {count}) AS needed"
    )


def cancel_a_chain(db: DB, count: int) -> str:
    root = last = make(db)
    with db.transaction():
        for _ in range(count):
            last = make(db, f"[{last}]")
    return f"UPDATE action_proposals SET status = 'cancelled' WHERE id = {root}"


def start_all(db: DB, count: int) -> str:
    rows(db, count)
    return (
        "WITH moved AS (UPDATE action_proposals SET status = 'executing' WHERE status = 'validated' RETURNING id) "
        "INSERT INTO action_records (proposal_id, worker) SELECT id, 'w' FROM moved"
    )


def record_all(db: DB, count: int) -> str:
    rows(db, count)
    return "INSERT INTO action_records (proposal_id, worker) SELECT id, 'w' FROM action_proposals WHERE status = 'validated'"


def finish_all(db: DB, count: int) -> str:
    sql(db, start_all(db, count))
    return (
        "UPDATE action_records SET success = true, completed_at = now() WHERE completed_at IS NULL"
    )


BULK: Final = [
    *(cancel_all, cancel_one_of_many, cancel_many_with_one, create_behind),
    *(cancel_a_chain, start_all, record_all, finish_all),
]


@pytest.mark.parametrize("prepare", BULK, ids=lambda each: each.__name__)
def test_many_take_so_many_times_as_long_as_few(db: DB, prepare: Any) -> None:
    warm(db)
    seconds: dict[int, float] = {}
    few, many = 250, 4000
    for count in (few, many):
        # Of the first, the best of three: it is over in an instant, and other work is under way.
        for _ in range(3 if count == few else 1):
            statement = prepare(db, count)
            begun = time.monotonic()
            sql(db, statement)
            taken = time.monotonic() - begun
            seconds[count] = min(taken, seconds.get(count, taken))
            sql(
                db,
                "UPDATE action_proposals SET status = 'cancelled' WHERE status IN ('validated', 'executing')",
            )
    print(f"\n{prepare.__name__}: {few} in {seconds[few]:.3f} s, {many} in {seconds[many]:.3f} s")
    # 16 times as many; quadratic would be 256 times as long.
    assert seconds[many] < 100 * seconds[few]
