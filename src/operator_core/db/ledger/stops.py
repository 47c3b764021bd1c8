"""Units of work that cancel all proposals that have not started, of the ledger or of one workflow."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Text,
    Update,
    bindparam,
    func,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from operator_core.actions.lifecycle import PENDING_STATUSES
from operator_core.actions.types import ActionStatus, EndCode
from operator_core.db.ledger.partial import in_parts, is_of_rows
from operator_core.db.ledger.status import any_of, attributed, moved
from operator_core.db.sql.arrays import listed
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.functions import utcnow
from operator_core.db.sql.lock_waits import limit_lock_waits
from operator_core.db.sql.tables import HALTS, PROPOSALS
from operator_core.db.sql.unit import SingleStatement

__all__ = [
    "Stop",
    "cancel_free",
    "cancel_free_in_parts",
    "cancel_pending",
    "cancel_pending_in_parts",
    "cancellation",
]

_ROW = PROPOSALS.c

_PENDING = any_of(PENDING_STATUSES)
_RETRIED = [any_of([ActionStatus.FAILED]), _ROW.next_retry_at.is_not(None)]
_HALT_OPEN = (
    select(HALTS.c.id)
    .where(HALTS.c.id == bindparam("halt", type_=BigInteger()), HALTS.c.resumed_at.is_(None))
    .exists()
)
_OF_WORKFLOW = _ROW.workflow_id == bindparam("workflow", type_=BigInteger())


class Stop:
    """The parameters of a cancellation: the actor, the reason, and what it is limited to.

    That is a workflow, or these `ids` while the halt `halt_id` is open.
    """

    def __init__(
        self,
        *,
        actor: str,
        reason: str | None,
        workflow_id: int | None = None,
        ids: Sequence[int] | None = None,
        halt_id: int | None = None,
    ) -> None:
        self.parameters: dict[str, Any] = {"by": actor, "why": reason}
        self.parameters["code"] = EndCode.CANCELLED.value
        self.parameters["cause"] = None
        self.which: list[ColumnElement[bool]] = []
        if workflow_id is not None:
            self.parameters["workflow"] = workflow_id
            self.which = [_OF_WORKFLOW]
        if ids is not None:
            self.parameters |= {"ids": ids, "halt": halt_id}
            self.parameters["code"] = EndCode.HALTED.value
            self.parameters["cause"] = f'{{"halt":{halt_id}}}'
            self.which = [listed(_ROW.id, "ids"), _HALT_OPEN]

    def free(self, conn: Connection) -> "Stop":
        """The same without the rows that other transactions have locked, and with little patience for dependent ones.

        Only for one with `ids`, in a transaction.
        """
        if is_sqlite(conn):
            return self
        limit_lock_waits(conn, _PATIENCE)
        ids = conn.scalars(_FREE, {"ids": self.parameters["ids"]}).all()
        stop = Stop(actor=self.parameters["by"], reason=self.parameters["why"])
        stop.parameters, stop.which = {**self.parameters, "ids": ids}, self.which
        return stop


_PATIENCE: Final = "1s"
"""How long a halt waits for the lock of a dependent proposal."""

_FREE = (
    select(_ROW.id).where(listed(_ROW.id, "ids")).with_for_update(skip_locked=True, key_share=True)
)
_CANCEL = update(PROPOSALS).values(
    moved(
        ActionStatus.CANCELLED,
        end_code=bindparam("code", type_=Text()),
        status_cause=bindparam("cause", type_=Text()),
        cancelled_at=utcnow(),
        status_changed_by=bindparam("by", type_=Text()),
        status_reason=bindparam("why", type_=Text()),
    )
)
_CALL_OFF = (
    update(PROPOSALS)
    .where(*_RETRIED)
    .values(
        attributed(
            next_retry_at=None,
            status_changed_by=bindparam("by", type_=Text()),
            status_reason=bindparam("why", type_=Text()),
        )
    )
)
_CANCEL_PENDING = _CANCEL.where(_PENDING)
_DEPENDANTS = select(_ROW.id).where(_PENDING, _ROW.depends_on.is_not(None))


def cancellation(stop: Stop) -> SingleStatement[int]:
    """`cancel_pending` as a `SingleStatement`, which it is on a server."""
    return SingleStatement(partial(cancel_pending, stop=stop))


def cancel_pending(conn: Connection, stop: Stop) -> int:
    """Cancels pending proposals and the retries of failed ones, as one change; returns the number of the former."""
    if is_sqlite(conn):
        return _cancel_on_sqlite(conn, stop)
    # One statement needs no transaction around it. It counts the cancelled proposals only.
    called_off = _CALL_OFF.where(*stop.which).returning(_ROW.id).cte("called_off")
    cancelled = _CANCEL_PENDING.where(*stop.which).returning(_ROW.id).cte("cancelled")
    counted = select(func.count()).select_from(cancelled).add_cte(called_off)
    return conn.scalar(counted, stop.parameters) or 0


def _cancel_on_sqlite(conn: Connection, stop: Stop) -> int:
    # SQLite's triggers run row by row: without this, they would cancel dependent proposals with a reason of their
    # own. So these are cancelled first, one by one, the last first. The ids are sorted here: with an ORDER BY, SQLite
    # may read all rows by their ids.
    ids = sorted(conn.scalars(_DEPENDANTS.where(*stop.which), stop.parameters), reverse=True)
    one = _CANCEL_PENDING.where(_ROW.id == bindparam("proposal"))
    count = sum(conn.execute(one, {**stop.parameters, "proposal": id_}).rowcount for id_ in ids)
    count += conn.execute(_CANCEL_PENDING.where(*stop.which), stop.parameters).rowcount
    conn.execute(_CALL_OFF.where(*stop.which), stop.parameters)
    return count


def cancel_free(conn: Connection, stop: Stop) -> int:
    """As `cancel_pending`, without rows that other transactions have locked."""
    return cancel_pending(conn, stop.free(conn))


def cancel_free_in_parts(conn: Connection, stop: Stop) -> int:
    """As `cancel_pending_in_parts`, without rows that other transactions have locked."""
    return cancel_pending_in_parts(conn, stop.free(conn))


def cancel_pending_in_parts(conn: Connection, stop: Stop) -> int:
    """As `cancel_pending`, but skips the rows that the database refuses to change, which are logged."""

    def apply(to: Update) -> Callable[[Connection, Sequence[int]], int]:
        statement = to.where(listed(_ROW.id, "ids"))

        def some(conn: Connection, ids: Sequence[int]) -> int:
            return conn.execute(statement, {**stop.parameters, "ids": ids}).rowcount

        return some

    def ids(which: Select[Any]) -> Sequence[int]:
        return conn.scalars(which.where(*stop.which), stop.parameters).all()

    refusals: list[DBAPIError] = []

    def change(ids: Sequence[int], to: Update, what: str) -> int:
        try:
            return sum(in_parts(conn, ids, apply(to), what))
        except DBAPIError as error:
            if not is_of_rows(conn, error):
                raise
            # Every row of this part was refused; the other part may still succeed.
            refusals.append(error)
            return 0

    # The highest ids first: a proposal depends on lower ids only.
    pending = sorted(ids(select(_ROW.id).where(_PENDING)), reverse=True)
    count = change(pending, _CANCEL_PENDING, "cancel proposal")
    retried = ids(select(_ROW.id).where(*_RETRIED))
    called_off = change(retried, _CALL_OFF, "cancel the retry of proposal")
    if refusals and not count and not called_off:
        raise refusals[0]
    return count
