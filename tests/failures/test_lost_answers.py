"""A write whose answer is lost: its outcome is unknown, and it is never made a second time by itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from operator_core.actions import ActionRecord, ActionStatus, CommitOutcomeUnknown, Rule
from operator_core.db import ActionDB
from tests.clocks import PATIENCE
from tests.databases import query
from tests.failures.harness import proposal
from tests.failures.proxy import Proxy, proxied

S = ActionStatus

LOST: Final = "lost"
"""Who acts in the calls whose answers are lost: it stands in each of their statements."""


class Bench(NamedTuple):
    """What the verbs work on: a proposal that is proposed, one that failed, and two executions."""

    proposed: int
    failed: int
    claimed: int
    by_hand: int


async def prepare(db: ActionDB) -> Bench:
    again = await db.create_proposal(proposal(status=S.FAILED))
    by_hand = await db.create_proposal(proposal(status=S.EXECUTING))
    record = await db.create_record(ActionRecord(proposal_id=by_hand.id or 0))
    await db.create_proposal(proposal(status=S.VALIDATED))
    (claim,) = await db.claim("worker-1")
    made = await db.create_proposal(proposal())
    await db.create_proposal(proposal(status=S.VALIDATED, action_name="due"))
    ids = made.id, again.id, claim.record.id, record.id
    return Bench(*(each or 0 for each in ids))


Verb = Callable[[ActionDB, Bench], Awaitable[object]]


# Each with how many events it writes, all of them by who acts.
VERBS: dict[str, tuple[Verb, int]] = {
    "create_proposal": (lambda db, on: db.create_proposal(proposal()), 1),
    "create_proposal with a key": (
        lambda db, on: db.create_proposal(proposal(), idempotency_key="k"),
        1,
    ),
    "create_proposals": (lambda db, on: db.create_proposals([proposal(), proposal()]), 2),
    "update_proposal_status": (
        lambda db, on: db.update_proposal_status(on.proposed, S.VALIDATED),
        1,
    ),
    "retry": (lambda db, on: db.retry(on.failed), 1),
    "create_record": (
        lambda db, on: db.create_record(ActionRecord(proposal_id=on.proposed)),
        1,
    ),
    "update_record": (lambda db, on: db.update_record(on.by_hand, True), 1),
    "claim": (lambda db, on: db.claim(LOST, action_names="due"), 2),
    "cancel_all_pending": (lambda db, on: db.cancel_all_pending(), 2),
    "complete": (lambda db, on: db.complete(on.claimed, {"by": LOST}), 2),
    "complete_many": (lambda db, on: db.complete_many({on.claimed: {"by": LOST}}), 2),
    "fail": (lambda db, on: db.fail(on.claimed, LOST), 2),
    "fail_many": (lambda db, on: db.fail_many({on.claimed: LOST}), 2),
}


@asynccontextmanager
async def through(proxy: Proxy, kind: str, **settings: Any) -> AsyncIterator[ActionDB]:
    """A ledger behind the proxy, by each driver on a pool of its own, or on an engine of somebody's."""
    if kind != "engine":
        async with ActionDB(proxy.url.replace("://", f"+{kind}://"), **settings) as db:
            yield db
        return
    engine = create_async_engine(proxy.url.replace("://", "+asyncpg://"))
    try:
        async with ActionDB(engine, **settings) as db:
            yield db
    finally:
        await engine.dispose()


EACH_KIND = pytest.mark.parametrize("kind", ["asyncpg", "psycopg", "engine"])


def count(url: str, what: str = "action_events") -> int:
    return query(url, f"SELECT count(*) FROM {what}")[0][0]


async def await_count(url: str, wanted: int, what: str = "action_events") -> None:
    """Waits until the server has done what it was told before the connection was cut."""
    async with asyncio.timeout(PATIENCE):
        while count(url, what) < wanted:
            await asyncio.sleep(0.01)
    assert count(url, what) == wanted


@EACH_KIND
@pytest.mark.parametrize("verb", VERBS)
async def test_it_is_unknown_and_made_once(server_ledger: str, kind: str, verb: str) -> None:
    call, written = VERBS[verb]
    async with proxied(server_ledger) as proxy:
        async with through(proxy, kind, actor="somebody") as other:
            on = await prepare(other)
        async with through(proxy, kind, actor=LOST) as db:
            # Until a connection is at hand, which takes the shortest way.
            for _ in range(6):
                await db.get_proposal(on.proposed)
            before = count(server_ledger)
            proxy.cut_after = lambda said: LOST.encode() in said and proxy.cuts < 1
            with pytest.raises(CommitOutcomeUnknown, match="whole or absent"):
                await call(db, on)
            assert proxy.cuts == 1
            await await_count(server_ledger, before + written)
            # And the ledger goes on.
            await db.create_proposal(proposal())
            assert count(server_ledger) == before + written + 1


@EACH_KIND
@pytest.mark.parametrize("size", [1, 2])
async def test_callers_who_share_a_statement_are_all_told_and_written_once(
    server_ledger: str, kind: str, size: int
) -> None:
    async with proxied(server_ledger) as proxy, through(proxy, kind) as db:
        for _ in range(6):
            await db.create_proposal(proposal())

        async def create(name: str) -> None:
            await db.create_proposals(proposal(action_name=name) for _ in range(size))

        proxy.cut_after = lambda said: LOST.encode() in said and proxy.cuts < 1
        # The first is alone; the others wait for it, and then go together.
        calls = [create("first"), *(create(LOST) for _ in range(5))]
        first, *answers = await asyncio.gather(*calls, return_exceptions=True)
        assert proxy.cuts == 1
        assert first is None
        assert [type(each) for each in answers] == [CommitOutcomeUnknown] * 5
        await await_count(server_ledger, 6 + 6 * size, "action_proposals")
        await db.create_proposal(proposal())
        kept = query(server_ledger, "SELECT action_name, count(*) FROM action_proposals GROUP BY 1")
        assert dict(kept) == {"transfer_leader": 7, "first": size, LOST: 5 * size}


@EACH_KIND
@pytest.mark.parametrize("key", [None, "k"])
async def test_so_it_is_if_what_a_rule_made_of_it_can_not_be_read(
    server_ledger: str, kind: str, key: str | None
) -> None:
    async with proxied(server_ledger) as proxy, through(proxy, kind) as db:
        await db.add_rule(Rule(name="r", action_name=LOST), by="mia", reason="r")
        for _ in range(6):
            await db.create_proposal(proposal())
        created = False

        def cut(said: bytes) -> bool:
            nonlocal created
            created = created or LOST.encode() in said
            # Some drivers send a COMMIT of its own.
            return created and b"action_proposals.ticket_id" in said and proxy.cuts < 1

        proxy.cut_after = cut
        with pytest.raises(CommitOutcomeUnknown, match="whole or absent"):
            await db.create_proposal(proposal(action_name=LOST), idempotency_key=key)
        assert proxy.cuts == 1
        (kept,) = query(
            server_ledger, f"SELECT approval FROM action_proposals WHERE action_name = '{LOST}'"
        )
        assert kept == ("needed",)
        await db.create_proposal(proposal())
