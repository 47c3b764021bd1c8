"""Nothing runs that may not: each way to propose, with each state of its approvals, by each way to start it.

All cells are proposals of one ledger. The name of an action is its cell, and rules, grants and halts go by it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncSession

from operator_core.actions import (
    ActionError,
    ActionProposal,
    ActionStatus,
    ApprovalRequired,
    Conflict,
    HaltMode,
    StoredProposal,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from operator_core.db.migrate import postgresql
from operator_core.db.postgresql.connect import parse_url
from tests.conftest import ON_SERVER, proposal
from tests.contract.governed import S, approve, given, later, rule
from tests.databases import query
from tests.engines import engine_on
from tests.migrations.postgresql_tools import role
from tests.migrations.tools import VERSION_TABLE

WHO: Final = {"by": "lead", "reason": "policy 7"}
AT_ONCE: Final = 16

FIELDS: Final[dict[str, Any]] = {
    "proposed_by": "planner",
    "requester_id": "rosa",
    "agent_id": "planner",
    "max_retries": 5,
    "retry_delay": 0.0,
}
INSERT: Final = (
    "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, proposed_by,"
    " requester_id, agent_id, max_retries, retry_delay)"
    " VALUES (:name, '{}', 'r', CURRENT_TIMESTAMP, 'planner', 'rosa', 'planner', 5, 0)"
)
REQUIRE: Final = (
    "INSERT INTO action_requirements (proposal_id, name, effect, approvals, decide_within, valid_for)"
    " VALUES (:id, 'by hand', :effect, 2, :decide_within, :valid_for)"
)
DECIDE: Final = (
    "INSERT INTO action_decisions (proposal_id, kind, decided_by, decider_key, decider_type, digest)"
    " VALUES (:id, 'approved', :by, :by, :type, :digest)"
)
SET: Final = "UPDATE action_proposals SET {} WHERE id = :id"


class Ledger(NamedTuple):
    """The doors to one ledger."""

    db: ActionDB
    joined: Callable[[Callable[[ActionDB], Awaitable[Any]]], Awaitable[Any]]
    service: ActionDB | None
    """By a role of a server that has only what a service needs."""


class Cell(NamedTuple):
    """A proposal: how it is made, and in which state. What may run has one for each way to start it."""

    make: str
    state: str
    move: str | None

    @property
    def name(self) -> str:
        return f"{self.state}/{self.make}/{self.move or 'any'}"


def asked(cell: Cell, status: ActionStatus = S.PROPOSED) -> ActionProposal:
    return proposal(cell.name, status=status, **FIELDS)


async def by_sql(db: ActionDB, sql: str, *rows: dict[str, Any]) -> None:
    """Each row in a transaction of its own, as another tool would."""
    for row in rows:

        def unit(conn: Connection, row: dict[str, Any] = row) -> None:
            conn.execute(text(sql), row)

        with suppress(ActionError):
            await db._units.write(unit)


# ------ ways to make a proposal


async def by_facade(to: Ledger, cells: Sequence[Cell]) -> None:
    for cell in cells:
        await to.db.create_proposal(asked(cell))


async def by_key(to: Ledger, cells: Sequence[Cell]) -> None:
    for cell in cells:
        await to.db.create_proposal(asked(cell), idempotency_key=cell.name)


async def in_bulk(to: Ledger, cells: Sequence[Cell]) -> None:
    await to.db.create_proposals(map(asked, cells))


async def in_a_workflow(to: Ledger, cells: Sequence[Cell]) -> None:
    await to.db.create_workflow(WorkflowProposal(name="w"), [*map(asked, cells)])


async def as_failed(to: Ledger, cells: Sequence[Cell]) -> None:
    await to.db.create_proposals(asked(cell, S.FAILED) for cell in cells)


async def _begun(to: Ledger, cells: Sequence[Cell], status: ActionStatus) -> None:
    for cell in cells:
        with suppress(ApprovalRequired):
            await to.db.create_proposal(asked(cell, status))


async def as_validated(to: Ledger, cells: Sequence[Cell]) -> None:
    await _begun(to, cells, S.VALIDATED)


async def as_executing(to: Ledger, cells: Sequence[Cell]) -> None:
    await _begun(to, cells, S.EXECUTING)


async def in_a_transaction(to: Ledger, cells: Sequence[Cell]) -> None:
    async with to.db.transaction() as tx:
        await tx.create_proposals(map(asked, cells))


async def in_a_session(to: Ledger, cells: Sequence[Cell]) -> None:
    await to.joined(lambda db: db.create_proposals(map(asked, cells)))


async def by_raw_sql(to: Ledger, cells: Sequence[Cell]) -> None:
    await by_sql(to.db, INSERT, *({"name": cell.name} for cell in cells))


async def by_a_service(to: Ledger, cells: Sequence[Cell]) -> None:
    await by_sql(to.service or to.db, INSERT, *({"name": cell.name} for cell in cells))


MAKES: Final = {
    make.__name__: make
    for make in (
        by_facade, by_key, in_bulk, in_a_workflow, as_failed, as_validated, as_executing,
        in_a_transaction, in_a_session, by_raw_sql, by_a_service,
    )
}  # fmt: skip
BEFORE_THE_RULES: Final = ("older", "older by raw SQL")
BEGUN: Final = ("as_validated", "as_executing")


# ------ states of approvals


async def nobody(db: ActionDB, of: StoredProposal) -> None:
    pass


async def one(db: ActionDB, of: StoredProposal) -> None:
    await approve(db, of, "mia")


async def two(db: ActionDB, of: StoredProposal) -> None:
    await one(db, of)
    await approve(db, of, "noor")


async def one_twice(db: ActionDB, of: StoredProposal) -> None:
    await one(db, of)
    await approve(db, of, "MIA")


async def rejected(db: ActionDB, of: StoredProposal) -> None:
    await one(db, of)
    await _reject(db, of)


async def _reject(db: ActionDB, of: StoredProposal) -> None:
    # A failed one without a retry has ended.
    with suppress(Conflict):
        await db.reject_proposal(of.id, by="kim", reason="no")


async def rejected_late(db: ActionDB, of: StoredProposal) -> None:
    await two(db, of)
    await _reject(db, of)


async def withdrawn(db: ActionDB, of: StoredProposal) -> None:
    await two(db, of)
    await db.withdraw_approval(of.id, by="mia", reason="too soon")


async def _decided(db: ActionDB, of: StoredProposal, by: str, kind: str, digest: str) -> None:
    """The same by raw SQL."""
    await by_sql(db, DECIDE, {"id": of.id, "by": by, "type": kind, "digest": digest})


async def wrong_digest(db: ActionDB, of: StoredProposal) -> None:
    wrong = "oc1:" + "0" * 64
    for by in ("mia", "noor"):
        for digest in (wrong, None):
            with suppress(ActionError):
                await db.approve_proposal(of.id, by=by, digest=digest)
        await _decided(db, of, by, "user", wrong)


async def by_themselves(db: ActionDB, of: StoredProposal) -> None:
    for by in ("rosa", "planner", "ROSA", "pl\u200banner"):
        with suppress(ActionError):
            await approve(db, of, by)
    for by in ("rosa", "planner"):
        await _decided(db, of, by, "user", of.digest)


async def by_agents(db: ActionDB, of: StoredProposal) -> None:
    for by in ("critic", "judge"):
        with suppress(ActionError):
            await approve(db, of, by, by_type="agent")
        await _decided(db, of, by, "agent", of.digest)


async def used_up(db: ActionDB, of: StoredProposal) -> None:
    await two(db, of)
    if of.status is S.FAILED:
        await db.retry(of.id)
    claim = await db.claim_proposal(of.id, "first")
    await db.fail(claim.record.id, "boom")


STATES: Final[dict[str, tuple[Callable[[ActionDB, StoredProposal], Awaitable[None]], dict[str, Any]]]] = {
    "undecided": (nobody, {}),
    "too few": (one, {}),
    "one twice": (one_twice, {}),
    "rejected": (rejected, {}),
    "rejected late": (rejected_late, {}),
    "withdrawn": (withdrawn, {}),
    "wrong digest": (wrong_digest, {}),
    "self": (by_themselves, {}),
    "agents": (by_agents, {}),
    "used up": (used_up, {}),
    "expired": (two, {"valid_for": 600.0}),
    "too late": (nobody, {"decide_within": 600.0}),
    "halted": (two, {}),
    "observed": (two, {}),
    "approved while observed": (two, {}),
    "denied": (nobody, {"effect": "deny"}),
    "denied and required": (nobody, {}),
    "grant of others": (nobody, {}),
    "own grant": (nobody, {}),
    "revoked grant": (nobody, {}),
    "spent grant": (nobody, {}),
    "approved": (two, {}),
}  # fmt: skip
"""What is done to each proposal, and what its rule requires besides two approvals."""

MAY_RUN: Final = "approved"


# ------ ways to start it; claims come last, because their sweep cancels what has lapsed


async def by_status(to: Ledger, of: StoredProposal) -> None:
    await _by_status(to.db, of)


async def _by_status(db: ActionDB, of: StoredProposal) -> None:
    for status in (S.VALIDATED, S.EXECUTING):
        with suppress(ActionError):
            await db.update_proposal_status(of.id, status)


async def by_claim(to: Ledger, of: StoredProposal) -> None:
    await to.db.claim("w", action_names=[of.action_name])


async def by_bulk_claim(to: Ledger, of: StoredProposal) -> None:
    await to.db.claim("w", limit=100, action_names=[of.action_name, "none"])


async def by_this_claim(to: Ledger, of: StoredProposal) -> None:
    with suppress(ActionError):
        await to.db.claim_proposal(of.id, "w")


async def by_retry(to: Ledger, of: StoredProposal) -> None:
    with suppress(ActionError):
        await to.db.retry(of.id)
    await by_this_claim(to, of)


async def in_their_transaction(to: Ledger, of: StoredProposal) -> None:
    with suppress(ActionError):
        async with to.db.transaction() as tx:
            await _by_status(tx, of)


async def in_their_session(to: Ledger, of: StoredProposal) -> None:
    await to.joined(lambda db: _by_status(db, of))


async def by_raw_update(to: Ledger, of: StoredProposal) -> None:
    await _updated(to.db, of, "status = 'validated'", "status = 'executing'")


async def _updated(db: ActionDB, of: StoredProposal, *changes: str) -> None:
    for each in changes:
        await by_sql(db, SET.format(each), {"id": of.id})


async def by_forged_update(to: Ledger, of: StoredProposal) -> None:
    forged = "approval = 'given', lapses_at = NULL"
    await _updated(
        to.db,
        of,
        "approval = NULL, lapses_at = NULL",
        forged,
        f"status = 'validated', {forged}",
        f"status = 'executing', {forged}",
        "status = 'executing'",
    )


async def by_update_of_a_service(to: Ledger, of: StoredProposal) -> None:
    await _updated(to.service or to.db, of, "status = 'validated'", "status = 'executing'")


MOVES: Final = {
    move.__name__: move
    for move in (
        by_status, in_their_transaction, in_their_session, by_raw_update, by_forged_update,
        by_update_of_a_service, by_retry, by_this_claim, by_claim, by_bulk_claim,
    )
}  # fmt: skip
ALONE: Final = ("in_their_session", "in_their_transaction")
"""In a file, transactions of others would wait for each other."""
CLAIMS: Final = ("by_claim", "by_bulk_claim", "by_this_claim")

CELLS: Final = [
    Cell(make, state, move)
    for make, state in product([*MAKES, *BEFORE_THE_RULES], STATES)
    for move in (MOVES if state == MAY_RUN else [None])
]


def may_run(cell: Cell) -> bool:
    """Whether a cell runs: only what is approved, and a failed import only where somebody retries it."""
    if cell.state != MAY_RUN or cell.make in BEGUN:
        return False
    return cell.make != "as_failed" or cell.move not in CLAIMS


# ------


@pytest.fixture
async def ledger(
    backend: str, place: str | Path, request: pytest.FixtureRequest
) -> AsyncIterator[Ledger]:
    engine = engine_on(place)

    async def joined(work: Callable[[ActionDB], Awaitable[Any]]) -> None:
        async with AsyncSession(engine) as session, ActionDB(session) as db:
            await work(db)
            await session.commit()

    with ExitStack() as stack:
        async with ActionDB(place, busy_timeout=60) as db:
            if backend in ON_SERVER:
                service = stack.enter_context(
                    role(request.getfixturevalue("postgres"), str(place), "service")
                )
                name = parse_url(service).username or ""
                query(str(place), postgresql.grants("public", name, VERSION_TABLE))
                async with ActionDB(service) as by_service:
                    yield Ledger(db, joined, by_service)
            else:
                yield Ledger(db, joined, None)
    await engine.dispose()


async def all_of(
    work: Callable[[Any], Awaitable[Any]], items: Iterable[Any], *, at_once: int = AT_ONCE
) -> None:
    """`work` on all items, several at once."""
    turn = asyncio.Semaphore(at_once)

    async def one_of_them(item: Any) -> None:
        async with turn:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for item in items:
            group.create_task(one_of_them(item))


async def make_all(to: Ledger) -> dict[str, StoredProposal]:
    """Makes the proposals of all cells; gives back those that were written, by their cell's name."""
    for make, door in zip(BEFORE_THE_RULES, (in_bulk, by_raw_sql), strict=True):
        await door(to, [cell for cell in CELLS if cell.make == make])
    older = await _found(to.db)
    for state, (_, fields) in STATES.items():
        await rule(to.db, state, action_name=f"{state}/*", **{"approvals": 2, **fields})
    await rule(to.db, "never", action_name="denied and required/*", effect="deny")
    await _grants(to.db)
    for cell in CELLS:
        if cell.name in older:
            await by_sql(to.db, REQUIRE, *_by_hand(cell, older[cell.name]))
    for make, door in MAKES.items():
        await door(to, [cell for cell in CELLS if cell.make == make])
    return await _found(to.db)


