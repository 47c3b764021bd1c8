"""A ledger's SQLite file: how it is made, opened, and known again."""

import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from operator_core.actions.errors import StorageCorrupt
from operator_core.db.sql.errors import text_or_bytes
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
"""The permissions of a ledger's file: proposals are for those who run the service."""

IMMUTABLE: Final = "ro&immutable=1"
"""For a file that nobody changes: SQLite takes no locks and needs no files beside it."""

_making: Final = threading.Lock()


def make_file(path: str, mode: int) -> None:
    """Makes an empty file with exactly the permissions `mode`; leaves one that is there as it is.

    SQLite gives the files beside it the same ones. If it can't be made, SQLite will say why.
    """
    # Closing a file gives up all locks that the process has on it (SQLite, "How To Corrupt", 2.2). So no
    # other ledger of the process may open it before this one is done.
    with _making:
        # A link that leads nowhere would count as a file that is there, and SQLite would follow it.
        real = os.path.realpath(path)
        try:
            made = os.open(real, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
        except OSError:
            return
        try:
            # Whatever the process's umask is.
            os.fchmod(made, mode)
        finally:
            os.close(made)


def uri(path: str | Path, how: str) -> str:
    """The URI by which SQLite opens an existing file as `how` says: ``rw``, ``ro``, `IMMUTABLE`."""
    return f"{Path(path).absolute().as_uri()}?mode={how}"


def reading(path: str | Path) -> str:
    """How to open a file in order to read it and to change nothing."""
    if any(os.path.exists(f"{path}{suffix}") for suffix in ("-wal", "-journal")):
        # Somebody writes, or died writing: what is to be recovered is left to the next writer.
        return "ro"
    if not os.access(Path(path).absolute().parent, os.W_OK):
        # SQLite would need to put files beside it. Nobody writes, so it can do without.
        return IMMUTABLE
    # For "ro", SQLite would make the files of WAL mode and leave them behind.
    return "rw"


@contextmanager
def open_read_only(path: Path) -> Generator[sqlite3.Connection]:
    """A connection to an existing file that can't change it; raises `sqlite3.Error`."""
    connection = sqlite3.connect(uri(path, reading(path)), uri=True, isolation_level=None)
    connection.text_factory = text_or_bytes
    try:
        connection.execute("PRAGMA query_only = ON")
        # Nobody has looked yet at what the file's own views and indexes call.
        connection.execute("PRAGMA trusted_schema = OFF")
        yield connection
    finally:
        connection.close()


class FileIdentity:
    """Which file a ledger has open, to notice when its path leads to another one, or to none.

    `watched`: a connection to it is open all the time.
    """

    def __init__(self, path: str, *, watched: bool = True) -> None:
        self._path = path
        self._file: Inode | None = None
        self._contents = Contents(path, watched=watched)
        self._beside: dict[str, Inode | None] = {}

    def remember(self) -> None:
        """Called when the ledger is opened, after its first connection."""
        found = _found(self._path)
        self._file = None if found is None else inode_of(found)
        self._contents.remember()
        self._beside = {}

    def check(self, *, writing: bool = False) -> None:
        """Raises `StorageCorrupt` if the file was deleted, replaced or written to by something else than SQLite.

        The last is looked at more closely when `writing`.
        """
        checkpoint = self._contents.checkpoint() if writing else None
        try:
            found = _found(self._path)
        except OSError:
            # It can't be looked at, which does not say that it is gone.
            return
        if (None if found is None else inode_of(found)) != self._file:
            raise StorageCorrupt(
                f"{self._path} was deleted or replaced while the ledger was open: what the ledger "
                "writes is no longer in the file of that name"
            )
        if found is not None and self._contents.were_replaced(found, checkpoint):
            raise StorageCorrupt(
                f"{self._path} was written over while the ledger was open, by something that is not SQLite"
            )

    def check_log(self) -> None:
        """As `check`, and the files of WAL mode too, which stay as long as somebody writes."""
        self.check(writing=True)
        for suffix in ("-wal", "-shm"):
            path = self._path + suffix
            try:
                found = _found(path)
            except OSError:
                continue
            there = None if found is None else inode_of(found)
            known = self._beside.get(suffix)
            if known is None:
                # The first write makes it.
                self._beside[suffix] = there
            elif there != known:
                raise StorageCorrupt(
                    f"{path} was deleted or replaced while the ledger was open: what stands in it "
                    "alone is lost when the ledger is closed"
                )


def _found(path: str) -> os.stat_result | None:
    """The file's status, None if there is none; raises `OSError` if that can't be told."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
