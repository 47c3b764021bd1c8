"""What only `SyncActionDB` has: threads, forks, interrupts, heartbeats from a thread, and blocking waits."""

import asyncio
import gc
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from operator_core.actions import (
    ActionError,
    ActionStatus,
    Busy,
    EventType,
    InvalidValue,
    LeaseLost,
    NotFound,
    NotOpen,
    SchemaOutdated,
    StorageCorrupt,
    StorageUnavailable,
    WrongProcess,
)
from operator_core.db import ActionDB, SyncActionDB
from operator_core.db.ledger import recovery
from operator_core.db.postgresql.sync_listener import SyncServerChanges
from operator_core.db.run.blocking import finished
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sqlite import one_library
from operator_core.db.sqlite.changes import SqliteChanges
from operator_core.db.sqlite.handle import SqliteHandle
from operator_core.db.sqlite.sync_runner import SyncSqliteRunner
from operator_core.db.sqlite.transaction import BlockingTransaction
from tests.clocks import PATIENCE
from tests.conftest import proposal

S = ActionStatus

PLACES = ("file", "memory", "server")


@pytest.fixture(params=PLACES)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "server":
        return request.getfixturevalue("server_ledger")
    return ":memory:" if request.param == "memory" else str(tmp_path / "ledger.db")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def db(where: str) -> Iterator[SyncActionDB]:
    with SyncActionDB(where) as db:
        yield db