async def _grants(db: ActionDB) -> None:
    for by in ("mia", "noor"):
        await given(
            db,
            by=by,
            action_name="grant of others/*",
            conditions=[{"path": ["rows"], "op": "lt", "value": 10}],
        )
        gone = await given(db, by=by, action_name="revoked grant/*", max_uses=1_000_000)
        await db.revoke_grant(gone.id, **WHO)
        await given(db, by=by, action_name="spent grant/*", max_uses=1)
    spent = await db.create_proposal(proposal("spent grant/first", **FIELDS))
    assert spent.status is S.VALIDATED
    for by in ("rosa", "planner"):
        await given(db, by=by, action_name="own grant/*", max_uses=1_000_000)


def _by_hand(cell: Cell, of: StoredProposal) -> Iterable[dict[str, Any]]:
    fields = {
        "effect": "require",
        "decide_within": None,
        "valid_for": None,
        **STATES[cell.state][1],
    }
    yield {"id": of.id, **fields}
    if cell.state == "denied and required":
        yield {"id": of.id, **fields, "effect": "deny"}


async def _found(db: ActionDB) -> dict[str, StoredProposal]:
    return {each.action_name: each async for each in db.iter_proposals()}


async def decide_all(to: Ledger, made: dict[str, StoredProposal]) -> None:
    def those(*states: str) -> list[Cell]:
        return [cell for cell in CELLS if cell.state in states and cell.name in made]

    async def decide(cell: Cell) -> None:
        found = await to.db.get_proposal(made[cell.name].id)
        if found is not None and found.status not in (S.CANCELLED, S.EXECUTING):
            await STATES[cell.state][0](to.db, found)

    after = ("approved while observed",)
    await to.db.halt(
        **WHO, mode=HaltMode.OBSERVE, action_name="approved while observed/*", timeout=60
    )
    await all_of(decide, those(*(state for state in STATES if state not in after)))
    await all_of(decide, those(*after))
    await to.db.halt(**WHO, action_name="halted/*", cancel=False, timeout=60)
    await to.db.halt(**WHO, mode=HaltMode.OBSERVE, action_name="observed/*", timeout=60)
    await later(to.db, 601)


