"""Servers that die right after a halt, or in the middle of one, beside tasks that begin what they may."""

import asyncio
from contextlib import suppress
from itertools import cycle
from typing import Final

import pytest

from operator_core.actions import (
    ActionStatus,
    Busy,
    CommitOutcomeUnknown,
    HaltMode,
    StorageUnavailable,
)
from operator_core.db import ActionDB
from tests.databases import query
from tests.failures.beginners import BEGUN, Beginners
from tests.failures.harness import proposal
from tests.failures.server_harness import DRIVERS, check_whole, make_ledger, own_server
from tests.failures.test_failover import FORMS, pair
from tests.servers import Server

WHO: Final = {"by": "oncall", "reason": "bad deploy"}


def begun(url: str) -> int:
    return query(url, BEGUN)[0][0]


@pytest.mark.parametrize(("driver", "form"), [*zip(DRIVERS, FORMS, strict=True)])
async def test_nothing_begins_on_a_standby_that_takes_over_after_a_halt(
    driver: str, form: str
) -> None:
    with pair() as (primary, standby):
        url = FORMS[form].format(driver=driver, one=standby.port, two=primary.port)
        async with ActionDB(url) as db:
            long = await db.create_proposal(
                proposal(action_name="long", status=ActionStatus.VALIDATED)
            )
            record = (await db.claim_proposal(long.id, "worker")).record.id
            async with Beginners(db) as beginners:
                await beginners.more("begun", 50)
                report = await db.halt(**WHO, timeout=60)
                before = begun(primary.url("ledger"))
                await asyncio.to_thread(primary.kill)
                await asyncio.to_thread(standby.promote)
                await beginners.more("halted", 50)
                await beginners.more("nothing", 20)
            print(f"\n{driver}: begun={before} cancelled={report.cancelled} {beginners.told}")
            assert report.complete
            assert begun(standby.url("ledger")) == before
            found = await db.halt_report(report.halt.id)
            assert found.complete
            assert (found.halt, found.cancelled) == (report.halt, report.cancelled)
            assert {each.record_id for each in found.running} == {
                each.record_id for each in report.running
            }
            assert [each.record_id for each in found.unfinished] == [record]
            assert await db.mode() is HaltMode.HALTED
            await db.complete(record)
            assert [each.id for each in await db.resume(**WHO)] == [report.halt.id]
            async with Beginners(db) as beginners:
                await beginners.more("begun", 20)
        check_whole(standby.url("ledger"))


# ------ a server that dies in the middle of a halt

IS_HALTED: Final = "SELECT count(*) > 0 FROM action_halts WHERE resumed_at IS NULL"
IS_UP: Final = """
    SELECT pg_sequence_last_value('action_halts_flag'::regclass)
        <> -('action_halts'::regclass::oid::bigint)"""


async def stop_and_go_on(db: ActionDB, told: list[str], steps: int) -> None:
    """Halts and resumes until the server is away; `told` has what was asked for and what was answered."""
    with suppress(StorageUnavailable, CommitOutcomeUnknown, Busy):
        for verb in cycle((db.halt, db.resume)):
            told.append(f"{verb.__name__} asked")
            await verb(**WHO)
            told.append(f"{verb.__name__} done")
            if len(told) == steps:
                return


async def kill_after(steps: int, server: Server, url: str) -> tuple[str, bool, bool]:
    """What was told last, whether the ledger is halted after the restart, and whether the flag is up."""
    told: list[str] = []
    async with ActionDB(url, busy_timeout=1) as db:
        stopping = asyncio.create_task(stop_and_go_on(db, told, steps))
        while len(told) < steps:
            await asyncio.sleep(0)
        await asyncio.to_thread(server.kill)
        await stopping
    await asyncio.to_thread(server.start)
    return told[-1], query(url, IS_HALTED)[0][0], query(url, IS_UP)[0][0]


async def test_a_server_that_dies_while_halts_come_and_go_has_the_last_one_and_its_flag() -> None:
    with own_server(durable=True, settings={"fsync": "off"}) as server:
        url = make_ledger(server)
        # After even ones all that was asked for has been answered.
        for steps in (2, 3, 4, 9, 14, 19, 21, 38):
            last, halted, up = await kill_after(steps, server, url)
            print(f"\n{last}: {halted=} {up=}", end="")
            assert up or not halted, "a halt is open, and nobody asks"
            if steps % 2 == 0:
                assert halted is (last == "halt done")
            async with ActionDB(url) as db:
                await db.resume(**WHO)
                await db.create_proposal(proposal(status=ActionStatus.VALIDATED))
                assert not query(url, IS_UP)[0][0]


async def test_a_halt_is_kept_where_other_commits_need_not_be() -> None:
    # Without the halt's own flush nothing would be written for ten seconds.
    settings = {"fsync": "off", "synchronous_commit": "off", "wal_writer_delay": "10s"}
    with own_server(durable=True, settings=settings) as server:
        url = make_ledger(server)
        async with ActionDB(url) as db:
            await db.halt(**WHO)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            assert await db.mode() is HaltMode.HALTED
            assert query(url, IS_UP)[0][0]
