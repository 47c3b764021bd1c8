"""The verbs of workflows: named groups of proposals that depend on each other."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import (
    ProposalRequest,
    StoredProposal,
    Workflow,
    WorkflowProposal,
    WorkflowStatus,
)
from operator_core.db.ledger import workflows
from operator_core.db.ledger.stops import Stop, cancel_pending_in_parts, cancellation
from operator_core.db.sql.rows import Listing
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check, check_proposal
from operator_core.db.verbs.base import Verbs

__all__ = ["WorkflowVerbs"]


class WorkflowVerbs(Verbs):
    """The verbs of workflows. The status of a workflow is derived from the statuses of its proposals."""

    async def create_workflow(
        self,
        workflow: WorkflowProposal,
        proposals: Sequence[ProposalRequest],
        *,
        after: Mapping[int, int | Collection[int]] | None = None,
        proposed_by: str | None = None,
        actor: str | None = None,
    ) -> tuple[Workflow, list[StoredProposal]]:
        """Creates a workflow and its proposals in one unit of work, and returns both, in the order of `proposals`.

        `after` maps the position of a proposal to the positions of those that it depends on: ``{2: [0, 1], 3: 2}``.
        The ledger adds their ids to `depends_on`. Raises `InvalidValue` if `after` contains a cycle or `proposals` is
        empty; otherwise it raises what `create_proposal` does.
        """
        check(arguments.instance_of(WorkflowProposal), workflow, "workflow")
        proposals = [*check(arguments.COLLECTION, proposals, "proposals")]
        if not proposals:
            raise InvalidValue("proposals", "must have at least one")
        who = self._who(actor)
        actions = [
            check_proposal(proposal, f"proposals[{position}]", who, proposed_by)
            for position, proposal in enumerate(proposals)
        ]
        before: dict[int, Collection[int]] = {
            position: [each]
            if isinstance(each, int)
            else [*check(arguments.COLLECTION, each, "after")]
            for position, each in check(arguments.MAPPING, after or {}, "after").items()
        }
        # Before any SQL runs.
        workflows.in_order(len(actions), before)
        checked = WorkflowProposal.model_validate(
            {name: getattr(workflow, name) for name in WorkflowProposal.model_fields}
        )
        answers = await self._ask(actions)
        return await self._propose(
            lambda conn: workflows.create_workflow(
                conn,
                checked,
                actions,
                before,
                answers=answers,
                actor=who,
                max_json_bytes=self._max_json_bytes,
            ),
            actions,
        )

    async def get_workflow(self, workflow_id: int) -> Workflow | None:
        """Returns the workflow, or None for an unknown id."""
        known = check(arguments.ID, workflow_id, "workflow_id")
        return await self._units.read(lambda conn: workflows.get_workflow(conn, known))

    async def list_workflow_actions(self, workflow_id: int) -> Listing[StoredProposal]:
        """Returns the proposals of a workflow in the order of their ids, each after those that it depends on.

        Raises `NotFound` for an unknown workflow.
        """
        known = check(arguments.ID, workflow_id, "workflow_id")
        return await self._units.read(lambda conn: workflows.list_workflow_actions(conn, known))

    async def workflow_status(self, workflow_id: int) -> WorkflowStatus:
        """Returns the status of a workflow, derived from those of its proposals; raises `NotFound`."""
        known = check(arguments.ID, workflow_id, "workflow_id")
        return await self._units.read(lambda conn: workflows.workflow_status(conn, known))

    async def cancel_workflow(
        self, workflow_id: int, *, actor: str | None = None, reason: str | None = None
    ) -> int:
        """Cancels the proposed and validated proposals of a workflow, and returns how many.

        A failed proposal with a retry stays failed: its retry is cancelled, and it does not count. Executing proposals
        continue. Raises `NotFound` for an unknown workflow.
        """
        known = check(arguments.ID, workflow_id, "workflow_id")
        stop = Stop(
            actor=self._who(actor),
            reason=check(arguments.REASON, reason, "reason"),
            workflow_id=known,
        )
        await self._units.read(lambda conn: workflows.require_workflow(conn, known))
        return await self._write_or_in_parts(
            cancellation(stop), partial(cancel_pending_in_parts, stop=stop)
        )
