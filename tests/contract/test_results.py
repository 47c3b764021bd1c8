"""What has been done is completed, whatever the worker returns: on every backend, by each way to end an execution."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from operator_core.actions import ActionProposal, ActionStatus, InvalidValue
from operator_core.actions.results import NOT_KEPT
from operator_core.db import ActionDB
from operator_core.worker import run_worker
from tests.conftest import proposal

S = ActionStatus

KEPT = [("text", "done"), ("list", [1, 2]), ("true", True), ("tuple", (1,)), ("number", 3.5)]
NOTED = [
    ("datetime", datetime(2030, 1, 1, tzinfo=UTC)),
    ("nan", float("nan")),
    ("nested nan", {"a": [float("nan")]}),
    ("odd bytes", b"\xff\xfe"),
    ("set", {1}),
    ("1.1 MB", "x" * 1_100_000),
    ("keys", {1: 2}),
    ("surrogate", "\ud800"),
]
EVERY = pytest.mark.parametrize(
    "result", [pytest.param(each, id=name) for name, each in KEPT + NOTED]
)


async def ready(db: ActionDB, name: str = "act") -> ActionProposal:
    return await db.create_proposal(proposal(name, status=S.VALIDATED, max_retries=3))


async def check(db: ActionDB, id: int | None, result: object, log: str) -> None:
    found = await db.get_proposal(id)
    (record,) = await db.get_records_for_proposal(id)
    assert found is not None
    assert (found.status, record.success, found.next_retry_at) == (S.COMPLETED, True, None)
    assert record.result_data is not None
    noted = any(result is each for _, each in NOTED)
    assert (NOT_KEPT in record.result_data) == noted
    assert (f"the result of record {record.id}" in log) == noted
    if not noted:
        assert record.result_data == {"result": list(result) if type(result) is tuple else result}


@pytest.mark.two_backends
@EVERY
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "coroutine"])
async def test_a_handler_may_return_anything(
    db: ActionDB, caplog: pytest.LogCaptureFixture, result: object, plain: bool
) -> None:
    made = await ready(db)
    runs, stop = 0, asyncio.Event()

    def act(_: ActionProposal) -> object:
        nonlocal runs
        runs += 1
        return result

    async def act_slowly(it: ActionProposal) -> object:
        return act(it)

    with caplog.at_level(logging.WARNING, "operator_core"):
        task = asyncio.create_task(
            run_worker(db, {"act": act if plain else act_slowly}, stop=stop, worker="w")
        )
        await db.wait_for(made.id, timeout=60)
        stop.set()
        await task
    assert runs == 1
    await check(db, made.id, result, caplog.text)


@pytest.mark.two_backends
@EVERY
async def test_so_may_a_block(
    db: ActionDB, caplog: pytest.LogCaptureFixture, result: object
) -> None:
    made = await ready(db)
    with caplog.at_level(logging.WARNING, "operator_core"):
        async with db.claimed("w") as execution:
            assert execution is not None
            execution.result_data = result
    await check(db, made.id, result, caplog.text)


@pytest.mark.two_backends
@EVERY
async def test_a_block_that_fails_keeps_what_it_got_so_far(db: ActionDB, result: object) -> None:
    await ready(db)
    with pytest.raises(ZeroDivisionError):
        async with db.claimed("w") as execution:
            assert execution is not None
            execution.result_data = result
            raise ZeroDivisionError
    record = await db.get_record(1)
    assert record is not None
    assert (record.success, record.result_data is not None) == (False, True)


@pytest.mark.two_backends
@EVERY
async def test_complete_refuses_it_before_anything_is_changed(db: ActionDB, result: Any) -> None:
    made = await ready(db)
    (claim,) = await db.claim("w")
    before = await db.history()
    with pytest.raises(InvalidValue, match="result_data"):
        await db.complete(claim.record.id, result)
    with pytest.raises(InvalidValue, match="result_data"):
        await db.complete_many({claim.record.id or 0: result})
    with pytest.raises(InvalidValue, match="result_data"):
        await db.fail(claim.record.id, "why", result)
    with pytest.raises(InvalidValue, match="result_data"):
        await db.update_record(claim.record.id, success=True, result_data=result)
    assert await db.history() == before
    assert await db.get_record(claim.record.id) == claim.record
    assert await db.get_proposal(made.id) == claim.proposal


@pytest.mark.parametrize("backend", ["memory", "postgresql"], indirect=True)
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "coroutine"])
@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt(), GeneratorExit()], ids=repr)
async def test_a_handler_that_would_end_the_process_fails_itself_only(
    db: ActionDB, error: BaseException, plain: bool
) -> None:
    others = [await ready(db, "other"), await ready(db, "other")]
    bad = await db.create_proposal(proposal("exits", status=S.VALIDATED))
    release, stop = asyncio.Event(), asyncio.Event()

    def exits(_: ActionProposal) -> None:
        raise error

    async def exits_slowly(it: ActionProposal) -> None:
        exits(it)

    async def other(_: ActionProposal) -> None:
        await release.wait()

    handlers = {"exits": exits if plain else exits_slowly, "other": other}
    task = asyncio.create_task(run_worker(db, handlers, concurrency=3, stop=stop, worker="w"))
    failed = await db.wait_for(bad.id, timeout=60)
    assert (failed.status, type(error).__name__ in (failed.last_error or "")) == (S.FAILED, True)
    release.set()
    for one in others:
        assert (await db.wait_for(one.id, timeout=60)).status is S.COMPLETED
    later = await ready(db, "other")
    assert (await db.wait_for(later.id, timeout=60)).status is S.COMPLETED
    stop.set()
    assert await task == 4


async def test_a_worker_can_say_that_it_does_not_know(db: ActionDB) -> None:
    for retries in (0, 1):
        await db.create_proposal(proposal(status=S.VALIDATED, max_retries=retries))
    claims = await db.claim("w", limit=2)
    await db.fail(claims[0].record.id, "timeout", {"sent": True}, outcome_unknown=True)
    assert await db.fail_many({claims[1].record.id or 0: "timeout"}, outcome_unknown=True) == []
    for claim, retried in zip(claims, (False, True), strict=True):
        record = await db.get_record(claim.record.id)
        found = await db.get_proposal(claim.proposal.id)
        assert record is not None
        assert found is not None
        assert (record.success, record.outcome_unknown, record.error_message) == (
            None,
            True,
            "timeout",
        )
        assert (found.status, found.last_error) == (S.FAILED, "timeout")
        assert (found.next_retry_at is not None) == retried
