"""Runs one unit of work again and again, each time killing itself one step later than before.

Prints a line for each try: the file it worked on and whether it was killed. A step is the start of a
statement, those inside triggers included, and the return of one, the commit's included.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from operator_core.actions.types import ActionRecord, ActionStatus
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.failures.harness import proposal

real_connect = dbapi.connect


class Steps:
    """Counts the steps of this process and kills it at one of them."""

    left = 0

    @classmethod
    def count(cls, _: object = None) -> None:
        if cls.left:
            cls.left -= 1
            if not cls.left:
                os.kill(os.getpid(), signal.SIGKILL)


class WatchedCursor(dbapi.Cursor):
    def execute(self, *arguments: Any) -> "WatchedCursor":
        super().execute(*arguments)
        Steps.count()
        return self

    def executemany(self, *arguments: Any) -> "WatchedCursor":
        super().executemany(*arguments)
        Steps.count()
        return self


class WatchedConnection(dbapi.Connection):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.set_trace_callback(Steps.count)

    def cursor(self, *_: object) -> WatchedCursor:  # pyright: ignore
        return super().cursor(WatchedCursor)

    # Does not go through the cursor's method.
    def execute(self, *arguments: Any) -> dbapi.Cursor:
        cursor = super().execute(*arguments)
        Steps.count()
        return cursor

    def commit(self) -> None:
        super().commit()
        Steps.count()


def watched_connect(*arguments: Any, **options: Any) -> dbapi.Connection:
    return real_connect(*arguments, factory=WatchedConnection, **options)


async def in_transaction(db: ActionDB) -> None:
    async with db.transaction() as tx:
        created = await tx.create_proposal(proposal())
        assert created.id is not None
        await tx.update_proposal_status(created.id, ActionStatus.VALIDATED)
        await tx.update_proposal_status(2, ActionStatus.EXECUTING)
        await tx.create_record(ActionRecord(proposal_id=2))
        await tx.update_record(1, True)


OPERATIONS: dict[str, Callable[[ActionDB], Awaitable[object]]] = {
    "create": lambda db: db.create_proposal(proposal()),
    "bulk": lambda db: db.create_proposals([proposal() for _ in range(3)]),
    "status": lambda db: db.update_proposal_status(1, ActionStatus.VALIDATED),
    "cancel": lambda db: db.cancel_all_pending(),
    "start": lambda db: db.create_record(ActionRecord(proposal_id=3)),
    "finish": lambda db: db.update_record(1, False, "store 3 is down"),
    "transaction": in_transaction,
}


async def prepare(path: Path) -> None:
    """A proposal in each status that the operations start from, the third with an open record."""
    async with ActionDB(path) as db:
        for status in (ActionStatus.PROPOSED, ActionStatus.VALIDATED, ActionStatus.EXECUTING):
            await db.create_proposal(proposal(status=status))
        await db.create_record(ActionRecord(proposal_id=3))


async def operate(path: Path, operation: str, step: int) -> None:
    async with ActionDB(path) as db:
        await db.get_proposal(1)
        Steps.left = step
        await OPERATIONS[operation](db)
        Steps.left = 0


def operate_naively(path: Path, step: int) -> None:
    """The planted bug: the history is written in a transaction of its own."""
    with dbapi.connect(path) as connection:
        Steps.left = step
        connection.execute("INSERT INTO action_proposals (status) VALUES ('proposed')")
        connection.commit()
        connection.execute(
            "INSERT INTO action_events (proposal_id, event_type, to_status)"
            " VALUES (1, 'proposal_created', 'proposed')"
        )
        connection.commit()
        Steps.left = 0


def prepare_naively(path: Path) -> None:
    with dbapi.connect(path) as connection:
        connection.execute("CREATE TABLE action_proposals (id INTEGER PRIMARY KEY, status)")
        connection.execute(
            "CREATE TABLE action_records (id INTEGER PRIMARY KEY, success, completed_at)"
        )
        connection.execute(
            "CREATE TABLE action_events (id INTEGER PRIMARY KEY, proposal_id, record_id,"
            " event_type, from_status, to_status)"
        )


def in_a_fork(work: Callable[[], object]) -> bool:
    """Runs `work` in a fork of this process, which has one thread only; False if it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    assert status == 0, f"the fork ended with {status}"
    return True


def main(operation: str, folder: Path) -> None:
    template = folder / "template.db"
    naive = operation == "naive"
    dbapi.connect = watched_connect
    in_a_fork(lambda: prepare_naively(template) if naive else asyncio.run(prepare(template)))
    step, survived = 0, False
    while not survived:
        step += 1
        path = folder / f"{step}.db"
        shutil.copy(template, path)

        def work(path: Path = path, step: int = step) -> None:
            if naive:
                operate_naively(path, step)
            else:
                asyncio.run(operate(path, operation, step))

        survived = in_a_fork(work)
        print(json.dumps({"path": str(path), "killed": not survived}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
