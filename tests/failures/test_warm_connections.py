"""Bulk verbs on a connection that has done single ones before, whose plans its session keeps."""

import time

import pytest

from operator_core.actions import ActionStatus
from operator_core.db import ActionDB
from tests.conftest import proposal
from tests.databases import connected

S = ActionStatus

_CHAIN = """
INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, depends_on)
SELECT 'link', '{}', 'r', now(), ('[' || (%s + n - 1) || ']')::json FROM generate_series(1, %s) AS n
"""


async def warm(db: ActionDB) -> None:
    for _ in range(12):
        made = await db.create_proposal(proposal())
        await db.update_proposal_status(made.id, S.CANCELLED)
        await db.create_proposal(proposal(status=S.VALIDATED))
        (claim,) = await db.claim("w")
        await db.fail(claim.record.id, "boom")
        await db.create_proposal(proposal(status=S.VALIDATED))
        (claim,) = await db.claim("w")
        await db.complete(claim.record.id)


async def stop(url: str, count: int, chain: int) -> tuple[float, float]:
    """Seconds to cancel `count` proposals, and one on which a chain of `chain` depends."""
    async with ActionDB(url, pool_size=1) as db:
        await warm(db)
        for start in range(0, count, 10_000):
            await db.create_proposals(
                proposal(status=S.VALIDATED) for _ in range(min(10_000, count - start))
            )
        begun = time.monotonic()
        assert await db.cancel_all_pending(reason="stop") == count
        cancelled = time.monotonic() - begun
        first = await db.create_proposal(proposal())
        with connected(url) as conn:
            conn.execute(_CHAIN, (first.id, chain))
        begun = time.monotonic()
        await db.update_proposal_status(first.id, S.CANCELLED)
        ended = time.monotonic() - begun
        assert (await db.count_proposals())[S.PROPOSED] == 0
    print(f"\n{count} cancelled in {cancelled:.2f} s, a chain of {chain} in {ended:.2f} s")
    return cancelled, ended


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
async def test_the_stop_reaches_all_on_a_warm_connection(server_ledger: str, driver: str) -> None:
    await stop(server_ledger.replace("postgresql", driver, 1), 2_000, 300)


@pytest.mark.soak
@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
async def test_the_stop_reaches_a_hundred_thousand_in_seconds(
    server_ledger: str, driver: str
) -> None:
    cancelled, ended = await stop(server_ledger.replace("postgresql", driver, 1), 100_000, 10_000)
    # Of what took hours, these are seconds; a loaded machine has some to spare.
    assert cancelled < 10
    assert ended < 5
