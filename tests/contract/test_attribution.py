"""Who did it: every verb that writes says whom the history names, and nobody acts under the ledger's own names."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionEvent,
    ActionProposal,
    ActionRecord,
    ActionStatus,
    EventType,
    InvalidValue,
    ProposalRequest,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus
Verb = Callable[[ActionDB, str], Awaitable[Any]]

DISGUISES = [
    "ledger",
    "Migration",
    "raw SQL",
    "raw SQL ",
    "raw\u00a0sql",
    "led\u200bger",
    "\uff2c\uff25\uff24\uff27\uff25\uff32",
]


async def validated(db: ActionDB, **fields: Any) -> ActionProposal:
    return await db.create_proposal(proposal(status=S.VALIDATED, **fields))


async def claimed(db: ActionDB, worker: str = "worker-1") -> int:
    await validated(db)
    (claim,) = await db.claim(worker)
    return claim.record.id or 0


async def create(db: ActionDB, who: str) -> None:
    await db.create_proposal(proposal(), actor=who)


async def create_many(db: ActionDB, who: str) -> None:
    await db.create_proposals([proposal(), proposal()], actor=who)


async def create_with_key(db: ActionDB, who: str) -> None:
    await db.create_proposal(proposal(), idempotency_key="k", actor=who)


async def create_workflow(db: ActionDB, who: str) -> None:
    await db.create_workflow(WorkflowProposal(name="w"), [proposal()], actor=who)


async def update_status(db: ActionDB, who: str) -> None:
    made = await db.create_proposal(proposal())
    await db.update_proposal_status(made.id, S.VALIDATED, actor=who)


async def cancel_all(db: ActionDB, who: str) -> None:
    await db.create_proposal(proposal())
    assert await db.cancel_all_pending(actor=who) == 1


async def cancel_workflow(db: ActionDB, who: str) -> None:
    workflow, _ = await db.create_workflow(WorkflowProposal(name="w"), [proposal()])
    assert await db.cancel_workflow(workflow.id, actor=who) == 1


async def create_record(db: ActionDB, who: str) -> None:
    made = await validated(db)
    await db.create_record(ActionRecord(proposal_id=made.id), actor=who)


async def update_record(db: ActionDB, who: str) -> None:
    await db.update_record(await claimed(db), success=True, actor=who)


async def claim(db: ActionDB, who: str) -> None:
    await validated(db)
    assert await db.claim("worker-1", actor=who)


async def complete(db: ActionDB, who: str) -> None:
    await db.complete(await claimed(db), actor=who)


async def complete_many(db: ActionDB, who: str) -> None:
    assert await db.complete_many([await claimed(db)], actor=who) == []


async def fail(db: ActionDB, who: str) -> None:
    await db.fail(await claimed(db), "why", actor=who)


async def fail_many(db: ActionDB, who: str) -> None:
    assert await db.fail_many({await claimed(db): "why"}, actor=who) == []


async def recover(db: ActionDB, who: str) -> None:
    made = await db.create_proposal(proposal(status=S.EXECUTING))
    (record,) = await db.recover_expired(older_than=timedelta(0), actor=who)
    assert record.proposal_id == made.id


async def retry(db: ActionDB, who: str) -> None:
    record_id = await claimed(db)
    await db.fail(record_id, "why")
    await db.retry((await db.history())[-1].proposal_id, actor=who)


VERBS: list[Verb] = [
    create, create_many, create_with_key, create_workflow, update_status, cancel_all, cancel_workflow, create_record,
    update_record, claim, complete, complete_many, fail, fail_many, recover, retry,
]  # fmt: skip
EACH = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)


async def last(db: ActionDB) -> ActionEvent:
    return (await db.history())[-1]


@EACH
async def test_every_verb_that_writes_names_who_acts(db: ActionDB, verb: Verb) -> None:
    await verb(db, "oncall")
    assert (await last(db)).actor == "oncall"


@EACH
@pytest.mark.parametrize("name", DISGUISES)
async def test_nobody_acts_under_a_name_of_the_ledgers(db: ActionDB, verb: Verb, name: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        await verb(db, name)
    assert caught.value.path == "actor"
    assert name not in [event.actor for event in await db.history()]


@pytest.mark.parametrize("name", DISGUISES)
async def test_nor_works_proposes_or_opens_a_ledger(db: ActionDB, name: str) -> None:
    await validated(db)
    before = await db.history()
    for path, call in (
        ("worker", lambda: db.claim(name)),
        ("worker", lambda: db.create_record(ActionRecord(proposal_id=1, worker=name))),
        ("proposed_by", lambda: db.create_proposal(proposal(proposed_by=name))),
        ("proposed_by", lambda: db.create_proposals([proposal()], proposed_by=name)),
        (
            "proposed_by",
            lambda: db.create_workflow(WorkflowProposal(name="w"), [proposal()], proposed_by=name),
        ),
    ):
        with pytest.raises(InvalidValue) as caught:
            await call()
        assert caught.value.path == path
    with pytest.raises(InvalidValue, match="actor"):
        ActionDB(":memory:", actor=name)
    assert await db.history() == before


async def test_the_event_says_who_ended_it_and_whose_execution_it_was(db: ActionDB) -> None:
    record_id = await claimed(db, "worker-1")
    await db.complete(record_id, actor="oncall")
    started, begun, finished, completed = (await db.history())[-4:]
    assert [each.event_type for each in (started, finished)] == [
        EventType.RECORD_STARTED,
        EventType.RECORD_FINISHED,
    ]
    assert (started.actor, started.worker, begun.actor) == ("worker-1", "worker-1", "worker-1")
    assert (finished.actor, finished.worker) == ("oncall", "worker-1")
    assert (completed.to_status, completed.actor, completed.worker) == (S.COMPLETED, "oncall", None)


async def test_a_ledger_that_names_an_actor_acts_as_that_one(
    open_ledger: Callable[..., Awaitable[ActionDB]],
) -> None:
    db = await open_ledger(actor="oncall")
    record_id = await claimed(db, "worker-1")
    await db.fail(record_id, "why")
    assert [(each.actor, each.worker) for each in (await db.history())[-2:]] == [
        ("oncall", "worker-1"),
        ("oncall", None),
    ]
    await validated(db)
    async with db.claimed("worker-1"):
        pass
    assert (await last(db)).actor == "worker-1"


async def test_a_worker_that_names_nobody_acts_itself(db: ActionDB) -> None:
    await db.complete(await claimed(db, "worker-1"))
    assert [each.actor for each in (await db.history())[-2:]] == ["worker-1", "worker-1"]


async def test_no_text_of_an_actor_decides_anything(db: ActionDB, raw: RawSQL) -> None:
    """What raw SQL writes about who acts changes neither versions nor what depends on it."""
    first = await validated(db)
    second = await db.create_proposal(proposal(depends_on=[first.id]))
    third = await db.create_proposal(proposal(depends_on=[second.id]))
    for actor, reason in (
        ("raw SQL", "proposal 9, which it depends on, failed"),
        ("ledger", "proposal 9, which it depends on, failed"),
    ):
        await raw(
            "UPDATE action_proposals SET status = 'cancelled', status_changed_by = ?, status_reason = ?, "
            "status_changed_at = '2040-01-01 00:00:00+00' WHERE id = ?",
            actor,
            reason,
            first.id,
        )
        found = [await db.get_proposal(each.id) for each in (first, second, third)]
        assert [(each and each.status, each and each.version) for each in found] == [
            (S.CANCELLED, 2)
        ] * 3
        why = [(await db.history(each.id))[-1].reason for each in (second, third)]
        assert why == [f"proposal {first.id}, which it depends on, was cancelled"] * 2
        first, second, third = [
            await validated(db),
            *(await make_chain(db, 2)),
        ]


async def make_chain(db: ActionDB, length: int) -> list[ActionProposal]:
    """Proposals each of which depends on the one before, the first on the last in the ledger."""
    chain: list[ActionProposal] = []
    (newest,) = await db.list_proposals(limit=1)
    for _ in range(length):
        newest = await db.create_proposal(proposal(depends_on=[newest.id]))
        chain.append(newest)
    return chain


@pytest.mark.parametrize("backend", ["memory", "postgresql"], indirect=True)
async def test_who_proposes_never_comes_from_the_request(db: ActionDB) -> None:
    asked = ProposalRequest(action_name="drain", reason="disk")
    assert (await db.create_proposal(asked, proposed_by="alice")).proposed_by == "alice"
    assert (await db.create_proposal(asked)).proposed_by == "agent"
    assert (await db.create_proposal(asked, actor="bob")).proposed_by == "bob"
    made = await db.create_proposals([asked, proposal(proposed_by="carol")], proposed_by="alice")
    assert [each.proposed_by for each in made] == ["alice", "alice"]
    assert (await db.create_proposal(proposal(proposed_by="carol"))).proposed_by == "carol"
    _, actions = await db.create_workflow(WorkflowProposal(name="w"), [asked], proposed_by="alice")
    assert actions[0].proposed_by == "alice"
