"""Fixtures for every test: the backends, each a real one, and what the tests do beside the facade."""

import argparse
import asyncio
import gc
import os
import shutil
import threading
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis.strategies import just
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB, SyncActionDB
from operator_core.db.ledger import sweep
from operator_core.db.verbs import history
from tests import servers
from tests.clocks import LoopClock, loop_clock
from tests.databases import NEEDS_SERVER, Databases, NoServer, databases
from tests.looks_async import looks_async, runs_by_sync

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Real tool calls and real databases of the predecessor, where the checkout has them beside it."""

NEEDS_DATA = "needs the real data in ../shared/data"

ON_SQLITE = ("memory", "file", "engine", "sync")
ON_SERVER = ("postgresql", "psycopg", "server engine", "sync server")
SYNC = ("sync", "sync server")
"""`SyncActionDB`, on which a part of the suite runs."""
BACKENDS = (*ON_SQLITE, *ON_SERVER)
"""The contract suite runs once on each."""
ENOUGH: Final[Mapping[str, Collection[str]]] = {
    "two_backends": ("memory", "postgresql", "asyncpg"),
    "each_driver": ("memory", "engine", "postgresql", "psycopg", "asyncpg"),
}
"""By marker, the backends (or the kinds, of a test on servers only) that are enough for `make test`.

One of each database, where the facade or the SQL decides; one of each way by which a value gets to the database and
back, where that decides and not the runner. The others run with ``--all-backends``.
"""

RawSQL = Callable[..., Awaitable[Sequence[Any]]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="a skipped test fails the run, unless only the real data beside the checkout is missing",
    )
    parser.addoption(
        "--backends",
        type=_backends,
        default=BACKENDS,
        metavar="NAME,...",
        help="run the tests that take a backend on these only: " + ", ".join(BACKENDS),
    )
    parser.addoption(
        "--all-backends",
        action="store_true",
        help="run those too on every backend for which few are enough: " + ", ".join(ENOUGH),
    )


def pytest_configure(config: pytest.Config) -> None:
    # Each program that the tests start would compile the ledger for itself.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    stack = ExitStack()
    config.add_cleanup(stack.close)
    # The workers find it in their environment.
    stack.enter_context(servers.prepared())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """One more than there are cores: the tests wait for servers and processes for much of their time."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return max(3, (os.cpu_count() or 1) + 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getoption("dist") != "load":  # somebody wants it otherwise
        return None
    from tests.distribution import ByWhatTheyShare

    return ByWhatTheyShare(config, log)


def _backends(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(BACKENDS):
        raise argparse.ArgumentTypeError(f"no such backend: {', '.join(sorted(unknown))}")
    return names


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = config.getoption("--backends")
    every = config.getoption("--all-backends")

    def is_chosen(item: pytest.Item) -> bool:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        backend = params.get("backend")
        marker = next((name for name in ENOUGH if item.get_closest_marker(name)), None)
        if item.get_closest_marker("every_backend"):
            marker = None
        if backend in SYNC:
            function = getattr(item, "originalname", item.name)
            # The units of work are the same ones: what they decide is tried without it.
            if marker == "two_backends" or not runs_by_sync(item.path.stem, function):
                return False
        if every or marker is None:
            return backend is None or backend in chosen
        enough = ENOUGH[marker]
        if backend is None:
            return params.get("kind", "asyncpg") in enough
        return backend in ([name for name in chosen if name in enough] or chosen)

    config.hook.pytest_deselected(items=[item for item in items if not is_chosen(item)])
    items[:] = filter(is_chosen, items)
    if hasattr(config, "workerinput"):
        from tests.distribution import place

        items.sort(key=place)


def pytest_collection_finish() -> None:
    # In its first test, Hypothesis looks for what refers to its random numbers, and does not see what is frozen.
    settings(max_examples=1, database=None)(given(just(None))(lambda _: None))()
    # Thousands of tests, which stay, would be looked through by every full collection.
    gc.collect()
    gc.freeze()


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

    def left() -> list[threading.Thread]:
        return [
            thread
            for thread in set(threading.enumerate()) - before
            if "connection_worker" in repr(getattr(thread, "_target", ""))
        ]

    yield
    # A thread that is about to end needs no collection, which takes longer than most tests.
    for thread in left():
        thread.join(0.1)
    if left():
        gc.collect()
    for thread in left():
        # SQLAlchemy's own aiosqlite engine does not wait for its threads.
        thread.join(10)
    assert not left(), f"threads left behind: {left()}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Databases]:
    """Databases on a PostgreSQL server; where there is none, who needs one is skipped, visibly."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(databases())
        except NoServer:
            pytest.skip(NEEDS_SERVER)
        yield made


@pytest.fixture
def postgres_url(postgres: Databases) -> str:
    """An empty database of the test's own."""
    return postgres.new()


@pytest.fixture
def server_ledger(postgres: Databases) -> str:
    """An empty ledger on the server, at head."""
    return postgres.ledger()


@pytest.fixture
def postgres_copy(request: pytest.FixtureRequest) -> Callable[[str | Path], str]:
    """Makes a copy of a ledger on the server, for a test that leaves it changed."""

    def copy(url: str | Path) -> str:
        _, _, rest = str(url).partition("://")
        scheme = str(url).removesuffix(rest)
        made = request.getfixturevalue("postgres").new(template=rest.rpartition("/")[2])
        return scheme + made.partition("://")[2]

    return copy


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def place(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str | Path:
    """Where the backend's database is: a file, a URL, or nowhere but in memory."""
    if backend in ON_SERVER:
        url = request.getfixturevalue("server_ledger")
        return (
            url.replace("://", "+psycopg://", 1) if backend in ("psycopg", "sync server") else url
        )
    if backend == "memory":
        return ":memory:"
    made = request.getfixturevalue("made_by_engine" if backend == "engine" else "made_by_path")
    return shutil.copyfile(made, tmp_path / "ledger.db")


@pytest.fixture(scope="session")
def made_by_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger, as opening makes one: copied for each test, because making it takes longer than most tests."""
    path = tmp_path_factory.mktemp("made") / "ledger.db"
    with SyncActionDB(path):
        return path


@pytest.fixture(scope="session")
def made_by_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on a service's engine, which leaves the file's settings as they are."""
    path = tmp_path_factory.mktemp("made") / "ledger.db"

    async def make() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        async with ActionDB(engine):
            pass
        await engine.dispose()

    asyncio.run(make())
    return path


@pytest.fixture
def make_engine() -> Callable[[str | Path], AsyncEngine]:
    """Makes a service's engine as SQLAlchemy does. Where a test opens the file too, `engine_on` takes its place."""

    def make(place: str | Path) -> AsyncEngine:
        url = str(place) if "://" in str(place) else f"sqlite+aiosqlite:///{place}"
        return create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))

    return make


