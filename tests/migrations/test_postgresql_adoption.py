"""Tables on a server that someone made without Alembic are adopted with every row."""

import pytest

from operator_core.actions import ActionStatus, EventType
from operator_core.db import ActionDB, migrate
from tests.conftest import proposal
from tests.databases import Databases, query
from tests.migrations.postgresql_tools import (
    alembic,
    columns,
    contents,
    snapshot,
    unversioned,
    version,
)
from tests.migrations.tools import VERSION_TABLE


@pytest.mark.parametrize("how", ["alembic", "upgrade()"])
def test_every_row_and_value_is_kept(postgres: Databases, how: str) -> None:
    url = unversioned(postgres)
    plain = columns(url)
    before = contents(url, plain)
    assert [len(rows) for rows in before.values()] == [2, 3, 3]
    if how == "alembic":
        alembic(url, "upgrade", "head")
    else:
        migrate.upgrade(url)
    assert contents(url, plain) == before
    assert version(url) == [migrate.HEAD]


def test_the_first_revision_writes_only_its_version(postgres: Databases) -> None:
    """It finds everything there; what it would be without rows is seen on the way."""
    url = unversioned(postgres)
    before = snapshot(url)
    migrate.upgrade(url, "0001")
    after = snapshot(url)
    assert version(url) == ["0001"]
    assert [each for each in before if each not in after] == []
    assert all(
        VERSION_TABLE in each[1] or each[1] == "(0001)" for each in after if each not in before
    )


async def test_adopted_rows_are_read_as_models_and_go_on_with_their_lives(
    postgres: Databases,
) -> None:
    url = unversioned(postgres)
    migrate.upgrade(url)
    async with ActionDB(url, actor="worker") as db:
        proposals = await db.list_proposals()
        assert not proposals.corrupt
        assert [each.id for each in proposals] == [3, 2, 1]
        assert proposals[2].parameters == {"b": -0.0, "a": 1e2, "text": "ü: 100 %"}
        assert proposals[0].parameters == {"n": 12345678901234567890123456789}
        await db.update_proposal_status(2, ActionStatus.VALIDATED, reason="fits")
        assert [(event.actor, event.to_status) for event in await db.history(2)] == [
            ("migration", ActionStatus.PROPOSED),
            ("worker", ActionStatus.VALIDATED),
        ]
        await db.update_record(3, success=True)
        assert await db.cancel_all_pending() == 1
        # The id of the row that is gone is not given again.
        made = await db.create_proposal(proposal(ticket_id=2))
        assert made.id == 5


async def test_adopted_rows_have_a_history_that_says_so(postgres: Databases) -> None:
    url = unversioned(postgres)
    migrate.upgrade(url)
    async with ActionDB(url) as db:
        events = await db.history()
    assert not events.corrupt
    assert {(event.actor, event.reason) for event in events} == {("migration", "adopted")}
    assert [(e.event_type, e.proposal_id, e.record_id, e.to_status, e.success) for e in events] == [
        (EventType.PROPOSAL_CREATED, 1, None, ActionStatus.COMPLETED, None),
        (EventType.PROPOSAL_CREATED, 2, None, ActionStatus.PROPOSED, None),
        (EventType.PROPOSAL_CREATED, 3, None, ActionStatus.FAILED, None),
        (EventType.RECORD_STARTED, 1, 1, None, None),
        (EventType.RECORD_STARTED, 3, 2, None, None),
        (EventType.RECORD_STARTED, 3, 3, None, None),
        (EventType.RECORD_FINISHED, 1, 1, None, True),
        (EventType.RECORD_FINISHED, 3, 2, None, False),
    ]


def test_a_strangers_tables_views_and_triggers_survive_adoption(postgres: Databases) -> None:
    url = unversioned(postgres)
    query(
        url,
        "CREATE TABLE orders (id int PRIMARY KEY, proposal bigint REFERENCES action_proposals ON DELETE CASCADE);"
        "INSERT INTO orders VALUES (1, 2);"
        "CREATE VIEW pending AS SELECT id FROM action_proposals WHERE status = 'proposed';"
        "CREATE FUNCTION order_ticket() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN UPDATE tickets SET held = true WHERE id = 1; RETURN NULL; END $$;"
        "CREATE TRIGGER ordered AFTER INSERT ON orders EXECUTE FUNCTION order_ticket()",
    )
    strangers = ("orders", "pending", "order_ticket")
    before = [row for row in snapshot(url) if str(row[1]).startswith(strangers)]
    migrate.upgrade(url)
    assert [row for row in snapshot(url) if str(row[1]).startswith(strangers)] == before
    query(url, "INSERT INTO orders VALUES (2, 3)")
    assert query(url, "SELECT held FROM tickets ORDER BY id") == [(True,), (False,)]
    assert query(url, "SELECT id FROM pending") == [(2,)]
