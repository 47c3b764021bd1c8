"""The unit of work that replaces a proposal by another one with other parameters."""

from typing import Final

from sqlalchemy import BigInteger, Connection, bindparam, update

from operator_core.actions.errors import Conflict, InvalidTransition
from operator_core.actions.lifecycle import PENDING_STATUSES, TRANSITIONS
from operator_core.actions.types import (
    ActionProposal,
    ActionStatus,
    EndCode,
    ProposalRequest,
    StoredProposal,
)
from operator_core.db.ledger.proposals import NewProposals, create_proposals
from operator_core.db.ledger.queries import known_proposal
from operator_core.db.ledger.status import any_of, moved
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import utcnow
from operator_core.db.sql.tables import PROPOSALS

__all__ = ["amend", "amended", "check_pending"]

_P = PROPOSALS.c

# A call has one proposal in its run, and a key one in the ledger: those keep naming the first.
_OWN: Final = frozenset({"call_id", "traceparent"})

_SUPERSEDE = (
    update(PROPOSALS)
    .where(_P.id == bindparam("proposal", type_=BigInteger()), any_of(PENDING_STATUSES))
    .values(
        moved(
            ActionStatus.CANCELLED,
            cancelled_at=utcnow(),
            status_changed_by=bindparam("by", type_=_P.status_changed_by.type),
            status_reason=bindparam("why", type_=_P.status_reason.type),
            end_code=EndCode.SUPERSEDED,
            status_cause=bindparam("cause", type_=_P.status_cause.type),
        )
    )
    .returning(_P.id)
)


def amended(
    old: StoredProposal, parameters: dict[str, object], *, by: str, reason: str
) -> ActionProposal:
    """The proposal that takes the place of `old`: the same with other parameters, proposed by who amends it."""
    same = {name: getattr(old, name) for name in ProposalRequest.model_fields if name not in _OWN}
    values = {**same, "parameters": parameters, "reason": reason, "proposed_by": by}
    return ActionProposal.model_validate(values)


def amend(
    conn: Connection, proposal_id: int, new: NewProposals, *, by: str, reason: str
) -> StoredProposal:
    """Creates the one proposal of `new` and cancels the one that it supersedes.

    Raises `NotFound`, `InvalidTransition` if that is not pending, and `Conflict` if another writer was faster.
    """
    check_pending(conn, proposal_id)
    ((created,),) = create_proposals(conn, [new])
    cause = f'{{"proposal":{created.id}}}'
    values = {"proposal": proposal_id, "by": by, "why": reason, "cause": cause}
    if not fetch(conn, _SUPERSEDE, values):
        raise Conflict("proposal", proposal_id, "moved by another writer")
    return created


def check_pending(conn: Connection, proposal_id: int) -> StoredProposal:
    """The proposal, if it is proposed or validated; raises `NotFound` or `InvalidTransition`."""
    found = known_proposal(conn, proposal_id)
    if found.status not in PENDING_STATUSES:
        allowed = [each.value for each in TRANSITIONS[found.status]]
        raise InvalidTransition(
            proposal_id,
            found.status,
            ActionStatus.CANCELLED,
            allowed,
            problem="it has begun or ended",
        )
    return found
