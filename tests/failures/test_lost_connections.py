"""Connections to a server that are lost at the worst moment, and transactions that lose to others."""

import asyncio
import traceback
from collections.abc import Callable

import pytest

from operator_core.actions import (
    ActionRecord,
    ActionStatus,
    Busy,
    CommitOutcomeUnknown,
    ConstraintViolation,
    NotOpen,
    StorageUnavailable,
)
from operator_core.db import ActionDB
from tests.databases import Databases, query
from tests.failures.harness import proposal
from tests.failures.proxy import proxied
from tests.failures.server_harness import await_no_session

S = ActionStatus

DRIVERS = ("asyncpg", "psycopg")


@pytest.fixture(params=DRIVERS)
def url(request: pytest.FixtureRequest, server_ledger: str) -> str:
    """An empty ledger on a server, by each driver."""
    return server_ledger.replace("://", f"+{request.param}://")


@pytest.fixture
def sabotaged(postgres: Databases, server_ledger: str) -> Callable[[str], str]:
    """A ledger on which creating a proposal first runs some PL/pgSQL, with `n` the attempt's number."""

    def make(code: str) -> str:
        made = postgres.new(template=server_ledger.rpartition("/")[2])
        query(made, "CREATE SEQUENCE tries")
        query(
            made,
            "CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$ "
            f"DECLARE n bigint := nextval('tries'); BEGIN {code} RETURN NEW; END $$",
        )
        query(
            made,
            "CREATE TRIGGER sabotage BEFORE INSERT ON action_proposals "
            "FOR EACH ROW EXECUTE FUNCTION sabotage()",
        )
        return made

    return make


def raising(state: str, until: int) -> str:
    return f"IF n <= {until} THEN RAISE EXCEPTION 'not now' USING ERRCODE = '{state}'; END IF;"


DYING = "IF n = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;"


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_unit_that_loses_to_another_transaction_is_run_again(
    sabotaged: Callable[[str], str], state: str
) -> None:
    async with ActionDB(sabotaged(raising(state, until=3))) as db:
        created = await db.create_proposal(proposal())
        # Sequences do not go back: the id tells of the attempts that were undone.
        assert created.id == 4
        assert len(await db.list_proposals()) == len(await db.history()) == 1


async def test_one_that_always_loses_is_busy_after_a_stated_number_of_attempts(
    sabotaged: Callable[[str], str],
) -> None:
    url = sabotaged(raising("40001", until=1000))
    async with ActionDB(url) as db:
        with pytest.raises(Busy, match="other transactions"):
            await db.create_proposal(proposal())
    assert query(url, "SELECT last_value FROM tries") == [(9,)]


async def test_a_real_deadlock_reaches_no_caller(url: str) -> None:
    async with ActionDB(url) as db:
        ids = [each.id for each in await db.create_proposals([proposal(), proposal()])]

        # Each unit takes both rows, in the other's order, with a pause between.
        def crossing(order: list[int | None]):  # type: ignore[no-untyped-def]
            def unit(conn):  # type: ignore[no-untyped-def]
                for id in order:
                    conn.exec_driver_sql(
                        "UPDATE action_proposals SET priority = priority "
                        f"WHERE id = {id} AND pg_sleep(0.1) IS NOT NULL"
                    )

            return unit

        units = [crossing(ids), crossing(ids[::-1])]
        await asyncio.gather(*(db._units.write(unit) for unit in units))


async def test_connections_that_died_while_nobody_used_them_are_noticed_by_nobody(
    url: str, server_ledger: str
) -> None:
    async with ActionDB(url, pool_size=5) as db:
        await asyncio.gather(*(db.count_proposals() for _ in range(20)))
        for _ in range(3):
            killed = query(
                server_ledger,
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid != pg_backend_pid() "
                "AND application_name = 'operator-core'",
            )
            assert killed[0][0] >= 1
            await asyncio.to_thread(await_no_session, server_ledger)
            await db.create_proposal(proposal())
            await asyncio.gather(*(db.count_proposals() for _ in range(20)))
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())
        assert len(await db.list_proposals()) == 6