@contextmanager
def beside(work: Callable[[], Any]) -> Iterator[Any]:
    """A block beside which a thread does `work`; its error is raised at the end of the block."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        yield running
        running.result(PATIENCE)


def no_write_lock_is_held(path: Path) -> None:
    with closing(dbapi.connect(path, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")


# ------ opening and closing


def test_the_file_is_that_of_an_asynchronous_ledger(path: Path) -> None:
    with SyncActionDB(path) as db:
        assert db.db_path == path
        made = db.create_proposal(proposal())
        assert path.stat().st_mode & 0o777 == 0o600

    async def read() -> Any:
        async with ActionDB(path) as db:
            return await db.get_proposal(made.id)

    assert asyncio.run(read()) == made
    assert not path.with_name("ledger.db-wal").exists()


def test_it_works_in_the_thread_of_a_running_event_loop(path: Path) -> None:
    async def main() -> int:
        with SyncActionDB(path) as db:
            for _ in range(3):
                db.create_proposal(proposal())
            return len(list(db.iter_proposals())) + len(list(db.events()))

    assert asyncio.run(main()) == 6


def test_without_upgrade_nothing_is_made(path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        SyncActionDB(path, upgrade=False).open()
    assert not path.exists()
    path.touch()
    with pytest.raises(SchemaOutdated):
        SyncActionDB(path, upgrade=False).open()
    assert not path.stat().st_size


async def test_what_is_no_target_is_refused(path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    for target in (engine, 3, None, "mysql://host/db", "postgresql+asyncpg://host/db"):
        with pytest.raises(InvalidValue):
            SyncActionDB(target)  # type: ignore[arg-type]
    await engine.dispose()


def test_from_env(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATOR_DATABASE_URL", f"sqlite:///{path}")
    with SyncActionDB.from_env(actor="a script") as db:
        assert db.create_proposal(proposal()).id == 1
        assert [each.actor for each in db.history()] == ["a script"]


def test_a_closed_one_refuses_and_can_be_opened_again(where: str) -> None:
    db = SyncActionDB(where)
    for _ in range(2):
        with pytest.raises(NotOpen, match="SyncActionDB"):
            db.count_proposals()
        with db:
            db.open()
            db.create_proposal(proposal())
        db.close()


def test_closing_rolls_back_an_open_transaction(where: str) -> None:
    db = SyncActionDB(where).open()
    with pytest.raises(NotOpen, match="rolled back"), db.transaction() as tx:
        tx.create_proposal(proposal())
        with beside(db.close):
            pass
        with pytest.raises(NotOpen):
            tx.create_proposal(proposal())
    if where != ":memory:":
        with db:
            assert not db.history()


def test_a_transaction_that_ends_while_the_ledger_closes(server_ledger: str) -> None:
    class Ending(set[Any]):
        """The transaction ends, in its own thread, when `close` has looked whether there is one."""

        def __len__(self) -> int:
            found = super().__len__()
            self.clear()
            return found

    db = SyncActionDB(server_ledger).open()
    runner: Any = db._database
    with pytest.raises(NotOpen), db.transaction() as tx:
        tx.create_proposal(proposal())
        runner._transactions = Ending(runner._transactions)
        db.close()
    assert not runner._engine.pool.checkedin()


def test_an_unclosed_one_warns(path: Path) -> None:
    def forget() -> None:
        SyncActionDB(path).open()
        gc.collect()

    with pytest.warns(ResourceWarning, match=r"with SyncActionDB\("):
        forget()


def test_a_replaced_file_is_noticed(path: Path) -> None:
    with SyncActionDB(path) as db:
        db.create_proposal(proposal())
        path.rename(path.with_name("moved.db"))
        with pytest.raises(StorageCorrupt):
            db.create_proposal(proposal())
        with pytest.raises(StorageCorrupt):
            db.get_proposal(1)


def test_another_programs_lock_is_waited_for_and_then_busy(path: Path) -> None:
    with (
        SyncActionDB(path, busy_timeout=0.1) as db,
        closing(dbapi.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy):
            db.create_proposal(proposal())
        with pytest.raises(Busy), db.transaction():
            pass
        other.execute("ROLLBACK")
        assert db.create_proposal(proposal()).id == 1


# ------ transactions


def test_a_transaction_is_whole_or_nothing(db: SyncActionDB) -> None:
    with pytest.raises(ZeroDivisionError), db.transaction() as tx:
        tx.create_proposal(proposal())
        raise ZeroDivisionError
    with db.transaction() as tx:
        made = tx.create_proposal(proposal())
        with pytest.raises(NotFound):
            tx.update_proposal_status(99, S.VALIDATED)
        tx.update_proposal_status(made.id, S.VALIDATED)
    assert db.count_proposals()[S.VALIDATED] == 1
    assert sum(db.count_proposals().values()) == 1
    with pytest.raises(NotOpen):
        tx.count_proposals()


def test_inside_a_transaction_the_outer_ledger_is_refused(db: SyncActionDB) -> None:
    with db.transaction() as tx:
        with pytest.raises(ActionError, match="inside transaction"):
            db.create_proposal(proposal())
        with pytest.raises(ActionError, match="inside another"), tx._units.transaction():
            pass
        with pytest.raises(ActionError, match="inside a transaction"), tx.changes():
            pass
        tx.create_proposal(proposal())
    assert db.create_proposal(proposal()).id == 2


def test_a_transaction_that_is_let_go_is_rolled_back(path: Path) -> None:
    with SyncActionDB(path) as db:
        block = db.transaction()
        block.__enter__().create_proposal(proposal())
        del block
        no_write_lock_is_held(path)
        assert not db.history()


# ------ threads


def test_threads_share_one(db: SyncActionDB) -> None:
    def work(worker: int) -> int:
        done = 0
        for _ in range(10):
            db.create_proposal(proposal(status=S.VALIDATED))
            for claim in db.claim(f"worker-{worker}", limit=2):
                db.complete(claim.record.id)
                done += 1
            with db.transaction() as tx:
                tx.create_proposal(proposal())
                assert tx.get_proposal(1) is not None
        return done

    with ThreadPoolExecutor(4) as pool:
        done = sum(pool.map(work, range(4)))
    rest = len(db.claim("rest", limit=100))
    assert done + rest == 40
    counts = db.count_proposals()
    assert (counts[S.COMPLETED], counts[S.PROPOSED]) == (done, 40)


def test_a_transaction_of_another_thread_is_waited_for(path: Path) -> None:
    with SyncActionDB(path) as db, ThreadPoolExecutor(2) as pool:
        with db.transaction() as tx:
            tx.create_proposal(proposal())
            other = pool.submit(db.create_proposal, proposal())
            # A reader does not wait, and sees nothing of it.
            assert sum(pool.submit(db.count_proposals).result(PATIENCE).values()) == 0
            assert not other.done()
            assert tx.create_proposal(proposal()).id == 2
        assert other.result(PATIENCE).id == 3


def test_closing_waits_for_what_runs(where: str) -> None:
    db = SyncActionDB(where).open()
    running, go_on = threading.Event(), threading.Event()

    def unit(conn: Connection) -> str:
        running.set()
        assert go_on.wait(PATIENCE)
        return conn.exec_driver_sql("SELECT 'done'").scalar_one()

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(db._units.read, unit)
        assert running.wait(PATIENCE)
        closing = pool.submit(db.close)
        while db._database._is_open:
            time.sleep(0.001)
        assert not closing.done()
        go_on.set()
        assert slow.result(PATIENCE) == "done"
        closing.result(PATIENCE)


# ------ forks


def test_a_forked_child_is_told(where: str) -> None:
    with SyncActionDB(where) as db:
        db.create_proposal(proposal())
        child = os.fork()
        if not child:
            code = 1
            try:
                for call in (db.count_proposals, db.open, db.transaction().__enter__):
                    with pytest.raises(WrongProcess):
                        call()
                db.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert db.create_proposal(proposal()).id == 2


@pytest.mark.parametrize("how", ["call", "leave", "raise"])
def test_a_forked_child_leaves_the_parents_transaction_alone(where: str, how: str) -> None:
    def use_in_child() -> None:
        if how == "call":
            for call in (tx.count_proposals, lambda: tx.create_proposal(proposal())):
                with pytest.raises(WrongProcess):
                    call()
        elif how == "leave":
            with pytest.raises(WrongProcess):
                block.__exit__(None, None, None)
        else:
            error = ZeroDivisionError()
            assert not block.__exit__(type(error), error, None)

    with SyncActionDB(where) as db:
        block = db.transaction()
        tx = block.__enter__()
        made = tx.create_proposal(proposal())
        child = os.fork()
        if not child:
            code = 1
            try:
                use_in_child()
                del block, tx
                # The pool would roll back the connection of a transaction that nobody refers to.
                gc.collect()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        tx.update_proposal_status(made.id, S.VALIDATED)
        block.__exit__(None, None, None)
        assert db.count_proposals()[S.VALIDATED] == 1


# ------ interrupts


def interrupt(conn: Connection) -> None:
    """A unit that has written and is then interrupted, as by Ctrl-C."""
    conn.exec_driver_sql(
        "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message) "
        "VALUES ('v', 'i', 't', 't', 'm')"
    )
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE)


def test_an_interrupted_write_leaves_nothing(where: str) -> None:
    with SyncActionDB(where) as db:
        db.create_proposal(proposal())
        with pytest.raises(KeyboardInterrupt):
            db._units.write(interrupt)
        with pytest.raises(KeyboardInterrupt), db.transaction() as tx:
            tx._units.write(interrupt)
        if db.db_path is not None:
            no_write_lock_is_held(db.db_path)
        count = "SELECT count(*) FROM tickets"
        assert db._units.read(lambda conn: conn.exec_driver_sql(count).scalar()) == 0
        assert db.create_proposal(proposal()).id == 2


def test_after_an_interrupted_read_the_next_sees_what_is_new(path: Path) -> None:
    with SyncActionDB(path) as db, SyncActionDB(path) as other:
        db.create_proposals([proposal(), proposal()])
        kept: list[Any] = []

        def read(conn: Connection) -> None:
            # As a traceback keeps it: the result is read in part.
            kept.append(conn.exec_driver_sql("SELECT id FROM action_proposals"))
            kept[0].fetchone()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            db._units.read(read)
        other.create_proposal(proposal())
        assert sum(db.count_proposals().values()) == 3
        # Its connection is a new one, which also refuses to write.
        for pragma, value in (("query_only", 1), ("trusted_schema", 0)):
            sql = f"PRAGMA {pragma}"
            found = db._units.read(lambda conn, sql=sql: conn.exec_driver_sql(sql).scalar())
            assert found == value


def interrupted_once(
    patch: pytest.MonkeyPatch, owner: Any, name: str, *, before: bool = False
) -> None:
    """Makes a function raise KeyboardInterrupt when it first returns, or begins: a signal comes just then."""
    real = getattr(owner, name)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        patch.setattr(owner, name, real)
        if not before:
            real(*args, **kwargs)
        raise KeyboardInterrupt

    patch.setattr(owner, name, interrupted)


@pytest.mark.parametrize(
    ("owner", "name", "before", "kept"),
    [
        (BlockingTransaction, "__init__", False, 0),
        (SyncSqliteRunner, "_begin", False, 0),
        (BlockingTransaction, "commit", True, 0),
        (BlockingTransaction, "_end", True, 0),
        (SqliteHandle, "undo", True, 1),
        (BlockingTransaction, "leave", False, 1),
    ],
)
def test_an_interrupted_transaction_lets_others_write(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    before: bool,
    kept: int,
) -> None:
    with SyncActionDB(path) as db:
        interrupted_once(monkeypatch, owner, name, before=before)
        with pytest.raises(KeyboardInterrupt), db.transaction() as tx:
            tx.create_proposal(proposal())
        no_write_lock_is_held(path)
        assert sum(db.count_proposals().values()) == kept
        # Not in a pool, which would wait for it if it hung.
        other = threading.Thread(target=db.create_proposal, args=(proposal(),), daemon=True)
        other.start()
        other.join(PATIENCE)
        assert not other.is_alive()


# ------ calls in the middle of a call


def test_a_signal_handler_can_not_call_in_the_middle_of_a_call(where: str) -> None:
    calls: list[Callable[[], Any]] = []
    refused = 0

    def handle(number: int, frame: Any) -> None:
        nonlocal refused
        for call in calls:
            with pytest.raises(ActionError, match="in the middle of another call"):
                call()
        refused += 1

    def unit(conn: Connection) -> None:
        before = refused
        os.kill(os.getpid(), signal.SIGUSR1)
        while refused == before:
            pass

    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        with SyncActionDB(where) as db:
            # On a server, each call has a connection of its own.
            on_sqlite = isinstance(db._database, SyncSqliteRunner)
            calls[:] = [db.close, partial(db.create_proposal, proposal())][: 1 + on_sqlite]
            db._units.write(unit)
            calls[:] = [db.close, db.count_proposals][: 1 + on_sqlite]
            db._units.read(unit)
            with db.transaction() as tx:
                calls[:] = [db.close, tx.count_proposals]
                tx._units.write(unit)
                tx.create_proposal(proposal())
            assert refused == 3
            assert db.create_proposal(proposal()).id == 2
    finally:
        signal.signal(signal.SIGUSR1, previous)


# ------ abandoned blocks


class Cycle:
    """Holds a block that only the garbage collector ends."""

    def __init__(self, block: Any) -> None:
        self.me = self
        self.block = block


@pytest.fixture
def collected() -> Iterator[None]:
    """The garbage collector runs only where the test runs it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("inside", ["write", "transaction", "nothing"])
