"""How proposals end has a code, and what was proposed has a stored digest; the history says the same."""

import json
from datetime import timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionStatus,
    EndCode,
    EventType,
    HaltRequested,
    InvalidValue,
    StoredProposal,
    WorkflowProposal,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

LONG_AGO = "'2001-01-01 00:00:00.000000'"


async def made(db: ActionDB, status: ActionStatus = S.VALIDATED, **fields: Any) -> int:
    return (await db.create_proposal(proposal(status=status, **fields))).id


async def get(db: ActionDB, id: int) -> StoredProposal:
    found = await db.get_proposal(id)
    assert found is not None
    return found


async def ended(db: ActionDB, id: int) -> tuple[EndCode | None, dict[str, Any] | None]:
    """The end code of a proposal, and the details of the event of its last move."""
    moves = [e for e in await db.history(id) if e.event_type is EventType.STATUS_CHANGED]
    return (await get(db, id)).end_code, moves[-1].details


def only(code: EndCode, **cause: int) -> tuple[EndCode, dict[str, Any]]:
    return code, {"end_code": code.value, **cause}


@pytest.fixture(autouse=True)
async def law(db: ActionDB, raw: RawSQL) -> Any:
    """After each test, every row says what the events of its creation and its last move say."""
    yield
    columns = "id, status, end_code, status_cause, content_digest"
    for row in await raw(f"SELECT {columns} FROM action_proposals"):
        first, *others = [e for e in await db.history(row.id) if e.record_id is None]
        assert first.details in (None, {"digest": row.content_digest})
        assert first.actor == "raw SQL" or first.details is not None
        assert (row.end_code is not None) == (row.status in ("cancelled", "failed"))
        moves = [e for e in others if e.event_type is EventType.STATUS_CHANGED]
        if moves:
            code = {} if row.end_code is None else {"end_code": row.end_code}
            cause = {} if row.status_cause is None else json.loads(row.status_cause)
            assert (moves[-1].details or {}) == code | cause
        for event in others:
            if event not in moves:
                assert event.details is None
            elif event.to_status in (S.CANCELLED, S.FAILED):
                assert EndCode((event.details or {})["end_code"])
            else:
                assert "end_code" not in (event.details or {})


async def test_what_is_cancelled_says_by_whom(db: ActionDB) -> None:
    whose = {"proposed_by": "planner", "requester_id": "Mia Li"}
    for by, code in (
        ("oncall", EndCode.CANCELLED),
        ("planner", EndCode.WITHDRAWN),
        ("PL\u200bANNER", EndCode.WITHDRAWN),
        ("mia  li", EndCode.WITHDRAWN),
        ("mia", EndCode.CANCELLED),
    ):
        id = await made(db, **whose)
        await db.cancel_proposal(id, by=by, reason="no")
        assert await ended(db, id) == only(code)
    id = await made(db, **whose)
    await db.update_proposal_status(id, S.CANCELLED, actor="planner")
    assert await ended(db, id) == only(EndCode.CANCELLED)
    id, other = await made(db), await made(db, S.PROPOSED)
    await db.cancel_all_pending()
    assert await ended(db, id) == await ended(db, other) == only(EndCode.CANCELLED)
    workflow, steps = await db.create_workflow(WorkflowProposal(name="w"), [proposal(), proposal()])
    await db.cancel_workflow(workflow.id)
    for step in steps:
        assert await ended(db, step.id) == only(EndCode.CANCELLED)


async def test_what_fails_says_how(db: ActionDB) -> None:
    id = await made(db)
    await db.fail((await db.claim_proposal(id, "w")).record.id, "boom")
    assert await ended(db, id) == only(EndCode.FAILED)
    # It is no longer so as soon as it is retried.
    await db.retry(id)
    assert await ended(db, id) == (None, None)
    claim = await db.claim_proposal(id, "w")
    assert claim.proposal.end_code is None
    await db.fail(claim.record.id, "boom", outcome_unknown=True)
    assert await ended(db, id) == only(EndCode.OUTCOME_UNKNOWN)
    await db.resolve_outcome(claim.record.id, by="mia", succeeded=True, evidence="seen")
    assert await ended(db, id) == (None, None)
    id = await made(db)
    await db.update_proposal_status(id, S.EXECUTING)
    await db.update_proposal_status(id, S.FAILED)
    assert await ended(db, id) == only(EndCode.FAILED)
    ids = [await made(db) for _ in range(2)]
    first, second = [(await db.claim_proposal(each, "w")).record.id for each in ids]
    await db.fail_many({first: "boom"})
    await db.fail_many({second: "boom"}, outcome_unknown=True)
    assert await ended(db, ids[0]) == only(EndCode.FAILED)
    assert await ended(db, ids[1]) == only(EndCode.OUTCOME_UNKNOWN)


