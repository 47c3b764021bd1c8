"""Events by raw SQL: after a statement its events are there, and another one does not fit the rows."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final

import pytest

from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.raw_tools import (
    RECORD,
    SETTINGS,
    TIME,
    empty,
    everything,
    insert,
    propose,
    refused_row,
)

NOW: Final = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
STATUSES: Final = ("proposed", "validated", "executing", "completed", "failed", "cancelled", None)
TYPES: Final = (
    "proposal_created",
    "status_changed",
    "retry_scheduled",
    "retry_cancelled",
    "record_started",
    "record_finished",
)


@pytest.fixture(autouse=True)
def _no_thread_left() -> None:
    """No thread is started here, and looking for one would cost more than the tests."""


@pytest.fixture(params=SETTINGS)
def db(request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    """Proposals in each state, and records that are open, that ended well, badly and unknown."""
    with empty(request.param) as connection:
        for status in STATUSES[:-1]:
            propose(connection, status=status)
        connection.execute(
            "UPDATE action_proposals SET status = 'executing' WHERE status = 'validated'"
        )
        propose(connection, status="executing")
        connection.execute(
            f"UPDATE action_proposals SET status = 'failed', next_retry_at = '{TIME}' WHERE id = 7"
        )
        connection.execute("UPDATE action_proposals SET next_retry_at = NULL WHERE id = 7")
        insert(connection, "action_records", RECORD)
        for outcome in ({"success": 1}, {"success": 0}, {"outcome_unknown": 1}):
            ended = {"proposal_id": 3, "worker": "w", "completed_at": TIME, **outcome}
            insert(connection, "action_records", ended)
        yield connection


def forge(db: dbapi.Connection, values: Mapping[str, object]) -> None:
    """Inserts an event at the moment at which a trigger would."""
    names = [*values, "occurred_at"]
    marks = ", ".join("?" * len(values))
    db.execute(
        f"INSERT INTO action_events ({', '.join(names)}) VALUES ({marks}, {NOW})",
        list(values.values()),
    )


def fits(db: dbapi.Connection, values: Mapping[str, object]) -> bool:
    db.execute("SAVEPOINT one")
    try:
        forge(db, values)
    except dbapi.IntegrityError:
        return False
    finally:
        db.execute("ROLLBACK TO one")
        db.execute("RELEASE one")
    return True


def forged(event_type: str) -> Iterator[dict[str, object]]:
    """What a forger may try, with what can be known of the rows."""
    proposals = (1, 2, 3, 6, 7, 77)
    if event_type.startswith("record"):
        for proposal, record, worker, success in product(
            proposals, (1, 2, 3, 4, 77, None), ("w", None), (0, 1, None)
        ):
            yield {
                "proposal_id": proposal,
                "record_id": record,
                "event_type": event_type,
                "actor": "eve",
                "worker": worker,
                "success": success,
            }
        return
    for proposal, before, after, version in product(
        proposals, STATUSES, STATUSES, (None, 0, 1, 2, 3, 4)
    ):
        yield {
            "proposal_id": proposal,
            "event_type": event_type,
            "from_status": before,
            "to_status": after,
            "actor": "eve",
            "version": version,
        }


@pytest.mark.parametrize("event_type", TYPES)
def test_no_event_of_any_type_fits(db: dbapi.Connection, event_type: str) -> None:
    before = everything(db)
    assert [each for each in forged(event_type) if fits(db, each)] == []
    assert everything(db) == before


def test_a_change_that_has_no_event_of_its_own_lets_little_through(db: dbapi.Connection) -> None:
    """The version of a change that the history does not report is free; the status and who acts are not."""
    db.execute("UPDATE action_proposals SET last_error = 'e'")
    tried = [each for kind in TYPES for each in forged(kind)]
    assert [each for each in tried if fits(db, each)] == []
    said = {
        id_: {"actor": by, "reason": why}
        for id_, by, why in db.execute(
            "SELECT id, status_changed_by, status_reason FROM action_proposals"
        )
    }
    tried = [{**each, **said.get(each["proposal_id"], {})} for each in tried]
    found = [each for each in tried if fits(db, each)]
    assert found
    assert {each["event_type"] for each in found} <= {"retry_scheduled", "retry_cancelled"}
    rows = dict(db.execute("SELECT id, status FROM action_proposals"))
    assert all(
        each["from_status"] == each["to_status"] == rows[each["proposal_id"]] for each in found
    )
    # Nor can it say that it was at another time.
    for each in found:
        refused_row(db, "action_events", {**each, "occurred_at": TIME}, "action_events_genuine")


@pytest.mark.parametrize("id", [1, 99, 0, -1, 2**62, 2**63 - 1])
def test_no_writer_chooses_an_events_id(db: dbapi.Connection, id: int) -> None:
    values = {"id": id, "proposal_id": 1, "event_type": "status_changed", "actor": "e"}
    for verb in ("INSERT", "REPLACE", "INSERT OR IGNORE"):
        refused_row(db, "action_events", {**values, "occurred_at": TIME}, "action_events_", verb)


def told(db: dbapi.Connection, columns: str) -> list[tuple[object, ...]]:
    return db.execute(f"SELECT {columns} FROM action_events ORDER BY id").fetchall()


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_version_and_each_execution_is_told_of_by_its_name(setting: str) -> None:
    with empty(setting) as db:
        propose(db, status="validated", max_retries=1)
        started = {**RECORD, "started_by": "boss", "worker": "w1", "lease_expires_at": TIME}
        insert(db, "action_records", started)
        db.execute("UPDATE action_proposals SET status = 'executing'")
        db.execute("UPDATE action_proposals SET last_error = 'silence'")
        db.execute(
            f"UPDATE action_records SET success = 0, completed_at = '{TIME}', completed_by = 'me'"
        )
        db.execute(f"UPDATE action_proposals SET status = 'failed', next_retry_at = '{TIME}'")
        db.execute("UPDATE action_proposals SET next_retry_at = '2999-01-01 00:00:00'")
        db.execute(
            "UPDATE action_proposals SET next_retry_at = NULL, status_changed_by = 'boss', "
            "status_reason = 'enough', status_changed_at = '2027-01-01 00:00:00.000000'"
        )
        assert told(db, "event_type, from_status, to_status, version, actor, reason, worker") == [
            ("proposal_created", None, "validated", 1, "raw SQL", "why", None),
            ("record_started", None, None, None, "boss", None, "w1"),
            ("status_changed", "validated", "executing", 2, "raw SQL", None, None),
            ("record_finished", None, None, None, "me", None, "w1"),
            ("status_changed", "executing", "failed", 4, "raw SQL", None, None),
            ("retry_scheduled", "failed", "failed", 5, "raw SQL", None, None),
            ("retry_cancelled", "failed", "failed", 6, "boss", "enough", None),
        ]
        assert db.execute("SELECT version FROM action_proposals").fetchall() == [(6,)]
