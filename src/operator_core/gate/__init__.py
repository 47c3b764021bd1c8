"""The gate between an agent and its tools: every call is proposed, decided, executed once, and recorded."""

from operator_core.gate.errors import (
    Cancelled,
    Denied,
    EffectUnknown,
    Executed,
    ExecutionFailed,
    Expired,
    GateError,
    Halted,
    NotExecuted,
    Pending,
    Refused,
    Rejected,
    Superseded,
    Undecided,
)
from operator_core.gate.gate import Begun, Gate
from operator_core.gate.sync import SyncBegun, SyncGate
from operator_core.gate.tickets import Outcome, Ticket
from operator_core.gate.tools import Tools

__all__ = [
    "Begun",
    "Cancelled",
    "Denied",
    "EffectUnknown",
    "Executed",
    "ExecutionFailed",
    "Expired",
    "Gate",
    "GateError",
    "Halted",
    "NotExecuted",
    "Outcome",
    "Pending",
    "Refused",
    "Rejected",
    "Superseded",
    "SyncBegun",
    "SyncGate",
    "Ticket",
    "Tools",
    "Undecided",
]
