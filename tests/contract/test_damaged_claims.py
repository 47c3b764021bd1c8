"""Rows that can't be read are never claimed, and block nobody who claims."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from operator_core.actions import ActionStatus, Busy, CorruptRow, InvalidTransition
from operator_core.db import ActionDB
from tests.clocks import asleep
from tests.conftest import ON_SERVER, ON_SQLITE, RawSQL
from tests.contract.test_claims import ids, ready
from tests.contract.test_corrupt_rows import DAMAGES, DAMAGES_ON_SQLITE, damage

pytestmark = pytest.mark.two_backends

S = ActionStatus


@pytest.fixture
def place(
    place: str | Path, backend: str, postgres_copy: Callable[[str | Path], str]
) -> str | Path:
    """A database that is thrown away: its checks are not what they were."""
    return postgres_copy(place) if backend in ON_SERVER else place


@pytest.mark.parametrize(("column", "value"), [each[:2] for each in DAMAGES])
async def test_a_damaged_row_is_never_claimed_and_in_nobodys_way(
    db: ActionDB,
    raw: RawSQL,
    column: str,
    value: str,
) -> None:
    await check(db, raw, column, value)


@pytest.mark.parametrize("backend", ON_SQLITE, indirect=True)
@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((column, value) for column, value, _ in DAMAGES_ON_SQLITE),
        ("scheduled_at", "'soon'"),
        ("expires_at", "'soon'"),
        ("next_retry_at", "x'00'"),
        ("priority", "'high'"),
        ("max_retries", "1.5"),
        ("retry_count", "'many'"),
        ("retry_delay", "'long'"),
        ("version", "'x'"),
        ("last_error", "x'ff'"),
    ],
)
async def test_nor_is_what_only_sqlite_takes(
    db: ActionDB,
    raw: RawSQL,
    column: str,
    value: str,
) -> None:
    await check(db, raw, column, value)


async def check(db: ActionDB, raw: RawSQL, column: str, value: str) -> None:
    await db.create_proposals([ready(), ready(priority=9), ready()])
    await damage(db, "action_proposals", column, value)
    before = await raw("SELECT status, status_changed_by FROM action_proposals WHERE id = 2")
    assert ids(await db.claim("worker-1")) == [1]
    assert ids(await db.claim("worker-1", limit=5)) == [3]
    assert await db.claim("worker-1", limit=5) == []
    assert before == (
        await raw("SELECT status, status_changed_by FROM action_proposals WHERE id = 2")
    )
    with pytest.raises((CorruptRow, InvalidTransition, Busy)):
        await db.claim_proposal(2, "worker-1")
    assert await db.get_records_for_proposal(2) == []


async def insert(raw: RawSQL, parameters: str) -> None:
    """As another tool may, past no check and no trigger."""
    await raw(
        "INSERT INTO action_proposals "
        "(action_name, parameters, reason, status, proposed_at, priority) "
        f"VALUES ('a', '{parameters}', 'r', 'validated', '2026-01-01 00:00:00.000000', 9)"
    )


@pytest.mark.parametrize(
    "parameters", ["[1]", "5", "null", '"{}"', '{"a": 1e400}', '{"a": [-1E+9999]}']
)
async def test_no_number_of_unreadable_rows_blocks_the_others(
    db: ActionDB, raw: RawSQL, parameters: str
) -> None:
    for _ in range(5):
        await insert(raw, parameters)
    await db.create_proposals([ready(), ready()])
    assert ids(await db.claim("worker-1")) == [6]
    assert ids(await db.claim("worker-1", limit=7)) == [7]
    assert await db.claim("worker-1", limit=7) == []
    assert (await db.count_proposals())[S.VALIDATED] == 5


@pytest.mark.parametrize("parameters", ['{"a":' * 300 + "1" + "}" * 300, r'{"a": "\ud800"}'])
async def test_nor_do_those_that_a_server_can_read_and_the_ledger_can_not(
    db: ActionDB, raw: RawSQL, parameters: str
) -> None:
    await insert(raw, parameters)
    await db.create_proposals([ready(), ready()])
    assert ids(await db.claim("worker-1", limit=3)) == [2, 3]
    assert await db.get_records_for_proposal(1) == []


async def test_whatever_the_ledger_takes_can_be_claimed(db: ActionDB) -> None:
    values = ["1e400", 10**400, -(10**400), "1" * 400, 1.7976931348623157e308, 5e-324]
    await db.create_proposals(ready(parameters={"n": value}) for value in values)
    claims = await db.claim("worker-1", limit=10)
    assert [claim.proposal.parameters["n"] for claim in claims] == values


async def test_a_silent_workers_damaged_record_is_in_nobodys_way_either(
    db: ActionDB, raw: RawSQL
) -> None:
    await db.create_proposals(ready() for _ in range(4))
    await db.claim("worker-1", limit=2)
    past = "lease_expires_at = '2001-01-01 00:00:00.000000'"
    await raw(f"UPDATE action_records SET {past}, result_data = '[1]' WHERE id = 1")
    await raw(f"UPDATE action_records SET {past} WHERE id = 2")
    assert [record.id for record in await db.recover_expired()] == [2]
    assert ids(await db.claim("worker-2")) == [3]
    assert ids(await db.claim("worker-2")) == [4]
    assert await db.claim("worker-2") == []


async def test_numbers_at_their_end_block_nobody(db: ActionDB) -> None:
    """Rows from before the database checked what is inserted."""
    await db.create_proposals(
        [ready(priority=9), ready(priority=9, max_retries=3), ready(priority=9), ready()]
    )
    await asleep(db, "UPDATE action_proposals SET version = 9223372036854775807 WHERE id = 1")
    await asleep(
        db, "UPDATE action_proposals SET retry_delay = 1e300, max_retry_delay = 1e300 WHERE id = 2"
    )
    await asleep(db, "UPDATE action_proposals SET retry_delay = -1e300 WHERE id = 3")
    taken = await db.claim("worker-1", limit=9, lease=timedelta(milliseconds=1))
    assert set(ids(taken)) >= {2, 3, 4}
    ended: list[int] = []
    while len(ended) < 3:
        ended += [each.proposal_id for each in await db.recover_expired()]
    assert set(ended) >= {2, 3, 4}
    await db.create_proposal(ready())
    assert 5 in ids(await db.claim("worker-1", limit=5))
    # What can't move costs only itself.
    await db.create_proposal(ready())
    assert await db.cancel_all_pending() >= 1
    assert not await db.list_proposals(S.PROPOSED)
