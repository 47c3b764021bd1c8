"""The ledger's database layer: `ActionDB`, and the types of what it gives back."""

from operator_core.db.actions import ActionDB
from operator_core.db.holding import Execution
from operator_core.db.ledger import ActionLedger
from operator_core.db.rows import Listing

__all__ = ["ActionDB", "ActionLedger", "Execution", "Listing"]
