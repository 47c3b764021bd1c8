"""Time that a test moves instead of waiting for it: the event loop's clock, and the times in the rows."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection

from operator_core.db import ActionDB

PATIENCE: Final = 30.0
"""Seconds after which a test gives up waiting for an event. It bounds a hang and measures nothing."""

_TURNS: Final = 10
"""Turns of the loop in which a timer that is due reaches the task behind it, and what that task starts."""


class LoopClock:
    """The running loop's clock, which can be set forward: what is due by then is due at once.

    Leases, heartbeats and pauses in this process go by it. The database's clock stays as it is. Every
    timer that is pending goes by it too, so set it forward only where no deadline of the test's is.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._ahead = 0.0
        loop.time = self.time  # type: ignore[method-assign]

    def time(self) -> float:
        return self._time() + self._ahead

    async def advance(self, seconds: float) -> None:
        """Sets it forward, and lets the tasks begin what is due."""
        # First they set their timers, by the time before.
        await _turns()
        self._ahead += seconds
        await _turns()


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


@contextmanager
def loop_clock() -> Iterator[LoopClock]:
    """The running loop has such a clock during the block."""
    clock = LoopClock()
    try:
        yield clock
    finally:
        del asyncio.get_running_loop().time


async def asleep(db: ActionDB, *statements: str) -> None:
    """Runs `statements` in a transaction in which no trigger of the ledger fires, to move what is fixed."""

    def unit(conn: Connection) -> None:
        if conn.dialect.name == "postgresql":
            # It takes a superuser, which the tests are.
            conn.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for each in statements:
                conn.exec_driver_sql(each)
            return
        found: Any = conn.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid"
        ).all()
        for name, _ in found:
            conn.exec_driver_sql(f"DROP TRIGGER {name}")
        for each in statements:
            conn.exec_driver_sql(each)
        # In the order in which they were made, which is the order in which they fire.
        for _, made in found:
            conn.exec_driver_sql(made)

    await db._units.write(unit)