async def test_what_nobody_ended_is_unknown(db: ActionDB, raw: RawSQL) -> None:
    lapsed, unrecorded, recorded = [await made(db) for _ in range(3)]
    await db.claim_proposal(lapsed, "w")
    await raw(f"UPDATE action_records SET lease_expires_at = {LONG_AGO}")
    for id in (unrecorded, recorded):
        await db.update_proposal_status(id, S.EXECUTING)
    await raw(
        "INSERT INTO action_records (proposal_id, success, completed_at) "
        f"VALUES ({recorded}, {'false'}, {LONG_AGO})"
    )
    await db.recover_expired(older_than=timedelta())
    assert await ended(db, lapsed) == only(EndCode.OUTCOME_UNKNOWN)
    assert await ended(db, unrecorded) == only(EndCode.OUTCOME_UNKNOWN)
    assert await ended(db, recorded) == only(EndCode.FAILED)


async def test_what_was_surely_not_begun_says_so(db: ActionDB) -> None:
    id = await made(db)
    claim = await db.claim_proposal(id, "w")
    halt = (await db.halt(by="oncall", reason="stop", cancel=False)).halt
    with pytest.raises(HaltRequested):
        async with db.holding(claim):
            raise AssertionError
    assert await ended(db, id) == only(EndCode.NOT_BEGUN)
    await db.resume(halt.id, by="oncall", reason="go")


async def test_what_expires_says_so(db: ActionDB) -> None:
    id = await made(db, expires_at="2001-01-01T00:00:00Z")
    assert await db.claim("w") == []
    assert await ended(db, id) == only(EndCode.EXPIRED)


async def test_what_a_halt_cancels_names_it(db: ActionDB) -> None:
    first = await made(db)
    behind = await made(db, depends_on=[first])
    retried = await made(db, max_retries=1, retry_delay=604_800.0, max_retry_delay=604_800.0)
    await db.fail((await db.claim_proposal(retried, "w")).record.id, "boom")
    report = await db.halt(by="oncall", reason="stop")
    assert report.cancelled == 2
    for id in (first, behind):
        assert await ended(db, id) == only(EndCode.HALTED, halt=report.halt.id)
    # It stays failed, and only its retry is called off.
    assert await ended(db, retried) == only(EndCode.FAILED)
    assert (await get(db, retried)).next_retry_at is None


async def test_what_waits_for_what_has_ended_names_it(db: ActionDB) -> None:
    first = await made(db)
    chain = [await made(db, depends_on=[first])]
    chain.append(await made(db, depends_on=chain))
    await db.fail((await db.claim_proposal(first, "w")).record.id, "boom")
    for id in chain:
        assert await ended(db, id) == only(EndCode.DEPENDENCY, proposal=first)
    late = await db.create_proposal(proposal(depends_on=[chain[1], first]))
    assert late.end_code is EndCode.DEPENDENCY
    assert await ended(db, late.id) == only(EndCode.DEPENDENCY, proposal=first)
    # Another dependent one, of what is cancelled by hand.
    second = await made(db)
    waiting = await made(db, depends_on=[second])
    await db.cancel_proposal(second, by="oncall", reason="no")
    assert await ended(db, waiting) == only(EndCode.DEPENDENCY, proposal=second)


async def test_an_import_ends_plainly(db: ActionDB) -> None:
    for status in S:
        code = EndCode(status) if status in (S.CANCELLED, S.FAILED) else None
        one = await db.create_proposal(proposal(status=status))
        keyed = await db.create_proposal(proposal(status=status), idempotency_key=status.value)
        several = await db.create_proposals([proposal(status=status), proposal(status=status)])
        for each in (one, keyed, *several):
            assert each.end_code is code
            assert await get(db, each.id) == each


