"""Ends overdue rows: together if the database accepts that, otherwise those that can be ended, in little time."""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, Row, Select, func, select
from sqlalchemy.exc import DBAPIError

from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.errors import is_refusal, translate
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.lock_waits import limit_lock_waits
from operator_core.db.sql.postgresql_errors import LOCK_NOT_AVAILABLE, sqlstate
from operator_core.db.sql.savepoint import in_transaction, savepoint

__all__ = ["BUDGET", "MOST_ROWS", "End", "Sweep"]

logger = logging.getLogger(__name__)

MOST_ROWS: Final = 100
"""The largest number of rows of a kind that one sweep ends, so that a claim does not wait for thousands."""

BUDGET: Final = 0.5
"""Seconds after which a sweep stops retrying the rows that it could not end together."""

_LOCK_WAIT: Final = "50ms"
"""How long a sweep waits on a server for the lock of a dependent proposal, which is cancelled along."""

_SHORTEST_LOCK_WAIT: Final = "1ms"
"""How long it waits for each lock after the first wait has failed."""

End: TypeAlias = Callable[[Connection, Sequence[int]], Sequence[Row[Any]]]
"""Ends the rows with these ids, all or none, and returns a row for each."""


class Sweep:
    """Ends the rows that can be ended and skips the others, in one transaction and within `BUDGET`."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._server = not is_sqlite(conn)
        self._deadline = time.monotonic() + BUDGET

    def end(
        self, which: Select[Any], end: End, what: str, **parameters: float
    ) -> Sequence[Row[Any]]:
        """Ends the first rows that can be ended, at most `MOST_ROWS`, and returns what `end` returns for them.

        `parameters` are those of `which`; `what` names the change in the log.

        Usually all rows end together. If the database refuses them, they are halved, the largest parts first, until the
        refused row is known or time is up. While none of the first rows could be ended, the rows after them are tried
        before the halves.
        """
        ids = self._first(which, 0, parameters)
        if not ids:
            return ()
        rows: list[Row[Any]] = []
        parts = deque([ids])
        seen = len(ids)
        with self._short_waits():
            while parts and len(rows) < MOST_ROWS:
                ids = parts.popleft()
                ended = self._end_together(ids, end, what)
                if ended is None:
                    half = len(ids) // 2
                    parts.extend(part for part in (ids[:half], ids[half:]) if half)
                else:
                    rows.extend(ended)
                if time.monotonic() > self._deadline:
                    break
                if (
                    not rows
                    and len(ids) == MOST_ROWS
                    and (ids := self._first(which, seen, parameters))
                ):
                    parts.appendleft(ids)
                    seen += len(ids)
        return rows

    def _first(self, which: Select[Any], seen: int, parameters: dict[str, float]) -> Sequence[int]:
        return [row[0] for row in fetch(self._conn, which, {"seen": seen, **parameters})]

    def _end_together(self, ids: Sequence[int], end: End, what: str) -> Sequence[Row[Any]] | None:
        """Ends all or none of these rows; returns None if the database refuses the change."""
        try:
            with savepoint(self._conn):
                return end(self._conn, ids)
        except DBAPIError as error:
            if not is_refusal(error) or not (self._server or in_transaction(self._conn)):
                raise
            held = sqlstate(error) == LOCK_NOT_AVAILABLE
            if held:
                limit_lock_waits(self._conn, _SHORTEST_LOCK_WAIT)
            if len(ids) == 1:
                # A lock is released later, but a refusal needs a person.
                level = logging.INFO if held else logging.ERROR
                logger.log(level, "could not %s %d: %s", what, ids[0], translate(error))
            return None

    @contextmanager
    def _short_waits(self) -> Generator[None]:
        """A block that waits little for locks: a trigger cancels dependent proposals, which may be locked."""
        if not self._server:
            yield
            return
        before = self._conn.scalars(select(func.current_setting("lock_timeout"))).one()
        limit_lock_waits(self._conn, _LOCK_WAIT)
        yield
        # If the block fails, its transaction or savepoint is rolled back, and the setting with it.
        limit_lock_waits(self._conn, before)