def test_the_garbage_collector_ends_an_abandoned_claim(db: SyncActionDB, inside: str) -> None:
    db.create_proposal(proposal(status=S.VALIDATED))
    block = Cycle(db.claimed("worker", lease=timedelta(minutes=1)))
    block.block.__enter__()
    (beats,) = heartbeat_threads()
    del block
    if inside == "write":
        db._units.write(lambda conn: gc.collect())
    elif inside == "transaction":
        with db.transaction():
            gc.collect()
    else:
        gc.collect()
    beats.join(PATIENCE)
    assert not beats.is_alive()
    # In the middle of a call nothing can be written: the lease will expire.
    record = db.get_record(1)
    assert record is not None
    assert record.outcome_unknown is (inside == "nothing")


@pytest.mark.usefixtures("collected")
def test_the_garbage_collector_ends_a_follower_while_others_are_woken(db: SyncActionDB) -> None:
    db.create_proposal(proposal())
    follower = Cycle(db.events(follow=True))
    next(follower.block)
    del follower
    doorbell: Any = db._database._doorbell  # type: ignore[attr-defined]

    class Collecting(set[Any]):
        def copy(self) -> set[Any]:
            gc.collect()
            return super().copy()

    doorbell._listeners = Collecting(doorbell._listeners)
    doorbell.ring()
    assert not doorbell._listeners


