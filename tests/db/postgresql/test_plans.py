"""Statements of several parts, which PostgreSQL runs in the order in which its plan reads them."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from operator_core.actions import ActionStatus, EventType
from operator_core.db import ActionDB
from tests.conftest import proposal

JOINS = ("nestloop", "hashjoin", "mergejoin")


@pytest.mark.parametrize("allowed", [JOINS, *((each,) for each in JOINS)], ids="+".join)
async def test_the_history_is_the_same_for_every_plan(
    server_ledger: str, allowed: tuple[str, ...]
) -> None:
    settings = {f"enable_{each}": "on" if each in allowed else "off" for each in JOINS}
    url = server_ledger.replace("://", "+asyncpg://")
    engine = create_async_engine(url, connect_args={"server_settings": settings})
    kinds = EventType
    try:
        async with ActionDB(engine) as db:

            async def told() -> list[EventType]:
                """The kinds of events since the last call."""
                nonlocal seen
                events = await db.history(after=seen)
                seen = events[-1].id
                return [each.event_type for each in events]

            await db.create_proposals(proposal(status=ActionStatus.VALIDATED) for _ in range(7))
            seen = await db.newest_event_id()
            claims = await db.claim("worker", limit=3)
            assert await told() == [*(kinds.RECORD_STARTED,) * 3, *(kinds.STATUS_CHANGED,) * 3]

            async def told_of_each() -> list[tuple[EventType, ...]]:
                """The same for each proposal. Which of several callers share a statement is not known."""
                nonlocal seen
                events = await db.history(after=seen)
                seen = events[-1].id
                of_each: dict[int, tuple[EventType, ...]] = {}
                for event in events:
                    before = of_each.get(event.proposal_id, ())
                    of_each[event.proposal_id] = (*before, event.event_type)
                return list(of_each.values())

            shares = await asyncio.gather(*(db.claim(f"w{n}") for n in range(4)))
            assert await told_of_each() == [(kinds.RECORD_STARTED, kinds.STATUS_CHANGED)] * 4

            await db.complete_many([claim.record.id for claim in claims[:2]])
            assert await told() == [*(kinds.RECORD_FINISHED,) * 2, *(kinds.STATUS_CHANGED,) * 2]
            await asyncio.gather(*(db.complete(share[0].record.id) for share in shares))
            ended = [kinds.RECORD_FINISHED, kinds.STATUS_CHANGED]
            assert await told_of_each() == [tuple(ended)] * 4
            await db.fail(claims[2].record.id, "boom")
            assert await told() == ended
    finally:
        await engine.dispose()