async def test_the_digest_is_stored_however_a_proposal_is_made(db: ActionDB) -> None:
    given = proposal(parameters={"ü": [1, 1.0, -0.0, 2**70], "a": {"b": None}}, max_retries=3)
    found = [
        await db.create_proposal(given),
        *await db.create_proposals([given, proposal(priority=3), proposal()]),
        await db.create_proposal(given, idempotency_key="k"),
        await db.create_proposal(given, idempotency_key="k"),
    ]
    steps = [proposal(), proposal(depends_on=[found[0].id])]
    found += (await db.create_workflow(WorkflowProposal(name="w"), steps, after={1: 0}))[1]
    async with db.transaction() as tx:
        found.append(await tx.create_proposal(given))
    for each in found:
        assert each.content_digest == each.digest == (await get(db, each.id)).content_digest
    assert len({each.content_digest for each in found}) == 3


async def test_nobody_else_gives_a_digest_or_an_end_code(db: ActionDB) -> None:
    for wrong in ({"content_digest": f"oc1:{'0' * 64}"}, {"end_code": EndCode.DENIED}):
        with pytest.raises(InvalidValue, match="the ledger sets it"):
            await db.create_proposal(proposal(**wrong))


async def test_raw_sql_that_says_nothing_ends_plainly(db: ActionDB, raw: RawSQL) -> None:
    for status, before in ((S.CANCELLED, S.VALIDATED), (S.FAILED, S.EXECUTING)):
        id = await made(db, before)
        await raw(f"UPDATE action_proposals SET status = '{status}' WHERE id = {id}")
        assert await ended(db, id) == only(EndCode(status))


async def test_raw_sql_may_say_how_and_why(db: ActionDB, raw: RawSQL) -> None:
    """Other actors of the ledger do the same."""
    said = "status_changed_by = 'ops', status_changed_at = '2999-01-01 00:00:00.000000'"
    id = await made(db, S.PROPOSED)
    await raw(
        f"UPDATE action_proposals SET status = 'validated', status_cause = '{{\"decision\":7}}', {said}"
        f" WHERE id = {id}"
    )
    assert await ended(db, id) == (None, {"decision": 7})
    # Another writer, who says nothing of a cause, does not inherit it.
    later = said.replace("2999", "3999")
    await raw(f"UPDATE action_proposals SET status = 'executing', {later} WHERE id = {id}")
    assert await ended(db, id) == (None, None)
    id = await made(db)
    await raw(
        "UPDATE action_proposals SET status = 'cancelled', end_code = 'denied', "
        f"status_cause = '{{\"rule\":3}}', {said} WHERE id = {id}"
    )
    assert await ended(db, id) == only(EndCode.DENIED, rule=3)
    # A cause belongs to an actor.
    id = await made(db)
    await raw(
        "UPDATE action_proposals SET status = 'cancelled', end_code = 'denied', "
        f"status_cause = '{{\"rule\":3}}' WHERE id = {id}"
    )
    assert await ended(db, id) == only(EndCode.DENIED)


async def test_a_missing_digest_is_filled_once(db: ActionDB, raw: RawSQL) -> None:
    await raw(
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
        f"VALUES ('a', '{{}}', 'why', {LONG_AGO})"
    )
    (found,) = await db.list_proposals()
    assert found.content_digest is None
    digest = found.digest
    (event,) = await db.history()
    assert event.details is None
    await raw(f"UPDATE action_proposals SET content_digest = '{digest}'")
    assert (await get(db, found.id)).content_digest == digest
    # The event of its creation stays as it is; `db check` accepts that.
    assert await db.history() == [event]
    with pytest.raises(Exception, match="can not be edited"):
        await raw(f"UPDATE action_proposals SET content_digest = 'oc1:{'0' * 64}'")


async def test_proposals_are_found_by_how_they_ended(db: ActionDB) -> None:
    ids = [await made(db) for _ in range(3)]
    await db.cancel_proposal(ids[0], by="oncall", reason="no")
    await db.cancel_proposal(ids[1], by="agent", reason="no")
    for code, expected in (
        (EndCode.CANCELLED, [ids[0]]),
        (EndCode.WITHDRAWN, [ids[1]]),
        (EndCode.DENIED, []),
        (None, ids),
    ):
        assert sorted(e.id for e in await db.list_proposals(end_code=code)) == expected
        assert sorted([e.id async for e in db.iter_proposals(end_code=code)]) == expected
        assert sum((await db.count_proposals(end_code=code)).values()) == len(expected)
    with pytest.raises(InvalidValue, match="end_code"):
        await db.list_proposals(end_code="lost")  # pyright: ignore[reportArgumentType]
