"""Any raw UPDATE of a proposal is one version and at most one event, whatever the connection's settings."""

from contextlib import ExitStack
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operator_core.actions.lifecycle import TRANSITIONS
from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.raw_tools import SETTINGS, TIME, empty, propose

LATER: Final = "2998-01-01 00:00:00.000000"


@pytest.fixture(autouse=True)
def _no_thread_left() -> None:
    """No thread is started here, and looking for one would cost more than the tests."""


STATUSES: Final = ("proposed", "validated", "executing", "completed", "failed", "cancelled")
TIMES: Final = (
    "NULL",
    f"'{TIME}'",
    f"'{LATER}'",
    "'9999-12-31 23:59:59.999999'",
    "'zzz'",
    "x'ff'",
    "'now'",
)
# No other column: whether two times are the same would depend on how fast the statements are.
MOMENTS: Final = (
    "updated_at",
    "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
    "strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')",
)
ASSIGNED: Final = {
    "status": ("status", "NULL", "'bogus'", *(f"'{each}'" for each in STATUSES)),
    "next_retry_at": ("next_retry_at", *TIMES),
    "version": (
        "version",
        "version + 1",
        "version - 1",
        "0",
        "-1",
        "99",
        "'x'",
        "1.5",
        "NULL",
        "9e18",
    ),
    "updated_at": (*TIMES, *MOMENTS),
    "status_changed_by": ("status_changed_by", "'me'", "'raw SQL'", "'ledger'", "NULL"),
    "status_reason": ("status_reason", "'why not'", "NULL"),
    "status_changed_at": ("status_changed_at", *TIMES),
    "retry_count": ("retry_count", "retry_count + 1", "7", "NULL"),
    "last_error": ("last_error", "'e'", "NULL"),
    "validated_at": ("NULL", f"'{TIME}'", "'x'"),
    "cancelled_at": ("NULL", f"'{TIME}'"),
    "priority": ("priority", "priority", "7"),
    "action_name": ("action_name", "'other'"),
    "id": ("id", "id", "id + 1"),
}
VERBS: Final = ("UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE", "UPDATE OR FAIL")


@st.composite
def updates(draw: st.DrawFn) -> str:
    columns = draw(st.lists(st.sampled_from(sorted(ASSIGNED)), min_size=1, max_size=6, unique=True))
    said = ", ".join(f"{each} = {draw(st.sampled_from(ASSIGNED[each]))}" for each in columns)
    return f"{draw(st.sampled_from(VERBS))} action_proposals SET {said}"


ROW: Final = (
    "status, next_retry_at, version, updated_at, status_changed_by, status_reason, status_changed_at, "
    "retry_count, last_error"
)


def row(db: dbapi.Connection) -> dict[str, Any]:
    (found,) = db.execute(f"SELECT {ROW} FROM action_proposals").fetchall()
    return dict(zip(ROW.split(", "), found, strict=True))


def events(db: dbapi.Connection) -> list[tuple[Any, ...]]:
    return db.execute(
        "SELECT event_type, from_status, to_status, version, actor, reason FROM action_events ORDER BY id"
    ).fetchall()


def clockless(db: dbapi.Connection) -> tuple[Any, ...]:
    """All that is the same however long the statements took."""
    found = row(db)
    return (
        found["status"],
        found["version"],
        found["status_changed_by"],
        found["retry_count"],
        events(db),
    )


def check(db: dbapi.Connection, sql: str) -> str | None:
    """Runs one statement and holds it against the law; the error if it was refused."""
    before, told = row(db), events(db)
    try:
        db.execute(sql)
    except dbapi.IntegrityError as error:
        assert (row(db), events(db)) == (before, told)
        return str(error)
    after, more = row(db), events(db)
    assert more[: len(told)] == told
    new = more[len(told) :]
    if sql.startswith("UPDATE OR IGNORE") and after == before:
        assert not new
        return None
    assert after["version"] == before["version"] + 1
    assert after["updated_at"] != before["updated_at"]
    if str(before["updated_at"]) < "9999":
        # A blob is later than all text.
        assert type(after["updated_at"]) is bytes or after["updated_at"] > before["updated_at"]
    moved = after["status"] != before["status"]
    retried = after["next_retry_at"] != before["next_retry_at"]
    assert len(new) == (moved or retried)
    who = ("status_changed_by", "status_reason", "status_changed_at")
    if not new:
        assert [after[each] for each in who] == [before[each] for each in who]
        return None
    kind = "status_changed" if moved else "retry_scheduled"
    kind = "retry_cancelled" if not moved and after["next_retry_at"] is None else kind
    change = (kind, before["status"], after["status"], after["version"])
    # The event and the row say the same of who it was.
    assert new == [(*change, after["status_changed_by"], after["status_reason"])]
    assert after["status_changed_at"] not in (None, before["status_changed_at"])
    if moved:
        assert after["status"] in TRANSITIONS[before["status"]]
    if "status_changed_at" not in sql:
        assert (after["status_changed_by"], after["status_reason"]) == ("raw SQL", None)
    return None


@given(st.sampled_from(STATUSES), st.lists(updates(), min_size=1, max_size=6))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_one_version_and_at_most_one_event(status: str, statements: list[str]) -> None:
    with ExitStack() as stack:
        ledgers = [stack.enter_context(empty(setting)) for setting in SETTINGS]
        for db in ledgers:
            propose(db, status=status, max_retries=3)
        for sql in statements:
            errors = [check(db, sql) for db in ledgers]
            assert len(set(errors)) == 1
            states = [clockless(db) for db in ledgers]
            assert states == states[:1] * len(ledgers)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("change", "count"),
    [
        ("status = 'cancelled'", 1),
        (f"status = 'cancelled', updated_at = '{LATER}'", 1),
        ("status = 'cancelled', version = version + 1", 1),
        ("status = 'cancelled', version = 99", 1),
        ("last_error = 'e'", 1),
        ("status = status", 1),
        # A trigger writes these instead, and SQLite counts what the statement itself wrote.
        (f"next_retry_at = '{TIME}'", 0),
        ("last_error = 'e', version = version + 1", 0),
        (f"last_error = 'e', updated_at = '{LATER}'", 0),
    ],
)
def test_what_sqlite_counts(setting: str, change: str, count: int) -> None:
    with empty(setting) as db:
        propose(db)
        assert db.execute(f"UPDATE action_proposals SET {change}").rowcount == count
        assert row(db)["version"] == 2
