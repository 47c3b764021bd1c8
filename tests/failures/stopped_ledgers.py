"""A ledger that is stopped, with a limit and a rule, and what must hold in it whatever has happened to it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import psycopg
import pytest

from operator_core.actions import (
    ActionStatus,
    ApprovalRequired,
    Halted,
    HaltMode,
    LimitReached,
    Rule,
    TransitionHalted,
    TransitionUnapproved,
)
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.databases import query
from tests.failures.harness import proposal
from tests.failures.worker_processes import Place, check_whole, seen

WHO: Final = {"by": "oncall", "reason": "bad deploy"}
DAY: Final = 86400.0
REFUSED: Final = (dbapi.IntegrityError, psycopg.errors.IntegrityConstraintViolation)

STOPS: Final[Mapping[str, Mapping[str, Any]]] = {
    "halted": {},
    "observe": {"mode": HaltMode.OBSERVE},
    "frozen": {"valid_until": datetime.now(UTC) + timedelta(days=1)},
    "scoped": {"agent_id": "planner"},
}

FLAGS: Final = {
    "action_halts_flag": "action_halts",
    "action_governance_flag": "action_limits",
    "action_rules_flag": "action_rules",
}
"""The sequences behind which the triggers ask, with the table whose oid takes them down."""


def raw_insert(**fields: str) -> str:
    values = {"action_name": "plain", "parameters": "{}", "reason": "r", "agent_id": "planner"}
    values |= {"proposed_at": "2026-01-01 00:00:00.000000+00:00", **fields}
    texts = ", ".join(f"'{value}'" for value in values.values())
    return f"INSERT INTO action_proposals ({', '.join(values)}) VALUES ({texts})"


def raw_move(id: int, status: str) -> str:
    return f"UPDATE action_proposals SET status = '{status}' WHERE id = {id}"


def begun(place: Place) -> int:
    sql = "SELECT count(*) FROM action_events WHERE to_status IN ('executing', 'validated')"
    return seen(place, sql)[0][0]


def flags(url: str) -> dict[str, int]:
    sql = "SELECT pg_sequence_last_value('{}'::regclass)"
    return {flag: query(url, sql.format(flag))[0][0] for flag in FLAGS}


def down(url: str) -> dict[str, int]:
    """The values by which the flags are down."""
    sql = "SELECT -('{}'::regclass::oid::bigint)"
    return {flag: query(url, sql.format(table))[0][0] for flag, table in FLAGS.items()}


class Prepared(NamedTuple):
    """The ids of what is in a ledger that is stopped. All but `other` are of the agent that is halted."""

    ruled: int
    """One of two approvals is there."""
    running: int
    record: int
    limited: int
    """The start of `running` was the only one that the limit allows."""
    plain: int
    proposed: int
    failed: int
    """Its retry is due."""
    other: int
    halt: int


async def prepare(place: Place, stop: Mapping[str, Any]) -> Prepared:
    """Fills a ledger, and stops it."""

    async def make(action_name: str, **fields: Any) -> int:
        given = {"agent_id": "planner", "status": ActionStatus.VALIDATED, **fields}
        made = await db.create_proposal(proposal(action_name=action_name, **given))
        assert made.id is not None
        return made.id

    async with ActionDB(place) as db:
        await db.set_limit("once", action_name="limited", window=DAY, max_starts=1, **WHO)
        await db.add_rule(Rule(name="two", action_name="ruled", approvals=2), **WHO)
        ruled = await make("ruled", status=ActionStatus.PROPOSED)
        await approve(db, ruled, "mia")
        running = await make("limited")
        record = (await db.claim_proposal(running, "worker")).record.id
        failed = await make("plain", max_retries=1, retry_delay=0)
        await db.fail((await db.claim_proposal(failed, "worker")).record.id, "no answer")
        rest = {
            "limited": await make("limited"),
            "plain": await make("plain"),
            "proposed": await make("plain", status=ActionStatus.PROPOSED),
            "other": await make("plain", agent_id="other"),
        }
        report = await db.halt(**WHO, **stop, cancel=False)
        assert report.complete
        return Prepared(
            ruled=ruled, running=running, record=record, failed=failed, halt=report.halt.id, **rest
        )


async def status_of(db: ActionDB, id: int) -> ActionStatus:
    found = await db.get_proposal(id)
    assert found is not None
    return found.status


async def approve(db: ActionDB, id: int, by: str) -> None:
    found = await db.get_proposal(id)
    assert found is not None
    await db.approve_proposal(id, by=by, digest=found.digest)


# ------ what must hold


async def check_stopped(place: Place, ids: Prepared, stop: Mapping[str, Any]) -> None:
    """Fails unless the halt is there, and nothing in its scope begins."""
    mode = stop.get("mode", HaltMode.HALTED)
    before = begun(place)
    async with ActionDB(place) as db:
        assert [each.id for each in await db.halts()] == [ids.halt]
        assert await db.mode(agent_id="planner") is mode
        report = await db.halt_report(ids.halt)
        assert report.complete
        assert [each.record_id for each in report.unfinished] == [ids.record]
        if "agent_id" in stop:
            (claim,) = await db.claim("late", limit=10)
            assert claim.proposal.id == ids.other
            before += 1
        assert await db.claim("late", limit=10) == []
        for id in (ids.plain, ids.limited, ids.failed):
            with pytest.raises(TransitionHalted):
                await db.claim_proposal(id, "late")
        for id, status in {
            ids.proposed: ActionStatus.VALIDATED,
            ids.plain: ActionStatus.EXECUTING,
            ids.failed: ActionStatus.VALIDATED,
        }.items():
            with pytest.raises(TransitionHalted):
                await db.update_proposal_status(id, status)
        ready = proposal(agent_id="planner", status=ActionStatus.VALIDATED)
        with pytest.raises(Halted):
            await db.create_proposal(ready)
        if mode is HaltMode.HALTED:
            with pytest.raises(Halted):
                await db.create_proposal(proposal(agent_id="planner"))
        # The last approval is recorded, and moves nothing.
        await approve(db, ids.ruled, "noa")
    check_stopped_for_sql(place, ids, mode)
    assert begun(place) == before
    check_whole(place)


def check_stopped_for_sql(place: Place, ids: Prepared, mode: HaltMode) -> None:
    statements = [
        raw_move(ids.proposed, "validated"),
        raw_move(ids.plain, "executing"),
        raw_move(ids.failed, "validated"),
        raw_insert(status="validated"),
        raw_insert(status="executing"),
    ]
    if mode is HaltMode.HALTED:
        statements.append(raw_insert())
    for statement in statements:
        with pytest.raises(REFUSED, match="halted"):
            seen(place, statement)
        if isinstance(place, str):
            with pytest.raises(REFUSED, match="halted"), old_snapshots(place) as conn:
                conn.execute(statement)


@contextmanager
def old_snapshots(url: str) -> Iterator[Any]:
    with psycopg.connect(url) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield conn


async def check_resumed(place: Place, ids: Prepared) -> None:
    """Fails unless the halt can be resumed and work goes on."""
    async with ActionDB(place) as db:
        (resumed,) = await db.resume(ids.halt, by="lead", reason="rolled back")
        assert resumed.id == ids.halt
        assert await db.mode(agent_id="planner") is HaltMode.EXECUTE
        await db.complete(ids.record)
        assert await status_of(db, ids.running) is ActionStatus.COMPLETED
        # By one approval from before and one from after.
        assert await status_of(db, ids.ruled) is ActionStatus.VALIDATED
        await db.update_proposal_status(ids.proposed, ActionStatus.VALIDATED)
        claimed = {each.proposal.id for each in await db.claim("late", limit=10)}
        assert claimed - {ids.other} == {ids.plain, ids.proposed, ids.failed, ids.ruled}
        assert (await db.halt(**WHO, cancel=False)).complete
        with pytest.raises(Halted):
            await db.create_proposal(proposal())
        await db.resume(**WHO)
    check_whole(place)


async def check_limited(place: Place, ids: Prepared) -> None:
    """Fails unless the limit is there, and knows what was started before."""
    async with ActionDB(place) as db:
        (limit,) = await db.limits()
        assert (limit.limit.name, limit.starts) == ("once", 1)
        with pytest.raises(LimitReached):
            await db.claim_proposal(ids.limited, "late")
    with pytest.raises(REFUSED, match="limit"):
        seen(place, raw_move(ids.limited, "executing"))


async def check_ruled(place: Place) -> None:
    """Fails unless what a rule matches needs approvals, as before."""
    async with ActionDB(place) as db:
        made = await db.create_proposal(proposal(action_name="ruled"))
        assert made.approval == "needed"
        with pytest.raises(TransitionUnapproved):
            await db.update_proposal_status(made.id, ActionStatus.VALIDATED)
        with pytest.raises(ApprovalRequired):
            await db.create_proposal(proposal(action_name="ruled", status=ActionStatus.VALIDATED))
        assert made.id is not None
        with pytest.raises(REFUSED, match="approv"):
            seen(place, raw_move(made.id, "validated"))
        with pytest.raises(REFUSED, match="approv"):
            seen(place, raw_insert(action_name="ruled", status="validated"))
        await approve(db, made.id, "mia")
        await approve(db, made.id, "noa")
        assert (await db.claim_proposal(made.id, "late")).proposal.id == made.id
