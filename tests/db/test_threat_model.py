"""The rows of docs/threat-model.md: what is prevented fails with the refusal that the page names, what is detected is found."""

import asyncio
import re
import shutil
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
import pytest

from operator_core.actions import ActionError, ActionStatus, Rule
from operator_core.cli.checkup import check_up
from operator_core.cli.findings import Finding, Verdict
from operator_core.cli.server_checkup import check_up_server
from operator_core.db import ActionDB, migrate
from operator_core.db.migrate import postgresql
from operator_core.db.migrate.postgresql import Duty
from operator_core.db.postgresql.connect import parse_url
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sql.tables import TABLES
from tests.conftest import proposal
from tests.databases import Databases, connected, query
from tests.migrations.postgresql_tools import role
from tests.migrations.tools import VERSION_TABLE

PAGE: Final = Path(__file__).resolve().parents[2] / "docs/threat-model.md"

Run = Callable[[str], Any]

EVERYTHING: Final = "everything"


class Ledger(NamedTuple):
    """A ledger as other programs write to it: a proposal that waits for a second approval, and a grant of ola's."""

    place: Any
    digest: str
    rows: Callable[[], Any]
    """Every row of every table."""
    by: dict[str, Run]
    """Runs SQL, by role; on SQLite there is one."""
    check: Callable[[], list[Finding]]


async def fill(place: Any) -> str:
    async with ActionDB(place) as db:
        await db.add_rule(
            Rule(name="two", action_name="watched", approvals=2), by="lead", reason="r"
        )
        made = await db.create_proposal(
            proposal("watched", parameters={"n": 1}, agent_id="planner", requester_id="u-1")
        )
        digest = made.digest
        await db.approve_proposal(made.id, by="mia", digest=digest)
        await db.create_proposal(proposal("free"))
        await db.create_proposal(proposal("free", status=ActionStatus.VALIDATED))
        until = datetime.now(UTC) + timedelta(days=1)
        await db.grant(by="ola", action_name="other", max_uses=1, valid_until=until, reason="r")
        revoked = await db.add_rule(Rule(name="old", action_name="old"), by="lead", reason="r")
        await db.revoke_rule(revoked.id, by="lead", reason="r")
    return digest


def on_file(path: Path) -> Ledger:
    digest = asyncio.run(fill(path))
    return Ledger(
        path,
        digest,
        lambda: _rows(path),
        {EVERYTHING: lambda sql: _run(path, sql)},
        lambda: list(check_up(path)),
    )


def _run(path: Path, sql: str) -> None:
    # As another program opens the file: no setting of the ledger's.
    with closing(dbapi.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"BEGIN; {sql}; COMMIT")


def _rows(path: Path) -> Any:
    with closing(dbapi.connect(path)) as connection:
        return [connection.execute(f"SELECT * FROM {each}").fetchall() for each in TABLES]


def on_server(postgres: Databases, stack: ExitStack) -> Ledger:
    url = postgres.new()
    migrate.upgrade(url)
    digest = asyncio.run(fill(url))
    by: dict[str, Run] = {}
    for each in (*Duty, EVERYTHING):
        of_role = stack.enter_context(role(postgres, url, f"threat_{each}"))
        name = parse_url(of_role).username or ""
        duty = each if isinstance(each, Duty) else None
        query(url, postgresql.grants("public", name, VERSION_TABLE, duty))
        by[each] = _as(of_role)
    by["owner"] = lambda sql: query(url, sql)
    return Ledger(url, digest, lambda: _server_rows(url), by, lambda: list(check_up_server(url)))


def _as(url: str) -> Run:
    def run(sql: str) -> None:
        with psycopg.connect(url.replace(" ", "%20"), autocommit=True) as connection:
            connection.execute(sql)  # type: ignore[arg-type]

    return run


