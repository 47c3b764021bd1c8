"""Measures what rules cost a create, and how long people wait for the list of what waits for them."""

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from benchmarks.growth import CLAIM, OPERATIONS, Operation, cost, keep_waiting
from benchmarks.report import table, times
from benchmarks.sides import OURS
from operator_core.actions.types import Condition, Rule
from operator_core.db import ActionDB

__all__ = [
    "CASES",
    "INBOX",
    "QUICK",
    "Costs",
    "Sizes",
    "as_json",
    "behind",
    "creates",
    "inbox",
    "report",
]

Target = Path | str
Costs = dict[str, list[float]]
"""The seconds of each work, in each round or at each size."""

_RULES: Final = 20
_MATCHING: Final = (3, 11)
_CONDITIONS: Final = (
    Condition(path=["from_store"], op="lt", value=3),
    Condition(path=["keyspace"], op="prefix", value="orders/"),
)
_UNGOVERNED: Final = "create, no rules"
CASES: Final[Mapping[str, tuple[Condition, ...] | None]] = {
    _UNGOVERNED: None,
    f"create, {_RULES} rules, {len(_MATCHING)} match": (),
    f"create, {_RULES} rules, {len(_MATCHING)} match, two conditions each": _CONDITIONS,
}
_PROMISED: Final = dict(zip(CASES, (1.0, 2.2, 3.7), strict=True))
"""The largest ratio to a create without rules."""

_INBOX: Final = "pending_approvals(limit=50)"
INBOX: Final[Mapping[str, Operation]] = {
    _INBOX: lambda db, random, rows: db.pending_approvals(limit=50),
    f"{_INBOX}, from the middle": lambda db, random, rows: db.pending_approvals(
        after=rows + random.randrange(4000, 6000), limit=50
    ),
    f"{_INBOX}, of one person": lambda db, random, rows: db.pending_approvals("ann", limit=50),
    CLAIM: OPERATIONS[CLAIM],
}
_PATIENCE: Final = 0.005
"""The seconds that a page of the list may take."""


@dataclass(frozen=True)
class Sizes:
    creates: int = 200
    finished: tuple[int, ...] = (10_000, 1_000_000)
    waiting: int = 10_000


QUICK: Final = Sizes(creates=5, finished=(100, 200), waiting=60)


async def creates(
    targets: Mapping[str, Target], count: int, rounds: int, progress: Callable[[str], None]
) -> Costs:
    """The median seconds of a create in each case of `CASES` and round; the ledgers at `targets` are empty at first."""
    progress("creates under rules")
    found: Costs = {case: [] for case in CASES}
    async with AsyncExitStack() as stack:
        ledgers = {
            case: await stack.enter_async_context(ActionDB(target))
            for case, target in targets.items()
        }
        for case, db in ledgers.items():
            await _add_rules(db, CASES[case])
        for number in range(-1, rounds):  # the first round warms the caches and does not count
            for case, db in ledgers.items():
                seconds = await _create(db, count)
                if number >= 0:
                    found[case].append(seconds)
    return found


async def _add_rules(db: ActionDB, conditions: tuple[Condition, ...] | None) -> None:
    if conditions is None:
        return
    for number in range(_RULES):
        name = "transfer_*" if number in _MATCHING else f"other_{number}_*"
        rule = Rule(name=f"rule {number}", action_name=name, conditions=[*conditions])
        await db.add_rule(rule, by="lead", reason="benchmark")
    made = await db.create_proposal(OURS.proposal(0))
    assert len((await db.approvals(made.id)).requirements) == len(_MATCHING)


async def _create(db: ActionDB, count: int) -> float:
    each: list[float] = []
    for number in range(count):
        proposal = OURS.proposal(number)
        start = time.perf_counter()
        await db.create_proposal(proposal)
        each.append(time.perf_counter() - start)
    return statistics.median(each)


async def inbox(
    target: Target,
    fill: Callable[[int], Awaitable[None]],
    sizes: Sizes,
    rounds: int,
    progress: Callable[[str], None],
) -> Costs:
    """The median seconds of each operation of `INBOX`, at each size; `fill` fills the ledger to so many finished rows.

    After them, `sizes.waiting` proposals wait for people, and some for workers.
    """
    found: Costs = {name: [] for name in INBOX}
    for rows in sizes.finished:
        progress(f"{sizes.waiting:,} proposals that wait for people, behind {rows:,}")
        async with ActionDB(target) as db:
            await db.cancel_all_pending()
        await fill(rows)
        async with ActionDB(target) as db:
            rule = await db.add_rule(
                Rule(name="people", action_name="drain_store"), by="lead", reason="benchmark"
            )
            drain = OURS.proposal(0).model_copy(update={"action_name": "drain_store"})
            await db.create_proposals([drain] * sizes.waiting)
            # Without rules, so that what workers wait for is due at once.
            await db.revoke_rule(rule.id, by="lead", reason="benchmark")
            await keep_waiting(db)
            for name, operation in INBOX.items():
                each = [await cost(db, operation, Random(rows), rows) for _ in range(rounds + 1)]
                found[name].append(statistics.median(each[1:]))
    return found


def behind(created: Costs, listed: Costs) -> list[str]:
    """What costs more than promised."""
    usual = statistics.median(created[_UNGOVERNED])
    return [
        *(
            case
            for case, each in created.items()
            if statistics.median(each) > _PROMISED[case] * usual
        ),
        *(name for name, each in listed.items() if name != CLAIM and max(each) > _PATIENCE),
    ]


def report(created: Costs, listed: Costs, sizes: Sizes) -> str:
    """The result as text."""
    late = behind(created, listed)
    usual = statistics.median(created[_UNGOVERNED])
    verdict = {True: "BEHIND", False: "ok"}
    rules = [
        (
            case,
            f"{statistics.median(each) * 1e6:,.0f}",
            times(statistics.median(each) / usual),
            times(_PROMISED[case]),
            verdict[case in late],
        )
        for case, each in created.items()
    ]
    pages = [
        (
            name,
            *(f"{seconds * 1000:.2f}" for seconds in each),
            "" if name == CLAIM else f"{_PATIENCE * 1000:.0f}",
            "" if name == CLAIM else verdict[name in late],
        )
        for name, each in listed.items()
    ]
    finished = (f"{rows:,} rows" for rows in sizes.finished)
    return (
        "Creates under rules, one after another, medians\n\n"
        f"{table(('', 'microseconds', 'ratio', 'promised', ''), rules)}\n\n"
        f"{sizes.waiting:,} proposals wait for people, by the number of finished rows, medians\n\n"
        f"{table(('milliseconds a call', *finished, 'promised', ''), pages)}"
    )


def as_json(created: Costs, listed: Costs, sizes: Sizes) -> dict[str, Any]:
    """The result as JSON values."""
    return {
        "creates": created,
        "inbox": {"finished": sizes.finished, "waiting": sizes.waiting, "seconds": listed},
        "behind": behind(created, listed),
    }