async def test_a_connection_lost_before_the_commit_costs_nothing(
    sabotaged: Callable[[str], str],
) -> None:
    url = sabotaged(DYING)
    async with ActionDB(url) as db:
        # More than one statement takes, so a transaction: its COMMIT was never sent.
        many = await db.create_proposals(proposal() for _ in range(10_001))
    assert query(url, "SELECT count(*) FROM action_proposals") == [(len(many),)]


async def test_a_connection_lost_with_a_statement_on_its_way_is_an_unknown_outcome(
    sabotaged: Callable[[str], str],
) -> None:
    async with ActionDB(sabotaged(DYING)) as db:
        with pytest.raises(CommitOutcomeUnknown):
            await db.create_proposal(proposal(), idempotency_key="once")
        again = await db.create_proposal(proposal(), idempotency_key="once")
        assert not again.replayed
        assert len(await db.list_proposals()) == 1


async def test_an_answer_lost_after_the_commit_is_an_unknown_outcome_and_a_kept_row(
    url: str,
) -> None:
    async with proxied(url) as proxy, ActionDB(proxy.url) as db:
        for _ in range(6):  # until psycopg has prepared it, too
            await db.create_proposal(proposal())
        proxy.cut_after = lambda said: b"lost" in said
        lost = proposal(action_name="lost")
        with pytest.raises(CommitOutcomeUnknown, match="whole or absent"):
            await db.create_proposal(lost, idempotency_key="once")
        proxy.cut_after = lambda said: False
        assert [each.action_name for each in await db.list_proposals(limit=1)] == ["lost"]
        # Asked again with the same key, it is the same proposal.
        again = await db.create_proposal(lost, idempotency_key="once")
        assert (again.id, again.replayed) == (7, True)
        assert len(await db.history()) == 7


async def test_so_is_a_transaction_whose_commit_was_not_answered(url: str) -> None:
    async with proxied(url) as proxy, ActionDB(proxy.url) as db:
        with pytest.raises(CommitOutcomeUnknown):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())
                proxy.cut_after = lambda said: b"COMMIT" in said
        assert proxy.cuts == 1
        proxy.cut_after = lambda said: False
        assert len(await db.list_proposals()) == 1


async def test_one_cut_before_is_not_kept_and_its_object_is_of_no_use(url: str) -> None:
    async with proxied(url) as proxy, ActionDB(proxy.url) as db:
        with pytest.raises((StorageUnavailable, NotOpen)):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())
                proxy.cut_after = lambda said: b"second" in said
                with pytest.raises(StorageUnavailable):
                    await tx.create_proposal(proposal(action_name="second"))
                await tx.create_proposal(proposal(action_name="third"))
        proxy.cut_after = lambda said: False
        assert await db.list_proposals() == []


async def test_a_read_whose_answer_was_lost_is_made_again(url: str) -> None:
    async with proxied(url) as proxy, ActionDB(proxy.url) as db:
        await db.create_proposal(proposal())
        proxy.cut_after = lambda said: proxy.cuts < 2
        assert len(await db.list_proposals()) == 1
        assert proxy.cuts == 2


async def test_every_call_that_is_one_statement_is_one_round_trip(url: str) -> None:
    async with proxied(url) as proxy, ActionDB(proxy.url) as db:

        async def life() -> None:
            first, *_ = await db.create_proposals([proposal(), proposal()])
            await db.create_proposal(proposal())
            await db.update_proposal_status(first.id, S.VALIDATED)
            record = await db.create_record(ActionRecord(proposal_id=first.id))
            await db.update_record(record.id, True)
            await db.get_proposal(first.id)
            await db.list_proposals(S.PROPOSED, limit=5)
            await db.count_proposals()
            await db.get_records_for_proposal(first.id)
            await db.history(first.id)
            await db.cancel_all_pending()

        calls = 11
        for _ in range(7):  # the first times they are prepared
            await life()
        before = proxy.trips
        await life()
        assert proxy.trips - before == calls


