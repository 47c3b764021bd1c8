"""Ledgers with a history of every kind, on both backends, for tests that tamper with them."""

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString, cast

import pytest

from operator_core.actions.types import ActionProposal, Rule, WorkflowProposal
from operator_core.cli.checkup import check_up
from operator_core.cli.findings import Finding, Verdict
from operator_core.cli.server_checkup import check_up_server
from operator_core.db import ActionDB, migrate
from operator_core.db.postgresql.connect import parse_url
from operator_core.db.sql.sqlite_library import dbapi
from tests.databases import Databases, connected, query

TICKET = (
    "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message) "
    "VALUES ('hot', 'i', '2026-01-01', '2026-01-02', 'm')"
)

UNSURE = {"SQLite library", "durability", "server"}
"""What the machine decides, and no sabotage."""


async def make_history(db: ActionDB) -> None:
    """Proposals of every kind: each case below says which one it changes."""

    async def make(**fields: Any) -> int:
        made = await db.create_proposal(ActionProposal(action_name="a", reason="r", **fields))
        return made.id or 0

    first = await make(status="validated", ticket_id=1)
    second = await make(status="validated")
    third = await make(depends_on=(second,))
    # Jitter makes a retry due at any time up to the delay; none is while the rest is made.
    later = {"retry_delay": 604_800.0, "max_retry_delay": 604_800.0}
    fourth = await make(status="validated", max_retries=1, **later)
    one, two, four = await db.claim("w", limit=3)
    await db.complete(one.record.id, {"ok": True})
    await db.fail(two.record.id, "no leader")
    await db.fail(four.record.id, "no leader")
    planned = [ActionProposal(action_name="a", reason="r")]
    _, (in_workflow,) = await db.create_workflow(WorkflowProposal(name="night"), planned)
    fifth = in_workflow.id or 0
    sixth = await make(status="validated")
    await make(status="validated", depends_on=(first, fifth))
    await db.claim("w")
    for succeeded in (True, False):
        lost = await db.claim_proposal(await make(status="validated"), "w")
        await db.fail(lost.record.id, "lost", outcome_unknown=True)
        await db.resolve_outcome(lost.record.id, by="mia", succeeded=succeeded, evidence="seen")
    assert [first, second, third, fourth, fifth, sixth] == [1, 2, 3, 4, 5, 6]
    await _make_approvals(db)


async def _make_approvals(db: ActionDB) -> None:
    """Proposals 10 to 12: with one approval of two, with both of which one was given in advance, and rejected."""
    rule = Rule(
        name="two of sre", action_name="guarded", approvals=2, roles=["sre"], decide_within=604_800
    )
    await db.add_rule(rule, by="olga", reason="policy")
    other = await db.add_rule(Rule(name="old", effect="deny"), by="olga", reason="policy")
    await db.revoke_rule(other.id, by="olga", reason="obsolete")
    for id_ in (10, 11, 12):
        if id_ == 11:
            grant = await db.grant(
                by="Zoë",
                roles=["sre"],
                action_name="guarded",
                max_uses=1,
                valid_until=datetime.now(UTC) + timedelta(days=7),
                reason="night",
            )
        made = await db.create_proposal(
            ActionProposal(action_name="guarded", reason="r", requester_id="Ömer")
        )
        assert made.id == id_
        if id_ == 12:
            await db.reject_proposal(id_, by="mia", reason="no")
        else:
            await db.approve_proposal(id_, by="mia", digest=made.digest, roles=["sre"])
    await db.revoke_grant(grant.id, by="olga", reason="morning")


class Ledger:
    """One to be tampered with."""

    url: str

    @property
    def place(self) -> tuple[str, ...]:
        """The command line's options for it."""
        return ("--url", self.url)

    def run(self, script: str) -> None:
        """What another tool does, which no trigger lets do everything."""
        raise NotImplementedError

    def tamper(self, script: str) -> None:
        """Changes rows with every trigger and foreign key asleep, and leaves those as they were."""
        raise NotImplementedError

    def findings(self) -> dict[str, Finding]:
        raise NotImplementedError

    def bad(self) -> dict[str, Finding]:
        """What is not as it should be."""
        return {
            name: each
            for name, each in self.findings().items()
            if each.verdict is not Verdict.OK and name not in UNSURE
        }


class File(Ledger):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    def run(self, script: str) -> None:
        connection = dbapi.connect(self.path)
        connection.executescript(script)
        connection.close()

    def tamper(self, script: str) -> None:
        connection = dbapi.connect(self.path)
        found = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in found:
            connection.execute(f"DROP TRIGGER {name}")
        connection.executescript(script)
        for _, sql in found:
            connection.execute(sql)
        connection.close()

    def findings(self) -> dict[str, Finding]:
        return {each.subject: each for each in check_up(self.path)}


class Server(Ledger):
    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, script: str) -> None:
        query(self.url, script)

    def tamper(self, script: str) -> None:
        with connected(self.url) as conn:
            conn.execute("SET session_replication_role = replica")
            for statement in script.split(";"):
                conn.execute(cast(LiteralString, statement))

    def findings(self) -> dict[str, Finding]:
        return {each.subject: each for each in check_up_server(parse_url(self.url))}


@pytest.fixture(scope="module")
def made_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "ledger.db"
    migrate.upgrade(f"sqlite:///{path}")
    connection = dbapi.connect(path, isolation_level=None)
    connection.execute(TICKET)
    connection.close()
    asyncio.run(fill(path))
    return path


@pytest.fixture(scope="module")
def made_on_server(postgres: Databases) -> str:
    """The name of a database to copy."""
    url = postgres.new()
    migrate.upgrade(url)
    query(url, TICKET)
    asyncio.run(fill(url))
    return parse_url(url).database or ""


async def fill(place: Path | str) -> None:
    async with ActionDB(place) as db:
        await make_history(db)


@pytest.fixture
def file(made_file: Path, tmp_path: Path) -> File:
    return File(Path(shutil.copy(made_file, tmp_path)))


@pytest.fixture
def server(made_on_server: str, postgres: Databases) -> Server:
    return Server(postgres.new(template=made_on_server))


@pytest.fixture(params=["file", "server"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    return request.getfixturevalue(request.param)
