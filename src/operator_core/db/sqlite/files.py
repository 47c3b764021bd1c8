"""Creates, opens and identifies a ledger's SQLite file."""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from operator_core.actions.errors import StorageCorrupt
from operator_core.db.sql.errors import text_or_bytes
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sqlite.contents import Contents, Inode, inode_of

__all__ = [
    "FILE_MODE",
    "IMMUTABLE",
    "FileIdentity",
    "make_file",
    "open_read_only",
    "reading",
    "uri",
]

FILE_MODE: Final = 0o600
"""The permissions of a ledger's file: only the user that runs the service can read proposals."""

IMMUTABLE: Final = "ro&immutable=1"
"""The mode for a file that does not change: SQLite takes no locks and needs no files beside it."""

_BESIDE: Final = ("-wal", "-shm")
"""The files of WAL mode: the log and its index."""

_making: Final = threading.Lock()


def make_file(path: str, mode: int) -> None:
    """Creates an empty file with exactly the permissions `mode`; leaves an existing file unchanged.

    SQLite gives the files beside it the same permissions. If creating fails, this returns without an error,
    because SQLite reports the reason when it opens the file.
    """
    # Closing a file releases all locks that the process has on it (SQLite, "How To Corrupt", 2.2). So no
    # other ledger of the process may open the file before this call has ended.
    with _making:
        # O_EXCL would take a dangling link for an existing file, and SQLite would follow the link.
        real = os.path.realpath(path)
        try:
            made = os.open(real, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
        except OSError:
            return
        try:
            # Independent of the process's umask.
            os.fchmod(made, mode)
        finally:
            os.close(made)


def uri(path: str | Path, how: str) -> str:
    """The URI that opens an existing file in the mode `how`: ``rw``, ``ro`` or `IMMUTABLE`."""
    return f"{Path(path).absolute().as_uri()}?mode={how}"


def reading(path: str | Path) -> str:
    """The mode that reads a file and changes nothing."""
    if any(os.path.exists(f"{path}{suffix}") for suffix in ("-wal", "-journal")):
        # A writer is active or has crashed; the next writer does the recovery.
        return "ro"
    if not os.access(Path(path).absolute().parent, os.W_OK):
        # SQLite can't create files beside it. Without a writer it needs none.
        return IMMUTABLE
    # With "ro", SQLite would create the files of WAL mode and leave them behind.
    return "rw"


@contextmanager
def open_read_only(path: Path) -> Generator[dbapi.Connection]:
    """Yields a connection that can't change an existing file; raises the driver's errors."""
    connection = dbapi.connect(uri(path, reading(path)), uri=True, isolation_level=None)
    connection.text_factory = text_or_bytes
    try:
        connection.execute("PRAGMA query_only = ON")
        # The functions that the file's own views and indexes call are unknown here.
        connection.execute("PRAGMA trusted_schema = OFF")
        yield connection
    finally:
        connection.close()


class FileIdentity:
    """The identity of a ledger's open file, to detect that its path leads to another file or to none.

    `watched` means that a connection to the file is open all the time.
    """

    def __init__(self, path: str, *, watched: bool = True) -> None:
        self._path = path
        self._file: Inode | None = None
        self._contents = Contents(path, watched=watched)
        self._beside: dict[str, Inode | None] = {}
        self._paths = path, *(path + suffix for suffix in _BESIDE)

    def remember(self) -> None:
        """Stores the identity; called when the ledger is opened, after its first connection."""
        found = _found(self._path)
        self._file = None if found is None else inode_of(found)
        self._contents.remember()
        self._beside = {}

    def check(self, *, writing: bool = False) -> None:
        """Raises `StorageCorrupt` if the file was deleted, replaced or written by a program other than SQLite.

        With `writing`, the check for such writes is stricter.
        """
        checkpoint = self._contents.checkpoint() if writing else None
        try:
            found = _found(self._path)
        except OSError:
            # A failed look does not prove that the file is gone.
            return
        if (None if found is None else inode_of(found)) != self._file:
            raise StorageCorrupt(
                f"{self._path} was deleted or replaced while the ledger was open: the ledger's "
                "writes do not reach the file of that name"
            )
        if found is not None and self._contents.were_replaced(found, checkpoint):
            raise StorageCorrupt(
                f"{self._path} was overwritten by a program other than SQLite while the ledger was open"
            )

    def check_log(self, *, begun: bool) -> None:
        """Checks the file, and the files of WAL mode, which exist as long as a writer is open.

        `begun`: the writer has begun a transaction. Before that it holds no lock on the files of WAL mode: another
        connection that closes as the last one deletes them, and the writer creates others.
        """
        if self._is_as_before():
            return
        self.check(writing=True)
        for suffix, path in zip(_BESIDE, self._paths[1:], strict=True):
            try:
                found = _found(path)
            except OSError:
                continue
            there = None if found is None else inode_of(found)
            known = self._beside.get(suffix)
            if known is None:
                # The first write creates it.
                self._beside[suffix] = there if begun else None
            elif there != known:
                raise StorageCorrupt(
                    f"{path} was deleted or replaced while the ledger was open: changes that are "
                    "only in this file are lost when the ledger is closed"
                )

    def _is_as_before(self) -> bool:
        """Whether a few system calls show that nothing has changed since the last check."""
        index = self._contents.glance()
        try:
            found, log, log_index = map(os.stat, self._paths)
        except OSError:
            return False
        return (
            self._contents.is_as_before(found, index)
            and inode_of(found) == self._file
            and inode_of(log) == self._beside.get("-wal")
            and inode_of(log_index) == self._beside.get("-shm")
        )


def _found(path: str) -> os.stat_result | None:
    """The file's status, or None if it does not exist; raises `OSError` if that is unknown."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