async def test_a_ledger_in_nobodys_reach_says_so_and_waits_no_longer_than_it_was_told() -> None:
    loop = asyncio.get_running_loop()
    for address in ("127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2"):
        db = ActionDB(f"postgresql://nobody@{address}/none", busy_timeout=0)
        began = loop.time()
        with pytest.raises(StorageUnavailable, match=r"can't be reached|failed"):
            await db.open()
        assert loop.time() - began < 5
        with pytest.raises(NotOpen):
            await db.create_proposal(proposal())


async def test_no_message_and_no_cause_holds_the_values_of_a_row(
    url: str, postgres_copy: Callable[[str], str]
) -> None:
    secret = "hunter2"
    url = postgres_copy(url)
    query(url, "ALTER TABLE action_proposals ADD CONSTRAINT odd CHECK (action_name != 'odd')")
    async with ActionDB(url) as db:
        with pytest.raises(ConstraintViolation, match='"odd"') as caught:
            await db.create_proposal(
                proposal(action_name="odd", parameters={"password": secret}, reason=secret)
            )
    told = "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is not None
    assert secret not in told
    assert secret not in repr(vars(caught.value.__cause__))


async def test_a_plain_create_whose_answer_is_lost_is_not_made_again(
    url: str, server_ledger: str
) -> None:
    # With neither a key nor a ticket, and with one: nothing but the outcome's being unknown stops a second one.
    query(
        server_ledger,
        "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message) "
        "VALUES ('v', 'i', 't', 't', 'm')",
    )
    async with proxied(url) as proxy, ActionDB(proxy.url) as db:
        for ticket in (None, 1):
            for _ in range(6):
                await db.create_proposal(proposal(ticket_id=ticket))
            cuts = proxy.cuts
            proxy.cut_after = lambda said, cuts=cuts: b"lost" in said and proxy.cuts == cuts
            with pytest.raises(CommitOutcomeUnknown):
                await db.create_proposal(proposal(action_name="lost", ticket_id=ticket))
            assert proxy.cuts == cuts + 1
    kept = "SELECT count(*) FROM action_proposals WHERE action_name = 'lost'"
    assert query(server_ledger, kept) == [(2,)]


async def test_a_move_whose_answer_is_lost_is_not_made_again(url: str, server_ledger: str) -> None:
    async with proxied(url) as proxy, ActionDB(proxy.url) as db:
        ids = [(await db.create_proposal(proposal())).id for _ in range(8)]
        for id_ in ids[:-1]:
            await db.update_proposal_status(id_, S.VALIDATED)
        proxy.cut_after = lambda said: b"lost" in said and proxy.cuts < 1
        with pytest.raises(CommitOutcomeUnknown):
            await db.update_proposal_status(ids[-1], S.VALIDATED, reason="lost")
        assert proxy.cuts == 1
    reasons = "SELECT count(*) FROM action_events WHERE reason = 'lost'"
    assert query(server_ledger, reasons) == [(1,)]


async def test_creates_that_shared_a_lost_answer_are_not_made_again(
    url: str, server_ledger: str
) -> None:
    async with proxied(url) as proxy, ActionDB(proxy.url) as db:
        for _ in range(6):
            await db.create_proposal(proposal())
        proxy.cut_after = lambda said: b"lost" in said and proxy.cuts < 1
        first = db.create_proposal(proposal())
        together = [db.create_proposal(proposal(action_name="lost")) for _ in range(5)]
        _, *answers = await asyncio.gather(first, *together, return_exceptions=True)
        assert proxy.cuts == 1
        assert [type(each) for each in answers] == [CommitOutcomeUnknown] * 5
        # The lane goes on for others.
        await asyncio.gather(*(db.create_proposal(proposal()) for _ in range(20)))
    kept = "SELECT count(*) FROM action_proposals WHERE action_name = 'lost'"
    assert query(server_ledger, kept) == [(5,)]
