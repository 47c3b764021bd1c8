"""All verbs of the ledger in one class."""

from operator_core.db.verbs.history import HistoryVerbs
from operator_core.db.verbs.holding import HoldingVerbs
from operator_core.db.verbs.proposals import ProposalVerbs
from operator_core.db.verbs.records import RecordVerbs
from operator_core.db.verbs.status import StatusVerbs
from operator_core.db.verbs.workflows import WorkflowVerbs

__all__ = ["ActionLedger"]


class ActionLedger(
    ProposalVerbs, StatusVerbs, RecordVerbs, HoldingVerbs, HistoryVerbs, WorkflowVerbs
):
    """The verbs of the ledger. Each is one unit of work: one transaction, answered when durable.

    Ids are taken as the models give them, so that ``proposal.id`` needs no assertion before it; the
    None of a model that is in no ledger is an `InvalidValue`, as any other thing that is no id.
    """
