"""Whose calls a gate takes, and how it runs them."""

from dataclasses import dataclass
from datetime import timedelta

from operator_core.actions.types import RequesterType

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Whose calls a gate takes, and how it runs them."""

    run_id: str
    agent_id: str | None
    requester: str | None
    requester_type: RequesterType
    parent_id: int | None
    runs_here: bool
    worker: str
    lease: timedelta
    refuses_repeats: bool
