"""What is required of proposals and what was decided about them, and whether it is enough."""

from collections.abc import Sequence
from datetime import datetime

from pydantic_core import to_json
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    and_,
    bindparam,
    literal_column,
    or_,
    select,
    text,
    update,
)

from operator_core.actions.errors import NotFound
from operator_core.actions.types import Approvals, Decision, Requirement, RequirementState
from operator_core.db.sql.arrays import listed
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import is_met, written_now
from operator_core.db.sql.rows import (
    DECISION_COLUMNS,
    REQUIREMENT_COLUMNS,
    decode_time,
    to_decision,
    to_listing,
    to_requirement,
)
from operator_core.db.sql.tables import DECISIONS, PROPOSALS, REQUIREMENTS, VOTES

__all__ = [
    "UNAPPROVED",
    "States",
    "approvals",
    "approved",
    "ask",
    "assign",
    "is_approved",
    "missing_names",
    "rejected_by",
]

UNAPPROVED = "action_proposals_approval_required"
"""What the message of a refusal by the schema begins with."""

_P = PROPOSALS.c
_D = DECISIONS.c
_Q = REQUIREMENTS.c
_V = VOTES.c

_PROPOSAL = bindparam("proposal", type_=BigInteger())


def approved() -> ColumnElement[bool]:
    """Whether nothing that is required of a proposal is missing, by what the triggers have written in its row."""
    return or_(
        _P.approval.is_(None),
        and_(
            _P.approval != literal_column("'needed'", Text()),
            or_(_P.lapses_at.is_(None), _P.lapses_at > written_now()),
        ),
    )


_REQUIRED = (
    select(*REQUIREMENT_COLUMNS)
    .where(listed(_Q.proposal_id, "ids"))
    .order_by(_Q.proposal_id, _Q.id)
)
_DECIDED = (
    select(*DECISION_COLUMNS).where(listed(_D.proposal_id, "ids")).order_by(_D.proposal_id, _D.id)
)
_VOTES = select(_V.decision_id, _V.requirement_id).where(listed(_V.proposal_id, "ids"))
_APPROVED = select(is_met(_P.id), _P.lapses_at).where(_P.id == _PROPOSAL)


def is_approved(conn: Connection, proposal_id: int) -> bool:
    """Whether nothing that is required of a proposal is missing now; raises `NotFound`."""
    return _state(conn, proposal_id)[0]


def _state(conn: Connection, proposal_id: int) -> tuple[bool, datetime | None]:
    rows = fetch(conn, _APPROVED, {"proposal": proposal_id})
    if not rows:
        raise NotFound("proposal", proposal_id)
    met, lapses_at = rows[0]
    return bool(met), None if lapses_at is None else decode_time(lapses_at)


def approvals(conn: Connection, proposal_id: int) -> Approvals:
    """What is required of a proposal, and what was decided; raises `NotFound`."""
    met, lapses_at = _state(conn, proposal_id)
    found = States(conn, [proposal_id])
    decisions = tuple(found.decisions.get(proposal_id, ()))
    return Approvals(proposal_id, found.of(proposal_id), decisions, met, lapses_at)


class States:
    """The requirements and decisions of several proposals."""

    def __init__(self, conn: Connection, ids: Sequence[int]) -> None:
        listing = {"ids": list(ids)}
        self.decisions: dict[int, list[Decision]] = {}
        self._required: dict[int, list[Requirement]] = {}
        for decision in to_listing(fetch(conn, _DECIDED, listing), to_decision):
            self.decisions.setdefault(decision.proposal_id, []).append(decision)
        for requirement in to_listing(fetch(conn, _REQUIRED, listing), to_requirement):
            self._required.setdefault(requirement.proposal_id, []).append(requirement)
        self._fits: dict[int, list[int]] = {}
        if self.decisions:
            for decision_id, requirement_id in fetch(conn, _VOTES, listing):
                self._fits.setdefault(decision_id, []).append(requirement_id)

    def of(self, proposal_id: int) -> tuple[RequirementState, ...]:
        """Each requirement, with the approvals that count for it."""
        required = self._required.get(proposal_id, [])
        votes = [each for each in self.decisions.get(proposal_id, ()) if each.id in self._fits]
        counted = assign(
            {each.id: each.approvals for each in required},
            {each.id: self._fits[each.id] for each in votes},
        )
        by_id = {each.id: each for each in votes}
        return tuple(
            RequirementState(each, tuple(by_id[id_] for id_ in sorted(counted[each.id])))
            for each in required
        )


def assign(needs: dict[int, int], fits: dict[int, list[int]]) -> dict[int, list[int]]:
    """Assigns as many votes as possible, each to one of the requirements that it fits, up to what they need.

    Augmenting paths (J. E. Hopcroft and R. M. Karp, "An n^5/2 algorithm for maximum matchings", 1973, in the simple
    form): a later vote may move an earlier one to another requirement. Votes that fit fewer requirements come first.
    """
    counted: dict[int, list[int]] = {requirement: [] for requirement in needs}

    def place(vote: int, seen: set[int]) -> bool:
        for requirement in fits[vote]:
            if requirement in seen or requirement not in counted:
                continue
            seen.add(requirement)
            taken = counted[requirement]
            if len(taken) < needs[requirement]:
                taken.append(vote)
                return True
            for index, other in enumerate(taken):
                if place(other, seen):
                    taken[index] = vote
                    return True
        return False

    for vote in sorted(fits, key=lambda each: (len(fits[each]), each)):
        place(vote, set())
    return counted


_ASK_ON_SERVER = (
    update(PROPOSALS).where(listed(_P.id, "ids")).values(approval="asked").returning(_P.id)
)
_ASK = text("INSERT INTO action_approvals_asked SELECT value FROM json_each(:ids)")


def ask(conn: Connection, ids: Sequence[int]) -> None:
    """Makes the triggers look again at what the requirements and decisions of these proposals come to."""
    if is_sqlite(conn):
        conn.execute(_ASK, {"ids": to_json(list(ids)).decode()})
    else:
        conn.execute(_ASK_ON_SERVER, {"ids": list(ids)})


_REJECTION = select(_D.decided_by).where(
    _D.proposal_id == _PROPOSAL, _D.kind == literal_column("'rejected'", Text())
)


def rejected_by(conn: Connection, proposal_id: int) -> str | None:
    """Who has rejected a proposal, if anybody has."""
    return conn.scalar(_REJECTION, {"proposal": proposal_id})


def missing_names(conn: Connection, proposal_id: int) -> list[str]:
    """The names of the requirements of a proposal that are not met."""
    states = States(conn, [proposal_id]).of(proposal_id)
    return [each.requirement.name for each in states if not each.met]
