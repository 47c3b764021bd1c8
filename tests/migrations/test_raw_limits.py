"""Limits and exclusive keys by raw SQL on SQLite: what is accepted, what they refuse, and what nobody can change."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.raw_tools import SETTINGS, empty, insert, propose, refused, refused_row

LIMIT: Final = {
    "name": "drains",
    "action_name": "drain*",
    "window": 60,
    "max_starts": 2,
    "set_by": "oncall",
    "reason": "careful",
}
NOW: Final = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
REMOVE: Final = (
    f"UPDATE action_limits SET removed_at = {NOW}, removed_by = 'lead', remove_reason = 'over'"
)

VERBS: Final = ("UPDATE", "UPDATE OR IGNORE", "UPDATE OR REPLACE", "UPDATE OR FAIL")


@pytest.fixture(params=SETTINGS)
def db(request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    with empty(request.param) as connection:
        yield connection


def drain(db: dbapi.Connection, **values: object) -> int:
    return propose(db, **{"action_name": "drain", "status": "validated", **values})


def move(id_: int, status: str = "executing", verb: str = "UPDATE") -> str:
    return f"{verb} action_proposals SET status = '{status}' WHERE id = {id_}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": b"x"},
        {"set_by": " "},
        {"reason": "\0"},
        {"action_name": ""},
        {"agent_id": "a" * 256},
        {"window": 0},
        {"window": -1},
        {"window": "soon"},
        {"window": 31_622_401},
        {"max_starts": 0},
        {"max_starts": 1.5},
        {"max_starts": "x"},
        {"max_starts": None},
        {"max_starts": 10**9 + 1},
        {"max_sum": 5},
        {"sum_of": '["a"]'},
        {"sum_of": "[]", "max_sum": 5},
        {"sum_of": "[-1]", "max_sum": 5},
        {"sum_of": "[1.5]", "max_sum": 5},
        {"sum_of": '{"a":1}', "max_sum": 5},
        {"sum_of": '["a"]', "max_sum": 0},
        {"sum_of": '["a"]', "max_sum": 10**15 + 1},
        {"created_at": "2020-01-01 00:00:00.000000"},
        {"removed_at": "2020-01-01 00:00:00.000000"},
        {"removed_by": "x"},
        {"id": 0},
        {"id": 2**62},
    ],
    ids=str,
)
def test_only_what_the_ledger_takes_is_accepted(
    db: dbapi.Connection, wrong: dict[str, Any]
) -> None:
    refused_row(db, "action_limits", {**LIMIT, **wrong}, "action_limits_values")
    assert db.execute("SELECT count(*) FROM action_events").fetchone() == (0,)


def test_a_limit_is_removed_once_and_never_edited(db: dbapi.Connection) -> None:
    insert(db, "action_limits", LIMIT)
    refused(db, "DELETE FROM action_limits", "limits are never deleted")
    for column in ("name", "window", "max_starts", "sum_of", "agent_id", "created_at", "id"):
        refused(db, f'UPDATE action_limits SET "{column}" = 7', "removed once and never edited")
        refused(db, f'{REMOVE}, "{column}" = 7', "removed once and never edited")
    refused(db, f"UPDATE action_limits SET removed_at = {NOW}", "removed_by")
    refused(
        db,
        "UPDATE action_limits SET removed_at = '2020-01-01 00:00:00.000000', removed_by = 'x',"
        " remove_reason = 'y'",
        "removed_at",
    )
    refused_row(db, "action_limits", LIMIT, "an open limit has this name")
    refused_row(db, "action_limits", LIMIT, "an open limit has this name", verb="REPLACE")
    db.execute(REMOVE)
    refused(db, REMOVE, "removed once and never edited")
    refused(db, "UPDATE action_limits SET removed_at = NULL", "removed once and never edited")
    insert(db, "action_limits", LIMIT)


@pytest.mark.parametrize("verb", VERBS)
def test_a_limit_holds_for_raw_sql(db: dbapi.Connection, verb: str) -> None:
    first, second, third = drain(db), drain(db), drain(db)
    insert(db, "action_limits", LIMIT)
    refused(db, "UPDATE action_proposals SET status = 'executing'", "limit_reached")
    db.execute(move(first, verb=verb))
    drain(db, status="executing")
    assert db.execute("SELECT place, proposal_id FROM action_starts").fetchall() == [
        (1, first),
        (2, third + 1),
    ]
    refused(db, move(second, verb=verb), "action_proposals_limit_reached")
    for insertion in ("INSERT", "INSERT OR IGNORE", "REPLACE", "INSERT OR FAIL"):
        sql = (
            f"{insertion} INTO action_proposals (action_name, parameters, reason, proposed_at, status)"
            " VALUES ('drain', '{}', 'r', '2026-01-01 00:00:00.000000', 'executing')"
        )
        refused(db, sql, "action_proposals_limit_reached")
    db.execute(move(propose(db, action_name="other", status="validated")))
    # Only what was not begun is given back.
    db.execute(move(first, "failed"))
    refused(db, move(second, verb=verb), "action_proposals_limit_reached")
    db.execute(REMOVE)
    db.execute(move(second, verb=verb))


def test_starts_are_neither_edited_nor_deleted_nor_invented(db: dbapi.Connection) -> None:
    insert(db, "action_limits", {**LIMIT, "sum_of": '["n"]', "max_sum": 9})
    one = drain(db, parameters='{"n": 4}')
    db.execute(move(one))
    start = ("limit_id", "place", "started_at", "proposal_id", "amount", "total")
    refused(db, "DELETE FROM action_starts", "starts are never deleted")
    for column in (*start, "given_back_at"):
        refused(db, f"UPDATE action_starts SET {column} = 7", "only what was not begun")
    refused(
        db,
        f"UPDATE action_starts SET given_back_at = {NOW}",
        "only what was not begun is given back",
    )
    good = {
        "limit_id": 1,
        "place": 2,
        "started_at": db.execute("SELECT started_at FROM action_starts").fetchone()[0],
        "proposal_id": 1,
        "amount": 1,
        "total": 5,
    }
    for wrong in (
        {"limit_id": 2},
        {"place": 1},
        {"place": 3},
        {"place": 0},
        {"started_at": "1999-01-01 00:00:00.000000"},
        {"started_at": "9998-01-01 00:00:00.000000"},
        {"proposal_id": 99},
        {"amount": -3, "total": 1},
        {"amount": 0.5, "total": 4.5},
        {"total": 4},
        {"given_back_at": good["started_at"]},
    ):
        for verb in ("INSERT", "REPLACE"):
            refused_row(db, "action_starts", {**good, **wrong}, "only what starts", verb=verb)
    # An invented one can only leave less.
    insert(db, "action_starts", good)
    two = drain(db, parameters='{"n": 1}')
    refused(db, move(two), "limit_reached")


def test_what_was_not_begun_is_given_back_once(db: dbapi.Connection) -> None:
    insert(db, "action_limits", LIMIT)
    one = drain(db)
    db.execute(move(one))
    db.execute(
        f"UPDATE action_proposals SET status = 'failed', end_code = 'not_begun' WHERE id = {one}"
    )
    back = "SELECT given_back_at IS NOT NULL FROM action_starts"
    assert db.execute(back).fetchall() == [(1,)]
    refused(db, f"UPDATE action_starts SET given_back_at = {NOW}", "only what was not begun")
    refused(db, "UPDATE action_starts SET given_back_at = NULL", "only what was not begun")


@pytest.mark.parametrize("verb", VERBS)
def test_an_exclusive_key_holds_for_raw_sql(db: dbapi.Connection, verb: str) -> None:
    one, two = (drain(db, exclusive_key="store 5") for _ in range(2))
    refused(db, "UPDATE action_proposals SET status = 'executing'", "exclusive_busy")
    db.execute(move(one, verb=verb))
    refused(db, move(two, verb=verb), "action_proposals_exclusive_busy")
    for insertion in ("INSERT", "REPLACE", "INSERT OR FAIL"):
        sql = (
            f"{insertion} INTO action_proposals"
            " (action_name, parameters, reason, proposed_at, status, exclusive_key)"
            " VALUES ('a', '{}', 'r', '2026-01-01 00:00:00.000000', 'executing', 'store 5')"
        )
        refused(db, sql, "action_proposals_exclusive_busy")
    for value in ("NULL", "'x'"):
        refused(db, f"{verb} action_proposals SET exclusive_key = {value}", "can not be edited")
        refused(
            db,
            f"{verb} action_proposals SET exclusive_key = {value}, status = 'executing' WHERE id = 2",
            "action_proposals_",
        )
    db.execute(move(one, "completed"))
    db.execute(move(two, verb=verb))


def test_no_event_of_a_limit_can_be_forged(db: dbapi.Connection) -> None:
    insert(db, "action_limits", LIMIT)
    columns = "event_type, actor, reason, occurred_at, details"
    told = f"SELECT {columns} FROM action_events WHERE proposal_id IS NULL"
    assert len(db.execute(told).fetchall()) == 1
    refused(db, f"INSERT INTO action_events ({columns}) {told}", "action_events_genuine")
    for other in (
        "'limit_removed', actor, reason, occurred_at, details",
        "'limit_set', actor, 'y', occurred_at, details",
        "'limit_set', 'x', 'y', 'z', '{}'",
        "'halted', actor, reason, occurred_at, details",
    ):
        sql = f"INSERT INTO action_events ({columns}) SELECT {other} FROM action_events"
        refused(db, sql, "action_events_genuine")
