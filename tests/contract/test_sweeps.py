"""Nothing that is overdue keeps a claim from what can be done: no long chain, no bad row, nobody's lock."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions import ActionStatus, EventType
from operator_core.db import ActionDB
from operator_core.db.run.runner import _INSIDE
from tests.clocks import asleep
from tests.conftest import ON_SERVER, ON_SQLITE, RawSQL, proposal
from tests.contract.test_recovery import LONG_AGO, PAST, RUN_OUT, SILENCE, get, ready

pytestmark = pytest.mark.two_backends

S = ActionStatus

LINKS = 600  # a server's stack ended at some 300

OpenLedger = Callable[..., Awaitable[ActionDB]]


async def chain(db: ActionDB, first: int, links: int = LINKS) -> list[int | None]:
    """Proposals that depend each on the one before, the first of them on `first`."""
    made = await db.create_proposals(ready(depends_on=(n,)) for n in range(first, first + links))
    return [each.id for each in made]


@pytest.mark.parametrize("way", ["failed", "cancelled", "silent"])
async def test_a_long_chain_ends_with_its_beginning(db: ActionDB, raw: RawSQL, way: str) -> None:
    await db.create_proposal(ready())
    links = await chain(db, 1)
    if way == "cancelled":
        await db.update_proposal_status(1, S.CANCELLED, reason="not today")
    else:
        (claim,) = await db.claim("worker-1")
        if way == "failed":
            await db.fail(claim.record.id, "boom")
        else:
            await raw(RUN_OUT)
            assert await db.claim("worker-2") == []
    assert (await db.count_proposals())[S.CANCELLED] == LINKS + (way == "cancelled")
    last = await get(db, links[-1])
    assert last.status is S.CANCELLED
    event = (await db.history(last.id))[-1]
    how = "was cancelled" if way == "cancelled" else "failed"
    assert event.reason == f"proposal 1, which it depends on, {how}"
    ended = [e.proposal_id for e in await db.history() if e.to_status in (S.CANCELLED, S.FAILED)]
    assert ended == [1, *links]


@pytest.fixture
def place(
    request: pytest.FixtureRequest,
    place: str | Path,
    backend: str,
    postgres_copy: Callable[[str | Path], str],
) -> str | Path:
    """A database that is thrown away where a test leaves it changed."""
    keeps = "of_its_own" not in request.node.name
    return place if keeps or backend not in ON_SERVER else postgres_copy(place)


def _sqlite(db: ActionDB) -> bool:
    return "sqlite" in type(db._database).__name__.lower()


async def refuse(
    db: ActionDB,
    raw: RawSQL,
    which: str,
    *,
    how: str = "RAISE(ABORT, 'not this one')",
    on: str = "action_proposals",
    state: str = "P0001",
) -> None:
    """A trigger of another's, which lets nobody change some rows; on SQLite in its own words."""
    if _sqlite(db):
        await raw(f"CREATE TRIGGER mine BEFORE UPDATE ON {on} WHEN {which} BEGIN SELECT {how}; END")
        return
    refusal = f"RAISE EXCEPTION 'not this one' USING ERRCODE = '{state}';"
    if "IGNORE" in how:
        refusal = "RETURN NULL;"
    await raw(f"CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {refusal} END$$")
    await raw(
        f"CREATE TRIGGER mine BEFORE UPDATE ON {on} FOR EACH ROW "
        f"WHEN ({which}) EXECUTE FUNCTION mine()"
    )


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_chain_is_linked_and_ended_whatever_the_planner_believes_on_a_database_of_its_own(
    db: ActionDB, open_ledger: OpenLedger, raw: RawSQL
) -> None:
    await db.create_proposal(ready())
    await chain(db, 1)
    async with db.transaction() as tx:
        for sql in (
            "SET LOCAL session_replication_role = replica",
            "DELETE FROM action_dependencies",
            "DELETE FROM action_events",
            "DELETE FROM action_proposals",
        ):
            await tx._units.read(lambda conn, sql=sql: conn.exec_driver_sql(sql))
    # It finds pages of nothing but dead rows, and makes of them that these tables have none for long.
    await raw("ANALYZE")
    other = await open_ledger()
    first = await other.create_proposal(ready())
    # All joined with all, these would take many minutes.
    links = await chain(other, first.id or 0, 1500)
    await other.update_proposal_status(first.id, S.CANCELLED)
    assert (await other.count_proposals())[S.CANCELLED] == len(links) + 1


