"""Changes of many rows when the database refuses some of them: the others change, and these stay unchanged."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import ActionError, ConstraintViolation
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.errors import is_refusal, translate
from operator_core.db.sql.postgresql_errors import is_refused as is_about_rows
from operator_core.db.sql.postgresql_errors import sqlstate
from operator_core.db.sql.savepoint import in_transaction, savepoint

__all__ = ["IGNORED", "in_parts", "is_of_rows", "is_refused"]

logger = logging.getLogger(__name__)

IGNORED: Final = "a trigger of another program has ignored a new row"
"""The message about a row that an INSERT did not return."""

IdT = TypeVar("IdT")
T = TypeVar("T")


def in_parts(
    conn: Connection,
    ids: Sequence[IdT],
    change: Callable[[Connection, Sequence[IdT]], T],
    what: str,
) -> Iterator[T]:
    """Applies `change` to all `ids` and yields the result of each part; each part runs in a savepoint.

    A refused part is halved. A single refused row stays unchanged, and is logged as an error with its id. If every row
    is refused, the last refusal is raised. It must run in a transaction.
    """
    parts = deque([ids] if ids else [])
    refusal: DBAPIError | ConstraintViolation | None = None
    done = False
    while parts:
        some = parts.popleft()
        try:
            with savepoint(conn):
                result = change(conn, some)
        except (DBAPIError, ConstraintViolation) as error:
            if not is_of_rows(conn, error):
                raise
            if len(some) == 1:
                refusal = error
                logger.error("could not %s %s: %s", what, some[0], translate(error))
            else:
                half = len(some) // 2
                parts.extendleft((some[half:], some[:half]))
        else:
            done = True
            yield result
    if refusal is not None and not done:
        raise refusal


def is_of_rows(conn: Connection, error: DBAPIError | ConstraintViolation) -> bool:
    """Whether the database refused rows and the transaction is still open.

    On SQLite, a full disk or a trigger of another program may have ended it.
    """
    ended = is_sqlite(conn) and not in_transaction(conn)
    return not ended and (isinstance(error, ConstraintViolation) or is_refusal(error))


def is_refused(error: ActionError) -> bool:
    """Whether the ledger's `error` means that the database refused some rows and may accept others."""
    cause = error.__cause__
    if isinstance(cause, DBAPIError):
        return is_refusal(cause)
    # A direct statement raises the error of asyncpg itself.
    return cause is not None and sqlstate(cause) is not None and is_about_rows(cause)
