"""Halts by raw SQL on SQLite: what is accepted, what a halt refuses, and what nobody can change."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.raw_tools import SETTINGS, empty, insert, propose, refused, refused_row

HALT: Final = {"mode": "halted", "halted_by": "oncall", "reason": "bad deploy"}
NOW: Final = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
RESUME: Final = (
    f"UPDATE action_halts SET resumed_at = {NOW}, resumed_by = 'lead', resume_reason = 'fixed'"
)


@pytest.fixture(params=SETTINGS)
def db(request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    with empty(request.param) as connection:
        yield connection


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "stop"},
        {"mode": "HALTED"},
        {"halted_by": ""},
        {"halted_by": " "},
        {"halted_by": b"x"},
        {"reason": "\0"},
        {"action_name": ""},
        {"agent_id": "a" * 256},
        {"run_id": b"r"},
        {"created_at": "2020-01-01 00:00:00.000000"},
        {"valid_from": "soon"},
        *({"valid_from": f"2026-01-01{time}"} for time in ("", "T10:00:00", " 10:00:00+02:00")),
        {"valid_until": "2998-01-01T00:00:00.000000"},
        {"valid_until": "2020-01-01 00:00:00.000000"},
        {"cancels": 2},
        {"resumed_at": "2020-01-01 00:00:00.000000"},
        {"resumed_by": "x"},
        {"id": 0},
        {"id": 2**62},
    ],
    ids=str,
)
def test_only_what_the_ledger_takes_is_accepted(
    db: dbapi.Connection, wrong: dict[str, Any]
) -> None:
    refused_row(db, "action_halts", {**HALT, **wrong}, "action_halts_values")
    assert db.execute("SELECT count(*) FROM action_events").fetchone() == (0,)


def test_a_halt_is_resumed_once_and_never_edited(db: dbapi.Connection) -> None:
    insert(db, "action_halts", HALT)
    refused(db, "DELETE FROM action_halts", "halts are never deleted")
    for column in ("mode", "halted_by", "reason", "agent_id", "valid_until", "created_at", "id"):
        refused(db, f"UPDATE action_halts SET {column} = 7", "resumed once and never edited")
        refused(db, f"{RESUME}, {column} = 7", "resumed once and never edited")
    refused(db, f"UPDATE action_halts SET resumed_at = {NOW}", "resumed_by")
    refused(
        db,
        "UPDATE action_halts SET resumed_at = '2020-01-01 00:00:00.000000', resumed_by = 'x',"
        " resume_reason = 'y'",
        "resumed_at",
    )
    db.execute(RESUME)
    refused(db, RESUME, "resumed once and never edited")
    refused(db, "UPDATE action_halts SET resumed_at = NULL", "resumed once and never edited")


def test_a_halt_holds_for_raw_sql(db: dbapi.Connection) -> None:
    pending = [propose(db), propose(db, status="validated")]
    insert(db, "action_halts", HALT)
    for status in ("proposed", "validated", "executing", "failed"):
        for verb in ("INSERT", "INSERT OR IGNORE", "REPLACE", "INSERT OR FAIL"):
            sql = (
                f"{verb} INTO action_proposals (action_name, parameters, reason, proposed_at, status)"
                f" VALUES ('a', '{{}}', 'r', '2026-01-01 00:00:00.000000', '{status}')"
            )
            refused(db, sql, "action_proposals_halted")
    propose(db, status="cancelled")
    for id_, status in zip(pending, ("validated", "executing"), strict=True):
        for verb in ("UPDATE", "UPDATE OR IGNORE", "UPDATE OR REPLACE"):
            sql = f"{verb} action_proposals SET status = '{status}' WHERE id = {id_}"
            refused(db, sql, "action_proposals_halted")
    db.execute("UPDATE action_proposals SET status = 'cancelled' WHERE status = 'proposed'")
    db.execute(RESUME)
    db.execute(f"UPDATE action_proposals SET status = 'executing' WHERE id = {pending[1]}")


def test_no_event_of_a_halt_can_be_forged(db: dbapi.Connection) -> None:
    insert(db, "action_halts", HALT)
    columns = "event_type, actor, reason, occurred_at, details"
    told = f"SELECT {columns} FROM action_events WHERE proposal_id IS NULL"
    assert len(db.execute(told).fetchall()) == 1
    refused(db, f"INSERT INTO action_events ({columns}) {told}", "action_events_genuine")
    for other in (
        "'resumed', actor, reason, occurred_at, details",
        "'halted', 'x', 'y', 'z', '{}'",
    ):
        sql = f"INSERT INTO action_events ({columns}) SELECT {other} FROM action_events"
        refused(db, sql, "action_events_genuine")
    refused(db, "INSERT INTO action_halts_asked VALUES ('a', NULL, NULL, NULL, 1)", "halted")