@pytest.mark.usefixtures("collected")
def test_the_garbage_collector_ends_a_follower_in_the_thread_that_wakes_it(path: Path) -> None:
    with SyncActionDB(path) as db, SyncActionDB(path) as other:
        block = Cycle(db.changes())
        block.block.__enter__()
        (poller,) = db._database._pollers  # type: ignore[attr-defined]
        poller._ring = gc.collect
        del block
        other.create_proposal(proposal())
        poller._connection.join()
        assert not db._database._pollers  # type: ignore[attr-defined]


@pytest.mark.usefixtures("collected")
def test_the_garbage_collector_closes_a_ledger_while_another_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unclosed = Cycle(SyncActionDB(tmp_path / "1.db").open())
    del unclosed

    def collecting(items: Any) -> list[Any]:
        gc.collect()
        return list(items)

    monkeypatch.setattr(one_library, "list", collecting, raising=False)
    with pytest.warns(ResourceWarning), SyncActionDB(tmp_path / "2.db") as db:
        assert db.create_proposal(proposal()).id == 1


# ------ holding


def test_heartbeats_keep_the_lease(db: SyncActionDB) -> None:
    db.create_proposal(proposal(status=S.VALIDATED))
    with db.claimed("worker", lease=timedelta(seconds=3)) as execution:
        assert execution is not None
        before = execution.record.lease_expires_at
        deadline = time.monotonic() + PATIENCE
        while True:
            found = db.get_record(execution.record.id)
            assert found is not None
            if found.lease_expires_at != before:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not execution.lost.is_set()
        assert not execution.lost.wait(0)
        execution.result_data = {"rows": 3}
    record = db.get_record(1)
    assert record is not None
    assert (record.success, record.result_data) == (True, {"rows": 3})
    with db.claimed("worker") as nothing:
        assert nothing is None


