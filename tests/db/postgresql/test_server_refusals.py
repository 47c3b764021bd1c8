"""What a server refuses: once, with the right words; and what goes past a row that somebody holds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import create_async_engine

from operator_core.actions import (
    ActionError,
    ActionStatus,
    Busy,
    ConstraintViolation,
    InvalidTransition,
    NotFound,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from tests.conftest import proposal
from tests.databases import connected, query
from tests.failures.server_harness import await_waiting

pytestmark = pytest.mark.each_driver

S = ActionStatus

KINDS = ("asyncpg", "psycopg", "asyncpg engine", "psycopg engine")

TICKET = (
    "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message) "
    "VALUES ('v', 'i', 't', 't', 'm')"
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def target(kind: str) -> AsyncIterator[Callable[[str], Any]]:
    """Makes a URL or an engine of a URL, by each driver."""
    driver, _, engine = kind.partition(" ")
    made: list[Any] = []

    def make(url: str) -> Any:
        url = f"postgresql+{driver}://" + url.partition("://")[2]
        if not engine:
            return url
        url, _, options = url.partition("?options=")
        options = options.replace("%3D", "=").replace("%20", " ")
        name = "server_settings" if driver == "asyncpg" else "options"
        settings: Any = {"options": options} if driver == "asyncpg" else options
        made.append(create_async_engine(url, connect_args={name: settings} if options else {}))
        return made[-1]

    yield make
    for each in made:
        await each.dispose()


@pytest.fixture
def counted(
    server_ledger: str, postgres_copy: Callable[[str | Path], str]
) -> Callable[[str, str], str]:
    """A ledger on which a change of proposals (of the ones named odd) counts, and then does something."""

    def make(when: str, code: str) -> str:
        url = postgres_copy(server_ledger)
        query(url, "CREATE SEQUENCE tries")
        query(
            url,
            "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"PERFORM nextval('public.tries'); {code} RETURN NEW; END $$",
        )
        query(
            url,
            f"CREATE TRIGGER a_odd {when} ON action_proposals FOR EACH ROW "
            "WHEN (NEW.action_name = 'odd') EXECUTE FUNCTION odd()",
        )
        return url

    return make


REFUSALS: dict[str, tuple[str, type[ActionError]]] = {
    "55P03": ("lock", Busy),
    "57014": ("statement_timeout", Busy),
    "42501": ("db grants", ActionError),
    "53100": ("no space", ActionError),
    "54000": ("no space", ActionError),
    "22003": ("can't be stored", ActionError),
    "P0001": ("not now", ActionError),
}


@pytest.mark.parametrize("state", [*REFUSALS, "23514"])
async def test_what_is_refused_is_tried_once(
    counted: Callable[[str, str], str], target: Callable[[str], Any], state: str
) -> None:
    words, error = REFUSALS.get(state, ("not now", ConstraintViolation))
    url = counted("BEFORE INSERT", f"RAISE EXCEPTION 'not now' USING ERRCODE = '{state}';")
    async with ActionDB(target(url)) as db:
        await db.create_proposal(proposal())
        with pytest.raises(error, match=words):
            await db.create_proposal(proposal("odd"))
        # The one that was refused is undone, but a sequence does not go back.
        assert query(url, "SELECT last_value, is_called FROM tries") == [(1, True)]
        await db.create_proposal(proposal())
    assert query(url, "SELECT count(*) FROM action_proposals") == [(2,)]


@pytest.mark.parametrize("state", REFUSALS)
async def test_so_is_a_move(
    counted: Callable[[str, str], str], target: Callable[[str], Any], state: str
) -> None:
    words, error = REFUSALS[state]
    url = counted("BEFORE UPDATE", f"RAISE EXCEPTION 'not now' USING ERRCODE = '{state}';")
    async with ActionDB(target(url)) as db:
        made = await db.create_proposal(proposal("odd"))
        with pytest.raises(error, match=words):
            await db.update_proposal_status(made.id, S.VALIDATED)
        assert query(url, "SELECT last_value, is_called FROM tries") == [(1, True)]
        # Where the row tells why, it is looked at.
        with pytest.raises(InvalidTransition):
            await db.update_proposal_status(made.id, S.COMPLETED)
        with pytest.raises(NotFound):
            await db.update_proposal_status(4711, S.VALIDATED)


async def test_an_unknown_ticket_is_told_from_the_first_refusal(
    counted: Callable[[str, str], str], target: Callable[[str], Any]
) -> None:
    url = counted("BEFORE INSERT", "")
    async with ActionDB(target(url)) as db:
        await db.create_proposal(proposal())
        with pytest.raises(NotFound, match="ticket with id 4711"):
            await db.create_proposal(proposal("odd", ticket_id=4711))
        assert query(url, "SELECT last_value FROM tries") == [(1,)]


@contextmanager
def locked(url: str, sql: str) -> Any:
    with connected(url) as other, other.transaction():
        other.execute(sql)  # type: ignore[arg-type]
        yield


async def test_busy_names_the_limit_that_is_in_force(
    server_ledger: str, target: Callable[[str], Any]
) -> None:
    query(server_ledger, TICKET)
    url = f"{server_ledger}?options=-clock_timeout%3D300ms"
    async with ActionDB(target(url), busy_timeout=7) as db:
        made = await db.create_proposal(proposal())
        with locked(server_ledger, "SELECT 1 FROM action_proposals FOR UPDATE"):
            with pytest.raises(Busy, match=r"for 0\.3 s") as caught:
                await db.update_proposal_status(made.id, S.VALIDATED)
            assert caught.value.timeout == 0.3
            async with db.transaction() as tx:
                with pytest.raises(Busy) as caught:
                    await tx.update_proposal_status(made.id, S.VALIDATED)
            assert caught.value.timeout == 0.3
        with locked(server_ledger, "SELECT 1 FROM tickets FOR UPDATE"):
            with pytest.raises(Busy) as caught:
                await db.create_proposal(proposal(ticket_id=1))
            assert caught.value.timeout == 0.3
    url = f"{server_ledger}?options=-cstatement_timeout%3D1500ms"
    async with ActionDB(target(url), busy_timeout=7) as db:
        with locked(server_ledger, "SELECT 1 FROM action_proposals FOR UPDATE"):
            with pytest.raises(Busy, match=r"statement_timeout \(1\.5 s\)") as caught:
                await db.update_proposal_status(made.id, S.VALIDATED)
            assert caught.value.timeout is None


async def test_a_lock_is_waited_for_once(server_ledger: str, target: Callable[[str], Any]) -> None:
    # A second wait would take until 4 s.
    url = f"{server_ledger}?options=-clock_timeout%3D2s"
    async with ActionDB(target(url)) as db:
        made = await db.create_proposal(proposal())
        await db.get_proposal(made.id)
        began = asyncio.get_running_loop().time()
        held = locked(server_ledger, "SELECT 1 FROM action_proposals FOR UPDATE")
        with held, pytest.raises(Busy):
            await db.update_proposal_status(made.id, S.VALIDATED)
        assert asyncio.get_running_loop().time() - began < 3.5


async def test_a_proposal_with_a_ticket_goes_to_the_driver_directly(
    server_ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query(server_ledger, TICKET)
    # SQLAlchemy does not forget that somebody once listened to all engines.
    monkeypatch.setattr(Engine, "_has_events", False)
    async with ActionDB(server_ledger) as db:
        await db.create_proposal(proposal())
        monkeypatch.setattr(Connection, "execute", lambda *_: pytest.fail("through SQLAlchemy"))
        made = await db.create_proposal(proposal(ticket_id=1))
        with pytest.raises(NotFound):
            await db.create_proposal(proposal(ticket_id=4711))
    assert made.ticket_id == 1


async def test_a_claim_goes_past_what_another_transaction_holds(
    server_ledger: str, target: Callable[[str], Any]
) -> None:
    url = f"{server_ledger}?options=-clock_timeout%3D10s"
    async with ActionDB(target(url)) as db, ActionDB(server_ledger) as other:
        await db.create_proposals([proposal(status=S.VALIDATED)] * 3)
        async with other.transaction() as tx:
            held = await tx.claim("worker-1", limit=2)
            # Waiting for a row would be Busy.
            taken = await db.claim("worker-2", limit=3)
        ids = [each.proposal.id for each in taken]
        assert len(ids) == 1
        assert not set(ids) & {each.proposal.id for each in held}


async def test_a_unit_that_fails_in_a_transaction_leaves_nothing_and_ends_nothing(
    server_ledger: str, target: Callable[[str], Any]
) -> None:
    async with ActionDB(target(server_ledger)) as db:
        async with db.transaction() as tx:
            await tx.create_proposal(proposal("kept"))
            for _ in range(2):
                with pytest.raises(NotFound):
                    await tx.create_workflow(
                        WorkflowProposal(name="n"), [proposal(), proposal(depends_on=[99])]
                    )
                with pytest.raises(NotFound):
                    await tx.create_proposal(proposal(ticket_id=4711))
            await tx.create_proposal(proposal("kept"))
        assert [each.action_name for each in await db.list_proposals()] == ["kept", "kept"]
    assert query(server_ledger, "SELECT count(*) FROM workflows") == [(0,)]


async def test_an_unclosed_ledger_warns(server_ledger: str) -> None:
    db = ActionDB(server_ledger)
    await db.open()
    runner = db._database
    with pytest.warns(ResourceWarning, match="unclosed ledger"):
        runner.__del__()  # type: ignore[attr-defined]
    await db.close()


@pytest.mark.parametrize("key", [None, "once"])
@pytest.mark.parametrize("driver", ["", "+psycopg"])
async def test_a_refusal_never_comes_after_the_row_was_written(
    server_ledger: str, driver: str, key: str | None
) -> None:
    """What depends on others is looked at once more when it is written: by then a deploy may hold the table."""
    url = server_ledger.replace("://", f"{driver}://", 1) + "?options=-clock_timeout%3D3s"
    async with ActionDB(url) as db:
        needed = await db.create_proposal(proposal())
        with connected(server_ledger) as holder, connected(server_ledger) as deploy:
            holder.execute("BEGIN")
            holder.execute("SELECT 1 FROM action_proposals WHERE id = %s FOR UPDATE", (needed.id,))
            asked = asyncio.create_task(
                db.create_proposal(
                    proposal(depends_on=(needed.id,)),
                    **({} if key is None else {"idempotency_key": key}),
                )
            )
            await asyncio.to_thread(await_waiting, server_ledger)
            deploy.execute("BEGIN")
            locked = asyncio.create_task(
                asyncio.to_thread(
                    deploy.execute, "LOCK TABLE action_proposals IN ACCESS EXCLUSIVE MODE"
                )
            )
            waiting = (
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
            )
            while query(server_ledger, waiting) != [(1,)]:
                await asyncio.sleep(0.005)
            holder.execute("COMMIT")
            outcome = (await asyncio.gather(asked, return_exceptions=True))[0]
            await locked
            deploy.execute("COMMIT")
        written = len(await db.list_proposals()) - 1
    assert written == (0 if isinstance(outcome, Busy) else 1), outcome
