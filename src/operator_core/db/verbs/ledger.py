"""All verbs of the ledger in one class."""

from operator_core.db.verbs.approvals import ApprovalVerbs
from operator_core.db.verbs.halts import HaltVerbs
from operator_core.db.verbs.history import HistoryVerbs
from operator_core.db.verbs.holding import HoldingVerbs
from operator_core.db.verbs.limits import LimitVerbs
from operator_core.db.verbs.outcomes import OutcomeVerbs
from operator_core.db.verbs.proposals import ProposalVerbs
from operator_core.db.verbs.records import RecordVerbs
from operator_core.db.verbs.rules import RuleVerbs
from operator_core.db.verbs.status import StatusVerbs
from operator_core.db.verbs.workflows import WorkflowVerbs

__all__ = ["ActionLedger"]


class ActionLedger(
    ProposalVerbs,
    StatusVerbs,
    RecordVerbs,
    HoldingVerbs,
    OutcomeVerbs,
    HistoryVerbs,
    WorkflowVerbs,
    HaltVerbs,
    ApprovalVerbs,
    LimitVerbs,
    RuleVerbs,
):
    """The verbs of the ledger. Each is one unit of work: one transaction, durable when the call returns.

    The id parameters accept the type of a model's `id`, so that ``proposal.id`` needs no assertion before a call.
    The None of a model that is not in a ledger raises `InvalidValue`, as does every other value that is not an id.
    """
