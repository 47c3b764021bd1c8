"""A limit on the work that a file can cause in SQLite."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import UnmanagedSchema
from operator_core.db.sql.sqlite_library import dbapi

__all__ = ["WorkLimit"]

_EVERY: Final = 1000
_TO_LOOK: Final = 10_000_000
_TO_UPGRADE: Final = 1_000_000_000
_FOR_EACH_BYTE: Final = 2_000


class WorkLimit:
    """Interrupts a SQLite connection that does more work than a ledger needs, or after `stop`.

    In a malicious file one SELECT or one trigger can run forever. Work is counted in steps of SQLite's virtual
    machine, about 100 million a second. The limit is 10 million to check a file. To upgrade it, the limit is
    1,000 million plus 2,000 for each byte of the file; a row of 200 bytes takes some hundreds.
    """

    def __init__(self) -> None:
        self._left = _TO_LOOK
        self._stopped = False

    @contextmanager
    def watching(self, connection: dbapi.Connection) -> Generator[None]:
        """Raises `UnmanagedSchema` if the work on `connection` in the block exceeds the limit."""
        connection.set_progress_handler(self._step, _EVERY)
        try:
            yield
        except (dbapi.Error, DBAPIError) as error:
            if self._left >= 0:
                raise
            raise UnmanagedSchema(
                ["opening it takes more work than any ledger of its size needs"]
            ) from error
        finally:
            connection.set_progress_handler(None, 0)

    def allow_upgrade(self, size: int) -> None:
        """Raises the limit for the upgrade of a file of `size` bytes."""
        self._left = _TO_UPGRADE + _FOR_EACH_BYTE * size

    def stop(self) -> None:
        """Interrupts the work soon; may be called in any thread."""
        self._stopped = True

    def _step(self) -> bool:
        self._left -= _EVERY
        return self._stopped or self._left < 0
