"""Claiming: who gets what, in which order, and never what another has, the same on every backend."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionProposal,
    ActionStatus,
    ActionType,
    Claim,
    EventType,
    InvalidValue,
)
from operator_core.db import ActionDB
from tests.clocks import PATIENCE
from tests.conftest import ON_SERVER, proposal

pytestmark = pytest.mark.each_driver

S = ActionStatus

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
FAR = datetime(2200, 1, 1, tzinfo=UTC)


def ready(action_name: str = "transfer_leader", **fields: Any) -> ActionProposal:
    return proposal(action_name, **{"status": S.VALIDATED, **fields})


def names(claims: list[Claim]) -> list[str]:
    return [claim.proposal.action_name for claim in claims]


def ids(claims: list[Claim]) -> list[int | None]:
    return [claim.proposal.id for claim in claims]


async def test_a_claim_is_an_execution_that_has_started(db: ActionDB) -> None:
    created = await db.create_proposal(ready(parameters={"region_id": 7}))
    (claim,) = await db.claim("worker-1", lease=timedelta(minutes=2))
    taken, record = claim
    assert (taken.id, taken.status, taken.version) == (created.id, S.EXECUTING, 2)
    changed = {"status": S.VALIDATED, "version": 1, "updated_at": created.updated_at}
    assert taken.model_copy(update=changed) == created
    assert (record.proposal_id, record.worker, record.success) == (created.id, "worker-1", None)
    assert (record.completed_at, record.outcome_unknown) == (None, False)
    assert record.started_at is not None
    assert record.lease_expires_at is not None
    given = record.lease_expires_at - record.started_at
    assert abs(given - timedelta(minutes=2)) < timedelta(seconds=1)
    assert await db.get_proposal(taken.id) == taken
    assert await db.get_record(record.id) == record
    events = {event.event_type: event for event in (await db.history(taken.id))[1:]}
    moved, started = events[EventType.STATUS_CHANGED], events[EventType.RECORD_STARTED]
    assert (moved.from_status, moved.to_status) == (S.VALIDATED, S.EXECUTING)
    assert (started.event_type, started.record_id) == (EventType.RECORD_STARTED, record.id)
    assert (moved.actor, started.actor) == ("worker-1", "worker-1")


async def test_only_what_is_validated_and_due_is_claimed(db: ActionDB) -> None:
    await db.create_proposals(proposal(status.value, status=status) for status in ActionStatus)
    await db.create_proposals([ready("later", scheduled_at=FAR), ready("late", expires_at=FAR)])
    await db.create_proposals([ready("too late", expires_at=LONG_AGO, priority=9)])
    assert sorted(names(await db.claim("worker-1", limit=100))) == ["late", "validated"]
    assert await db.claim("worker-1", limit=100) == []


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_the_urgent_go_first_and_of_these_what_has_been_due_longest(
    db: ActionDB, limit: int
) -> None:
    older = LONG_AGO - timedelta(days=1)
    await db.create_proposals(
        [
            ready("plain 1"),
            ready("plain 2"),
            ready("can wait", priority=-1, scheduled_at=older),
            ready("urgent", priority=5),
            ready("long due", scheduled_at=LONG_AGO),
            ready("as long due", scheduled_at=LONG_AGO),
            ready("longest due", scheduled_at=older),
            ready("urgent and due longer", priority=5, scheduled_at=LONG_AGO),
        ]
    )
    seen: list[str] = []
    while taken := await db.claim("worker-1", limit=limit):
        assert len(taken) <= limit
        seen += names(taken)
    assert seen == [
        "urgent and due longer",
        "urgent",
        "longest due",
        "long due",
        "as long due",
        "plain 1",
        "plain 2",
        "can wait",
    ]


async def test_a_retry_has_been_due_since_it_was_to_be_run_again(db: ActionDB) -> None:
    older = LONG_AGO - timedelta(days=1)
    await db.create_proposal(ready("again", scheduled_at=older, max_retries=1, retry_delay=0))
    (claim,) = await db.claim("worker-1")
    await db.create_proposal(ready("first run", scheduled_at=LONG_AGO))
    await db.fail(claim.record.id, "boom")
    assert names(await db.claim("worker-1", limit=2)) == ["first run", "again"]


FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({"action_names": "drain"}, [1, 3]),
    ({"action_names": ["drain"]}, [1, 3]),
    ({"action_names": ("split", "drain", "unheard of")}, [1, 3, 4]),
    ({"action_names": {"split": 1}.keys()}, [4]),
    ({"action_names": []}, []),
    ({"action_names": "%"}, []),
    ({"action_names": "Drain"}, []),
    ({"action_types": ActionType.TOOL}, [2, 3]),
    ({"action_types": "tool"}, [2, 3]),
    ({"action_types": {ActionType.TOOL, ActionType.WORKFLOW}}, [2, 3, 4]),
    ({"action_types": []}, []),
    ({"action_names": ["drain", "move"], "action_types": [ActionType.TOOL]}, [2, 3]),
    ({"action_names": "drain", "action_types": ActionType.WORKFLOW}, []),
    ({"action_names": None, "action_types": None}, [1, 2, 3, 4, 5]),
]


async def test_a_worker_takes_what_it_can_do(db: ActionDB) -> None:
    for wanted, found in [*FILTERS, ({"action_names": iter(["split", "split"])}, [4])]:
        created = await db.create_proposals(
            [
                ready("drain"),
                ready("move", action_type=ActionType.TOOL),
                ready("drain", action_type=ActionType.TOOL),
                ready("split", action_type=ActionType.WORKFLOW),
                ready("'); DROP TABLE action_records; --"),
            ]
        )
        expected = [created[n - 1].id for n in found]
        assert ids(await db.claim("worker-1", limit=10, **wanted)) == expected, wanted
        rest = ids(await db.claim("worker-2", limit=10))
        assert rest == [each.id for each in created if each.id not in expected]


async def test_many_workers_at_once_never_get_the_same(
    db: ActionDB, open_ledger: Callable[..., Awaitable[ActionDB]], backend: str
) -> None:
    await db.create_proposals(ready(priority=n % 3) for n in range(90))
    ledgers = [db] if backend == "memory" else [db, await open_ledger()]

    async def work(n: int) -> list[Claim]:
        mine: list[Claim] = []
        # Another's claim under way may hide what it then leaves; so each asks until it gets nothing.
        while taken := await ledgers[n % len(ledgers)].claim(f"worker-{n}", limit=1 + n % 4):
            assert len(taken) <= 1 + n % 4
            assert {claim.record.worker for claim in taken} == {f"worker-{n}"}
            mine += taken
        return mine

    shares = await asyncio.gather(*(work(n) for n in range(20)))
    taken = [claim for share in shares for claim in share]
    assert Counter(ids(taken)) == Counter(range(1, 91))
    for claim in taken:
        assert await db.get_records_for_proposal(claim.proposal.id) == [claim.record]
    started = [e for e in await db.history() if e.to_status is S.EXECUTING]
    assert Counter(e.proposal_id for e in started) == Counter(range(1, 91))


async def test_of_a_claim_and_a_cancellation_at_once_one_wins(db: ActionDB) -> None:
    await db.create_proposals(ready() for _ in range(20))
    taken, cancelled = await asyncio.gather(db.claim("worker-1", limit=20), db.cancel_all_pending())
    counted = await db.count_proposals()
    assert (counted[S.EXECUTING], counted[S.CANCELLED]) == (len(taken), cancelled)
    assert len(taken) + cancelled == 20


async def test_a_claim_that_was_rolled_back_is_nobodys(db: ActionDB) -> None:
    await db.create_proposal(ready())
    with pytest.raises(RuntimeError):
        async with db.transaction() as tx:
            assert len(await tx.claim("worker-1")) == 1
            raise RuntimeError
    assert await db.get_records_for_proposal(1) == []
    assert ids(await db.claim("worker-2")) == [1]


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("worker", ["", " ", None, 5, "x" * 256, "a\0b", "\ud800", "raw SQL"]),
        ("limit", [0, -1, True, 1001, "1", 1.0, None]),
        (
            "lease",
            [
                timedelta(0),
                timedelta(seconds=-5),
                timedelta(microseconds=999),
                timedelta(days=7, microseconds=1),
                timedelta.max,
                5,
                "5",
                None,
            ],
        ),
        ("action_names", ["", [""], 5, ["ok", None], ["a\0"], "x" * 256, b"name"]),
        ("action_types", ["magic", ["tool", 3], 5, "TOOL", [None]]),
    ],
)
async def test_what_makes_no_sense_is_refused_before_any_sql(path: str, values: list[Any]) -> None:
    # A ledger that is not open runs none; it would say so.
    db = ActionDB(":memory:")
    for value in values:
        arguments: dict[str, Any] = {"worker": "worker-1", path: value}
        with pytest.raises(InvalidValue) as caught:
            await db.claim(**arguments)
        assert caught.value.path in (path, f"{path}[0]", f"{path}[1]")


async def test_the_longest_and_the_shortest_are_taken(db: ActionDB) -> None:
    await db.create_proposals([ready("a"), ready("b")])
    (week,) = await db.claim("w" * 255, lease=timedelta(days=7), limit=1000, action_names="a")
    (moment,) = await db.claim("w", lease=timedelta(milliseconds=1))
    for claim, lease in ((week, timedelta(days=7)), (moment, timedelta(milliseconds=1))):
        assert claim.record.started_at is not None
        assert claim.record.lease_expires_at is not None
        given = claim.record.lease_expires_at - claim.record.started_at
        assert abs(given - lease) < timedelta(seconds=1)


@pytest.mark.parametrize("backend", ON_SERVER, indirect=True)
@pytest.mark.parametrize("held_by", ["a claim", "a change", "a lock"])
async def test_a_claim_goes_past_what_another_transaction_holds(
    db: ActionDB, open_ledger: Callable[..., Awaitable[ActionDB]], held_by: str
) -> None:
    other = await open_ledger()
    held, free = await db.create_proposals([ready(priority=1), ready()])
    async with other.transaction() as tx:
        if held_by == "a claim":
            assert [each.proposal.id for each in await tx.claim("worker-1")] == [held.id]
        elif held_by == "a change":
            await tx.update_proposal_status(held.id, S.CANCELLED)
        else:
            lock = f"SELECT 1 FROM action_proposals WHERE id = {held.id} FOR UPDATE"
            await tx._units.read(lambda conn: conn.exec_driver_sql(lock).all())
        # A deadline would wait for the claim too, which would wait for this transaction.
        claiming = asyncio.create_task(db.claim("worker-2", limit=2))
        done, _ = await asyncio.wait({claiming}, timeout=PATIENCE)
    taken = await claiming
    assert done, "the claim waited for somebody else's transaction"
    assert [each.proposal.id for each in taken] == [free.id]


async def test_the_history_has_it_in_the_same_order_on_all(db: ActionDB) -> None:
    await db.create_proposals(ready() for _ in range(3))
    claims = await db.claim("worker-1", limit=3)
    await db.complete_many([claim.record.id for claim in claims[:2]])
    await db.fail(claims[2].record.id, "boom")
    kinds = EventType
    told = [event.event_type for event in await db.history()]
    assert told == [
        *(kinds.PROPOSAL_CREATED,) * 3,
        *(kinds.RECORD_STARTED,) * 3,
        *(kinds.STATUS_CHANGED,) * 3,
        *(kinds.RECORD_FINISHED,) * 2,
        *(kinds.STATUS_CHANGED,) * 2,
        kinds.RECORD_FINISHED,
        kinds.STATUS_CHANGED,
    ]


async def test_what_a_cancelled_claim_has_taken_is_given_back(db: ActionDB) -> None:
    begun = time.perf_counter()
    await db.create_proposals(ready(max_retries=1) for _ in range(2))
    for _ in range(2):
        await db.claim("worker-1")
    most = (time.perf_counter() - begun) / 2
    given_back = turn = 0
    # It is a matter of chance when the cancellation comes, until it has come at the moment in question.
    while turn < 100 or not given_back:
        turn += 1
        (made,) = await db.create_proposals([ready()])
        claiming = asyncio.create_task(db.claim("worker-2"))
        await asyncio.sleep(most * (turn % 100) / 100)
        claiming.cancel()
        # Taken whole, or cancelled whole.
        (done,) = await asyncio.gather(claiming, return_exceptions=True)
        found = await db.get_proposal(made.id)
        assert found is not None
        if isinstance(done, asyncio.CancelledError):
            assert found.status in (S.VALIDATED, S.FAILED)
            if found.status is S.FAILED:
                (record,) = await db.get_records_for_proposal(made.id)
                assert record.error_message == "the claim was cancelled: it was not begun"
                given_back += 1
            else:
                await db.update_proposal_status(made.id, S.CANCELLED)
        else:
            assert found.status is S.EXECUTING


async def test_a_claim_that_is_cancelled_twice_gives_back_too(
    db: ActionDB, backend: str, open_ledger: Callable[..., Awaitable[ActionDB]]
) -> None:
    other = db if backend == "memory" else await open_ledger()
    await db.create_proposal(ready())
    asked = asyncio.Event()

    async def claim() -> list[Claim]:
        await asked.wait()
        return await db.claim("worker-1")

    claiming = asyncio.create_task(claim())
    async with other.transaction() as tx:
        await tx.create_proposal(ready(priority=-1))
        asked.set()
        for _ in range(20):
            await asyncio.sleep(0)
            claiming.cancel()
    (done,) = await asyncio.gather(claiming, return_exceptions=True)
    assert isinstance(done, asyncio.CancelledError)
    assert (await db.count_proposals())[S.EXECUTING] == 0
