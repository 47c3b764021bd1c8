"""Approvals by raw SQL: nobody says that they are given, by whichever door, whatever a connection has set."""

from collections.abc import Iterator

import pytest

from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.raw_tools import SETTINGS, empty, insert, propose, refused

RULE = {"name": "r", "action_name": "a", "added_by": "boss", "reason": "r"}
WAYS = [
    f"INSERT INTO action_approvals_{view} VALUES (1, {asked}, {values})"
    for view, given in (
        ("found", ["NULL, NULL, NULL, NULL", "'given', NULL, 'given', NULL", "'x', 'x', 'x', 'x'"]),
        ("looked_up", ["NULL, NULL", "'given', NULL", "'held', '2999-01-01'"]),
    )
    for values in given
    for asked in ("1", "0", "NULL", "'1'", "2", "-1", "1.5")
]


@pytest.fixture(autouse=True)
def _no_thread_left() -> None:
    """No thread is started here, and looking for one would cost more than the tests."""


@pytest.fixture(params=SETTINGS)
def db(request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    """A proposal that needs an approval."""
    with empty(request.param) as connection:
        insert(connection, "action_rules", RULE)
        propose(connection)
        yield connection


def test_by_no_view(db: dbapi.Connection) -> None:
    for sql in WAYS:
        try:
            db.execute(sql)
        except dbapi.IntegrityError as error:
            assert "_kept" in str(error)  # noqa: PT017
        row = db.execute("SELECT approval, lapses_at FROM action_proposals").fetchall()
        assert row == [("needed", None)], sql
        refused(db, "UPDATE action_proposals SET status = 'validated'", "approval_required")


@pytest.mark.parametrize("value", ["NULL", "'given'", "'held'", "'x'"])
def test_nor_by_an_update(db: dbapi.Connection, value: str) -> None:
    refused(db, f"UPDATE action_proposals SET approval = {value}", "_kept")
    refused(db, "UPDATE action_proposals SET lapses_at = '2999-01-01'", "_kept")