async def started(db: ActionDB) -> set[str]:
    """The cells that have begun, but for the first execution of what uses its approvals up."""
    return {
        row[0]
        for row in await db._units.read(
            lambda conn: conn.exec_driver_sql(
                "SELECT DISTINCT proposal.action_name FROM action_events AS event"
                " JOIN action_proposals AS proposal ON proposal.id = event.proposal_id"
                " WHERE event.event_type = 'status_changed' AND event.to_status = 'executing'"
                " AND event.actor <> 'first' OR proposal.status = 'executing'"
            ).all()
        )
    }


@pytest.mark.parametrize("backend", ["file", "postgresql"])
async def test_nothing_runs_that_may_not(ledger: Ledger, backend: str) -> None:
    made = await make_all(ledger)
    assert {cell.make for cell in CELLS if cell.name not in made} <= set(BEGUN)
    await decide_all(ledger, made)
    there = [cell for cell in CELLS if cell.name in made]
    known = await started(ledger.db)
    wrong = dict.fromkeys(known, "at once")
    for move, door in MOVES.items():
        targets = [made[cell.name] for cell in there if cell.move in (None, move)]
        await all_of(partial(door, ledger), targets, at_once=1 if move in ALONE else AT_ONCE)
        began = await started(ledger.db) - known
        known |= began
        wanted = {cell.name for cell in there if cell.move == move and may_run(cell)}
        # And it is not that nothing runs at all.
        wrong.update(dict.fromkeys(wanted - began, f"not {move}"))
        wrong.update(dict.fromkeys(began - wanted, move))
    makes = len(MAKES) + len(BEFORE_THE_RULES)
    print(
        f"\n{backend}: {makes} ways to propose, {len(STATES)} states, {len(MOVES)} ways to start:"
        f" {makes * len(STATES) * len(MOVES)} cells; {len(known)} began"
    )
    assert wrong == {}
