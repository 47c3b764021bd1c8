"""Fixtures for every test: the backends, each a real one, and what the tests do beside the facade."""

import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Real tool calls and real databases of the predecessor, where the checkout has them beside it."""

NEEDS_DATA = "needs the real data in ../shared/data"

BACKENDS = ("memory", "file", "engine")
"""The contract suite runs once on each."""

RawSQL = Callable[..., Awaitable[Sequence[Any]]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="a skipped test fails the run, unless only the real data beside the checkout is missing",
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and item.config.getoption("--no-skips") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if NEEDS_DATA not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be: {reason}"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data; a test that needs it is skipped, visibly, where it isn't."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip(NEEDS_DATA)
    return data


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """Every test gives back the threads that it started."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    left = [
        thread
        for thread in set(threading.enumerate()) - before
        if "connection_worker" in repr(getattr(thread, "_target", ""))
    ]
    assert not left, f"threads left behind: {left}"


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def open_ledger(
    backend: str, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[ActionDB]]]:
    """Opens ledgers on one database of the backend (in memory: each has its own)."""
    async with AsyncExitStack() as stack:
        path = tmp_path / "ledger.db"

        async def open_one(**settings: Any) -> ActionDB:
            target: Any = path
            if backend == "memory":
                target = ":memory:"
            elif backend == "engine":
                target = create_async_engine(f"sqlite+aiosqlite:///{path}")
                stack.push_async_callback(target.dispose)
            return await stack.enter_async_context(ActionDB(target, **settings))

        yield open_one


@pytest.fixture
async def db(open_ledger: Callable[..., Awaitable[ActionDB]]) -> ActionDB:
    """An empty ledger of the backend."""
    return await open_ledger()


@pytest.fixture
def raw(db: ActionDB) -> RawSQL:
    """Runs SQL beside the facade, as another tool would, and gives back the rows."""

    async def run(sql: str, *parameters: Any) -> Sequence[Any]:
        def unit(conn: Any) -> Sequence[Any]:
            result = conn.exec_driver_sql(sql, parameters)
            return result.all() if result.returns_rows else []

        return await db._units.write(unit)

    return run


def proposal(action_name: str = "transfer_leader", **fields: Any) -> ActionProposal:
    """A proposal of which only what matters to the test needs saying."""
    return ActionProposal(action_name=action_name, **{"reason": "store 2 is hot", **fields})
