"""The SQLite library of the ledger's own connections: Python's, or a newer one that is installed beside it."""

import os
import sqlite3
from contextlib import closing
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from operator_core.actions.errors import InvalidValue

__all__ = ["ERRORS", "LIBRARY_VARIABLE", "OPEN_OPTIONS", "dbapi", "describe"]

LIBRARY_VARIABLE: Final = "OPERATOR_SQLITE"
"""The environment variable that chooses the library: ``sqlite3`` is Python's own; unset, the newer one is used."""


def _installed() -> Any:
    try:
        return import_module("pysqlite3.dbapi2")
    except ImportError:
        return None


_found: Final = _installed()


def _choose() -> Any:
    chosen = os.environ.get(LIBRARY_VARIABLE, "")
    if chosen not in ("", "sqlite3"):
        raise InvalidValue(LIBRARY_VARIABLE, "must be sqlite3, or not set")
    if chosen or _found is None or _found.sqlite_version_info <= sqlite3.sqlite_version_info:
        return sqlite3
    return _found if _tells_codes(_found) else sqlite3


def _tells_codes(module: Any) -> bool:
    """Whether the module's exceptions have SQLite's error codes, which releases before 0.6 may lack."""
    with closing(module.connect(":memory:")) as connection:
        try:
            connection.execute("SELECT")
        except module.Error as error:
            return hasattr(error, "sqlite_errorcode")
    return False


if TYPE_CHECKING:
    dbapi = sqlite3
else:
    dbapi = _choose()
    """The DB-API module of every connection that the ledger opens itself. The interface is that of `sqlite3`."""

ERRORS: Final[tuple[type[sqlite3.Error], ...]] = (
    sqlite3.Error,
    *(() if _found is None else (_found.Error,)),
)
"""The base exceptions of all libraries: a service's engine may use another one than the ledger."""

# SQLITE_OPEN_READWRITE, CREATE and EXRESCODE. `sqlite3` always has the extended error codes, and only they tell a file
# that may not grow from a broken disk.
_WITH_EXTENDED_CODES: Final = 0x2 | 0x4 | 0x02000000

OPEN_OPTIONS: Final[dict[str, Any]] = {} if dbapi is sqlite3 else {"flags": _WITH_EXTENDED_CODES}
"""Further arguments of `dbapi.connect` for a ledger's connection."""


def describe(module: Any = dbapi) -> str:
    """The module and the version of its SQLite, such as ``sqlite3 3.40.1``."""
    return f"{module.__name__.partition('.')[0]} {module.sqlite_version}"
