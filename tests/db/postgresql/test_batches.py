"""Concurrent calls that share a statement on a server: each is answered as if it ran alone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, NamedTuple

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from operator_core.actions import (
    ActionError,
    ActionStatus,
    Claim,
    CommitOutcomeUnknown,
    ConstraintViolation,
    DependencyPending,
    InvalidTransition,
    LeaseLost,
    NotDue,
    NotFound,
    VersionConflict,
)
from operator_core.db import ActionDB
from tests.clocks import PATIENCE
from tests.conftest import proposal
from tests.databases import connected, query
from tests.failures.proxy import proxied
from tests.failures.server_harness import await_waiting

# The driver sees no difference between a statement of one caller and of many.
pytestmark = pytest.mark.two_backends

S = ActionStatus

SIZE: Final = 40

KINDS: Final = ("asyncpg", "psycopg", "engine")

EACH_KIND = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def ledger(url: str, kind: str, **settings: Any) -> AsyncIterator[ActionDB]:
    """A ledger by each driver on a pool of its own, or on an engine of a service."""
    if kind != "engine":
        async with ActionDB(url.replace("://", f"+{kind}://"), **settings) as db:
            yield db
        return
    # The name by which `await_waiting` finds a ledger's sessions.
    named = {"server_settings": {"application_name": "operator-core"}}
    engine = create_async_engine(url.replace("://", "+asyncpg://"), connect_args=named)
    try:
        async with ActionDB(engine, **settings) as db:
            yield db
    finally:
        await engine.dispose()


class Call(NamedTuple):
    """A verb that several callers use at once, each on a row of its own."""

    prepare: Callable[[ActionDB], Awaitable[list[Any]]]
    run: Callable[[ActionDB, Any, int], Awaitable[object]]
    locks: Callable[[Any], str]
    """The row that it waits for."""
    moves: tuple[S, S] | None = None
    changes: str = "action_events"


def proposals(status: S) -> Callable[[ActionDB], Awaitable[list[int]]]:
    async def prepare(db: ActionDB) -> list[int]:
        made = await db.create_proposals(proposal(status=status) for _ in range(SIZE))
        return [each.id for each in made]

    return prepare


async def claims(db: ActionDB) -> list[Claim]:
    await proposals(S.VALIDATED)(db)
    return await db.claim("worker", limit=SIZE)


def move(to: S) -> Callable[[ActionDB, int, int], Awaitable[None]]:
    return lambda db, on, n: db.update_proposal_status(on, to, actor=f"a{n}", reason=f"r{n}")


async def complete(db: ActionDB, claim: Claim, n: int) -> None:
    await db.complete(claim.record.id, {"n": n}, actor=f"a{n}", reason=f"r{n}")


def row(table: str) -> Callable[[Any], str]:
    def locked(on: Any) -> str:
        if isinstance(on, Claim):
            on = on.record.id if table == "action_records" else on.proposal.id
        return f"SELECT 1 FROM {table} WHERE id = {on} FOR UPDATE"

    return locked


PROPOSAL: Final = row("action_proposals")
RECORD: Final = row("action_records")

CALLS: Final = {
    "validate": Call(proposals(S.PROPOSED), move(S.VALIDATED), PROPOSAL, (S.PROPOSED, S.VALIDATED)),
    "retry": Call(
        proposals(S.FAILED),
        lambda db, on, n: db.retry(on, actor=f"a{n}", reason=f"r{n}"),
        PROPOSAL,
        (S.FAILED, S.VALIDATED),
    ),
    "start": Call(proposals(S.VALIDATED), move(S.EXECUTING), PROPOSAL, (S.VALIDATED, S.EXECUTING)),
    "finish": Call(proposals(S.EXECUTING), move(S.COMPLETED), PROPOSAL, (S.EXECUTING, S.COMPLETED)),
    "complete": Call(claims, complete, RECORD, (S.EXECUTING, S.COMPLETED)),
    "complete, proposal locked": Call(claims, complete, PROPOSAL, (S.EXECUTING, S.COMPLETED)),
    "heartbeat": Call(
        claims,
        lambda db, claim, n: db.heartbeat(claim, timedelta(days=1, seconds=n)),
        RECORD,
        changes="action_records",
    ),
    "heartbeat by id": Call(
        claims,
        lambda db, claim, n: db.heartbeat(claim.record.id),
        RECORD,
        changes="action_records",
    ),
}

EACH_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


def statements(url: str, table: str, *, after: int = 0) -> int:
    """The number of transactions that wrote the rows: a statement on its own is one."""
    sql = f"SELECT count(DISTINCT xmin::text) FROM {table} WHERE id > {after}"
    return query(url, sql)[0][0]


async def last_event(db: ActionDB) -> int:
    return await db.newest_event_id()


# ------ each is answered


@EACH_KIND
@EACH_CALL
async def test_concurrent_calls_share_a_statement(
    server_ledger: str, kind: str, call: Call
) -> None:
    async with ledger(server_ledger, kind) as db:
        on = await call.prepare(db)
        before = await last_event(db)
        after = before if call.changes == "action_events" else 0
        await asyncio.gather(*(call.run(db, each, n) for n, each in enumerate(on)))
        # The first runs alone, and the others wait for it together.
        assert statements(server_ledger, call.changes, after=after) == 2
        if call.moves is None:
            leases = [(await db.get_record(each.record.id)).lease_expires_at for each in on]  # type: ignore[union-attr]
            assert all(
                lease is not None and lease >= each.record.lease_expires_at
                for lease, each in zip(leases, on, strict=True)
            )
            return
        for n, each in enumerate(on):
            id = each.proposal.id if isinstance(each, Claim) else each
            *_, last = await db.history(id)
            assert (last.from_status, last.to_status) == call.moves
            assert (last.actor, last.reason) == (f"a{n}", f"r{n}")
            found = await db.get_proposal(id)
            assert found is not None
            assert found.status is call.moves[1]
            assert found.version == last.version
            if isinstance(each, Claim):
                record = await db.get_record(each.record.id)
                assert record is not None
                assert (record.success, record.result_data) == (True, {"n": n})


@EACH_KIND
@EACH_CALL
@pytest.mark.parametrize("held", [0, 7])
async def test_a_locked_row_delays_only_its_own_caller(
    server_ledger: str, kind: str, call: Call, held: int
) -> None:
    async with ledger(server_ledger, kind) as db:
        on = await call.prepare(db)
        with connected(server_ledger) as other, other.transaction():
            other.execute(call.locks(on[held]))  # type: ignore[arg-type]
            tasks = [asyncio.create_task(call.run(db, each, n)) for n, each in enumerate(on)]
            waiting = tasks[held]
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(task for task in tasks if task is not waiting))
                await asyncio.to_thread(await_waiting, server_ledger)
            assert not waiting.done()
        await waiting


@EACH_KIND
async def test_a_refused_move_is_refused_to_its_caller_only(server_ledger: str, kind: str) -> None:
    async with ledger(server_ledger, kind) as db:
        later = datetime.now(UTC) + timedelta(days=1)
        needed, *ids = await proposals(S.VALIDATED)(db)
        done, early, pending = await db.create_proposals(
            [
                proposal(status=S.COMPLETED),
                proposal(status=S.VALIDATED, scheduled_at=later),
                proposal(status=S.VALIDATED, depends_on=(needed,)),
            ]
        )
        last, stale, *ids = ids
        wrong: dict[int, tuple[Awaitable[None], type[ActionError]]] = {
            3: (db.update_proposal_status(4711, S.EXECUTING), NotFound),
            5: (db.update_proposal_status(done.id, S.EXECUTING), InvalidTransition),
            8: (db.update_proposal_status(early.id, S.EXECUTING), NotDue),
            9: (db.update_proposal_status(pending.id, S.EXECUTING), DependencyPending),
            11: (
                db.update_proposal_status(stale, S.EXECUTING, expected_version=2),
                VersionConflict,
            ),
        }
        calls = [db.update_proposal_status(id, S.EXECUTING, expected_version=1) for id in ids]
        for place, (refused, _) in wrong.items():
            calls.insert(place, refused)
        # Two that make the same move.
        calls += [db.update_proposal_status(last, S.EXECUTING) for _ in range(2)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for place, (_, error) in wrong.items():
            assert type(answers[place]) is error
        assert Counter(map(type, answers[-2:])) == {type(None): 1, InvalidTransition: 1}
        others = [each for n, each in enumerate(answers[:-2]) if n not in wrong]
        assert others == [None] * len(ids)
        assert (await db.count_proposals())[S.EXECUTING] == len(ids) + 1


@EACH_KIND
@pytest.mark.parametrize("verb", ["complete", "heartbeat"])
async def test_a_lost_lease_is_lost_to_its_caller_only(
    server_ledger: str, kind: str, verb: str
) -> None:
    async with ledger(server_ledger, kind) as db:
        first, ended, twice, *others = await claims(db)
        await db.complete(ended.record.id)

        def run(record_id: int) -> Awaitable[object]:
            return db.complete(record_id) if verb == "complete" else db.heartbeat(record_id)

        calls = [run(each.record.id) for each in (first, *others)]
        calls[5:5] = [run(4711), run(ended.record.id)]
        calls += [run(twice.record.id), run(twice.record.id)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert type(answers[5]) is NotFound
        assert type(answers[6]) is LeaseLost
        expected = {LeaseLost: 1} if verb == "complete" else {}
        errors = [type(each) for each in answers[7:] if isinstance(each, BaseException)]
        assert Counter(errors) == expected
        if verb == "complete":
            assert (await db.count_proposals())[S.COMPLETED] == SIZE


@EACH_KIND
async def test_a_refused_row_costs_its_neighbours_nothing(
    server_ledger: str, postgres_copy: Callable[[str], str], kind: str
) -> None:
    url = postgres_copy(server_ledger)
    query(url, "ALTER TABLE action_proposals ADD CONSTRAINT odd CHECK (status_changed_by != 'odd')")
    async with ledger(url, kind) as db:
        ids = await proposals(S.PROPOSED)(db)
        for to in (S.VALIDATED, S.EXECUTING):
            answers = await asyncio.gather(
                *(
                    db.update_proposal_status(id, to, actor="odd" if n == 9 else None)
                    for n, id in enumerate(ids)
                ),
                return_exceptions=True,
            )
            refused = [n for n, each in enumerate(answers) if each is not None]
            assert refused == [9]
            assert isinstance(answers[9], ConstraintViolation)
            del ids[9]


# ------ claims


def workers(share: Sequence[Claim]) -> set[str | None]:
    return {each.record.worker for each in share}


@EACH_KIND
async def test_concurrent_claims_share_a_statement_and_no_proposal(
    server_ledger: str, kind: str
) -> None:
    limits = [1, 2, 3, 1, 4, 2, 1, 2]
    async with ledger(server_ledger, kind) as db:
        made = await db.create_proposals(
            proposal(status=S.VALIDATED, priority=n % 3) for n in range(12)
        )
        before = await last_event(db)
        shares = await asyncio.gather(
            *(
                db.claim(f"w{n}", limit=limit, actor=f"a{n}" if n % 2 else None, reason=f"r{n}")
                for n, limit in enumerate(limits)
            )
        )
        # The first caller's runs alone; what it gets depends on which of the two comes first.
        assert statements(server_ledger, "action_events", after=before) <= 2
        alone, *together = ([each.proposal.id for each in share] for share in shares)
        in_order = [each.id for each in sorted(made, key=lambda each: (-each.priority, each.id))]
        rest = iter(each for each in in_order if each not in alone)
        # Of the others, the first get the first proposals, and the last get none.
        assert together == [list(islice(rest, limit)) for limit in limits[1:]]
        assert together[-1] == []
        for n, share in enumerate(shares):
            assert workers(share) <= {f"w{n}"}
            for claim in share:
                assert claim.proposal.status is S.EXECUTING
                started, moved = (await db.history(claim.proposal.id))[1:]
                actor = f"a{n}" if n % 2 else f"w{n}"
                assert (started.actor, started.worker) == (actor, f"w{n}")
                assert (moved.actor, moved.reason) == (actor, f"r{n}")
                assert claim.record == await db.get_record(claim.record.id)
                assert claim.proposal == await db.get_proposal(claim.proposal.id)


@EACH_KIND
async def test_claims_that_differ_do_not_share(server_ledger: str, kind: str) -> None:
    async with ledger(server_ledger, kind) as db:
        await db.create_proposals(
            proposal(f"kind{n % 2}", status=S.VALIDATED) for n in range(2 * SIZE)
        )
        leases = [timedelta(minutes=1), timedelta(hours=1)]
        shares = await asyncio.gather(
            *(
                db.claim(f"w{n}", action_names=f"kind{n % 2}", lease=leases[n // 2 % 2])
                for n in range(SIZE)
            )
        )
        for n, share in enumerate(shares):
            (claim,) = share
            assert claim.proposal.action_name == f"kind{n % 2}"
            assert claim.lease is not None
            assert abs(claim.lease - leases[n // 2 % 2]) < timedelta(seconds=10)
        assert len({share[0].proposal.id for share in shares}) == SIZE


@EACH_KIND
async def test_every_claim_that_shares_a_statement_learns_what_is_overdue(
    server_ledger: str, kind: str
) -> None:
    async with ledger(server_ledger, kind) as db:
        await db.create_proposals(
            proposal(status=S.VALIDATED, max_retries=1, retry_delay=0.0) for _ in range(5)
        )
        await db.claim("gone", limit=5, lease=timedelta(milliseconds=1))
        async with asyncio.timeout(PATIENCE):
            while query(
                server_ledger, "SELECT 1 FROM action_records WHERE lease_expires_at > now()"
            ):
                await asyncio.sleep(0)
        taken: list[int] = []
        # A caller may look for the second time before another caller's sweep has ended.
        for _ in range(2):
            shares = await asyncio.gather(*(db.claim(f"w{n}") for n in range(8)))
            taken += [claim.proposal.id for share in shares for claim in share]
        assert sorted(taken) == [1, 2, 3, 4, 5]


# ------ what goes wrong on the way


@EACH_KIND
@pytest.mark.parametrize("name", ["validate", "complete"])
async def test_a_lost_answer_is_an_unknown_outcome_for_each(
    server_ledger: str, kind: str, name: str
) -> None:
    call = CALLS[name]
    async with proxied(server_ledger) as proxy, ledger(proxy.url, kind) as db:
        on = await call.prepare(db)
        before = await last_event(db)
        # The reason of the last caller stands in the statement of those who wait together.
        mark = f"r{SIZE - 1}".encode()
        proxy.cut_after = lambda said: mark in said and proxy.cuts < 1
        answers = await asyncio.gather(
            *(call.run(db, each, n) for n, each in enumerate(on)), return_exceptions=True
        )
        assert proxy.cuts == 1
        assert answers[0] is None
        assert [type(each) for each in answers[1:]] == [CommitOutcomeUnknown] * (SIZE - 1)
        assert call.moves is not None
        async with asyncio.timeout(PATIENCE):
            while (await db.count_proposals())[call.moves[1]] < SIZE:
                await asyncio.sleep(0)
        # Nobody made a change twice.
        made = [each for each in await db.history() if each.id > before]
        kinds = Counter(each.event_type.value for each in made)
        assert set(kinds.values()) == {SIZE}


@EACH_KIND
@EACH_CALL
async def test_a_cancelled_caller_takes_no_neighbour_along(
    server_ledger: str, kind: str, call: Call
) -> None:
    async with ledger(server_ledger, kind) as db:
        on = await call.prepare(db)
        tasks = [asyncio.create_task(call.run(db, each, n)) for n, each in enumerate(on)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in answers[::2])
        assert not any(isinstance(each, BaseException) for each in answers[1::2])
        # And the ledger goes on.
        assert len(await db.list_proposals()) == SIZE