def _server_rows(url: str) -> Any:
    with connected(url) as db:
        return [
            db.execute(f"SELECT xmin::text, t::text FROM {each} t ORDER BY 2").fetchall()
            for each in TABLES
        ]  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["SQLite", "PostgreSQL"])
def database(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return on_file(tmp_path_factory.mktemp("threats") / "ledger.db")


@pytest.fixture(scope="module")
def server(postgres: Databases) -> Iterator[Ledger]:
    with ExitStack() as stack:
        yield on_server(postgres, stack)


@pytest.fixture
def ledger(database: str, request: pytest.FixtureRequest) -> Ledger:
    return request.getfixturevalue("file" if database == "SQLite" else "server")


PROPOSE: Final = (
    "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, status) "
    "VALUES ('watched', '{{}}', 'r', '2026-01-01 00:00:00.000000', '{}')"
)
DECIDE: Final = "INSERT INTO action_decisions (proposal_id, kind, decided_by, decider_key, digest{}) VALUES (1, 'approved', '{}', '{}', 'DIGEST'{})"
NO_DIGEST: Final = "oc1:" + "0" * 64

# By the name of the row: what is run, on SQLite also by whoever can write the file.
BY_SQL: Final = {
    "insert a validated proposal": PROPOSE.format("validated"),
    "insert an executing proposal": PROPOSE.format("executing"),
    "validate without the approvals": "UPDATE action_proposals SET status = 'validated' WHERE id = 1",
    "say that the approvals are given": "UPDATE action_proposals SET approval = 'given' WHERE id = 1",
    "change the parameters": "UPDATE action_proposals SET parameters = '{}' WHERE id = 1",
    "change the requester": "UPDATE action_proposals SET requester_id = 'x' WHERE id = 1",
    "change the digest": f"UPDATE action_proposals SET content_digest = '{NO_DIGEST}' WHERE id = 1",
    "delete a proposal": "DELETE FROM action_proposals WHERE id = 1",
    "edit a rule": "UPDATE action_rules SET approvals = 1 WHERE id = 1",
    "delete a rule": "DELETE FROM action_rules WHERE id = 1",
    "bring back a revoked rule": "UPDATE action_rules SET revoked_at = NULL, revoked_by = NULL, revoke_reason = NULL WHERE id = 2",
    "lower a requirement": "UPDATE action_requirements SET approvals = 1",
    "delete a requirement": "DELETE FROM action_requirements",
    "approve one's own proposal": DECIDE.format("", "u-1", "u-1", ""),
    "approve as the agent": DECIDE.format("", "Planner", "planner", ""),
    "approve as any agent": DECIDE.format(", decider_type", "bot", "bot", ", 'agent'"),
    "approve twice": DECIDE.format("", "mia", "mia", ""),
    "approve twice under another spelling": DECIDE.format("", "MIA", "mia", ""),
    "approve with another person's key": DECIDE.format("", "mia", "noa", ""),
    "approve something else": DECIDE.format("", "noa", "noa", "").replace("DIGEST", NO_DIGEST),
    "approve by another's grant": DECIDE.format(", grant_id", "noa", "noa", ", 1"),
    "edit a decision": "UPDATE action_decisions SET decided_by = 'noa', decider_key = 'noa'",
    "delete a decision": "DELETE FROM action_decisions",
    "withdraw another's approval": "INSERT INTO action_decisions (proposal_id, kind, decided_by, decider_key, withdraws_id, comment) "
    "VALUES (1, 'withdrawn', 'noa', 'noa', 1, 'c')",
    "raise the uses of a grant": "UPDATE action_grants SET max_uses = 100",
    "delete a grant": "DELETE FROM action_grants",
    "forge an event": "INSERT INTO action_events (proposal_id, event_type, actor, occurred_at) "
    "VALUES (1, 'approved', 'noa', '2026-01-01 00:00:00.000000')",
    "edit an event": "UPDATE action_events SET actor = 'noa'",
    "delete an event": "DELETE FROM action_events",
}


def page() -> dict[str, list[str]]:
    """The cells of each attempt in the page's tables: what stands there as code, or else all of it."""
    found: dict[str, list[str]] = {}
    for table in re.findall(
        r"^\| attempt .*\n\|[- |]+\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE
    ):
        for line in table.splitlines():
            name, *cells = line.strip("| ").split(" | ")
            found[name] = ["".join(re.findall("`([^`]+)`", each)) or each for each in cells]
    return found


ROWS: Final = page()
AT: Final = {"SQLite": 0, "PostgreSQL": 1}


# ------ raw SQL


@pytest.mark.parametrize("name", BY_SQL)
def test_what_a_service_by_raw_sql_can_not_do(ledger: Ledger, database: str, name: str) -> None:
    before = ledger.rows()
    sql = BY_SQL[name].replace("DIGEST", ledger.digest)
    with pytest.raises((dbapi.Error, psycopg.Error), match=re.escape(ROWS[name][AT[database]])):
        ledger.by[EVERYTHING](sql)
    assert ledger.rows() == before


@pytest.mark.parametrize("name", BY_SQL)
def test_the_owner_is_refused_too_while_the_triggers_are_there(server: Ledger, name: str) -> None:
    before = server.rows()
    with pytest.raises(psycopg.errors.IntegrityError):
        server.by["owner"](BY_SQL[name].replace("DIGEST", server.digest))
    assert server.rows() == before


RECORD: Final = "INSERT INTO action_records (proposal_id) VALUES (2)"
HALT: Final = "INSERT INTO action_halts (mode, halted_by, reason) VALUES ('halted', 'x', 'x')"
RULE: Final = "INSERT INTO action_rules (name, added_by, reason) VALUES ('x', 'x', 'x')"
GRANT: Final = (
    "INSERT INTO action_grants (max_uses, valid_until, granted_by, grantor_key, reason) "
    "VALUES (1, '2999-01-01', 'x', 'x', 'x')"
)
APPROVE: Final = DECIDE.format("", "noa", "noa", "")
VALIDATE: Final = "UPDATE action_proposals SET status = 'validated' WHERE id = 2"
OF_DUTIES: Final = {
    "propose": PROPOSE.format("proposed"),
    "validate or start": VALIDATE,
    "record an execution": RECORD,
    "approve or reject": APPROVE,
    "give a grant": GRANT,
    "add a rule": RULE,
    "revoke a rule": "UPDATE action_rules SET revoked_at = now(), revoked_by = 'x', revoke_reason = 'x' WHERE id = 1",
    "require more": "INSERT INTO action_requirements (proposal_id, name) VALUES (1, 'x')",
    "set a limit": """INSERT INTO action_limits (name, "window", max_starts, set_by, reason) VALUES ('x', 60, 1, 'x', 'x')""",
    "halt": HALT,
    "resume": "UPDATE action_halts SET resumed_at = now(), resumed_by = 'x', resume_reason = 'x'",
    "require less": "UPDATE action_requirements SET approvals = 1",
    "write the history": BY_SQL["forge an event"],
}


@pytest.mark.parametrize("duty", Duty)
@pytest.mark.parametrize("name", OF_DUTIES)
def test_a_role_of_one_duty_does_only_that(server: Ledger, name: str, duty: Duty) -> None:
    before = server.rows()
    sql = OF_DUTIES[name].replace("DIGEST", server.digest)
    if ROWS[name][list(Duty).index(duty)] == "yes":
        server.by[duty](f"BEGIN; {sql}; ROLLBACK")
    else:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            server.by[duty](sql)
    assert server.rows() == before


# ------ by the facade

Call = Callable[[ActionDB, str], Awaitable[Any]]

BY_CALLS: Final[dict[str, Call]] = {
    "start without the approvals": lambda db, _: db.update_proposal_status(
        1, ActionStatus.VALIDATED
    ),
    "propose as validated": lambda db, _: db.create_proposal(
        proposal("watched", status=ActionStatus.VALIDATED)
    ),
    "claim without the approvals": lambda db, _: db.claim_proposal(1, "w"),
    "approve the own proposal": lambda db, digest: db.approve_proposal(1, by="U-1", digest=digest),
    "approve as an agent": lambda db, digest: db.approve_proposal(
        1, by="bot", by_type="agent", digest=digest
    ),
    "approve without looking": lambda db, _: db.approve_proposal(1, by="noa"),
    "approve another proposal": lambda db, _: db.approve_proposal(1, by="noa", digest=NO_DIGEST),
    "withdraw for another": lambda db, _: db.withdraw_approval(1, by="noa", reason="no"),
    "act as the ledger": lambda db, digest: db.approve_proposal(1, by="Ledger", digest=digest),
}


@pytest.mark.parametrize("name", BY_CALLS)
async def test_what_agents_and_approvers_can_not_do_through_a_service(
    ledger: Ledger, name: str
) -> None:
    before = ledger.rows()
    async with ActionDB(ledger.place) as db:
        with pytest.raises(ActionError) as caught:
            await BY_CALLS[name](db, ledger.digest)
    assert type(caught.value).__name__ == ROWS[name][0]
    assert ledger.rows() == before


async def test_an_agent_avoids_no_rule(database: str, request: pytest.FixtureRequest) -> None:
    """By leaving out who it is, by another type of a parameter, by an amendment, by asking again."""
    place = ":memory:" if database == "SQLite" else request.getfixturevalue("server_ledger")
    async with ActionDB(place) as db:
        await db.add_rule(Rule(name="a", action_name="x", agent_id="planner"), by="l", reason="r")
        large = {"path": ["n"], "op": "gt", "value": 3}
        await db.add_rule(Rule(name="n", action_name="y", conditions=[large]), by="l", reason="r")

        async def asked(name: str, **fields: Any) -> bool:
            return (await db.create_proposal(proposal(name, **fields))).approval == "needed"

        assert await asked("x")
        assert await asked("x", agent_id="PLANNER")
        assert not await asked("x", agent_id="other")
        assert not await asked("y", parameters={"n": 3})
        for avoiding in ({}, {"n": "3"}, {"n": [3]}, {"n": None}, {"N": 3}):
            assert await asked("y", parameters=avoiding)
        made = await db.create_proposal(proposal("x"))
        await db.approve_proposal(made.id, by="mia", digest=made.digest)
        other = await db.amend_proposal(made.id, parameters={"n": 1}, by="agent-7", reason="r")
        assert (other.status, other.approval) == (ActionStatus.PROPOSED, "needed")
        assert await asked("x")


# ------ behind the triggers

CHANGE: Final = """UPDATE action_proposals SET parameters = '{"n": 9}' WHERE id = 1"""

# What is run with the triggers off, by the name of the row.
DETECTED: Final = {
    "edit the parameters": CHANGE,
    "edit a proposal and its digest": f"{CHANGE}; UPDATE action_proposals SET content_digest = '{NO_DIGEST}' WHERE id = 1",
    "move a proposal": "UPDATE action_proposals SET status = 'validated' WHERE id = 1",
    "remove the event of a proposal": "DELETE FROM action_events WHERE proposal_id = 2",
    "remove a proposal": "DELETE FROM action_proposals WHERE id = 2",
    "remove a decision": "DELETE FROM action_decisions",
    "add a decision": DECIDE.format("", "noa", "noa", ""),
    "lower what is required": "UPDATE action_requirements SET approvals = 1",
    "mark as approved": "UPDATE action_proposals SET approval = 'given' WHERE id = 1",
    "edit a rule behind the triggers": "UPDATE action_rules SET approvals = 1 WHERE id = 1",
}
UNDETECTED: Final = {
    "remove a proposal and its events": "DELETE FROM action_events WHERE proposal_id = 2; DELETE FROM action_proposals WHERE id = 2",
    "edit a rule that has required nothing": "UPDATE action_rules SET approvals = 9 WHERE id = 2",
}


@pytest.fixture
def copy(
    ledger: Ledger, database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Ledger]:
    """A ledger of the test's own, for a change behind the triggers by who owns it."""
    if database == "SQLite":
        path = Path(shutil.copyfile(ledger.place, tmp_path / "ledger.db"))
        yield ledger._replace(
            place=path,
            by={EVERYTHING: lambda sql: _untriggered(path, sql)},
            check=lambda: list(check_up(path)),
        )
        return
    name = parse_url(ledger.place).database
    url = request.getfixturevalue("postgres").new(template=name)

    def run(sql: str) -> None:
        query(url, f"SET session_replication_role = replica; {sql}")

    yield ledger._replace(place=url, by={EVERYTHING: run}, check=lambda: list(check_up_server(url)))
    # Its roles can't be dropped before.
    query(ledger.place, f"DROP DATABASE {parse_url(url).database} WITH (FORCE)")


def _untriggered(path: Path, sql: str) -> None:
    with closing(dbapi.connect(path, isolation_level=None)) as connection:
        found = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid"
        triggers = connection.execute(found).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.executescript(sql)
        for _, text in triggers:
            connection.execute(text)


def broken(findings: Iterable[Finding]) -> dict[str, set[str]]:
    """The lines of what is broken, by subject."""
    bad = (each for each in findings if each.verdict is not Verdict.OK)
    return {each.subject: set(each.text.splitlines()) for each in bad}


@pytest.mark.parametrize("name", DETECTED)
def test_what_the_check_finds(ledger: Ledger, copy: Ledger, name: str) -> None:
    before = broken(ledger.check())
    copy.by[EVERYTHING](DETECTED[name].replace("DIGEST", ledger.digest))
    after = broken(copy.check())
    new = {subject for subject, lines in after.items() if lines - before.get(subject, set())}
    assert ROWS[name][0] in new


@pytest.mark.parametrize("name", UNDETECTED)
def test_what_nobody_finds(ledger: Ledger, copy: Ledger, name: str) -> None:
    """If one of these is found one day, the page has to say so."""
    before = broken(ledger.check())
    copy.by[EVERYTHING](UNDETECTED[name])
    assert broken(copy.check()) == before
    assert ROWS[name][0] == "nothing"


OF_THE_OWNER: Final = {
    "drop a trigger": "DROP TRIGGER action_decisions_guard ON action_decisions",
    "disable a trigger": "ALTER TABLE action_decisions DISABLE TRIGGER action_decisions_guard",
    "change a trigger's function": "CREATE OR REPLACE FUNCTION action_decisions_guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "grant more than `db grants` does": "GRANT UPDATE ON action_decisions TO PUBLIC",
}


@pytest.mark.parametrize("name", OF_THE_OWNER)
def test_what_the_check_finds_of_the_schema(
    server: Ledger, postgres_copy: Callable[[str], str], name: str
) -> None:
    url = postgres_copy(server.place)
    query(url, OF_THE_OWNER[name])
    assert ROWS[name][0] in broken(check_up_server(url))
    query(server.place, f"DROP DATABASE {parse_url(url).database} WITH (FORCE)")


def test_the_check_finds_a_dropped_trigger_on_sqlite(file: Ledger, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(file.place, tmp_path / "ledger.db"))
    _run(path, "DROP TRIGGER action_decisions_possible")
    assert ROWS["drop a trigger"][0] in broken(check_up(path))


def test_every_row_of_the_page_is_tried() -> None:
    tried = {*BY_SQL, *OF_DUTIES, *BY_CALLS, *DETECTED, *UNDETECTED, *OF_THE_OWNER}
    assert tried == set(ROWS)
