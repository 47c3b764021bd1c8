"""Nothing begins after a halt has returned, whoever was about to begin something, and nobody waits for ever."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from operator_core.actions import ActionStatus, Busy, Halted, HaltMode, HaltReport
from operator_core.db import ActionDB
from operator_core.db.ledger import halts
from tests.databases import connected
from tests.failures.harness import finish, let_go, proposal, start
from tests.failures.worker_processes import Place, check_whole, seen

WHO: Final = {"by": "oncall", "reason": "race"}

BEGUN: Final = """
    SELECT count(*) FROM action_events WHERE to_status IN ('executing', 'validated')
        OR event_type = 'proposal_created' AND to_status NOT IN ('completed', 'cancelled')"""

on_each = pytest.mark.parametrize("backend", ["file", "postgresql"])


def begun(place: Place) -> int:
    return seen(place, BEGUN)[0][0]


@contextmanager
def racing(place: Place, processes: int) -> Iterator[list[dict[str, int]]]:
    """A block beside which processes race; afterwards, the list has what each was told."""
    children = [start("halt_racer.py", place, f"racer-{each}") for each in range(processes)]
    told: list[dict[str, int]] = []
    try:
        let_go(children, "ready")
        yield told
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
            child.stdin = None
        for child in children:
            told.extend(finish(child))
    finally:
        for child in children:
            child.kill()
            child.communicate()


async def halt_in_a_loop(place: Place, db: ActionDB, times: int) -> list[int]:
    """Halts and resumes; for each halt, how many things began after it had returned."""
    late: list[int] = []
    for _ in range(times):
        report = await db.halt(**WHO, timeout=60)
        assert report.complete
        before = begun(place)
        # As long as several of what the others do.
        await asyncio.sleep(0.1)
        late.append(begun(place) - before)
        await db.resume(**WHO)
        await asyncio.sleep(0.1)
    return late


async def check(place: Place, processes: int, times: int) -> None:
    async with ActionDB(place, busy_timeout=60) as db:
        with racing(place, processes) as told:
            late = await halt_in_a_loop(place, db, times)
    done, halted = (sum(each[name] for each in told) for name in ("done", "halted"))
    print(f"\nprocesses={processes} halts={times} late={sum(late)} {done=} {halted=}")
    assert sum(late) == 0, f"{late} late"
    assert done
    assert halted
    check_whole(place)


@on_each
async def test_nothing_begins_after_a_halt_has_returned(place: Place) -> None:
    await check(place, processes=4, times=6)


@pytest.mark.soak
@on_each
async def test_nothing_begins_after_many_halts_have_returned(place: Place) -> None:
    await check(place, processes=8, times=60)


@pytest.mark.parametrize("backend", ["postgresql"])
async def test_planted_a_halt_that_does_not_wait_is_caught(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: Any, **__: Any) -> list[Any]:
        return []

    monkeypatch.setattr(halts, "holders", nobody)
    async with ActionDB(place, busy_timeout=60) as db:
        with racing(place, 4):
            late = 0
            for _ in range(100):
                late += sum(await halt_in_a_loop(place, db, 1))
                if late:
                    break
    assert late


# ------ transactions that stay open


async def by_sql(server_ledger: str, *statements: str) -> Any:
    conn = await psycopg.AsyncConnection.connect(server_ledger, application_name="a service")
    for statement in statements:
        await conn.execute(statement)  # type: ignore[arg-type]
    return conn


async def test_an_idle_transaction_is_waited_for_and_named(server_ledger: str) -> None:
    async with ActionDB(server_ledger) as db:
        made = await db.create_proposal(proposal())
        idle = await by_sql(server_ledger, "UPDATE action_proposals SET status = 'validated'")
        report = await db.halt(**WHO, timeout=0.2)
        assert not report.complete
        (blocker,) = report.blockers
        assert (blocker.pid, blocker.application) == (idle.info.backend_pid, "a service")
        assert blocker.since is not None
        # The halt stands for everybody else, and for this transaction too.
        assert await db.mode() is HaltMode.HALTED
        with pytest.raises(Halted):
            await db.create_proposal(proposal())
        assert (await db.halt_report(report.halt.id)).complete is False
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="halted"):
            await idle.execute("UPDATE action_proposals SET status = 'executing'")
        await idle.rollback()
        again = await db.halt(**WHO, timeout=60)
        assert again.complete
        assert again.halt == report.halt
        assert again.cancelled == 1
        found = await db.get_proposal(made.id)
        assert found is not None
        assert found.status is ActionStatus.CANCELLED
        await idle.close()


async def test_what_began_before_another_halt_was_committed_is_waited_for(
    server_ledger: str,
) -> None:
    async with ActionDB(server_ledger) as db:
        await db.create_proposal(proposal())
        writer = await by_sql(
            server_ledger,
            "INSERT INTO action_halts (mode, halted_by, reason) VALUES ('halted', 'oncall', 'race')",
        )
        idle = await by_sql(server_ledger, "UPDATE action_proposals SET status = 'validated'")
        await writer.commit()
        report = await db.halt(**WHO, timeout=0, cancel=False)
        assert [each.pid for each in report.blockers] == [idle.info.backend_pid]
        assert [each.pid for each in (await db.halt_report(report.halt.id)).blockers] == [
            idle.info.backend_pid
        ]
        await idle.rollback()
        assert (await db.halt(**WHO, timeout=60)).complete
        await writer.close()
        await idle.close()


async def test_nobody_keeps_others_from_halting_without_their_knowledge(
    server_ledger: str,
) -> None:
    async with ActionDB(server_ledger) as db:
        writer = await by_sql(
            server_ledger,
            "INSERT INTO action_halts (mode, action_name, halted_by, reason)"
            " VALUES ('halted', 'other', 'oncall', 'race')",
        )
        with pytest.raises(Busy):
            await db.halt(**WHO, timeout=0)
        assert await db.mode() is HaltMode.EXECUTE
        await writer.rollback()
        assert (await db.halt(**WHO)).complete
        await writer.close()


async def test_what_fails_after_the_halt_is_in_the_report(server_ledger: str) -> None:
    url = server_ledger + "?options=-c%20lock_timeout%3D1000"
    async with ActionDB(url) as db:
        blocker = await by_sql(
            server_ledger, "LOCK TABLE action_proposals IN ACCESS EXCLUSIVE MODE"
        )
        report = await db.halt(**WHO, timeout=0)
        assert not report.complete
        assert report.unknown is not None
        await blocker.rollback()
        assert await db.mode() is HaltMode.HALTED
        assert (await db.halt(**WHO)).complete
        await blocker.close()


async def test_a_dump_of_a_server_with_higher_numbers_refuses_only_what_is_halted(
    server_ledger: str,
) -> None:
    async with ActionDB(server_ledger) as db:
        await db.halt(**WHO, agent_id="planner")
        restored = await by_sql(server_ledger, "SELECT setval('action_halts_flag', 4000000000)")
        await restored.commit()
        await restored.close()
        service = await by_sql(server_ledger)
        insert = (
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, agent_id)"
            " VALUES ('a', '{{}}', 'r', now(), '{}')"
        )
        await service.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await service.execute(insert.format("other"))
        await service.execute("COMMIT")
        await service.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="halted"):
            await service.execute(insert.format("planner"))
        await service.rollback()
        await service.close()
        await db.resume(**WHO, agent_id="planner")


async def test_a_halt_waits_no_longer_than_it_has_to(server_ledger: str) -> None:
    async with ActionDB(server_ledger) as db:
        await db.create_proposal(proposal())
        busy = await by_sql(server_ledger, "UPDATE action_proposals SET status = 'validated'")
        halting = asyncio.create_task(db.halt(**WHO, timeout=600))
        while await db.mode() is not HaltMode.HALTED:
            await asyncio.sleep(0.01)
        assert not halting.done()
        # Others are not held up: one that reads, and one that cancels.
        assert await db.count_proposals()
        await busy.commit()
        report: HaltReport = await asyncio.wait_for(halting, 60)
        assert report.complete
        assert report.cancelled == 1
        await busy.close()


async def test_who_is_in_the_way_can_be_ended(server_ledger: str) -> None:
    async with ActionDB(server_ledger) as db:
        await db.create_proposal(proposal())
        idle = await by_sql(server_ledger, "UPDATE action_proposals SET status = 'validated'")
        report = await db.halt(**WHO, timeout=0.1, terminate=True)
        assert report.complete
        with pytest.raises(psycopg.OperationalError):
            await idle.execute("SELECT 1")
        (found,) = await db.list_proposals()
        assert (found.status, found.validated_at) == (ActionStatus.CANCELLED, None)
        await idle.close()


async def test_a_snapshot_that_is_older_than_the_halt_begins_nothing(server_ledger: str) -> None:
    async with ActionDB(server_ledger) as db:
        await db.create_proposal(proposal())
        for level in ("REPEATABLE READ", "SERIALIZABLE"):
            old = await by_sql(
                server_ledger, f"BEGIN ISOLATION LEVEL {level}", "SELECT 1 FROM action_halts"
            )
            report = await db.halt(**WHO, timeout=60, cancel=False)
            # It has begun nothing, so it is not waited for.
            assert report.complete
            with pytest.raises(psycopg.errors.SerializationFailure, match="action_halts"):
                await old.execute("UPDATE action_proposals SET status = 'validated'")
            await old.rollback()
            await old.execute(f"BEGIN ISOLATION LEVEL {level}")
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="halted"):
                await old.execute("UPDATE action_proposals SET status = 'validated'")
            await old.rollback()
            await db.resume(**WHO)
            await old.execute(f"BEGIN ISOLATION LEVEL {level}")
            await old.execute("UPDATE action_proposals SET priority = priority")
            await old.rollback()
            await old.close()


async def test_the_flag_is_up_while_a_halt_is_open_and_down_after(server_ledger: str) -> None:
    down = """
        SELECT pg_sequence_last_value('action_halts_flag'::regclass)
            = -('action_halts'::regclass::oid::bigint)"""

    def is_down() -> bool:
        with connected(server_ledger) as conn:
            return conn.execute(down).fetchone()[0]  # type: ignore[index]

    async with ActionDB(server_ledger) as db:
        assert is_down()
        await db.halt(**WHO, run_id="one")
        await db.halt(**WHO, run_id="two")
        assert not is_down()
        await db.resume(**WHO, run_id="one")
        assert not is_down()
        # A resume that is rolled back, or not committed yet, takes no flag down.
        undone = await by_sql(
            server_ledger,
            "UPDATE action_halts SET resumed_at = now(), resumed_by = 'x', resume_reason = 'y'"
            " WHERE resumed_at IS NULL",
            "UPDATE action_halts SET reason = reason WHERE false",
        )
        assert not is_down()
        await undone.rollback()
        # Nor does anybody while a halt is being written.
        await undone.execute(
            "INSERT INTO action_halts (mode, halted_by, reason) VALUES ('halted', 'x', 'y')"
        )
        await db.resume(**WHO, run_id="two")
        assert not is_down()
        await undone.rollback()
        assert not is_down()
        await db.resume(**WHO)
        assert is_down()
        await undone.close()


async def test_behind_an_open_write_transaction_of_a_file_it_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path, busy_timeout=0.2) as db, ActionDB(path) as other:
        async with other.transaction() as tx:
            await tx.create_proposal(proposal())
            with pytest.raises(Busy):
                await db.halt(**WHO)
            assert await db.mode() is HaltMode.EXECUTE
        assert await db.halts() == []
        assert (await db.halt(**WHO)).complete
