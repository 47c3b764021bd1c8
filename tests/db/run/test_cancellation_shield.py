"""Work that goes to its end although the caller is cancelled, in a task of its own or in the caller's."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from operator_core.db.run.cancellation import finish, finish_here

Finish = Callable[[Coroutine[Any, Any, str]], Awaitable[str]]


@pytest.fixture(params=[finish, finish_here])
def to_the_end(request: pytest.FixtureRequest) -> Finish:
    return request.param


class Work:
    """Waits twice, and notes how far it has come."""

    def __init__(self, fails: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.waits = [loop.create_future(), loop.create_future()]
        self.reached = 0
        self.fails = fails

    async def run(self) -> str:
        for wait in self.waits:
            await wait
            self.reached += 1
        if self.fails:
            raise LookupError("as asked")
        return "done"

    async def let_go(self) -> None:
        for wait in self.waits:
            wait.set_result(None)
            await asyncio.sleep(0)


async def test_the_result_comes_back(to_the_end: Finish) -> None:
    work = Work()
    task = asyncio.ensure_future(to_the_end(work.run()))
    await work.let_go()
    assert await task == "done"


async def test_an_error_comes_back(to_the_end: Finish) -> None:
    work = Work(fails=True)
    task = asyncio.ensure_future(to_the_end(work.run()))
    await work.let_go()
    with pytest.raises(LookupError, match="as asked"):
        await task


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("cancels", [1, 2])
async def test_a_cancelled_caller_waits_for_the_end(
    to_the_end: Finish, fails: bool, cancels: int
) -> None:
    work = Work(fails)
    task = asyncio.ensure_future(to_the_end(work.run()))
    for _ in range(cancels):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    await work.let_go()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.reached == 2


async def test_work_that_need_not_wait_ends_at_once(to_the_end: Finish) -> None:
    async def work() -> str:
        return "at once"

    assert await to_the_end(work()) == "at once"


async def test_a_failed_wait_is_the_works_to_handle(to_the_end: Finish) -> None:
    waiting = asyncio.get_running_loop().create_future()

    async def work() -> str:
        try:
            await waiting
        except OSError:
            return "handled"
        return "not reached"

    task = asyncio.ensure_future(to_the_end(work()))
    await asyncio.sleep(0)
    waiting.set_exception(OSError())
    assert await task == "handled"


async def test_a_wait_that_its_owner_cancels_is_the_works_to_handle(to_the_end: Finish) -> None:
    waiting = asyncio.get_running_loop().create_future()

    async def work() -> str:
        try:
            await waiting
        except asyncio.CancelledError:
            return "handled"
        return "not reached"

    task = asyncio.ensure_future(to_the_end(work()))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await task == "handled"
    assert not task.cancelling()


async def test_a_turn_of_the_loop_is_no_wait_for_anything(to_the_end: Finish) -> None:
    turns = 0

    async def work() -> str:
        nonlocal turns
        for _ in range(3):
            await asyncio.sleep(0)
            turns += 1
        return "done"

    task = asyncio.ensure_future(to_the_end(work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert turns == 3


async def test_a_timeout_of_the_caller_is_heard_at_the_end(to_the_end: Finish) -> None:
    work = Work()

    async def caller() -> None:
        async with asyncio.timeout(0.01):
            await to_the_end(work.run())

    task = asyncio.ensure_future(caller())
    while not task.cancelling():
        await asyncio.sleep(0.001)
    await work.let_go()
    with pytest.raises(TimeoutError):
        await task
    assert work.reached == 2


async def test_work_that_is_given_up_is_closed() -> None:
    closed = False

    async def work() -> None:
        nonlocal closed
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            closed = True

    given_up = finish_here(work())
    given_up.send(None)
    given_up.close()
    assert closed
