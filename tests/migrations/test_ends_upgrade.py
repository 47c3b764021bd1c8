"""Revision 0007 with rows: what it gives to existing ones, and what is lost on the way down."""

from pathlib import Path

import pytest

from operator_core.actions import WouldLoseData
from operator_core.db import ActionDB, migrate
from tests.conftest import proposal
from tests.databases import Databases, query
from tests.migrations import postgresql_tools, tools
from tests.migrations.raw_tools import PROPOSAL, insert
from tests.migrations.revised import (
    Ledger,
    compare_with_fresh,
    go_down,
    is_sound,
    ledger_at,
    url_of,
)

ROWS = """
INSERT INTO action_proposals (action_name, parameters, reason, status, proposed_at, max_retries, scheduled_at, depends_on) VALUES
    ('a', '{"b": 1, "a": [1.0, -0.0, 12345678901234567890123]}', 'r', 'proposed', '2026-01-01 00:00:00', 3,
        '2026-01-01 10:00:00.5', NULL),
    ('a', '{}', 'r', 'validated', '2026-01-01 00:00:00', 0, NULL, '[1]'),
    ('a', '{}', 'r', 'executing', '2026-01-01 00:00:00', 0, NULL, NULL),
    ('a', '{}', 'r', 'executing', '2026-01-01 00:00:00', 0, NULL, NULL),
    ('a', '{}', 'r', 'cancelled', '2026-01-01 00:00:00', 0, NULL, NULL),
    ('a', '{}', 'r', 'completed', '2026-01-01 00:00:00', 0, NULL, NULL),
    ('a', '{}', 'r', 'failed', '2026-01-01 00:00:00', 0, NULL, NULL);
INSERT INTO action_records (proposal_id) VALUES (3), (4);
UPDATE action_records SET completed_at = '2026-01-01 00:00:00', outcome_unknown = true WHERE proposal_id = 3;
UPDATE action_records SET completed_at = '2026-01-01 00:00:00', success = false WHERE proposal_id = 4;
UPDATE action_proposals SET status = 'failed' WHERE status = 'executing'
"""
ENDS = [
    (1, None), (2, None), (3, "outcome_unknown"), (4, "failed"), (5, "cancelled"), (6, None), (7, "failed"),
]  # fmt: skip

KEPT = "SELECT id, status, version, updated_at FROM action_proposals ORDER BY id"
EVENTS = "SELECT id, event_type, details FROM action_events ORDER BY id"
CODES = "SELECT id, end_code FROM action_proposals ORDER BY id"


@pytest.fixture(params=["sqlite", "postgresql"])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """A ledger at revision 0006 with rows."""
    return ledger_at("0006", ROWS, request, tmp_path, on_server=request.param == "postgresql")


async def test_existing_rows_get_their_ends_and_digests(before: Ledger) -> None:
    place, ask = before
    kept, events = ask(KEPT), ask(EVENTS)
    migrate.upgrade(url_of(place))
    assert (ask(KEPT), ask(EVENTS)) == (kept, events)
    assert ask(CODES) == ENDS
    async with ActionDB(place) as db:
        for found in await db.list_proposals():
            assert found.content_digest == found.digest
        assert len(await db.history()) == len(events)
        # The triggers are awake again.
        await db.retry(7)
        await db.update_proposal_status(7, "cancelled")  # pyright: ignore[reportArgumentType]
        assert (await db.history(7))[-1].details == {"end_code": "cancelled"}
    assert is_sound(place)


async def test_plain_ends_are_known_again_after_a_downgrade(before: Ledger) -> None:
    place, ask = before
    kept = ask(KEPT)
    migrate.upgrade(url_of(place))
    go_down(place, "0006")
    assert ask(KEPT) == kept
    migrate.upgrade(url_of(place))
    assert ask(CODES) == ENDS
    assert ask("SELECT count(*) FROM action_proposals WHERE content_digest IS NULL") == [(0,)]


async def test_other_ends_are_lost_only_by_who_says_so(before: Ledger) -> None:
    place, ask = before
    migrate.upgrade(url_of(place))
    async with ActionDB(place) as db:
        made = await db.create_proposal(proposal())
        behind = await db.create_proposal(proposal(depends_on=[made.id]))
        await db.cancel_proposal(made.id, by="agent", reason="no")
        assert (await db.list_proposals(end_code="withdrawn"))[0].id == made.id  # pyright: ignore[reportArgumentType]
    columns = "SELECT id, end_code, status_cause, content_digest FROM action_proposals ORDER BY id"
    rows, events = ask(columns), ask(EVENTS)
    assert rows[-1][1:3] == ("dependency", f'{{"proposal":{made.id}}}')
    with pytest.raises(WouldLoseData, match=r"^action_proposals has rows .*discard-history"):
        go_down(place, "0006")
    assert ask(columns) == rows
    go_down(place, "0006", discard_history="yes")
    assert ask(EVENTS) == events
    # The events still say it.
    migrate.upgrade(url_of(place))
    assert ask(columns) == rows
    assert is_sound(place)
    go_down(place, "0004", discard_history="yes")
    migrate.upgrade(url_of(place))
    assert ask(columns)[-1][1:3] == ("cancelled", None)
    assert ask(columns)[behind.id - 1][3] == rows[-1][3]
    assert is_sound(place)


async def test_an_upgraded_schema_is_a_fresh_one(before: Ledger, postgres: Databases) -> None:
    place, _ = before
    migrate.upgrade(url_of(place))
    compare_with_fresh(place, "0006", postgres)


async def test_a_row_that_can_not_be_read_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    migrate.upgrade(f"sqlite:///{path}", "0006")
    damaged = ("[", "[]", '{"a":1e400}', '{"a":"\\ud800"}', b"{}", '{"a":NaN}')
    with tools.opened(path) as db:
        # More than one batch.
        db.execute("BEGIN")
        for _ in range(1_100):
            insert(db, "action_proposals", PROPOSAL)
        db.execute("COMMIT")
        for each in damaged:
            insert(db, "action_proposals", {**PROPOSAL, "parameters": each})
        db.execute(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
            "VALUES ('a', CAST(x'7b22ff223a317d' AS TEXT), 'why', '2026-01-01 00:00:00.000000')"
        )
        insert(db, "action_proposals", PROPOSAL)
    migrate.upgrade(f"sqlite:///{path}")
    missing = "SELECT id FROM action_proposals WHERE content_digest IS NULL ORDER BY id"
    assert tools.query(path, missing) == [(1_101 + n,) for n in range(len(damaged) + 1)]


def test_the_script_of_an_upgrade_has_no_digests(postgres: Databases, tmp_path: Path) -> None:
    url = postgresql_tools.ledger_at(postgres, "0006", f"SET timezone = 'UTC'; {ROWS}")
    text = postgresql_tools.script("upgrade", "0006:0007")
    postgresql_tools.psql(url, text, tmp_path)
    assert list(query(url, CODES)) == ENDS
    assert query(url, "SELECT count(content_digest) FROM action_proposals") == [(0,)]
    assert postgresql_tools.catalogue(url) == postgresql_tools.made_by(postgres, "0007")
