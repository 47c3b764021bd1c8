"""A server that goes down without a word while it is written to: what was acknowledged is there."""

import asyncio
import random

import asyncpg
import pytest

from operator_core.db import ActionDB
from tests.failures.server_harness import (
    DRIVERS,
    PAUSE,
    Load,
    by,
    check_kept,
    check_waited,
    make_ledger,
    own_server,
    reckon,
)
from tests.servers import Server


async def restart_under(load: Load, server: Server, times: int, mode: str = "immediate") -> None:
    """Restarts the server, each time at another moment, while it is being written to."""
    dice = random.Random(times)
    for _ in range(times):
        await load.more(load.acknowledged, dice.randint(30, 150))
        await asyncio.to_thread(server.restart, mode)
    await load.more(load.acknowledged, 30)


async def restart_and_check(driver: str, times: int, mode: str = "immediate") -> None:
    with own_server(durable=True) as server:
        url = make_ledger(server)
        async with ActionDB(by(driver, url)) as db, Load(db) as load:
            await restart_under(load, server, times, mode)
        print(f"\n{driver} restarts={times} longest pause={load.longest_pause():.2f} s")
        check_kept(load, url)
        check_waited(load)
    assert load.unknown, "no restart came at a bad moment"


async def test_a_server_that_stops_at_once_loses_nothing_that_was_acknowledged() -> None:
    await restart_and_check("postgresql", times=5)


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["immediate", "fast"])
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_server_that_stops_twenty_times_loses_nothing_that_was_acknowledged(
    driver: str, mode: str
) -> None:
    await restart_and_check(driver, times=20, mode=mode)


class EarlyLoad(Load):
    """The planted bug: says that a write is done when the server has taken it, before the COMMIT."""

    def __init__(self, url: str) -> None:
        super().__init__(None, tasks=4)  # type: ignore[arg-type]
        self._url = url

    async def work(self, name: str) -> None:
        number = 0
        while not self.stopped:
            try:
                connection = await asyncpg.connect(self._url)
                try:
                    while not self.stopped:
                        async with connection.transaction():
                            for _ in range(20):
                                number += 1
                                await connection.execute(
                                    "INSERT INTO action_proposals"
                                    " (action_name, parameters, reason, proposed_at) VALUES"
                                    " ('naive', json_build_object('marker', $1::text), 'no', now())",
                                    f"{name}-{number}",
                                )
                                self.note(self.acknowledged, (f"proposal {name}-{number}",))
                finally:
                    connection.terminate()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(PAUSE)


async def test_planted_writes_that_are_acknowledged_before_the_commit_are_caught() -> None:
    with own_server(durable=True) as server:
        url = make_ledger(server)
        async with EarlyLoad(url) as load:
            await restart_under(load, server, times=3)
        assert reckon(load, url).lost
        with pytest.raises(AssertionError, match="lost"):
            check_kept(load, url)
