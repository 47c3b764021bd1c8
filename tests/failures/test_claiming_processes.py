"""Many processes that claim from one ledger: each proposal is one worker's, once, and every record is closed."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from operator_core.actions.types import ActionStatus
from tests.failures.harness import proposal
from tests.failures.server_harness import contend
from tests.failures.worker_processes import Place, check_whole, fill, seen

PROCESSES = 8

on_each = pytest.mark.parametrize("backend", ["file", "postgresql"])


def check_claimed_once(place: Place, printed: list[dict[str, Any]], proposals: int) -> None:
    claims = [(id, record, each["name"]) for each in printed for id, record in each["claimed"]]
    workers = Counter(id for id, _, _ in claims)
    doubles = sum(count > 1 for count in workers.values())
    share = [len(each["claimed"]) for each in printed]
    print(f"\nproposals={proposals} claimed={len(workers)} doubles={doubles} by process={share}")
    assert doubles == 0, f"{doubles} doubles"
    assert set(workers) == set(range(1, proposals + 1))
    assert all(share)
    assert set(seen(place, "SELECT proposal_id, id, worker FROM action_records")) == set(claims)
    started = seen(
        place, "SELECT proposal_id, actor FROM action_events WHERE to_status = 'executing'"
    )
    assert sorted(started) == sorted((id, name) for id, _, name in claims)


def check_closed(place: Place) -> None:
    left = """
        SELECT r.id FROM action_records r JOIN action_proposals p ON p.id = r.proposal_id
        WHERE r.completed_at IS NULL OR r.success IS NULL OR r.outcome_unknown
            OR p.status <> CASE WHEN r.success THEN 'completed' ELSE 'failed' END"""
    assert seen(place, left) == []
    check_whole(place)


async def let_claim(
    program: str, place: Place, proposals: int, stops: list[str]
) -> list[dict[str, Any]]:
    await fill(place, [proposal(status=ActionStatus.VALIDATED) for _ in range(proposals)])
    return await asyncio.to_thread(contend, program, place, processes=PROCESSES, stops=stops)


async def claim(place: Place, proposals: int) -> None:
    printed = await let_claim("claimant.py", place, proposals, ["ready", "first"])
    check_claimed_once(place, printed, proposals)
    check_closed(place)


@on_each
async def test_eight_processes_claim_1500_proposals_each_once(place: Place) -> None:
    await claim(place, proposals=1_500)


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["file", "postgresql", "psycopg"])
async def test_eight_processes_claim_6000_proposals_each_once(place: Place) -> None:
    await claim(place, proposals=6_000)


@on_each
async def test_planted_a_claim_that_looks_first_and_updates_then_is_caught(place: Place) -> None:
    printed = await let_claim("naive_claimant.py", place, 200, ["ready", "read", "first"])
    # All had read the first twenty before the first of them took one.
    with pytest.raises(AssertionError, match=r"\d+ doubles"):
        check_claimed_once(place, printed, 200)