def test_a_lost_lease_is_seen_in_the_block_and_raised_at_its_end(db: SyncActionDB) -> None:
    db.create_proposal(proposal(status=S.VALIDATED))
    ended = False
    with (
        pytest.raises(LeaseLost) as caught,
        db.claimed("worker", lease=timedelta(seconds=1)) as execution,
    ):
        assert execution is not None
        db.update_proposal_status(1, S.CANCELLED)
        assert execution.lost.wait(PATIENCE)
        assert execution.lost.is_set()
        ended = True
    assert ended
    assert caught.value.cause == "cancelled"
    record = db.get_record(1)
    assert record is not None
    assert record.success is None


def test_a_ledger_that_nobody_reaches_loses_the_lease(path: Path) -> None:
    with SyncActionDB(path, busy_timeout=0) as db:
        db.create_proposal(proposal(status=S.VALIDATED))
        with (
            closing(dbapi.connect(path, isolation_level=None)) as other,
            pytest.raises(LeaseLost) as caught,
            db.claimed("worker", lease=timedelta(seconds=1)) as execution,
        ):
            assert execution is not None
            other.execute("BEGIN IMMEDIATE")
            assert execution.lost.wait(PATIENCE)
        assert caught.value.cause == "unreachable"


@pytest.mark.parametrize(
    ("error", "unknown"), [(ZeroDivisionError, False), (KeyboardInterrupt, True)]
)
def test_an_error_of_the_block_fails_it(
    db: SyncActionDB, error: type[BaseException], unknown: bool
) -> None:
    db.create_proposal(proposal(status=S.VALIDATED))
    (claim,) = db.claim("worker")
    with pytest.raises(error), db.holding(claim):
        raise error
    record = db.get_record(claim.record.id)
    assert record is not None
    assert (record.success, record.outcome_unknown) == (None if unknown else False, unknown)