@pytest.fixture
async def open_ledger(
    backend: str, place: str | Path, make_engine: Callable[[str | Path], AsyncEngine]
) -> AsyncIterator[Callable[..., Awaitable[ActionDB]]]:
    """Opens ledgers on one database of the backend (in memory: each has its own)."""
    async with AsyncExitStack() as stack:

        async def open_one(**settings: Any) -> ActionDB:
            target: Any = place
            if backend in ("engine", "server engine"):
                target = make_engine(place)
                stack.push_async_callback(target.dispose)
            make = looks_async if backend in SYNC else ActionDB
            return await stack.enter_async_context(make(target, **settings))

        yield open_one


@pytest.fixture
async def db(open_ledger: Callable[..., Awaitable[ActionDB]]) -> ActionDB:
    """An empty ledger of the backend."""
    return await open_ledger()


@pytest.fixture(name="loop_clock")
async def _loop_clock(db: ActionDB) -> AsyncIterator[LoopClock]:
    """The clock of the test's event loop, for the test to set forward."""
    # `db` closes later: by the right clock.
    with loop_clock() as clock:
        yield clock


@pytest.fixture
def whole_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep tries to its end: on a busy machine its half a second is over after a row or two."""
    monkeypatch.setattr(sweep, "BUDGET", 3600.0)


@pytest.fixture
def only_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a change is woken by it: looking now and then without that would hide that it isn't."""
    monkeypatch.setattr(history, "_AT_LEAST_EVERY", 3600.0)


@pytest.fixture
def raw(db: ActionDB) -> RawSQL:
    """Runs SQL beside the facade, as another tool would, and gives back the rows."""

    async def run(sql: str, *parameters: Any) -> Sequence[Any]:
        def unit(conn: Any) -> Sequence[Any]:
            result = conn.exec_driver_sql(_with_markers(sql, conn.dialect.paramstyle), parameters)
            return result.all() if result.returns_rows else []

        return await db._units.write(unit)

    return run


def _with_markers(sql: str, style: str) -> str:
    """`sql` with its question marks as the driver writes them."""
    if style == "pyformat":
        return sql.replace("%", "%%").replace("?", "%s")
    if style != "numeric_dollar":
        return sql
    first, *others = sql.split("?")
    return first + "".join(f"${number}{other}" for number, other in enumerate(others, 1))


def proposal(action_name: str = "transfer_leader", **fields: Any) -> ActionProposal:
    """A proposal of which only what matters to the test needs saying."""
    return ActionProposal(action_name=action_name, **{"reason": "store 2 is hot", **fields})
