"""What waits for people, and what waits for a worker with their approval."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Connection, Text, bindparam, func, literal_column, select, text

from operator_core.actions.actors import normalised
from operator_core.actions.types import (
    ActionStatus,
    PendingApproval,
    RequirementState,
    StoredProposal,
)
from operator_core.db.ledger.requirements import States
from operator_core.db.ledger.status import any_of
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import written_now
from operator_core.db.sql.planner_hints import unseen
from operator_core.db.sql.rows import (
    PROPOSAL_COLUMNS,
    Listing,
    decode_time,
    to_listing,
    to_proposal,
)
from operator_core.db.sql.tables import APPROVAL_OPEN, PROPOSALS

__all__ = ["Waiting", "pending"]

_P = PROPOSALS.c

_AGE: Final = func.coalesce(
    # A failed proposal waits for the approval of its retry since it failed.
    _P.status_changed_at,
    _P.created_at,
    type_=_P.created_at.type,
)
_OPEN = text(APPROVAL_OPEN)


def _waiting(*conditions: Any) -> Any:
    return (
        select(*PROPOSAL_COLUMNS, _AGE.label("since"), written_now().label("now"))
        .where(_OPEN, *conditions, _P.id > bindparam("after", type_=BigInteger()))
        .order_by(_P.id)
        .limit(unseen(bindparam("limit", type_=BigInteger())))
    )


_NEEDED = _waiting(_P.approval == literal_column("'needed'", Text()))
_GIVEN = _waiting(
    _P.approval == literal_column("'given'", Text()),
    any_of([ActionStatus.PROPOSED, ActionStatus.VALIDATED]),
)
_PAGE: Final = 200


class Waiting(NamedTuple):
    """Which proposals to list: those that wait for approvals, or those that have them and have not started."""

    given: bool
    limit: int
    after: int = 0
    by: str | None = None
    roles: tuple[str, ...] | None = None
    run_id: str | None = None
    agent_id: str | None = None
    action_name: str | None = None


def pending(conn: Connection, waiting: Waiting) -> Listing[PendingApproval]:
    """The proposals that wait for people, or for a worker with their approval, oldest first."""
    found: Listing[PendingApproval] = Listing()
    after, page = waiting.after, waiting.limit
    while len(found) < waiting.limit:
        rows = fetch(conn, _GIVEN if waiting.given else _NEEDED, {"after": after, "limit": page})
        proposals = to_listing([tuple(row)[:-2] for row in rows], to_proposal)
        found.corrupt += proposals.corrupt
        times = {_id(row): tuple(row)[-2:] for row in rows}
        states = States(conn, [each.id for each in proposals])
        for each in proposals:
            if not _wanted(waiting, each):
                continue
            required = states.of(each.id)
            if not waiting.given and not _can_decide(waiting, each, required):
                continue
            since, now = times[each.id]
            waited = decode_time(now) - decode_time(since)
            found.append(PendingApproval(each, required, waited, each.lapses_at))
            if len(found) == waiting.limit:
                break
        if len(rows) < page:
            break
        # What is left out leaves more to read.
        after, page = _id(rows[-1]), max(_PAGE, waiting.limit - len(found))
    return found


_ID_AT: Final = [column.key for column in PROPOSAL_COLUMNS].index("id")


def _id(row: Sequence[Any]) -> int:
    return row[_ID_AT]


def _wanted(waiting: Waiting, proposal: StoredProposal) -> bool:
    return all(
        wanted is None or getattr(proposal, name) == wanted
        for name, wanted in (
            ("run_id", waiting.run_id),
            ("agent_id", waiting.agent_id),
            ("action_name", waiting.action_name),
        )
    )


def _can_decide(
    waiting: Waiting, proposal: StoredProposal, required: Sequence[RequirementState]
) -> bool:
    """Whether who asks could give an approval that is missing."""
    if waiting.by is None and waiting.roles is None:
        return True
    key = None if waiting.by is None else normalised(waiting.by)
    roles = None if waiting.roles is None else {normalised(each) for each in waiting.roles}
    parties = {
        normalised(each)
        for each in (proposal.requester_id, proposal.agent_id, proposal.proposed_by)
        if each is not None
    }
    if key is not None and any(
        normalised(each.decided_by) == key for state in required for each in state.counted
    ):
        return False
    for state in required:
        each = state.requirement
        if state.met or each.effect == "deny":
            continue
        if roles is not None and each.roles is not None and not roles & set(each.roles):
            continue
        if key is not None and each.approvers is not None and key not in each.approvers:
            continue
        if key is not None and not each.allow_self and key in parties:
            continue
        return True
    return False
