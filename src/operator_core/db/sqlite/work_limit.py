"""A limit to the work that a file can make SQLite do."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import UnmanagedSchema

__all__ = ["WorkLimit"]

_EVERY: Final = 1000
_TO_LOOK: Final = 10_000_000
_TO_UPGRADE: Final = 1_000_000_000
_FOR_EACH_BYTE: Final = 2_000


class WorkLimit:
    """Ends the work of a SQLite connection when it is more than a ledger needs, or when it is told to.

    A prepared file can make one SELECT, or one trigger, last for ever. Work is counted in steps of SQLite's
    virtual machine, some 100 million a second: 10 million to look at the file. To upgrade it 1,000 million,
    and 2,000 for each byte of it, while a row of 200 bytes takes some hundreds.
    """

    def __init__(self) -> None:
        self._left = _TO_LOOK
        self._stopped = False

    @contextmanager
    def watching(self, connection: sqlite3.Connection) -> Generator[None]:
        """Raises `UnmanagedSchema` where the work on `connection` in the block comes to the limit."""
        connection.set_progress_handler(self._step, _EVERY)
        try:
            yield
        except (sqlite3.Error, DBAPIError) as error:
            if self._left >= 0:
                raise
            raise UnmanagedSchema(
                ["opening it takes more work than any ledger of its size"]
            ) from error
        finally:
            connection.set_progress_handler(None, 0)

    def allow_upgrade(self, size: int) -> None:
        """From here on a file of `size` bytes is upgraded."""
        self._left = _TO_UPGRADE + _FOR_EACH_BYTE * size

    def stop(self) -> None:
        """Ends the work soon; may be called in any thread."""
        self._stopped = True

    def _step(self) -> bool:
        self._left -= _EVERY
        return self._stopped or self._left < 0
