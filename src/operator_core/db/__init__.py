"""The ledger's database layer: `ActionDB`, `SyncActionDB`, and the types that its methods return."""

from operator_core.actions.types import Claim
from operator_core.db.actions import ActionDB
from operator_core.db.sql.rows import Listing
from operator_core.db.sync import SyncActionDB
from operator_core.db.verbs.blocking import SyncExecution
from operator_core.db.verbs.holding import Execution
from operator_core.db.verbs.ledger import ActionLedger
from operator_core.db.verbs.sync import SyncActionLedger

__all__ = [
    "ActionDB",
    "ActionLedger",
    "Claim",
    "Execution",
    "Listing",
    "SyncActionDB",
    "SyncActionLedger",
    "SyncExecution",
]
