"""What the policy of a service adds to the requirements of a new proposal, in the unit of work that creates it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Text, bindparam, insert, update

from operator_core.actions.actors import LEDGER
from operator_core.actions.policies import Deny, Require
from operator_core.actions.types import ActionStatus, EndCode
from operator_core.db.ledger.rules import as_names
from operator_core.db.ledger.status import moved
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import utcnow
from operator_core.db.sql.tables import PROPOSALS, REQUIREMENTS

__all__ = ["require"]

_P = PROPOSALS.c

_REQUIRE = insert(REQUIREMENTS).returning(REQUIREMENTS.c.id)
_DENY = (
    update(PROPOSALS)
    .where(_P.id == bindparam("proposal", type_=BigInteger()))
    .values(
        moved(
            ActionStatus.CANCELLED,
            end_code=EndCode.DENIED,
            cancelled_at=utcnow(),
            status_changed_by=LEDGER,
            status_reason=bindparam("why", type_=Text()),
        )
    )
    .returning(_P.id)
)


def require(conn: Connection, proposal_id: int, answer: Sequence[Deny | Require]) -> None:
    """Writes what a policy requires of a new proposal that has not ended, or cancels it if it is denied."""
    for each in answer:
        if isinstance(each, Deny):
            fetch(conn, _REQUIRE, _values(proposal_id, Require(name="policy"), effect="deny"))
            fetch(conn, _DENY, {"proposal": proposal_id, "why": each.reason})
        else:
            fetch(conn, _REQUIRE, _values(proposal_id, each))


def _values(proposal_id: int, asked: Require, effect: str = "require") -> dict[str, Any]:
    return {
        **asked.__dict__,
        "proposal_id": proposal_id,
        "effect": effect,
        "roles": as_names(asked.roles),
        "approvers": as_names(asked.approvers),
    }
