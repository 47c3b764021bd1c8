"""Revision 0010 with rows: what was rejected before it is not retried after it."""

from functools import partial
from pathlib import Path

import pytest

from operator_core.actions import ActionStatus, EventType, TransitionUnapproved
from operator_core.db import ActionDB, migrate
from tests.databases import Databases, query
from tests.migrations import tools
from tests.migrations.revised import (
    Ledger,
    compare_with_fresh,
    go_down,
    is_sound,
    ledger_at,
    url_of,
)

ROWS = """
INSERT INTO action_rules (name, action_name, added_by, reason) VALUES ('r', 'drop', 'boss', 'policy');
INSERT INTO action_proposals (action_name, parameters, reason, status, proposed_at, proposed_by) VALUES
    ('a', '{}', 'r', 'failed', '2026-01-01 00:00:00', 'agent'),
    ('a', '{}', 'r', 'failed', '2026-01-01 00:00:00', 'agent'),
    ('a', '{}', 'r', 'proposed', '2026-01-01 00:00:00', 'agent'),
    ('drop', '{}', 'r', 'failed', '2026-01-01 00:00:00', 'agent'),
    ('drop', '{}', 'r', 'proposed', '2026-01-01 00:00:00', 'agent');
INSERT INTO action_decisions (proposal_id, kind, decided_by, decider_key, comment) VALUES
    (1, 'rejected', 'Mia', 'mia', 'no'), (3, 'rejected', 'mia', 'mia', 'no'), (4, 'rejected', 'mia', 'mia', 'no')
"""
APPROVALS = "SELECT id, approval FROM action_proposals ORDER BY id"
REST = "SELECT id, status, version, updated_at, lapses_at FROM action_proposals ORDER BY id"
BEFORE = [(1, None), (2, None), (3, None), (4, "needed"), (5, "needed")]
AFTER = [(1, "needed"), *BEFORE[1:]]


@pytest.fixture(params=["sqlite", "postgresql"])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """A ledger at revision 0009 with rows."""
    return ledger_at("0009", ROWS, request, tmp_path, on_server=request.param == "postgresql")


async def test_what_was_rejected_before_is_not_retried(before: Ledger) -> None:
    place, ask = before
    kept = ask(REST)
    assert ask(APPROVALS) == BEFORE
    migrate.upgrade(url_of(place))
    assert (ask(REST), ask(APPROVALS)) == (kept, AFTER)
    async with ActionDB(place) as db:
        with pytest.raises(TransitionUnapproved, match="Mia rejected it"):
            await db.retry(1)
        await db.retry(2)
        await db.reject_proposal(5, by="mia", reason="no")
        found = await db.get_proposal(5)
        assert found is not None
        assert found.status is ActionStatus.CANCELLED
    assert is_sound(place)


async def test_a_retry_that_was_planned_by_then_is_called_off(before: Ledger) -> None:
    place, ask = before
    write = partial(tools.query, place) if isinstance(place, Path) else partial(query, place)
    for change in (
        "status = 'validated'",
        "status = 'executing'",
        "status = 'failed', next_retry_at = '2026-01-01 00:00:00.000000'",
    ):
        write(f"UPDATE action_proposals SET {change} WHERE id = 1")
    migrate.upgrade(url_of(place))
    assert ask("SELECT next_retry_at, approval FROM action_proposals WHERE id = 1") == [
        (None, "needed")
    ]
    async with ActionDB(place) as db:
        event = (await db.history(1))[-1]
        assert (event.event_type, event.actor) == (EventType.RETRY_CANCELLED, "migration")
        assert (await db.wait_for(1, timeout=60)).status is ActionStatus.FAILED
    assert is_sound(place)


def test_triggers_of_others_stay_behind_ours(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    migrate.upgrade(f"sqlite:///{path}", "0009")
    tools.query(
        path,
        'CREATE TRIGGER "the ""others""" AFTER INSERT ON action_decisions BEGIN SELECT 1; END',
    )
    for _ in range(2):
        migrate.upgrade(f"sqlite:///{path}")
        found = "SELECT name FROM sqlite_master WHERE tbl_name = 'action_decisions' AND type = 'trigger' ORDER BY rowid"
        assert tools.query(path, found)[-1] == ('the "others"',)
        go_down(path, "0009")
        assert tools.query(path, found)[-1] == ('the "others"',)


async def test_nothing_of_it_is_left_after_a_downgrade(before: Ledger) -> None:
    place, ask = before
    migrate.upgrade(url_of(place))
    kept = ask(REST)
    go_down(place, "0009")
    assert (ask(REST), ask(APPROVALS)) == (kept, BEFORE)
    migrate.upgrade(url_of(place))
    assert ask(APPROVALS) == AFTER
    assert is_sound(place)


def test_an_upgraded_schema_is_a_fresh_one(before: Ledger, postgres: Databases) -> None:
    place, _ = before
    migrate.upgrade(url_of(place))
    compare_with_fresh(place, "0009", postgres)
