"""The works of a service, written once, so that every side does the same."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.sides import Side

__all__ = [
    "BULK",
    "CANCEL",
    "CREATE",
    "CREATE_BY_TASKS",
    "CYCLE",
    "GET",
    "LIFE",
    "LIST",
    "QUICK",
    "Do",
    "Sizes",
    "Work",
    "prepared",
]

TASKS = 64


@dataclass(frozen=True)
class Sizes:
    """The amount of each work in one round."""

    create: int = 400
    create_each: int = 20
    """By each of the 64 tasks."""
    get: int = 2000
    rows: int = 10_000
    """In the listed file, and in one bulk call."""
    list: int = 3
    life: int = 200
    cycle: int = 400
    cancel: int = 1000
    """In one call."""
    open: int = 150
    limit: int = 500


QUICK = Sizes(
    create=40,
    create_each=2,
    get=100,
    rows=500,
    list=1,
    life=10,
    cycle=20,
    cancel=100,
    open=10,
    limit=50,
)

Do = Callable[[], Awaitable[None]]
"""The timed calls."""


@dataclass(frozen=True)
class Work:
    """A work, and how much of it one round does."""

    unit: str
    prepare: Callable[[Any, Side, Sizes], Awaitable[Do]]
    """Prepares the work on an open side, which is not timed."""
    units: Callable[[Sizes], int]
    rows: Callable[[Sizes], int] = lambda sizes: 0
    """The number of proposals in the file before the side opens it."""


async def prepared(work: Work, db: Any, side: Side, sizes: Sizes) -> Do:
    """Prepares `work` on an open side, with warm connections and collected garbage."""
    await db.get_proposal(1)
    await db.create_proposal(side.proposal(0))
    do = await work.prepare(db, side, sizes)
    gc.collect()
    return do


async def _create(db: Any, side: Side, sizes: Sizes) -> Do:
    proposals = [side.proposal(number) for number in range(sizes.create)]

    async def do() -> None:
        for proposal in proposals:
            await db.create_proposal(proposal)

    return do


async def _create_by_tasks(db: Any, side: Side, sizes: Sizes) -> Do:
    shares = [[side.proposal(n) for n in range(sizes.create_each)] for _ in range(TASKS)]

    async def task(proposals: list[Any]) -> None:
        for proposal in proposals:
            await db.create_proposal(proposal)

    async def do() -> None:
        await asyncio.gather(*(task(share) for share in shares))

    return do


def _gettable(sizes: Sizes) -> int:
    return min(sizes.rows, 1000)


async def _get(db: Any, side: Side, sizes: Sizes) -> Do:
    ids = [1 + number * 7 % _gettable(sizes) for number in range(sizes.get)]

    async def do() -> None:
        for id_ in ids:
            await db.get_proposal(id_)

    return do


async def _list(db: Any, side: Side, sizes: Sizes) -> Do:
    async def do() -> None:
        for _ in range(sizes.list):
            found = await db.list_proposals()
            assert len(found) == sizes.rows

    return do


async def _life(db: Any, side: Side, sizes: Sizes) -> Do:
    result = {"moved": True, "took_ms": 84}
    proposals = [side.proposal(number) for number in range(sizes.life)]

    async def do() -> None:
        for proposal in proposals:
            id_ = (await db.create_proposal(proposal)).id
            await db.update_proposal_status(id_, "validated")
            await db.update_proposal_status(id_, "executing")
            record = await db.create_record(side.record(id_))
            await db.update_record(record.id, True, result_data=result)
            await db.update_proposal_status(id_, "completed")

    return do


async def _cycle(db: Any, side: Side, sizes: Sizes) -> Do:
    due = [side.proposal(n).model_copy(update={"status": "validated"}) for n in range(sizes.cycle)]
    await db.create_proposals(due)
    # The first claim and the first end compile their statements.
    await db.complete((await db.claim("worker-1"))[0].record.id)

    async def do() -> None:
        for _ in range(sizes.cycle - 1):
            (claim,) = await db.claim("worker-1")
            await db.complete(claim.record.id)

    return do


async def _bulk(db: Any, side: Side, sizes: Sizes) -> Do:
    proposals = [side.proposal(number) for number in range(sizes.rows)]
    # As in a service, whose connection has written single proposals before.
    for proposal in proposals[:20]:
        await db.create_proposal(proposal)

    async def do() -> None:
        await db.create_proposals(proposals)

    return do


async def _cancel(db: Any, side: Side, sizes: Sizes) -> Do:
    # The warm connection has left one already.
    await db.create_proposals([side.proposal(number) for number in range(sizes.cancel - 1)])

    async def do() -> None:
        cancelled = await db.cancel_all_pending()
        assert cancelled == sizes.cancel

    return do


CREATE = Work("rows", _create, lambda sizes: sizes.create)
CREATE_BY_TASKS = Work("rows", _create_by_tasks, lambda sizes: TASKS * sizes.create_each)
GET = Work("rows", _get, lambda sizes: sizes.get, _gettable)
LIST = Work("rows", _list, lambda sizes: sizes.list * sizes.rows, lambda sizes: sizes.rows - 1)
LIFE = Work("lives", _life, lambda sizes: sizes.life)
CYCLE = Work("executions", _cycle, lambda sizes: sizes.cycle - 1)
BULK = Work("rows", _bulk, lambda sizes: sizes.rows)
CANCEL = Work("rows", _cancel, lambda sizes: sizes.cancel)