def heartbeat_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if "heartbeats" in each.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_claim_without_heartbeats_is_given_back(
    db: SyncActionDB, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    db.create_proposal(proposal(status=S.VALIDATED))
    start, started = threading.Thread.start, []

    def fails(thread: threading.Thread) -> None:
        if error is KeyboardInterrupt:
            # `start` waits for the thread, and is interrupted then.
            start(thread)
            started.append(thread)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        with pytest.raises(error), db.claimed("worker"):
            pytest.fail("the block runs without heartbeats")
    for thread in started:
        thread.join(PATIENCE)
    assert not heartbeat_threads()
    record = db.get_record(1)
    assert record is not None
    assert (record.success, record.outcome_unknown) == (False, False)


def test_an_interrupted_sweep_gives_the_claims_back(
    server_ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(conn: Connection) -> None:
        raise KeyboardInterrupt

    with SyncActionDB(server_ledger) as db:
        for _ in range(2):
            db.create_proposal(proposal(status=S.VALIDATED))
        (claim,) = db.claim("crashed", lease=timedelta(milliseconds=1))
        while not db._units.read(recovery.is_overdue):
            time.sleep(0.001)
        # On a server, a claim sweeps in a unit of its own.
        monkeypatch.setattr(recovery, "sweep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            db.claim("worker")
        assert not heartbeat_threads()
        (record,) = db.get_records_for_proposal(3 - claim.proposal.id)
        assert (record.success, record.outcome_unknown) == (False, False)


# ------ waiting


def test_wait_for_blocks_until_the_end(db: SyncActionDB) -> None:
    made = db.create_proposal(proposal(status=S.VALIDATED))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(db.wait_for, made.id, timeout=PATIENCE)
        (claim,) = db.claim("worker")
        assert not waiting.done()
        db.complete(claim.record.id)
        assert waiting.result(PATIENCE).status is S.COMPLETED
    other = db.create_proposal(proposal())
    for seconds in (0, 0.01):
        with pytest.raises(TimeoutError, match="not finished"):
            db.wait_for(other.id, timeout=seconds)
    with pytest.raises(NotFound):
        db.wait_for(99)


def test_followers_see_what_other_ledgers_write(where: str) -> None:
    with ExitStack() as stack:
        db = stack.enter_context(SyncActionDB(where))
        other = db if where == ":memory:" else stack.enter_context(SyncActionDB(where))
        other.create_proposal(proposal())
        events = db.events(after=db.newest_event_id(), follow=True)
        with beside(lambda: [other.create_proposal(proposal()) for _ in range(3)]):
            heard = [next(events) for _ in range(3)]
        assert [each.event_type for each in heard] == [EventType.PROPOSAL_CREATED] * 3
        assert [each.proposal_id for each in heard] == [2, 3, 4]
        del events


def test_changes_is_an_event_of_threads(db: SyncActionDB) -> None:
    with db.changes() as changed:
        changed.clear()
        with beside(lambda: db.create_proposal(proposal())):
            assert changed.wait(PATIENCE)


def test_a_follower_of_a_closed_ledger_is_told(where: str) -> None:
    db = SyncActionDB(where).open()
    listening = threading.Event()

    def follow() -> None:
        with db.changes() as changed:
            changed.clear()
            listening.set()
            assert changed.wait(PATIENCE)
            db.count_proposals()

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow)
        assert listening.wait(PATIENCE)
        db.close()
        with pytest.raises(NotOpen):
            following.result(PATIENCE)


def test_an_interrupted_wait_for_the_poller_ends_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(future: Future[Any], timeout: float | None = None) -> None:
        # Where Python enters the block of the lock, it can be interrupted without leaving the block.
        future._condition.acquire()  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    raised: list[BaseException] = []

    def listen() -> None:
        try:
            with db.changes():
                pass
        except KeyboardInterrupt as error:
            raised.append(error)

    with SyncActionDB(path) as db:
        monkeypatch.setattr(Future, "result", interrupted)
        waiting = threading.Thread(target=listen, daemon=True)
        waiting.start()
        waiting.join(PATIENCE)
        assert raised


def test_closing_ends_a_poller_whose_end_was_interrupted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SyncActionDB(path) as db:
        interrupted_once(monkeypatch, SqliteChanges, "end", before=True)
        with pytest.raises(KeyboardInterrupt), db.changes():
            (poller,) = db._database._pollers  # type: ignore[attr-defined]
    assert poller._connection.has_ended


def listener_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if "listener" in each.name]


def test_on_a_server_all_who_wait_share_one_listener(server_ledger: str) -> None:
    with SyncActionDB(server_ledger) as db:
        with ExitStack() as stack:
            waiting = [stack.enter_context(db.changes()) for _ in range(3)]
            assert len(listener_threads()) == 1
            with db.changes():
                pass
            for changed in waiting:
                changed.clear()
            db.create_proposal(proposal())
            assert all(changed.wait(PATIENCE) for changed in waiting)
        assert not listener_threads()


def test_closing_ends_the_listener_of_a_follower(server_ledger: str) -> None:
    db = SyncActionDB(server_ledger).open()
    db.create_proposal(proposal())
    events = db.events(follow=True)
    next(events)
    db.close()
    assert not listener_threads()
    with pytest.raises(NotOpen):
        next(events)


def test_closing_while_a_listener_starts(
    server_ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = SyncActionDB(server_ledger).open()
    wait_started = SyncServerChanges.wait_started

    def closing(changes: SyncServerChanges) -> None:
        wait_started(changes)
        db.close()

    monkeypatch.setattr(SyncServerChanges, "wait_started", closing)
    with pytest.raises(NotOpen), db.changes():
        pytest.fail("the ledger is closed")
    assert not listener_threads()


def test_a_forked_child_leaves_the_parents_listener_alone(server_ledger: str) -> None:
    with SyncActionDB(server_ledger) as db:
        block = db.changes()
        changed = block.__enter__()
        changes: Any = db._database._changes  # type: ignore[attr-defined]
        child = os.fork()
        if not child:
            code = 1
            try:
                block.__exit__(None, None, None)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(BlockingIOError):
            changes._woken.recv(1)
        # A byte that does not stop the listener does not keep it awake.
        changes._waker.send(b"\0")
        deadline = time.monotonic() + PATIENCE
        while select.select([changes._woken], [], [], 0)[0]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        changed.clear()
        db.create_proposal(proposal())
        assert changed.wait(PATIENCE)
        block.__exit__(None, None, None)


def test_what_waits_for_an_event_loop_is_a_bug() -> None:
    async def waits() -> None:
        await asyncio.Future(loop=loop)

    loop = asyncio.new_event_loop()
    with closing(loop), pytest.raises(RuntimeError, match="event loop"):
        finished(waits())
