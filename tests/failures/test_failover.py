"""A primary that dies and a standby in its place: the ledger finds it and goes on, and nothing is lost."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from operator_core.actions.errors import StorageUnavailable
from operator_core.db import ActionDB
from operator_core.db.actions import BUSY_TIMEOUT
from tests.failures.harness import PATIENCE, proposal
from tests.failures.server_harness import (
    DRIVERS,
    Load,
    check_kept,
    check_waited,
    make_ledger,
    own_server,
    reckon,
)
from tests.servers import Server

FORMS = {
    "hosts": "{driver}://postgres@127.0.0.1:{one},127.0.0.1:{two}/ledger",
    "query": "{driver}://postgres@/ledger?host=127.0.0.1:{one}&host=127.0.0.1:{two}",
}
"""The two ways in which a URL names several hosts: libpq's and SQLAlchemy's."""


@contextmanager
def pair() -> Iterator[tuple[Server, Server]]:
    """A primary with an empty ledger, and the standby that its commits wait for."""
    with own_server(durable=True) as primary:
        make_ledger(primary)
        with primary.standby() as standby:
            yield primary, standby


async def fail_over(driver: str, form: str, outage: float = 0) -> None:
    """Lets the standby take over, so many seconds after the primary's death."""
    with pair() as (primary, standby):
        # Asked for in this order: the ledger finds the one that writes by itself.
        url = FORMS[form].format(driver=driver, one=standby.port, two=primary.port)
        async with ActionDB(url) as db, Load(db) as load:
            await load.more(load.acknowledged, 200)
            await asyncio.to_thread(primary.kill)
            before = len(load.acknowledged)
            await asyncio.sleep(outage)
            await asyncio.to_thread(standby.promote)
            await load.more(load.acknowledged, 200)
        print(
            f"\n{driver} {form}: outage={outage} s, without service={load.longest_pause():.2f} s"
            f" acknowledged before={before} after={len(load.acknowledged) - before}"
        )
        check_kept(load, standby.url("ledger"))
        if outage < BUSY_TIMEOUT:
            check_waited(load)
        # Nobody waits for a standby that the new primary does not have.
        assert standby.sql("SHOW synchronous_standby_names") == ""


@pytest.mark.parametrize(("driver", "form"), [*zip(DRIVERS, FORMS, strict=True)])
async def test_a_ledger_goes_on_with_the_standby_and_nothing_is_lost(
    driver: str, form: str
) -> None:
    await fail_over(driver, form)


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("driver", DRIVERS)
async def test_ledgers_go_on_with_their_standbys_however_late_those_come(
    driver: str, form: str
) -> None:
    # The last is longer than calls wait.
    for outage in (0, 0.1, 0.5, 2, 12):
        await fail_over(driver, form, outage)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_without_a_primary_calls_wait_as_long_as_they_may_and_are_told(driver: str) -> None:
    with pair() as (primary, standby):
        url = FORMS["hosts"].format(driver=driver, one=primary.port, two=standby.port)
        async with ActionDB(url, busy_timeout=1) as db:
            made = await db.create_proposal(proposal())
            await asyncio.to_thread(primary.kill)
            for call in (
                lambda: db.create_proposal(proposal()),
                lambda: db.get_proposal(made.id),
            ):
                began = time.monotonic()
                with pytest.raises(StorageUnavailable) as told:
                    await call()
                print(f"\n{driver}: told after {time.monotonic() - began:.2f} s: {told.value}")
                # A standby that has nothing of its own to say is no place to read from, either.
                assert 1 <= time.monotonic() - began < PATIENCE
            waiting = asyncio.create_task(db.create_proposal(proposal()))
            await asyncio.to_thread(standby.promote)
            # Whoever was waiting when the other took over was not even told that it did.
            await waiting
            assert len(await db.list_proposals()) == 2


async def test_planted_a_standby_that_commits_do_not_wait_for_is_caught() -> None:
    with pair() as (primary, standby):
        primary.sql("ALTER SYSTEM RESET synchronous_standby_names")
        primary.sql("SELECT pg_reload_conf()")
        url = FORMS["hosts"].format(driver="postgresql", one=primary.port, two=standby.port)
        async with ActionDB(url, busy_timeout=1) as db, Load(db) as load:
            await load.more(load.acknowledged, 20)
            await asyncio.to_thread(standby.kill)
            await load.more(load.acknowledged, 100)
            await asyncio.to_thread(primary.kill)
        standby.start()
        standby.promote()
        assert reckon(load, standby.url("ledger")).lost
        with pytest.raises(AssertionError, match="lost"):
            check_kept(load, standby.url("ledger"))
