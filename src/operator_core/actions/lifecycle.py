"""The lifecycle of a proposal: the table of moves, and constants and functions derived from it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from operator_core.actions.types import ActionStatus

__all__ = [
    "FINAL_STATUSES",
    "PENDING_STATUSES",
    "TRANSITIONS",
    "can_move",
    "sources_of",
]

_S = ActionStatus

TRANSITIONS: Final[Mapping[ActionStatus, frozenset[ActionStatus]]] = MappingProxyType(
    {
        _S.PROPOSED: frozenset({_S.VALIDATED, _S.CANCELLED}),
        _S.VALIDATED: frozenset({_S.EXECUTING, _S.CANCELLED}),
        _S.EXECUTING: frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED}),
        _S.FAILED: frozenset({_S.VALIDATED}),
        _S.COMPLETED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)
"""The statuses that may follow each status. Keeping the status is not a move."""

FINAL_STATUSES: Final = frozenset(status for status, after in TRANSITIONS.items() if not after)
"""Statuses without a move to another one."""

PENDING_STATUSES: Final = frozenset(
    status
    for status, after in TRANSITIONS.items()
    if _S.CANCELLED in after and status is not _S.EXECUTING
)
"""Statuses of a proposal that has not started, so that `cancel_all_pending` can cancel it."""

_SOURCES: Final = MappingProxyType(
    {
        to: frozenset(status for status, after in TRANSITIONS.items() if to in after)
        for to in ActionStatus
    }
)


def can_move(from_status: ActionStatus, to_status: ActionStatus) -> bool:
    """Whether the lifecycle has a move from `from_status` to `to_status`."""
    return to_status in TRANSITIONS[from_status]


def sources_of(to_status: ActionStatus) -> frozenset[ActionStatus]:
    """The statuses from which a proposal may move to `to_status`."""
    return _SOURCES[to_status]
