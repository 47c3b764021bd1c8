"""Versions: each change of a proposal counts one, whoever makes it, the same on every backend."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionError,
    ActionRecord,
    ActionStatus,
    Conflict,
    InvalidTransition,
    InvalidValue,
    LeaseLost,
    NotFound,
    VersionConflict,
)
from operator_core.db import ActionDB
from tests.conftest import ON_SQLITE, RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
RUN_OUT = "UPDATE action_records SET lease_expires_at = '2001-01-01 00:00:00.000000'"


async def version(db: ActionDB, id: int | None = 1) -> int | None:
    found = await db.get_proposal(id)
    assert found is not None
    return found.version


async def test_what_is_created_is_in_version_one_and_as_it_is_read(
    db: ActionDB, raw: RawSQL
) -> None:
    made = [
        await db.create_proposal(proposal()),
        await db.create_proposal(proposal(max_retries=1, expires_at=LONG_AGO)),
        await db.create_proposal(proposal(status=S.COMPLETED), idempotency_key="k"),
        await db.create_proposal(proposal(status=S.COMPLETED), idempotency_key="k"),
        *await db.create_proposals(proposal(status=status) for status in ActionStatus),
    ]
    for each in made:
        assert each.version == 1
        assert await db.get_proposal(each.id) == each
    await raw(
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
        "VALUES ('a', '{}', 'r', '2026-01-01 00:00:00.000000')"
    )
    assert {each.version for each in await db.list_proposals()} == {1}


async def test_each_change_by_any_verb_counts_one(db: ActionDB, raw: RawSQL) -> None:
    await db.create_proposal(proposal(max_retries=2, retry_delay=0))
    await db.update_proposal_status(1, S.VALIDATED)
    assert await version(db) == 2
    (claim,) = await db.claim("worker-1", lease=HOUR)
    assert claim.proposal.version == await version(db) == 3
    await db.fail(claim.record.id, "boom")
    assert await version(db) == 4
    # Put back among those that wait, and taken.
    (claim,) = await db.claim("worker-1", lease=HOUR)
    assert claim.proposal.version == await version(db) == 6
    await raw(RUN_OUT + " WHERE id = 2")
    await db.recover_expired()
    assert await version(db) == 7
    (claim,) = await db.claim("worker-1", lease=HOUR)
    assert await db.fail_many({claim.record.id or 0: "boom"}) == []
    assert await version(db) == 10
    await db.retry(1)
    assert await version(db) == 11
    (claim,) = await db.claim("worker-1", lease=HOUR)
    assert await db.complete_many([claim.record.id]) == []
    assert await version(db) == 13


async def test_so_do_cancelling_calling_off_completing_and_expiring(db: ActionDB) -> None:
    await db.create_proposals(
        [
            proposal(),
            proposal(status=S.VALIDATED, max_retries=1, retry_delay=604_800, priority=2),
            proposal(status=S.VALIDATED, priority=1),
            proposal(expires_at=LONG_AGO),
        ]
    )
    to_retry, done = await db.claim("worker-1", limit=2)
    await db.fail(to_retry.record.id, "boom")
    await db.complete(done.record.id)
    assert [await version(db, id) for id in (1, 2, 3, 4)] == [1, 3, 3, 2]
    assert await db.cancel_all_pending() == 1
    assert [await version(db, id) for id in (1, 2, 3, 4)] == [2, 4, 3, 2]


async def test_what_changes_nothing_of_a_proposal_counts_nothing(db: ActionDB) -> None:
    await db.create_proposal(proposal(status=S.VALIDATED))
    assert await db.claim("worker-1", action_names="another") == []
    assert await db.cancel_all_pending() == 1
    await db.create_proposal(proposal(status=S.VALIDATED))
    (claim,) = await db.claim("worker-1", lease=HOUR)
    before = [await db.get_proposal(1), await db.get_proposal(2)]
    await db.heartbeat(claim.record.id)
    await db.create_record(ActionRecord(proposal_id=2))
    await db.update_record(2, True)
    await db.recover_expired()
    await db.cancel_all_pending()
    refused: list[tuple[Awaitable[Any], type[ActionError]]] = [
        (db.complete(2), LeaseLost),
        (db.retry(1), InvalidTransition),
        (db.update_proposal_status(2, S.PROPOSED), InvalidTransition),
        (db.update_proposal_status(2, S.COMPLETED, expected_version=1), VersionConflict),
    ]
    for call, error in refused:
        with pytest.raises(error):
            await call
    assert [await db.get_proposal(1), await db.get_proposal(2)] == before


@pytest.mark.parametrize(
    "change",
    [
        "last_error = 'by hand'",
        "status = 'validated'",
        "status = 'proposed'",
        "version = 99",
        "version = 0",
        "version = NULL",
        "version = version",
        "version = version + 1",
        "version = version - 1",
        "version = 7, status = 'cancelled'",
        "version = 7, updated_at = '2200-01-01 00:00:00.000000'",
        "status = 'validated', status_changed_by = 'me', "
        "status_changed_at = '2200-01-01 00:00:00.000000', version = 41",
    ],
)
async def test_raw_sql_counts_too_and_can_set_it_to_nothing_else(
    db: ActionDB, raw: RawSQL, backend: str, change: str
) -> None:
    await db.create_proposals([proposal(), proposal(), proposal()])
    sql = f"UPDATE action_proposals SET {change} WHERE id <> 3"
    if change == "version = NULL" and backend in ON_SQLITE:
        # Refused before a trigger could put it right.
        with pytest.raises(ActionError):
            await raw(sql)
        assert {each.version for each in await db.list_proposals()} == {1}
        return
    await raw(sql)
    assert [await version(db, id) for id in (1, 2, 3)] == [2, 2, 1]
    await raw("UPDATE action_proposals SET next_retry_at = NULL WHERE id = 1")
    assert [await version(db, id) for id in (1, 2, 3)] == [3, 2, 1]


async def test_who_has_read_another_version_changes_nothing(db: ActionDB) -> None:
    created = await db.create_proposal(proposal())
    await db.update_proposal_status(1, S.VALIDATED, expected_version=created.version)
    before = await db.get_proposal(1)
    for expected in (1, 3, 2**63 - 1):
        with pytest.raises(VersionConflict) as caught:
            await db.update_proposal_status(1, S.EXECUTING, expected_version=expected)
        error = caught.value
        assert isinstance(error, Conflict)
        assert (error.kind, error.id, error.expected, error.found) == ("proposal", 1, expected, 2)
    assert await db.get_proposal(1) == before
    assert len(await db.history()) == 2
    await db.update_proposal_status(1, S.EXECUTING, expected_version=2)
    # A move that was never allowed is one in any version, and what is not there has none.
    with pytest.raises(InvalidTransition):
        await db.update_proposal_status(1, S.PROPOSED, expected_version=3)
    with pytest.raises(NotFound):
        await db.update_proposal_status(2, S.VALIDATED, expected_version=1)


async def test_a_status_that_came_back_is_another_version(db: ActionDB) -> None:
    await db.create_proposal(proposal(status=S.FAILED))
    read = await db.get_proposal(1)
    assert read is not None
    await db.retry(1)
    await db.update_proposal_status(1, S.EXECUTING)
    await db.update_proposal_status(1, S.FAILED)
    with pytest.raises(VersionConflict) as caught:
        await db.update_proposal_status(1, S.VALIDATED, expected_version=read.version)
    assert (caught.value.expected, caught.value.found) == (1, 4)


async def test_of_many_who_have_read_the_same_version_one_wins(db: ActionDB) -> None:
    await db.create_proposal(proposal())
    outcomes = await asyncio.gather(
        *(
            db.update_proposal_status(1, (S.VALIDATED, S.CANCELLED)[n % 2], expected_version=1)
            for n in range(12)
        ),
        return_exceptions=True,
    )
    assert [type(each) for each in outcomes].count(VersionConflict) == 11
    assert outcomes.count(None) == 1
    assert await version(db) == 2


async def test_versions_are_expected_inside_a_transaction_too(db: ActionDB) -> None:
    async with db.transaction() as tx:
        await tx.create_proposal(proposal())
        await tx.update_proposal_status(1, S.VALIDATED, expected_version=1)
        with pytest.raises(VersionConflict):
            await tx.update_proposal_status(1, S.CANCELLED, expected_version=1)
    assert await version(db) == 2


@pytest.mark.parametrize("expected", [0, -1, "1", True, 1.0, 2**63])
async def test_what_is_no_version_is_refused_before_any_sql(expected: Any) -> None:
    # A ledger that is not open runs none; it would say so.
    db = ActionDB(":memory:")
    with pytest.raises(InvalidValue) as caught:
        await db.update_proposal_status(1, S.VALIDATED, expected_version=expected)
    assert caught.value.path == "expected_version"