@pytest.mark.usefixtures("whole_sweeps")
@pytest.mark.parametrize("state", ["P0001", "OP001", "57014", "23514"])
async def test_what_can_not_be_ended_is_in_nobodys_way_on_a_database_of_its_own(
    db: ActionDB, raw: RawSQL, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    await db.create_proposals(ready() for _ in range(7))
    await db.claim("worker-1", limit=7)
    await db.create_proposals(
        [proposal(expires_at=LONG_AGO), ready(max_retries=1, retry_delay=0), ready(priority=-1)]
    )
    (again,) = await db.claim("worker-1")
    await raw(RUN_OUT + f" AND id < {again.record.id}")
    await db.fail(again.record.id, "boom")
    await refuse(db, raw, "NEW.id = 3", state=state)
    taken = await db.claim("worker-2", limit=9)
    assert sorted(claim.proposal.id or 0 for claim in taken) == [9, 10]
    for id in (1, 2, 4, 5, 6, 7):
        assert ((await get(db, id)).status, (await get(db, id)).last_error) == (S.FAILED, SILENCE)
    assert (await get(db, 8)).status is S.CANCELLED
    # Neither half: its record is open as long as its proposal is executing.
    (record,) = await db.get_records_for_proposal(3)
    assert ((await get(db, 3)).status, record.completed_at) == (S.EXECUTING, None)
    assert "could not end record 3: " in caplog.text
    assert await db.recover_expired() == []
    await raw("DROP TRIGGER mine" + (" ON action_proposals" if not _sqlite(db) else ""))
    assert [each.id for each in await db.recover_expired()] == [record.id]


@pytest.mark.usefixtures("whole_sweeps")
async def test_a_hundred_that_can_not_be_ended_hide_nothing_on_a_database_of_its_own(
    db: ActionDB, raw: RawSQL
) -> None:
    await db.create_proposals(ready(action_name="bad") for _ in range(100))
    await db.create_proposal(ready(action_name="good"))
    await db.claim("worker-1", limit=101)
    await raw(RUN_OUT)
    await raw("UPDATE action_records SET lease_expires_at = '2001-01-02 00:00:00' WHERE id = 101")
    await refuse(db, raw, "NEW.action_name = 'bad'")
    assert [record.id for record in await db.recover_expired()] == [101]
    assert (await db.count_proposals())[S.FAILED] == 1


@pytest.mark.usefixtures("whole_sweeps")
async def test_a_change_that_is_skipped_stops_no_claim_on_a_database_of_its_own(
    db: ActionDB, raw: RawSQL
) -> None:
    await db.create_proposals([ready(), ready()])
    await db.claim("worker-1", limit=2)
    await raw(RUN_OUT)
    await db.create_proposal(ready())
    await refuse(db, raw, "NEW.id < 3", how="RAISE(IGNORE)", on="action_records")
    (taken,) = await db.claim("worker-2")
    assert taken.proposal.id == 3
    assert await db.recover_expired() == []


@pytest.mark.usefixtures("whole_sweeps")
@pytest.mark.parametrize("backend", ON_SQLITE, indirect=True)
async def test_a_trigger_that_rolls_back_takes_nobody_along_on_a_database_of_its_own(
    db: ActionDB, raw: RawSQL, caplog: pytest.LogCaptureFixture
) -> None:
    await db.create_proposals([ready(), ready(), ready()])
    await db.claim("worker-1", limit=2)
    await raw(RUN_OUT)
    await refuse(db, raw, "NEW.id = 2", how="RAISE(ROLLBACK, 'no')")
    before = await db.history()
    async with db.transaction() as tx:
        held = tx.count_proposals()
        waiting = [asyncio.create_task(_outside(db, n)) for n in range(4)]
        await held
    claimed, *made = await asyncio.gather(*waiting, return_exceptions=True)
    # What is overdue can't be ended, and is in nobody's way.
    assert [claim.proposal.id for claim in claimed] == [3]
    assert "refused the whole change" in caplog.text
    assert [each.id for each in await db.list_proposals()] == [
        *sorted((each.id for each in made), reverse=True), 3, 2, 1
    ]  # fmt: skip
    since = [e for e in (await db.history())[len(before) :] if e.proposal_id != 3]
    assert [e.event_type for e in since] == [EventType.PROPOSAL_CREATED] * 3
    assert (await db.count_proposals())[S.EXECUTING] == 3


async def _outside(db: ActionDB, n: int) -> Any:
    """Called by a task that was started inside a transaction, which it is no part of."""
    _INSIDE.set(())
    return await (db.claim("worker-2") if n == 0 else db.create_proposal(ready()))


@pytest.mark.parametrize("backend", ON_SERVER, indirect=True)
async def test_a_hundred_that_somebody_holds_keep_a_claim_for_no_long(
    db: ActionDB, open_ledger: OpenLedger, raw: RawSQL
) -> None:
    other = await open_ledger()
    await db.create_proposals(ready() for _ in range(100))
    await db.claim("worker-1", limit=100)
    await db.create_proposals(ready(depends_on=(id,)) for id in range(1, 101))
    await db.create_proposal(ready())
    await raw(RUN_OUT)
    async with other.transaction() as tx:
        held = "SELECT 1 FROM action_proposals WHERE id BETWEEN 101 AND 200 FOR UPDATE"
        await tx._units.read(lambda conn: conn.exec_driver_sql(held).all())
        # Each of them, and each half of them, waited for on its own, would take 10 seconds.
        async with asyncio.timeout(9):
            (taken,) = await db.claim("worker-2")
            assert await db.recover_expired() == []
        assert taken.proposal.id == 201
    assert len(await db.recover_expired()) == 100
    assert (await db.count_proposals())[S.CANCELLED] == 100


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_setting_of_somebodys_own_does_not_stop_the_end_of_a_chain(
    db: ActionDB, raw: RawSQL
) -> None:
    await db.create_proposal(ready())
    await chain(db, 1)
    async with db.transaction() as tx:
        await tx._units.read(
            lambda conn: conn.exec_driver_sql("SET LOCAL operator_core.cascade = '{}'")
        )
        await tx.update_proposal_status(1, S.CANCELLED)
    assert (await db.count_proposals())[S.CANCELLED] == LINKS + 1


@pytest.mark.usefixtures("whole_sweeps")
@pytest.mark.parametrize("backend", ON_SERVER, indirect=True)
@pytest.mark.parametrize("held", ["the silent one", "what depends on it", "its record"])
async def test_a_claim_waits_for_nobody_who_holds_what_is_overdue(
    db: ActionDB, open_ledger: OpenLedger, raw: RawSQL, held: str
) -> None:
    other = await open_ledger()
    await db.create_proposals([ready(), ready()])
    await db.claim("worker-1", limit=2)
    await db.create_proposals([ready(depends_on=(1,)), ready()])
    await raw(RUN_OUT)
    lock: dict[str, Any] = {
        "the silent one": "SELECT 1 FROM action_proposals WHERE id = 1 FOR UPDATE",
        "what depends on it": "SELECT 1 FROM action_proposals WHERE id = 3 FOR UPDATE",
        "its record": "SELECT 1 FROM action_records WHERE id = 1 FOR UPDATE",
    }
    async with other.transaction() as tx:
        await tx._units.read(lambda conn: conn.exec_driver_sql(lock[held]).all())
        async with asyncio.timeout(20):
            (taken,) = await db.claim("worker-2")
        assert taken.proposal.id == 4
        assert (await get(db, 1)).status is S.EXECUTING
        assert (await get(db, 2)).status is S.FAILED
        assert await raw("SHOW lock_timeout") == [("0",)]
    assert await db.claim("worker-2") == []
    assert [(await get(db, id)).status for id in (1, 3)] == [S.FAILED, S.CANCELLED]


@pytest.mark.parametrize("backend", ON_SERVER, indirect=True)
async def test_a_sweep_leaves_the_callers_transaction_as_it_was(db: ActionDB, raw: RawSQL) -> None:
    await db.create_proposal(proposal(expires_at=LONG_AGO))
    async with db.transaction() as tx:
        await tx._units.read(lambda conn: conn.exec_driver_sql("SET LOCAL lock_timeout = '7s'"))
        await tx.claim("worker-1")
        found = await tx._units.read(lambda c: c.exec_driver_sql("SHOW lock_timeout").scalar())
        assert found == "7s"
        assert (await get(tx)).status is S.CANCELLED


async def test_a_count_at_its_end_blocks_nobody(db: ActionDB, raw: RawSQL) -> None:
    await db.create_proposals(ready(max_retries=1, retry_delay=0) for _ in range(3))
    for claim in await db.claim("worker-1", limit=3):
        await db.fail(claim.record.id, "boom")
    await asleep(db, "UPDATE action_proposals SET retry_count = 2147483647 WHERE id = 2")
    await raw(f"UPDATE action_proposals SET next_retry_at = {PAST} WHERE status = 'failed'")
    taken = await db.claim("worker-2", limit=9)
    assert {1, 3} <= {claim.proposal.id for claim in taken}
