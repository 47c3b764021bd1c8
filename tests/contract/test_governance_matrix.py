"""Nothing runs that may not: each way to propose, in each state of its governance, by each way to start it.

All cells are proposals of one ledger. The name of an action is its cell, and rules, grants, halts and limits go by it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from operator_core.actions import (
    ActionError,
    Conflict,
    HaltMode,
    StoredProposal,
)
from operator_core.db import ActionDB, ActionLedger, migrate
from operator_core.db.migrate import postgresql
from operator_core.db.postgresql.connect import parse_url
from tests.conftest import ON_SERVER, proposal
from tests.contract.governance_ways import (
    AMOUNT,
    BEFORE_THE_RULES,
    BEGUN,
    EXCLUDED,
    FIELDS,
    MAKES,
    SUMMED,
    UPGRADED,
    Cell,
    Ledger,
    by_sql,
    make_upgraded,
)
from tests.contract.governed import S, approve, given, later, now, rule
from tests.databases import query
from tests.engines import engine_on
from tests.migrations import tools
from tests.migrations.postgresql_tools import psql, role, script

WHO: Final[dict[str, Any]] = {"by": "lead", "reason": "policy 7"}
AT_ONCE: Final = 16
HOLDER: Final = "has the exclusive key"
MOST: Final = 10
"""The sum that a limit lets start."""

REQUIRE: Final = (
    "INSERT INTO action_requirements (proposal_id, name, effect, approvals, decide_within, valid_for, covers_retries)"
    " VALUES (:id, 'by hand', :effect, 2, :decide_within, :valid_for, :covers_retries)"
)
DECIDE: Final = (
    "INSERT INTO action_decisions (proposal_id, kind, decided_by, decider_key, decider_type, digest)"
    " VALUES (:id, 'approved', :by, :by, :type, :digest)"
)
SET: Final = "UPDATE action_proposals SET {} WHERE id = :id"


# ------ states: approvals, halts, limits, exclusive keys


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


async def validated(db: ActionDB, of: StoredProposal) -> None:
    if of.status is S.PROPOSED:
        await db.update_proposal_status(of.id, S.VALIDATED)


async def used_up(db: ActionDB, of: StoredProposal) -> None:
    await two(db, of)
    if (await now(db, of)).status is S.FAILED:
        await db.retry(of.id)
    claim = await db.claim_proposal(of.id, "first")
    await db.fail(claim.record.id, "boom")


STATES: Final[dict[str, tuple[Callable[[ActionDB, StoredProposal], Awaitable[None]], dict[str, Any] | None]]] = {
    "undecided": (nobody, {}),
    "too few": (one, {}),
    "one twice": (one_twice, {}),
    "rejected": (rejected, {}),
    "rejected late": (rejected_late, {}),
    "rejected without a rule": (_reject, None),
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
    "limited": (validated, None),
    "approved but limited": (two, {}),
    "limited by sum": (validated, None),
    "retry limited": (used_up, {"covers_retries": True}),
    "excluded": (validated, None),
    "approved but excluded": (two, {}),
    "retry excluded": (used_up, {"covers_retries": True}),
    "approved": (two, {}),
}  # fmt: skip
"""What is done to each proposal, and what its rule requires besides two approvals; None is no rule."""

MAY_RUN: Final = "approved"
LIMITED: Final = ("limited", "limited by sum", "approved but limited", "retry limited")
HALTED: Final = ("halted", "observed", "approved while observed")


# ------ ways to start it; claims come last, because their sweep cancels what has lapsed


async def by_status(to: Ledger, of: StoredProposal) -> None:
    await _by_status(to.db, of)


async def _by_status(db: ActionLedger, of: StoredProposal) -> None:
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
        "exclusive_key = NULL",
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


def is_free(make: str, state: str) -> bool:
    """Whether nothing keeps it from starting. A row of an earlier revision has no exclusive key."""
    return state == MAY_RUN or (state in EXCLUDED and make in UPGRADED)


CELLS: Final = [
    Cell(make, state, move)
    for make, state in product([*MAKES, *BEFORE_THE_RULES, *UPGRADED], STATES)
    for move in (MOVES if is_free(make, state) else [None])
    # Nothing keeps it from being written as executing.
    if (make, state) != ("as_executing", "rejected without a rule")
]


def is_written(cell: Cell) -> bool:
    """Whether the ledger writes it.

    One that begins at once is refused without its approvals, over a limit, and while its key is in use. A denied one
    is written as cancelled.
    """
    if cell.make not in BEGUN or cell.state.startswith("denied"):
        return True
    return cell.make == "as_validated" and STATES[cell.state][1] is None


def may_run(cell: Cell) -> bool:
    """Whether a cell runs: only what is free, and a failed import only where somebody retries it."""
    if not is_free(cell.make, cell.state) or cell.make in BEGUN:
        return False
    return cell.make != "as_failed" or cell.move not in CLAIMS


# ------


@pytest.fixture
def place(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str | Path:
    """An upgraded ledger, with its rows of earlier revisions."""
    if backend in ON_SERVER:
        url = request.getfixturevalue("postgres").new()

        def by_script() -> None:
            # It computes no digests.
            psql(url, script("upgrade", "0006:head"), tmp_path)

        make_upgraded(url, partial(query, url), CELLS, by_script)
        return url
    path = tmp_path / "ledger.db"
    here = f"sqlite:///{path}"
    make_upgraded(here, partial(tools.query, path), CELLS, partial(migrate.upgrade, here))
    return path


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
                query(str(place), postgresql.grants("public", name, tools.VERSION_TABLE))
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
    for make, door in BEFORE_THE_RULES.items():
        await door(to, [cell for cell in CELLS if cell.make == make])
    await _use_up(to.db)
    for state, (_, fields) in STATES.items():
        if fields is not None:
            await rule(to.db, state, action_name=f"{state}/*", **{"approvals": 2, **fields})
    await rule(to.db, "never", action_name="denied and required/*", effect="deny")
    await _grants(to.db)
    older = await _found(to.db)
    for cell in CELLS:
        if cell.name in older:
            # No rule requires anything of what was there before it.
            assert older[cell.name].approval is None
            await by_sql(to.db, REQUIRE, *_by_hand(cell, older[cell.name]))
    for make, door in MAKES.items():
        await door(to, [cell for cell in CELLS if cell.make == make])
    return await _found(to.db)


async def _use_up(db: ActionDB) -> None:
    """Starts what the limits allow, and what takes the exclusive keys."""
    for state in LIMITED[:-1]:
        first = {AMOUNT: MOST} if state in SUMMED else {}
        await db.create_proposal(proposal(f"{state}/first", status=S.EXECUTING, parameters=first))
        await _limit(db, state)
    for state in EXCLUDED[:-1]:
        await _exclude(db, state)


async def _limit(db: ActionDB, state: str) -> None:
    # It also covers the rows that name no agent.
    scope = {"action_name": f"{state}/*", "agent_id": FIELDS["agent_id"]}
    most: dict[str, Any] = {"max_starts": 1}
    if state in SUMMED:
        most = {"sum_of": [AMOUNT], "max_sum": MOST}
    await db.set_limit(state, **scope, **most, window=86_400.0, **WHO)


async def _exclude(db: ActionDB, state: str) -> None:
    await db.create_proposal(proposal(HOLDER, status=S.EXECUTING, exclusive_key=state))


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
    required = STATES[cell.state][1]
    if required is None:
        return
    fields = {
        "effect": "require",
        "decide_within": None,
        "valid_for": None,
        "covers_retries": False,
        **required,
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
    one_by_one = ("retry excluded",)
    await to.db.halt(
        **WHO, mode=HaltMode.OBSERVE, action_name="approved while observed/*", timeout=60
    )
    await all_of(decide, those(*(state for state in STATES if state not in (*after, *one_by_one))))
    await all_of(decide, those(*after))
    await all_of(decide, those(*one_by_one), at_once=1)
    await to.db.halt(**WHO, action_name="halted/*", cancel=False, timeout=60)
    await to.db.halt(**WHO, mode=HaltMode.OBSERVE, action_name="observed/*", timeout=60)
    # Here, because the limit counts the first executions, and the key was free for them.
    await _limit(to.db, "retry limited")
    await _exclude(to.db, "retry excluded")
    await later(to.db, 601)


async def lift(db: ActionDB) -> None:
    """Ends all halts and limits, and the executions that have the exclusive keys."""
    for state in HALTED:
        await db.resume(**WHO, action_name=f"{state}/*")
    for state in LIMITED:
        await db.remove_limit(state, **WHO)
    for holder in [each async for each in db.iter_proposals() if each.action_name == HOLDER]:
        await db.update_proposal_status(holder.id, S.COMPLETED)


async def run_through(db: ActionDB, of: StoredProposal) -> None:
    """Starts and completes it; raises the error of what is in its way."""
    if (await now(db, of)).status is S.FAILED:
        await db.retry(of.id)
    claim = await db.claim_proposal(of.id, "w")
    await db.complete(claim.record.id)


async def started(db: ActionDB) -> set[str]:
    """The cells that have begun, but for the first execution of what uses its approvals up."""
    cells = {cell.name for cell in CELLS}
    return cells & {
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
    assert {cell.name for cell in CELLS if is_written(cell)} == {
        cell.name for cell in CELLS if cell.name in made
    }
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
    makes = len(MAKES) + len(BEFORE_THE_RULES) + len(UPGRADED)
    cells = sum(len(MOVES) if cell.move is None else 1 for cell in CELLS)
    print(
        f"\n{backend}: {makes} ways to propose, {len(STATES)} states, {len(MOVES)} ways to start:"
        f" {cells} cells; {len(known)} began"
    )
    assert wrong == {}
    # What a halt, a limit or a key held had nothing else in its way.
    await lift(ledger.db)
    held = (*HALTED, *LIMITED, *EXCLUDED)
    for cell in (each for each in there if each.state in held and each.move is None):
        await run_through(ledger.db, made[cell.name])
