"""A role for each duty: every verb of the duty works with its grants alone, and no other verb changes anything."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeAlias

import pytest

from operator_core.actions import (
    ActionRecord,
    ActionStatus,
    PermissionDenied,
    Rule,
    WorkflowProposal,
)
from operator_core.db import ActionDB, migrate
from operator_core.db.migrate import postgresql
from operator_core.db.migrate.postgresql import Duty
from operator_core.db.postgresql.connect import parse_url
from operator_core.db.sql.tables import TABLES
from tests.conftest import proposal
from tests.databases import Databases, connected, query
from tests.migrations.postgresql_tools import DB, role, sql
from tests.migrations.tools import VERSION_TABLE, Rows

EVERYTHING: Final = "everything"
ROLES: Final = (*Duty, EVERYTHING)


class Ledger(NamedTuple):
    """An administrator's connection to a ledger, and the URLs by which its owner and its roles use it."""

    admin: DB
    owner: str
    roles: dict[str, str]


@pytest.fixture(scope="module")
def ledger(postgres: Databases) -> Iterator[Ledger]:
    """A ledger whose functions are nobody's unless they are granted."""
    url = postgres.new()
    with ExitStack() as stack:
        owner = stack.enter_context(role(postgres, url, "duties_owner"))
        mine = f'"{name_of(owner)}"'
        query(url, f"ALTER SCHEMA public OWNER TO {mine}")
        default = f"ALTER DEFAULT PRIVILEGES FOR ROLE {mine}"
        query(url, f"{default} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
        migrate.upgrade(owner)
        roles: dict[str, str] = {}
        for each in ROLES:
            roles[each] = stack.enter_context(role(postgres, url, f"duties_{each}"))
            duty = each if isinstance(each, Duty) else None
            script = postgresql.grants("public", name_of(roles[each]), VERSION_TABLE, duty)
            query(url, script + "\n" + script)
        yield Ledger(stack.enter_context(connected(url)), owner, roles)


def name_of(url: str) -> str:
    return parse_url(url).username or ""


def rows(ledger: Ledger) -> list[Rows]:
    """Every row, with the transaction that wrote it."""
    return [
        sql(ledger.admin, f"SELECT xmin::text, t::text FROM {name} t ORDER BY 2") for name in TABLES
    ]


# ------ what there must be, for a verb to work

Before: TypeAlias = Callable[[ActionDB], Awaitable[Any]]
Call: TypeAlias = Callable[[ActionDB, Any], Awaitable[Any]]


async def nothing(db: ActionDB) -> None:
    pass


async def proposed(db: ActionDB) -> Any:
    return await db.create_proposal(proposal())


async def validated(db: ActionDB) -> Any:
    return await db.create_proposal(proposal(status=ActionStatus.VALIDATED))


async def claimed(db: ActionDB) -> Any:
    return await db.claim_proposal((await validated(db)).id, "w")


async def overdue(db: ActionDB) -> Any:
    return await db.claim_proposal((await validated(db)).id, "w", lease=timedelta(milliseconds=1))


async def abandoned(db: ActionDB) -> Any:
    """An execution without a lease, which no claim ends by the way."""
    made = await validated(db)
    await db.update_proposal_status(made.id, ActionStatus.EXECUTING)
    return await db.create_record(ActionRecord(proposal_id=made.id))


async def failed(db: ActionDB) -> Any:
    claim = await claimed(db)
    await db.fail(claim.record.id, "no leader")
    return claim.proposal


async def unknown(db: ActionDB) -> Any:
    claim = await claimed(db)
    await db.fail(claim.record.id, "lost", outcome_unknown=True)
    return claim.record


async def flow(db: ActionDB, _: Any = None) -> Any:
    made, _ = await db.create_workflow(WorkflowProposal(name="flow"), [proposal(), proposal()])
    return made


async def watched(db: ActionDB) -> Any:
    """A proposal of which an approval is required."""
    if not await db.rules():
        await db.add_rule(Rule(name="watched", action_name="watched"), by="lead", reason="new")
    return await db.create_proposal(proposal("watched"))


async def approved(db: ActionDB) -> Any:
    made = await watched(db)
    await db.approve_proposal(made.id, by="mia", digest=made.digest, validate=False)
    return made


async def raw(db: ActionDB) -> Any:
    """The same without a digest, and with an agent whose normalised form SQL can't compute."""
    made = await watched(db)
    values = "('watched', '{}', 'r', now(), 'Zoë')"
    columns = "(action_name, parameters, reason, proposed_at, agent_id)"
    insert = f"INSERT INTO action_proposals {columns} VALUES {values} RETURNING id"

    def write(conn: Any) -> int:
        return conn.exec_driver_sql(insert).scalar()

    found = await db.get_proposal(await db._units.write(write))
    assert found is not None
    assert found.content_digest is None
    assert found.id > made.id
    return found


async def rule(db: ActionDB, _: Any = None) -> Any:
    return await db.add_rule(Rule(name="other", action_name="other"), by="lead", reason="new")


async def grant(db: ActionDB, _: Any = None) -> Any:
    until = datetime.now(UTC) + timedelta(hours=1)
    return await db.grant(
        by="mia", action_name="other", max_uses=1, valid_until=until, reason="known"
    )


async def limit(db: ActionDB, _: Any = None) -> Any:
    name = f"limit {len(await db.limits(active=False))}"
    return await db.set_limit(
        name, action_name="other", window=60, max_starts=1, by="lead", reason="new"
    )


async def halted(db: ActionDB, _: Any = None) -> Any:
    return (await db.halt(by="oncall", reason="stop", action_name="other")).halt


class Verb(NamedTuple):
    """How a verb is called after `before`, and the duties that may call it; none: only who may do everything."""

    duties: tuple[Duty, ...]
    before: Before
    call: Call


P, W, A, OP = Duty.PROPOSER, Duty.WORKER, Duty.APPROVER, Duty.OPERATOR

VERBS: Final = {
    "create_proposal": Verb((P,), watched, lambda db, _: db.create_proposal(proposal("watched"))),
    "create_proposal with a key": Verb(
        (P,),
        proposed,
        lambda db, made: db.create_proposal(proposal(), idempotency_key=f"after {made.id}"),
    ),
    "create_proposals": Verb((P,), nothing, lambda db, _: db.create_proposals([proposal()] * 3)),
    "create_workflow": Verb((P,), nothing, flow),
    "update_proposal_status": Verb(
        (W, OP),
        proposed,
        lambda db, made: db.update_proposal_status(made.id, ActionStatus.VALIDATED),
    ),
    "cancel_proposal": Verb(
        (W, OP), watched, lambda db, made: db.cancel_proposal(made.id, by="mia", reason="no")
    ),
    "cancel_all_pending": Verb((W, OP), proposed, lambda db, _: db.cancel_all_pending()),
    "cancel_workflow": Verb((W, OP), flow, lambda db, made: db.cancel_workflow(made.id)),
    "claim": Verb((W,), validated, lambda db, _: db.claim("w", limit=1000)),
    "claim_proposal": Verb((W,), validated, lambda db, made: db.claim_proposal(made.id, "w")),
    "heartbeat": Verb((W,), claimed, lambda db, claim: db.heartbeat(claim)),
    "complete": Verb((W,), claimed, lambda db, claim: db.complete(claim.record.id)),
    "fail": Verb((W,), claimed, lambda db, claim: db.fail(claim.record.id, "no leader")),
    "complete_many": Verb((W,), claimed, lambda db, claim: db.complete_many([claim.record.id])),
    "fail_many": Verb((W,), claimed, lambda db, claim: db.fail_many({claim.record.id: "e"})),
    "create_record": Verb(
        (W,), validated, lambda db, made: db.create_record(ActionRecord(proposal_id=made.id))
    ),
    "update_record": Verb(
        (W,), claimed, lambda db, claim: db.update_record(claim.record.id, success=True)
    ),
    "recover_expired": Verb(
        (W,), abandoned, lambda db, _: db.recover_expired(older_than=timedelta(0))
    ),
    "retry": Verb((W, OP), failed, lambda db, made: db.retry(made.id)),
    "approve_proposal": Verb(
        (A,),
        watched,
        lambda db, made: db.approve_proposal(made.id, by="mia", digest=made.digest),
    ),
    "approve_proposal of raw SQL": Verb(
        (A,), raw, lambda db, made: db.approve_proposal(made.id, by="mia", digest=made.digest)
    ),
    "reject_proposal": Verb(
        (A,), watched, lambda db, made: db.reject_proposal(made.id, by="mia", reason="no")
    ),
    "withdraw_approval": Verb(
        (A,), approved, lambda db, made: db.withdraw_approval(made.id, by="mia", reason="no")
    ),
    "grant": Verb((A,), nothing, grant),
    "revoke_grant": Verb(
        (A, OP), grant, lambda db, made: db.revoke_grant(made.id, by="mia", reason="no")
    ),
    "add_rule": Verb((OP,), nothing, rule),
    "revoke_rule": Verb((OP,), rule, lambda db, made: db.revoke_rule(made.id, by="m", reason="no")),
    "set_limit": Verb((OP,), nothing, limit),
    "remove_limit": Verb(
        (OP,), limit, lambda db, made: db.remove_limit(made.name, by="mia", reason="no")
    ),
    "halt": Verb(
        (OP,),
        proposed,
        lambda db, made: db.halt(by="mia", reason="stop", agent_id=f"agent {made.id}"),
    ),
    "resume": Verb((OP,), halted, lambda db, halt: db.resume(halt.id, by="mia", reason="done")),
    "resolve_outcome": Verb(
        (OP,),
        unknown,
        lambda db, record: db.resolve_outcome(record.id, by="mia", succeeded=True, evidence="seen"),
    ),
    "amend_proposal": Verb(
        (),
        watched,
        lambda db, made: db.amend_proposal(made.id, parameters={"n": 1}, by="mia", reason="n"),
    ),
}


async def waiting(found: Awaitable[Any]) -> Any:
    """Without their age, which changes."""
    return [each._replace(age=None) for each in await found]


READING: Final[dict[str, Call]] = {
    "approvals": lambda db, made: db.approvals(made.id),
    "approved_not_started": lambda db, _: waiting(db.approved_not_started()),
    "count_proposals": lambda db, _: db.count_proposals(),
    "explain": lambda db, _: db.explain(proposal("watched")),
    "get_proposal": lambda db, made: db.get_proposal(made.id),
    "get_records_for_proposal": lambda db, made: db.get_records_for_proposal(made.id),
    "grants": lambda db, _: db.grants(),
    "halts": lambda db, _: db.halts(),
    "history": lambda db, _: db.history(),
    "is_approved": lambda db, made: db.is_approved(made.id),
    "limits": lambda db, _: db.limits(),
    "list_proposals": lambda db, _: db.list_proposals(),
    "mode": lambda db, _: db.mode(),
    "newest_event_id": lambda db, _: db.newest_event_id(),
    "pending_approvals": lambda db, _: waiting(db.pending_approvals("noa")),
    "rules": lambda db, _: db.rules(),
    "unresolved": lambda db, _: db.unresolved(),
}


@pytest.mark.parametrize("name", VERBS)
async def test_a_role_calls_the_verbs_of_its_duty_and_no_other(ledger: Ledger, name: str) -> None:
    verb = VERBS[name]
    async with ActionDB(ledger.owner, actor="somebody") as owner:
        for each, url in ledger.roles.items():
            made = await verb.before(owner)
            before = rows(ledger)
            async with ActionDB(url, actor="somebody") as db:
                if each in (*verb.duties, EVERYTHING):
                    await verb.call(db, made)
                    assert rows(ledger) != before, f"{each} has changed nothing"
                else:
                    with pytest.raises(PermissionDenied):
                        await verb.call(db, made)
                    assert rows(ledger) == before, each


@pytest.mark.parametrize("name", READING)
async def test_every_role_reads_everything(ledger: Ledger, name: str) -> None:
    async with ActionDB(ledger.owner) as owner:
        made = await approved(owner)
        expected = str(await READING[name](owner, made))
    for url in ledger.roles.values():
        async with ActionDB(url) as db:
            assert str(await READING[name](db, made)) == expected


async def test_who_proposes_waits_without_the_right_to_recover(ledger: Ledger) -> None:
    async with ActionDB(ledger.owner) as owner, ActionDB(ledger.roles[P]) as db:
        await overdue(owner)
        made = await validated(owner)
        claim = await owner.claim_proposal(made.id, "w")
        await owner.complete(claim.record.id)
        assert (await db.wait_for(made.id, timeout=60)).status is ActionStatus.COMPLETED


async def test_grants_add_up(ledger: Ledger, postgres: Databases) -> None:
    with role(postgres, postgres.url(ledger.admin.info.dbname), "duties_two") as two:
        for duty in (P, W):
            sql(ledger.admin, postgresql.grants("public", name_of(two), VERSION_TABLE, duty))
        async with ActionDB(ledger.owner) as owner, ActionDB(two) as db:
            made = await watched(owner)
            other = await db.amend_proposal(made.id, parameters={"n": 1}, by="mia", reason="less")
            assert other.supersedes_id == made.id
            with pytest.raises(PermissionDenied):
                await db.approve_proposal(other.id, by="noa", digest=other.digest)


def test_no_duty_writes_what_another_decides() -> None:
    """Who proposes never decides, and who decides never proposes."""
    written = {
        each: postgresql.grants("public", "r", VERSION_TABLE, each).splitlines() for each in Duty
    }

    def inserts(table: str) -> set[Duty]:
        return {
            duty
            for duty, lines in written.items()
            if any("INSERT" in line and f'"public".{table} ' in line for line in lines)
        }

    assert inserts("action_proposals") == {P}
    assert inserts("action_decisions") == inserts("action_grants") == {A}
    assert inserts("action_rules") == inserts("action_halts") == {OP}
    assert inserts("action_records") == {W}
    # More is required by who proposes, never less.
    assert inserts("action_requirements") == {P}
    assert inserts("action_limits") == {OP}
    assert inserts("action_events") == set()
