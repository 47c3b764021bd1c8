"""A halt that has returned holds after a crash, a failover and a restore, and so do limits and rules."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from operator_core.actions import ActionStatus, HaltMode
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sql.tables import TABLES
from tests.databases import query
from tests.failures.harness import PATIENCE, proposal
from tests.failures.server_harness import make_ledger, own_server
from tests.failures.stopped_ledgers import (
    FLAGS,
    STOPS,
    WHO,
    Prepared,
    check_limited,
    check_resumed,
    check_ruled,
    check_stopped,
    down,
    flags,
    prepare,
)
from tests.failures.worker_processes import Place
from tests.servers import Server

DURABLE: Final[Mapping[str, Any]] = {"durable": True, "settings": {"fsync": "off"}}
"""Of servers that are killed: the kernel lives on, so their commits have to be written, and not to reach the disk."""

QUIET: Final = "quiet"
"""The ledger that has no halt, no limit and no rule."""


class World(NamedTuple):
    """Ledgers by their names, and what happens to all of them."""

    before: Mapping[str, Place]
    strike: Callable[[], Mapping[str, Place]]
    """Returns where the ledgers are afterwards."""
    keeps_flags: bool = True
    keeps_oids: bool = True


def ledgers(server: Server) -> dict[str, Place]:
    return {name: server.url(name) for name in (*STOPS, QUIET)}


def make_ledgers(server: Server) -> dict[str, Place]:
    make_ledger(server)
    for name in ledgers(server):
        server.sql(f"CREATE DATABASE {name} TEMPLATE ledger")
    return ledgers(server)


@contextmanager
def crash(_: Path, *, checkpoint: bool = False) -> Iterator[World]:
    with own_server(**DURABLE) as server:

        def strike() -> dict[str, Place]:
            if checkpoint:
                server.sql("CHECKPOINT")
            server.kill()
            server.start()
            return ledgers(server)

        yield World(make_ledgers(server), strike)


@contextmanager
def crash_after_a_checkpoint(folder: Path) -> Iterator[World]:
    with crash(folder, checkpoint=True) as world:
        yield world


@contextmanager
def failover(_: Path) -> Iterator[World]:
    with own_server(**DURABLE) as primary:
        before = make_ledgers(primary)
        with primary.standby() as standby:

            def strike() -> dict[str, Place]:
                primary.kill()
                standby.promote()
                return ledgers(standby)

            yield World(before, strike)


@contextmanager
def restore_on_another_server(_: Path) -> Iterator[World]:
    with own_server(durable=False) as server, own_server(durable=False) as other:
        before = make_ledgers(server)
        # So that the flags name transactions that the other server has yet to begin.
        server.sql(
            "DO $$ BEGIN FOR each IN 1 .. 20000 LOOP"
            " PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        )

        def strike() -> dict[str, Place]:
            for name in before:
                other.restore(server.dump(name), name)
            return ledgers(other)

        yield World(before, strike, keeps_oids=False)


@contextmanager
def restore_in_its_place(_: Path) -> Iterator[World]:
    with own_server(durable=False) as server:
        before = make_ledgers(server)

        def strike() -> dict[str, Place]:
            for name in before:
                dump = server.dump(name)
                server.sql(f"DROP DATABASE {name}")
                server.restore(dump, name)
            return ledgers(server)

        yield World(before, strike, keeps_oids=False)


@contextmanager
def switch_to_a_subscriber(_: Path) -> Iterator[World]:
    # Without the latter a table is copied every five seconds.
    settings = {"wal_level": "logical", "wal_retrieve_retry_interval": "50ms"}
    with (
        own_server(durable=False, settings=settings) as publisher,
        own_server(durable=False, settings=settings) as subscriber,
    ):
        before = make_ledgers(publisher)
        make_ledgers(subscriber)

        def strike() -> dict[str, Place]:
            for name in before:
                publisher.sql(f"CREATE PUBLICATION ledger FOR TABLE {', '.join(TABLES)}", name)
                subscribe(subscriber, publisher, name)
            return ledgers(subscriber)

        yield World(before, strike, keeps_flags=False, keeps_oids=False)


def subscribe(subscriber: Server, publisher: Server, name: str) -> None:
    """Copies a ledger into an empty one by logical replication, and ends that."""
    conninfo = f"host=127.0.0.1 port={publisher.port} user=postgres dbname={name}"
    subscriber.sql(f"CREATE SUBSCRIPTION {name} CONNECTION '{conninfo}' PUBLICATION ledger", name)
    deadline = time.monotonic() + PATIENCE
    while (
        subscriber.sql("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", name)
        != "0"
    ):
        assert time.monotonic() < deadline, "the subscriber is not ready"
        time.sleep(0.05)
    subscriber.sql(f"DROP SUBSCRIPTION {name}", name)
    # As docs/postgresql.md says.
    for flag in FLAGS:
        subscriber.sql(f"SELECT setval('{flag}', 1)", name)
    for table in subscriber.sql(WITH_IDENTITY, name).split():
        subscriber.sql(
            f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}", name
        )


WITH_IDENTITY: Final = """
    SELECT table_name FROM information_schema.columns
    WHERE table_schema = 'public' AND column_name = 'id' AND is_identity = 'YES'"""


@contextmanager
def copy_of_a_file(folder: Path) -> Iterator[World]:
    before: dict[str, Place] = {name: folder / f"{name}.db" for name in (*STOPS, QUIET)}

    def copy(name: str) -> Path:
        # As docs/operations.md says.
        to = folder / f"copy of {name}.db"
        with (
            closing(dbapi.connect(folder / f"{name}.db")) as source,
            closing(dbapi.connect(to)) as target,
        ):
            source.backup(target)
        return to

    yield World(before, lambda: {name: copy(name) for name in before})


STRIKES: Final = (
    crash,
    crash_after_a_checkpoint,
    failover,
    restore_on_another_server,
    restore_in_its_place,
    switch_to_a_subscriber,
    copy_of_a_file,
)


class Aftermath(NamedTuple):
    world: World
    places: Mapping[str, Place]
    ids: Mapping[str, Prepared]
    flags: Mapping[str, dict[str, int]]
    """By ledger, as they were before."""


async def prepare_all(places: Mapping[str, Place]) -> dict[str, Prepared]:
    async with ActionDB(places[QUIET]) as db:
        await db.create_proposal(proposal(status=ActionStatus.VALIDATED))
    return {name: await prepare(places[name], stop) for name, stop in STOPS.items()}


@pytest.fixture(scope="module", params=STRIKES, ids=lambda strike: strike.__name__)
def aftermath(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Aftermath]:
    """Ledgers that were stopped before something happened to them; each test has one of its own."""
    with ExitStack() as stack:
        world: World = stack.enter_context(request.param(tmp_path_factory.mktemp("ledgers")))
        ids = asyncio.run(prepare_all(world.before))
        on_server = {name: url for name, url in world.before.items() if isinstance(url, str)}
        before = {name: flags(url) for name, url in on_server.items()}
        yield Aftermath(world, world.strike(), ids, before)


@pytest.mark.parametrize("stop", STOPS)
async def test_a_stop_holds_until_it_is_resumed_and_limits_and_rules_hold_on(
    aftermath: Aftermath, stop: str
) -> None:
    place, ids = aftermath.places[stop], aftermath.ids[stop]
    before: dict[str, int] = {}
    if isinstance(place, str):
        before = flags(place)
        assert all(before[flag] != lowered for flag, lowered in down(place).items())
        if aftermath.world.keeps_flags:
            # They name the transaction that they named.
            assert before == aftermath.flags[stop]
    await check_stopped(place, ids, STOPS[stop])
    await check_resumed(place, ids)
    await check_limited(place, ids)
    await check_ruled(place)
    if isinstance(place, str):
        # Only halts take their flag down again.
        lowered = down(place)["action_halts_flag"]
        assert flags(place) == before | {"action_halts_flag": lowered}


async def test_a_ledger_that_was_not_stopped_goes_on(aftermath: Aftermath) -> None:
    place = aftermath.places[QUIET]
    if isinstance(place, str):
        if aftermath.world.keeps_flags:
            assert flags(place) == aftermath.flags[QUIET]
        # What is restored asks, as its tables are others.
        assert (flags(place) == down(place)) is aftermath.world.keeps_oids
    async with ActionDB(place) as db:
        assert await db.mode() is HaltMode.EXECUTE
        await db.create_proposal(proposal(status=ActionStatus.VALIDATED))
        assert len(await db.claim("worker", limit=10)) == 2


@pytest.mark.parametrize("flag", FLAGS)
async def test_planted_a_flag_that_is_down_is_caught(server_ledger: str, flag: str) -> None:
    ids = await prepare(server_ledger, {})
    lower = f"SELECT setval('{flag}', -('{FLAGS[flag]}'::regclass::oid::bigint))"
    if flag == "action_halts_flag":
        query(server_ledger, lower)
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            await check_stopped(server_ledger, ids, {})
        return
    async with ActionDB(server_ledger) as db:
        await db.resume(ids.halt, **WHO)
    query(server_ledger, lower)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await check_limited(server_ledger, ids)
        await check_ruled(server_ledger)
