"""Errors, their causes and log lines hold no values of rows, also where a service's engine shows them."""

import logging
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from operator_core.actions.errors import ActionError
from operator_core.actions.types import ActionRecord
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.engines import engine_on
from tests.failures.harness import proposal

SECRET = "hun" + "ter2"
KINDS = ("file", "engine", "session", "transaction", "transaction on engine")


@pytest.fixture(params=KINDS)
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Any, Path]]:
    """The ledger's verbs on each way of running units, and its file; the engine shows parameters."""
    path = tmp_path / "ledger.db"
    async with ActionDB(path):
        pass
    engine = engine_on(path, hide_parameters=False)
    if request.param == "file":
        async with ActionDB(path) as db:
            yield db, path
    elif request.param == "engine":
        async with ActionDB(engine) as db:
            yield db, path
    elif request.param == "session":
        async with AsyncSession(engine) as session, ActionDB(session) as db:
            yield db, path
    else:
        target = path if request.param == "transaction" else engine
        async with ActionDB(target) as db, db.transaction() as tx:
            yield tx, path
    await engine.dispose()


def prepare(path: Path, script: str) -> None:
    with closing(dbapi.connect(path)) as connection:
        connection.executescript(script)


def odd_trigger(body: str) -> str:
    return f"CREATE TRIGGER odd BEFORE INSERT ON action_proposals BEGIN {body}; END"


async def create(db: Any) -> None:
    await db.create_proposal(
        proposal(action_name="odd", parameters={"password": SECRET}, reason=SECRET)
    )


async def create_record(db: Any) -> None:
    await db.create_record(
        ActionRecord(proposal_id=99, success=False, error_message=SECRET, completed_at=None)
    )


CASES: dict[str, tuple[str, Callable[[Any], Awaitable[object]]]] = {
    "a trigger refuses": (odd_trigger("SELECT RAISE(ABORT, 'odd')"), create),
    "a trigger rolls back": (odd_trigger("SELECT RAISE(FAIL, 'odd')"), create),
    "a trigger's function fails": (odd_trigger("SELECT json(NEW.reason || '{')"), create),
    "a table is missing": ("DROP TABLE action_events", create),
    "a unique index": (
        "CREATE UNIQUE INDEX odd ON action_proposals (reason);"
        "INSERT INTO action_proposals (action_name, reason, parameters, proposed_at)"
        f" VALUES ('a', '{SECRET}', '{{}}', '2026-01-01 00:00:00.000000')",
        create,
    ),
    "an unknown ticket": (
        "",
        lambda db: db.create_proposal(proposal(ticket_id=99, reason=SECRET)),
    ),
    "an unknown proposal": ("", create_record),
}


@pytest.mark.parametrize("case", CASES)
async def test_an_error_and_its_causes_hold_no_values(
    case: str, ledger: tuple[Any, Path], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG, "operator_core")
    db, path = ledger
    script, call = CASES[case]
    if script and (type(db) is not ActionDB or isinstance(db, str)):
        # Inside a transaction the file is locked; the same can be said on its own connection.
        def run(conn: Any) -> None:
            for statement in statements(script):
                conn.exec_driver_sql(statement)

        await db._units.write(run)
    elif script:
        prepare(path, script)
    with pytest.raises(ActionError) as caught:
        await call(db)
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in told
    links: list[BaseException | None] = [caught.value]
    while links:
        link = links.pop()
        if link is not None:
            assert SECRET not in f"{link} {link!r} {link.args} {getattr(link, 'params', '')}"
            links += [link.__cause__, link.__context__]
    assert SECRET not in caplog.text


def statements(script: str) -> list[str]:
    found, statement = [], ""
    for part in script.split(";"):
        statement += part
        if dbapi.complete_statement(statement + ";"):
            found.append(statement + ";")
            statement = ""
        else:
            statement += ";"
    return [each for each in found if each.strip(" ;")]


async def test_text_that_is_none_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())

    def look(conn: Any) -> object:
        return conn.exec_driver_sql(f"SELECT CAST('{SECRET}' || x'ff' AS TEXT)").scalar()

    async with ActionDB(path) as db:
        with pytest.raises(ActionError) as caught:
            await db._units.write(look)
    told = "".join(traceback.format_exception(caught.value.__cause__ or caught.value))
    assert "Could not decode" in told
    assert f"text '{SECRET}" not in told


async def test_planted_the_engines_own_error_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path):
        pass
    prepare(path, odd_trigger("SELECT RAISE(ABORT, 'odd')"))
    engine = engine_on(path)
    with pytest.raises(Exception, match=SECRET):
        async with engine.begin() as conn:
            await conn.execute(
                text("INSERT INTO action_proposals (action_name, reason) VALUES ('a', :reason)"),
                {"reason": SECRET},
            )
    await engine.dispose()


LOGGED: Final = """
import asyncio, logging, sys
logging.basicConfig()
logging.getLogger("sqlalchemy.engine").setLevel(logging.INFO)
from operator_core.actions import ActionProposal
from operator_core.db import ActionDB

async def main():
    async with ActionDB(sys.argv[1]) as db:
        await db.create_proposal(ActionProposal(action_name="a", reason=sys.argv[2]))

asyncio.run(main())
"""


def test_a_program_that_logs_every_statement_logs_no_values(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOGGED, str(tmp_path / "ledger.db"), SECRET]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "INSERT INTO action_proposals" in done.stderr
    assert SECRET not in done.stdout + done.stderr
