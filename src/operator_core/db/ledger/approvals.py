"""Units of work for the decisions of people about proposals."""

from typing import Any, NamedTuple, NoReturn

from sqlalchemy import (
    BigInteger,
    Connection,
    Text,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from operator_core.actions.actors import normalised
from operator_core.actions.errors import (
    Conflict,
    ConstraintViolation,
    DigestMismatch,
    NotEligible,
    NotFound,
    TamperedProposal,
)
from operator_core.actions.identities import identity_keys
from operator_core.actions.types import Decision, DecisionKind
from operator_core.db.ledger.partial import IGNORED
from operator_core.db.ledger.queries import known_proposal
from operator_core.db.ledger.rules import as_names
from operator_core.db.sql.errors import violates_constraint
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.rows import DECISION_COLUMNS, to_decision
from operator_core.db.sql.savepoint import savepoint
from operator_core.db.sql.tables import DECISIONS, PROPOSALS

__all__ = ["DecisionRequest", "approve", "reject", "withdraw"]

_P = PROPOSALS.c
_D = DECISIONS.c


class DecisionRequest(NamedTuple):
    """What a person decides about a proposal."""

    proposal_id: int
    kind: DecisionKind
    by: str
    by_type: str = "user"
    roles: tuple[str, ...] = ()
    digest: str | None = None
    comment: str | None = None
    requirement_id: int | None = None
    validates: bool = True
    withdraws_id: int | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The values of its row."""
        return {
            "proposal_id": self.proposal_id,
            "kind": self.kind.value,
            "decided_by": self.by,
            "decider_key": normalised(self.by),
            "decider_type": self.by_type,
            "roles": as_names(self.roles),
            "digest": self.digest,
            "comment": self.comment,
            "requirement_id": self.requirement_id,
            "withdraws_id": self.withdraws_id,
            "validates": self.validates,
        }


_PROPOSAL = bindparam("proposal", type_=BigInteger())
_INSERT = insert(DECISIONS).returning(*DECISION_COLUMNS)
_FILL = (
    update(PROPOSALS)
    .where(_P.id == _PROPOSAL, _P.content_digest.is_(None))
    .values(
        content_digest=bindparam("computed", type_=Text()),
        identity_keys=func.coalesce(
            _P.identity_keys, bindparam("keys", type_=_P.identity_keys.type)
        ),
    )
    .returning(_P.id)
)
_KEYS = select(_P.identity_keys).where(_P.id == _PROPOSAL)
_later = DECISIONS.alias("later")
_LIVE = (
    select(*DECISION_COLUMNS)
    .where(
        _D.proposal_id == _PROPOSAL,
        _D.kind == literal_column("'approved'", Text()),
        _D.decider_key == bindparam("key", type_=Text()),
        ~select(_later.c.id).where(_later.c.withdraws_id == _D.id).correlate(DECISIONS).exists(),
    )
    .order_by(_D.id.desc())
    .limit(literal_column("1"))
)


def approve(conn: Connection, request: DecisionRequest) -> Decision:
    """Writes an approval; its trigger validates the proposal if nothing is missing any more.

    Returns the approval that the person has given already, if there is one, with `repeated` set. Raises `NotFound`,
    `DigestMismatch`, `NotEligible`, `Conflict` if it is too late, and `TamperedProposal` for a row whose stored digest or
    identities are not those of its content.
    """
    found = known_proposal(conn, request.proposal_id)
    keys, stored = identity_keys(found.__dict__), conn.scalar(_KEYS, {"proposal": found.id})
    # Raw SQL may have written something else than what everybody sees.
    if found.content_digest not in (None, found.digest) or stored not in (None, keys):
        raise TamperedProposal(found.id)
    if request.digest not in (None, found.digest):
        raise DigestMismatch(found.id, found.digest)
    if found.content_digest is None and request.digest is not None:
        # Nobody else can compute what the approval is bound to.
        fetch(conn, _FILL, {"proposal": found.id, "computed": found.digest, "keys": keys})
    return _decide(conn, request)


def reject(conn: Connection, request: DecisionRequest) -> Decision:
    """Writes a rejection; its trigger cancels the proposal. Raises `NotFound`, and `Conflict` if it is too late."""
    known_proposal(conn, request.proposal_id)
    return _decide(conn, request)


def withdraw(conn: Connection, request: DecisionRequest) -> Decision:
    """Withdraws the approval of a person. Raises `NotFound`, and `Conflict` if there is none or if it is too late."""
    known_proposal(conn, request.proposal_id)
    live = fetch(conn, _LIVE, {"proposal": request.proposal_id, "key": normalised(request.by)})
    if not live:
        raise Conflict("proposal", request.proposal_id, f"without an approval of {request.by}")
    given = to_decision(live[0])
    return _decide(conn, request._replace(withdraws_id=given.id, digest=given.digest))


def _decide(conn: Connection, request: DecisionRequest) -> Decision:
    try:
        with savepoint(conn):
            rows = fetch(conn, _INSERT, request.values)
    except DBAPIError as error:
        if not violates_constraint(error):
            raise
        refusal = str(error.orig)
        if "action_decisions_repeated" in refusal:
            live = fetch(
                conn, _LIVE, {"proposal": request.proposal_id, "key": normalised(request.by)}
            )
            if live:
                return to_decision(live[0]).as_repeated()
        _explain(conn, request, refusal, error)
    if not rows:
        raise ConstraintViolation(IGNORED)
    return to_decision(rows[0])


def _explain(
    conn: Connection, request: DecisionRequest, refusal: str, error: DBAPIError
) -> NoReturn:
    """Raises the error that says why a decision was refused."""
    id_ = request.proposal_id
    if "action_decisions_digest" in refusal:
        found = known_proposal(conn, id_)
        raise DigestMismatch(id_, found.content_digest or found.digest) from error
    if "action_decisions_not_eligible" in refusal:
        raise NotEligible(id_, request.by) from error
    if "action_decisions_too_late" in refusal:
        raise Conflict("proposal", id_, known_proposal(conn, id_).status.value) from error
    if "action_decisions_undecided" in refusal:
        raise Conflict("proposal", id_, "over: it was not decided in time") from error
    if "action_decisions_requirement" in refusal and request.requirement_id is not None:
        raise NotFound("requirement", request.requirement_id) from error
    raise error
