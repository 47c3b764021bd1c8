"""The ledger's database layer. Services need `ActionDB` and nothing else of it."""

from operator_core.db.actions import ActionDB

__all__ = ["ActionDB"]
