"""What an error says, and what it was caused by, holds no value of the row that was refused."""

import logging
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from operator_core.actions import ActionError, ActionRecord, ActionStatus
from operator_core.db import ActionDB
from tests.conftest import ON_SERVER, RawSQL, proposal
from tests.engines import engine_on

S = ActionStatus

# Put together, so that a traceback that quotes the source does not hold it.
SECRET = "hun" + "ter2"

REFUSED = (("action_proposals", "INSERT"), ("action_proposals", "UPDATE"), ("action_records", "INSERT"), ("action_records", "UPDATE"))  # fmt: skip


async def refuse(raw: RawSQL, backend: str) -> None:
    """Triggers of another's that refuse whatever is written from now on."""
    if backend in ON_SERVER:
        await raw(
            "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION 'odd' USING ERRCODE = '23514'; END$$"
        )
    for number, (table, what) in enumerate(REFUSED):
        if backend in ON_SERVER:
            await raw(
                f"CREATE TRIGGER odd_{number} BEFORE {what} ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION odd()"
            )
        else:
            await raw(
                f"CREATE TRIGGER odd_{number} BEFORE {what} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'odd'); END"
            )


@pytest.fixture
def place(
    place: str | Path, backend: str, postgres_copy: Callable[[str | Path], str]
) -> str | Path:
    """A database of the test's own, which it leaves changed."""
    return postgres_copy(place) if backend in ON_SERVER else place


Verb = Callable[[ActionDB], Awaitable[object]]

VERBS: dict[str, Verb] = {
    "create_proposal": lambda db: db.create_proposal(
        proposal(parameters={"password": SECRET}, reason=SECRET)
    ),
    "create_proposal with a key": lambda db: db.create_proposal(
        proposal(parameters={"password": SECRET}), idempotency_key=SECRET
    ),
    "create_proposals": lambda db: db.create_proposals(
        proposal(parameters={"password": SECRET}, reason=SECRET) for _ in range(3)
    ),
    "update_proposal_status": lambda db: db.update_proposal_status(1, S.VALIDATED, reason=SECRET),
    "create_record": lambda db: db.create_record(ActionRecord(proposal_id=2, worker=SECRET)),
    "update_record": lambda db: db.update_record(1, False, SECRET, {"password": SECRET}),
    "complete": lambda db: db.complete(1, {"password": SECRET}),
    "fail": lambda db: db.fail(1, SECRET, {"password": SECRET}),
}

# A row that can't be changed costs these only itself: they answer, and the log says which it was.
ANSWERING: dict[str, Verb] = {
    "cancel_all_pending": lambda db: db.cancel_all_pending(reason=SECRET),
    "fail_many": lambda db: db.fail_many({1: SECRET}),
    "complete_many": lambda db: db.complete_many({1: {"password": SECRET}}),
}


async def prepare(db: ActionDB, raw: RawSQL, backend: str) -> None:
    await db.create_proposal(proposal())
    await db.create_proposal(proposal(status=S.VALIDATED))
    await db.claim("worker-1")
    await db.create_proposal(proposal(status=S.VALIDATED))
    await refuse(raw, backend)


async def check(call: Awaitable[Any]) -> None:
    with pytest.raises(ActionError, match="odd") as caught:
        await call
    error: BaseException | None = caught.value
    assert SECRET not in "".join(traceback.format_exception(error))
    while error is not None:
        assert SECRET not in f"{error!r} {vars(error)!r}"
        error = error.__cause__ or error.__context__


async def test_a_refused_write_says_nothing_of_what_was_written(
    db: ActionDB, raw: RawSQL, backend: str
) -> None:
    await prepare(db, raw, backend)
    for verb in VERBS.values():
        await check(verb(db))


@pytest.mark.parametrize("verb", ANSWERING)
async def test_nor_does_the_log(
    db: ActionDB, raw: RawSQL, backend: str, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    await prepare(db, raw, backend)
    with caplog.at_level(logging.DEBUG, "operator_core"), suppress(ActionError):
        await ANSWERING[verb](db)
    assert "odd" in caplog.text or verb != "cancel_all_pending"
    assert SECRET not in caplog.text


async def test_nor_inside_a_transaction(db: ActionDB, raw: RawSQL, backend: str) -> None:
    await prepare(db, raw, backend)
    for verb in VERBS.values():
        async with db.transaction() as tx:
            await check(verb(tx))  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["file", "postgresql", "psycopg"], indirect=True)
async def test_nor_in_a_session_of_somebodys(
    db: ActionDB, raw: RawSQL, backend: str, place: str | Path
) -> None:
    await prepare(db, raw, backend)
    engine = engine_on(place)
    try:
        for verb in VERBS.values():
            async with AsyncSession(engine) as session, session.begin(), ActionDB(session) as db:
                await check(verb(db))
    finally:
        await engine.dispose()
