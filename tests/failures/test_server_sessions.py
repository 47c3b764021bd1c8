"""Sessions that a server or its host ends: while nobody uses them, inside transactions, at every await."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from operator_core.actions import (
    ActionStatus,
    CommitOutcomeUnknown,
    InvalidTransition,
    StorageUnavailable,
)
from operator_core.db import ActionDB
from tests.databases import EMPTYING, connected, query
from tests.failures.harness import PATIENCE, proposal
from tests.failures.proxy import Proxy, proxied
from tests.failures.server_harness import check_whole

S = ActionStatus

KINDS = ("asyncpg", "psycopg", "asyncpg engine", "psycopg engine")

KILL = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid != pg_backend_pid() "
    f"AND application_name != '{EMPTYING}'"
)
OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND backend_type = 'client backend' AND pid != pg_backend_pid() "
    f"AND application_name != '{EMPTYING}'"
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def target(kind: str) -> AsyncIterator[Callable[[str], str | AsyncEngine]]:
    """Makes a target of the kind of a URL, with options of the session."""
    engines: list[AsyncEngine] = []

    def make(url: str) -> str | AsyncEngine:
        driver, _, engine = kind.partition(" ")
        url = f"postgresql+{driver}://" + url.partition("://")[2]
        if not engine:
            return url
        engines.append(create_async_engine(url))
        return engines[-1]

    yield make
    for each in engines:
        await each.dispose()


def await_ended(url: str) -> None:
    """Waits in this thread, so that the event loop hears nothing of it, until the server has ended all sessions."""
    deadline = time.monotonic() + PATIENCE
    with connected(url) as conn:
        while conn.execute(OTHERS).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.01)


async def wait_ended(url: str, *, busy: bool) -> None:
    """As `await_ended`; unless the loop is `busy` with it, it hears of it."""
    if busy:
        await_ended(url)
    else:
        await asyncio.to_thread(await_ended, url)


def kill(url: str) -> None:
    query(url, KILL)
    await_ended(url)


WRITES: dict[str, Callable[[ActionDB], object]] = {
    "create": lambda db: db.create_proposal(proposal()),
    "create with a ticket": lambda db: db.create_proposal(proposal(ticket_id=1)),
    "create once": lambda db: db.create_proposal(proposal(), idempotency_key="k"),
    "create many": lambda db: db.create_proposals([proposal()] * 3),
    "move": lambda db: db.update_proposal_status(1, S.VALIDATED),
    "claim": lambda db: db.claim("worker"),
    "get": lambda db: db.get_proposal(1),
    "list": lambda db: db.list_proposals(),
}

TICKET = (
    "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message) "
    "VALUES ('v', 'i', 't', 't', 'm')"
)


@pytest.mark.parametrize("name", WRITES)
async def test_a_session_that_ended_while_the_loop_was_busy_is_noticed_by_nobody(
    server_ledger: str, target: Callable[[str], str | AsyncEngine], name: str
) -> None:
    query(server_ledger, TICKET)
    async with ActionDB(target(server_ledger)) as db:
        await db.create_proposal(proposal())
        for _ in range(2):
            await db.get_proposal(1)
            kill(server_ledger)
            await WRITES[name](db)  # type: ignore[misc]
            if name == "move":
                return


async def test_nor_by_a_transaction(
    server_ledger: str, target: Callable[[str], str | AsyncEngine]
) -> None:
    async with ActionDB(target(server_ledger)) as db:
        for number in range(3):
            await db.create_proposal(proposal())
            kill(server_ledger)
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())
            assert len(await db.list_proposals()) == 2 * number + 2


@pytest.fixture
def impatient(server_ledger: str, postgres_copy: Callable[[str], str]) -> Callable[[str], str]:
    """A ledger in a database whose sessions have some timeout."""

    def make(setting: str) -> str:
        url = postgres_copy(server_ledger)
        query(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET {setting}")
        return url

    return make


async def test_idle_session_timeout_is_noticed_by_nobody(
    impatient: Callable[[str], str], target: Callable[[str], str | AsyncEngine]
) -> None:
    url = impatient("idle_session_timeout = '300ms'")
    async with ActionDB(target(url)) as db:
        for busy in (True, False):
            await db.create_proposal(proposal())
            await wait_ended(url, busy=busy)
            await db.create_proposal(proposal())
            await wait_ended(url, busy=busy)
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())
        assert len(await db.list_proposals()) == 6


@pytest.mark.parametrize("busy", [True, False])
async def test_a_transaction_that_the_server_gave_up_was_not_kept_and_says_so(
    impatient: Callable[[str], str], target: Callable[[str], str | AsyncEngine], busy: bool
) -> None:
    url = impatient("idle_in_transaction_session_timeout = '300ms'")
    async with ActionDB(target(url)) as db:
        for say_more in (True, False):
            with pytest.raises(StorageUnavailable, match="nothing was kept"):
                async with db.transaction() as tx:
                    await tx.create_proposal(proposal())
                    await wait_ended(url, busy=busy)
                    if say_more:
                        await tx.create_proposal(proposal())
        assert await db.list_proposals() == []


@pytest.mark.parametrize("busy", [True, False])
async def test_so_does_one_whose_session_was_killed(
    server_ledger: str, target: Callable[[str], str | AsyncEngine], busy: bool
) -> None:
    async with ActionDB(target(server_ledger)) as db:
        with pytest.raises(StorageUnavailable, match="nothing was kept"):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())
                query(server_ledger, KILL)
                await wait_ended(server_ledger, busy=busy)
        # Why a block has ended is what its caller sees, not that its ROLLBACK reached nobody.
        with pytest.raises(ZeroDivisionError):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())
                query(server_ledger, KILL)
                await wait_ended(server_ledger, busy=busy)
                raise ZeroDivisionError
        assert await db.list_proposals() == []


async def test_a_notice_from_the_server_costs_a_transaction_nothing(
    server_ledger: str, target: Callable[[str], str | AsyncEngine]
) -> None:
    channel = "operator_core_test"
    async with ActionDB(target(server_ledger)) as db, db.transaction() as tx:
        await tx.create_proposal(proposal())
        await tx._units.read(lambda conn: conn.exec_driver_sql(f"LISTEN {channel}").close())  # type: ignore[attr-defined]
    async with ActionDB(target(server_ledger)) as db:
        async with db.transaction() as tx:
            await tx.create_proposal(proposal())
            query(server_ledger, f"NOTIFY {channel}")
            await tx.create_proposal(proposal())
        assert len(await db.list_proposals()) == 3


# ------ cut off at each message


async def test_what_the_server_never_got_is_said_again_or_unknown(
    server_ledger: str, target: Callable[[str], str | AsyncEngine]
) -> None:
    # A write that is its own COMMIT nobody can tell if the server has got it.
    async with proxied(server_ledger) as proxy, ActionDB(target(proxy.url)) as db:
        for _ in range(6):
            await db.create_proposal(proposal())
        proxy.cut_before = lambda said: b"lost" in said and proxy.cuts < 1
        with pytest.raises(CommitOutcomeUnknown):
            await db.create_proposal(proposal(action_name="lost"))
        assert not await db.list_proposals(action_name="lost")
        proxy.cut_before = lambda said: b"COMMIT" in said[:12] and proxy.cuts < 2
        with pytest.raises(CommitOutcomeUnknown):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal(action_name="lost"))
        proxy.cut_before = lambda said: b"BEGIN" in said and proxy.cuts < 3
        with pytest.raises(StorageUnavailable):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal(action_name="lost"))
        assert proxy.cuts == 3
        assert len(await db.list_proposals()) == 6


@pytest.mark.parametrize("engine", [False, True])
async def test_a_statement_lost_while_it_was_prepared_is_made_again(
    server_ledger: str, engine: bool
) -> None:
    # asyncpg has it prepared in a round of its own, in which nothing is done yet.
    async with proxied(server_ledger) as proxy:
        url = proxy.url.replace("://", "+asyncpg://", 1)
        made = create_async_engine(url)
        async with ActionDB(made if engine else url) as db:
            proxy.cut_prepared = lambda said: (
                b"INSERT INTO action_proposals" in said and proxy.cuts < 2
            )
            await db.create_proposal(proposal())
            proxy.cut_prepared = lambda said: b"UPDATE action_proposals" in said and proxy.cuts < 3
            await db.update_proposal_status(1, S.VALIDATED)
            assert proxy.cuts == 3
            assert len(await db.list_proposals()) == 1
        await made.dispose()


@pytest.mark.parametrize("lost", ["look", "commit"])
async def test_a_look_that_is_lost_after_the_write_costs_nothing_and_its_commit_is_unknown(
    server_ledger: str, target: Callable[[str], str | AsyncEngine], lost: str
) -> None:
    # What depends on others is written, and then looked at.
    async with proxied(server_ledger) as proxy, ActionDB(target(proxy.url)) as db:
        first = await db.create_proposal(proposal())
        what = b"SELECT action_proposals" if lost == "look" else b"COMMIT"
        begins = b"READ COMMITTED"
        proxy.cut_after = lambda said: what in said and begins not in said and proxy.cuts < 1
        with nullcontext() if lost == "look" else pytest.raises(CommitOutcomeUnknown):
            await db.create_proposal(proposal(depends_on=[first.id]))
        assert proxy.cuts == 1
        assert len(await db.list_proposals()) == 2


async def transact(db: ActionDB) -> None:
    async with db.transaction() as tx:
        await tx.create_proposal(proposal())
        await tx.create_proposal(proposal())


async def reopen(db: ActionDB) -> None:
    await db.close()
    await db.open()


CALLS: dict[str, Callable[[ActionDB], object]] = {
    **WRITES,
    "transaction": transact,
    "open": reopen,
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_host_that_vanishes_at_any_message_gives_an_answer_of_ours(
    server_ledger: str, target: Callable[[str], str | AsyncEngine], name: str
) -> None:
    query(server_ledger, TICKET)
    async with proxied(server_ledger) as proxy, ActionDB(target(proxy.url), busy_timeout=0) as db:
        for _ in range(6):
            await db.create_proposal(proposal(status=S.VALIDATED))
        for message in range(1, 4):
            await db.open()
            await vanish(proxy, db, name, message)
    check_whole(server_ledger)


async def vanish(proxy: Proxy, db: ActionDB, name: str, message: int) -> None:
    """The proxy hears nothing more from the message on; then the connection breaks."""
    start, reached = proxy.trips, asyncio.Event()

    def cut(said: bytes) -> bool:
        if proxy.trips - start < message:
            return False
        reached.set()
        proxy.hears.clear()
        return False

    proxy.cut_before = cut
    call = asyncio.ensure_future(CALLS[name](db))  # type: ignore[arg-type]
    await asyncio.wait([call, asyncio.ensure_future(reached.wait())], return_when="FIRST_COMPLETED")
    proxy.cut_before = lambda said: False
    if not call.done():
        _, waiting = await asyncio.wait([call], timeout=0.05)
        assert waiting, "it was answered by nobody"
        await proxy.close()
    proxy.hears.set()
    async with asyncio.timeout(PATIENCE):
        (answer,) = await asyncio.gather(call, return_exceptions=True)
    if isinstance(answer, BaseException):
        # A move that was made although its answer was lost can't be made again.
        assert isinstance(answer, CommitOutcomeUnknown | StorageUnavailable | InvalidTransition)


async def test_a_connection_is_told_soon_that_a_host_has_vanished(server_ledger: str) -> None:
    async with ActionDB(server_ledger) as db:
        raw = await db._units.read(lambda conn: conn.connection.driver_connection)
        connected_ = raw._transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert connected_.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connected_.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert connected_.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60000
    asked = server_ledger + "?keepalives_idle=7&tcp_user_timeout=5000&keepalives_count=2"
    async with ActionDB(asked) as db:
        raw = await db._units.read(lambda conn: conn.connection.driver_connection)
        connected_ = raw._transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert connected_.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
        assert connected_.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 2
        assert connected_.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000
    async with ActionDB(server_ledger + "?keepalives=0") as db:
        raw = await db._units.read(lambda conn: conn.connection.driver_connection)
        connected_ = raw._transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert connected_.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


# ------ joined


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("busy", [True, False])
async def test_a_session_of_a_service_that_is_lost_comes_out_as_ours(
    server_ledger: str, driver: str, busy: bool
) -> None:
    engine = create_async_engine(f"postgresql+{driver}://" + server_ledger.partition("://")[2])
    for transaction in (False, True):
        async with AsyncSession(engine) as session, ActionDB(session) as db:
            await db.create_proposal(proposal())
            query(server_ledger, KILL)
            await wait_ended(server_ledger, busy=busy)
            with pytest.raises(StorageUnavailable):
                if transaction:
                    async with db.transaction() as tx:
                        await tx.create_proposal(proposal())
                else:
                    await db.create_proposal(proposal())
            with pytest.raises(StorageUnavailable):
                await db.create_proposal(proposal())
            await session.rollback()
            await db.create_proposal(proposal())
    await engine.dispose()
    assert query(server_ledger, "SELECT count(*) FROM action_proposals") == [(0,)]
