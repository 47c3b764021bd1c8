"""Refuses a second SQLite library on a file that the process has open.

The locks of SQLite belong to the process. Two copies of SQLite in one process do not see each other's locks, and each
releases those of the other when it closes the file (SQLite, "How To Corrupt", 2.2.1). Writers of both can then damage
the file. Connections that a service opens without the ledger are not known here.
"""

import os
import threading
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect

from operator_core.actions.errors import StorageUnavailable
from operator_core.db.sql.sqlite_library import LIBRARY_VARIABLE, dbapi, describe
from operator_core.db.sqlite.contents import Inode, inode_of

__all__ = ["check_connection", "check_library", "file_of", "hold", "library_of", "release"]

# The open ledgers of files, each with its process, its file and its library.
_held: Final[WeakKeyDictionary[object, tuple[int, Inode, Any]]] = WeakKeyDictionary()
# Reentrant: the garbage collector may close a ledger in a thread that holds the lock.
_lock: Final = threading.RLock()


def library_of(dialect: Dialect) -> Any:
    """The SQLite module that the connections of an engine use."""
    adapted: Any = dialect.loaded_dbapi
    return getattr(adapted, "sqlite", adapted)


def hold(owner: object, path: str, library: Any = dbapi) -> None:
    """Does `check_library`, and stores that `owner` has the file open until `release`."""
    inode = _inode(path)
    if inode is not None:
        with _lock:
            _check(path, inode, library)
            _held[owner] = (os.getpid(), inode, library)


def release(owner: object) -> None:
    """Ends what `hold` began; does nothing if it did not."""
    with _lock:
        _held.pop(owner, None)


def check_library(path: str, library: Any = dbapi) -> None:
    """Raises `StorageUnavailable` if a ledger of this process has the file open by another library."""
    if _held and (inode := _inode(path)) is not None:
        with _lock:
            _check(path, inode, library)


def check_connection(conn: Connection) -> None:
    """Does `check_library` for the file of a service's connection."""
    if _held and (path := file_of(conn)):
        check_library(path, library_of(conn.dialect))


def file_of(conn: Connection) -> str:
    """The path of a connection's file; empty if it has none."""
    databases = conn.exec_driver_sql("PRAGMA database_list").all()
    return next((path for _, name, path in databases if name == "main"), "")


def _check(path: str, inode: Inode, library: Any) -> None:
    process = os.getpid()
    for held_in, held, other in list(_held.values()):
        if held_in == process and held == inode and not _same(library, other):
            raise StorageUnavailable(
                f"{path}: this process has the file open by {describe(other)} and can't open it by "
                f"{describe(library)}, because each would release the other's locks: set "
                f"{LIBRARY_VARIABLE}=sqlite3 (docs/operations.md, The SQLite library)"
            )


def _same(one: Any, other: Any) -> bool:
    # A package and its module `dbapi2` are one library.
    return one.Connection is other.Connection


def _inode(path: str) -> Inode | None:
    try:
        return inode_of(os.stat(path))
    except OSError:
        return None
