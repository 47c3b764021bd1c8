"""Units of work on workflows: groups of proposals that are created in one unit of work."""

from collections.abc import Collection, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from sqlalchemy import BigInteger, Connection, bindparam, func, insert, select
from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import InvalidValue, NotFound
from operator_core.actions.policies import Deny, Require
from operator_core.actions.types import (
    ActionProposal,
    ActionStatus,
    StoredProposal,
    Workflow,
    WorkflowProposal,
    WorkflowStatus,
)
from operator_core.db.ledger.proposals import NewProposals, create_proposals, require
from operator_core.db.sql.errors import violates_constraint
from operator_core.db.sql.rows import (
    PROPOSAL_COLUMNS,
    WORKFLOW_COLUMNS,
    Listing,
    to_listing,
    to_proposal,
    to_workflow,
)
from operator_core.db.sql.tables import PROPOSALS, TICKETS, WORKFLOWS

__all__ = [
    "create_workflow",
    "get_workflow",
    "in_order",
    "list_workflow_actions",
    "require_workflow",
    "workflow_status",
]

_W = WORKFLOWS.c
_P = PROPOSALS.c
_S = ActionStatus

_INSERT = insert(WORKFLOWS).returning(*WORKFLOW_COLUMNS)
_GET = select(*WORKFLOW_COLUMNS).where(_W.id == bindparam("id"))
_OF_WORKFLOW = _P.workflow_id == bindparam("workflow", type_=BigInteger())
_ACTIONS = select(*PROPOSAL_COLUMNS).where(_OF_WORKFLOW).order_by(_P.id)
_COUNTS = (
    select(_P.status, _P.next_retry_at.is_not(None), func.count())
    .where(_OF_WORKFLOW)
    .group_by(_P.status, _P.next_retry_at.is_not(None))
)


def in_order(count: int, after: Mapping[int, Collection[int]]) -> list[list[int]]:
    """Returns the positions of `count` proposals in groups, each group after all groups that it depends on.

    Raises `InvalidValue` for a position out of range, and for a cycle, which its message names.
    """
    sorter: TopologicalSorter[int] = TopologicalSorter(dict.fromkeys(range(count), ()))
    for position, before in after.items():
        for each in (position, *before):
            if type(each) is not int or not 0 <= each < count:
                raise InvalidValue("after", f"must hold positions from 0 to {count - 1}")
        sorter.add(position, *before)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = ", ".join(str(position) for position in error.args[1][::-1])
        raise InvalidValue("after", f"must not contain a cycle: {cycle}") from None
    groups: list[list[int]] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        groups.append(ready)
        sorter.done(*ready)
    return groups


def create_workflow(
    conn: Connection,
    workflow: WorkflowProposal,
    proposals: Sequence[ActionProposal],
    after: Mapping[int, Collection[int]],
    *,
    actor: str,
    max_json_bytes: int,
    answers: Sequence[Sequence[Deny | Require]],
) -> tuple[Workflow, list[StoredProposal]]:
    """Inserts a workflow and its proposals, with what a policy asks of each.

    Raises `NotFound` for an unknown ticket or dependency.
    """
    created = _insert(conn, workflow)
    stored: dict[int, StoredProposal] = {}
    for group in in_order(len(proposals), after):
        new = NewProposals(actor, max_json_bytes)
        for position in group:
            known = [stored[before].id for before in sorted(set(after.get(position, ())))]
            proposal = proposals[position]
            more = [id_ for id_ in known if id_ not in proposal.depends_on]
            values = {**proposal.__dict__, "depends_on": (*proposal.depends_on, *more)}
            # Validation repeats, because the sum of both may exceed the limit of dependencies.
            new.add(
                ActionProposal.model_validate(values),
                workflow_id=created.id,
                answer=answers[position],
            )
        (written,) = create_proposals(conn, [new])
        stored.update(zip(group, written, strict=True))
    return created, [stored[position] for position in range(len(proposals))]


def _insert(conn: Connection, workflow: WorkflowProposal) -> Workflow:
    require(conn, "ticket", TICKETS, [workflow.ticket_id])
    try:
        return to_workflow(conn.execute(_INSERT, workflow.__dict__).one())
    except DBAPIError as error:
        if not violates_constraint(error):
            raise
        # On a server, another transaction may have deleted the ticket after `require`.
        raise NotFound("ticket", workflow.ticket_id or 0) from None


def require_workflow(conn: Connection, id: int) -> None:
    """Raises `NotFound` for an unknown workflow."""
    require(conn, "workflow", WORKFLOWS, [id])


def get_workflow(conn: Connection, id: int) -> Workflow | None:
    """The workflow, or None; raises `CorruptRow`."""
    row = conn.execute(_GET, {"id": id}).one_or_none()
    return None if row is None else to_workflow(row)


def list_workflow_actions(conn: Connection, id: int) -> Listing[StoredProposal]:
    """The proposals of a workflow, in the order of their ids; raises `NotFound`."""
    require_workflow(conn, id)
    return to_listing(conn.execute(_ACTIONS, {"workflow": id}).all(), to_proposal)


def workflow_status(conn: Connection, id: int) -> WorkflowStatus:
    """Derives the status of a workflow from those of its proposals; raises `NotFound`."""
    require_workflow(conn, id)
    found: set[str] = set()
    for status, retried, _ in conn.execute(_COUNTS, {"workflow": id}):
        # A failed proposal with a retry has not ended.
        found.add(_S.EXECUTING if status == _S.FAILED and retried else status)
    if found <= {_S.PROPOSED, _S.VALIDATED}:
        return WorkflowStatus.PENDING
    if found & {_S.PROPOSED, _S.VALIDATED, _S.EXECUTING}:
        return WorkflowStatus.IN_PROGRESS
    if _S.FAILED in found:
        return WorkflowStatus.FAILED
    return WorkflowStatus.CANCELLED if _S.CANCELLED in found else WorkflowStatus.COMPLETED
