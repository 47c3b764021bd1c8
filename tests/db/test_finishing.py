"""Work that goes to its end although the caller is cancelled, in a task of its own or in the caller's."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from operator_core.db.finishing import finish, finish_here

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
