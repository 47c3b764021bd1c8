"""The models of a limit and of what is used of it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, NamedTuple, TypeAlias, cast

from pydantic import Field

from operator_core.actions.model import Model
from operator_core.actions.proposals import ProposalRequest
from operator_core.actions.rules import name_matches
from operator_core.actions.values import Identifier, Name, Reason, UtcDatetime

__all__ = [
    "LONGEST_WINDOW",
    "MAX_STARTS",
    "MAX_SUM",
    "SHORTEST_WINDOW",
    "Limit",
    "LimitUse",
    "MaxStarts",
    "MaxSum",
    "Window",
    "amount_at",
]

SHORTEST_WINDOW: Final = 0.001
LONGEST_WINDOW: Final = 31_622_400
"""The window of a limit, in seconds: from a millisecond to 366 days."""

MAX_STARTS: Final = 1_000_000_000
"""Limit of `max_starts`."""

MAX_SUM: Final = 1_000_000_000_000_000
"""Limit of `max_sum`."""

Window: TypeAlias = Annotated[
    float, Field(strict=True, ge=SHORTEST_WINDOW, le=LONGEST_WINDOW, allow_inf_nan=False)
]
MaxStarts: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=MAX_STARTS)]
MaxSum: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=MAX_SUM)]


class Limit(Model):
    """At most so many starts, or so much of an integer parameter, in any window of some length."""

    id: Identifier = Field(description="Set by the ledger.")
    name: Name = Field(description="The name of the limit; at most one open limit has it.")
    action_name: Name | None = Field(
        default=None,
        description="The actions that it covers: a name, or a pattern with * (any text) and ? (any character). "
        "None is any action.",
    )
    agent_id: Name | None = Field(
        default=None,
        description="The agent that it covers; None is any. Also a proposal that names no agent.",
    )
    window: float = Field(description="The length of the window, in seconds.")
    max_starts: int | None = Field(
        default=None, description="How many proposals may start in a window; None: any number."
    )
    sum_of: tuple[str | int, ...] | None = Field(
        default=None,
        description="Where in the parameters the integer is that is added up: keys, and indices of lists from 0.",
    )
    max_sum: int | None = Field(
        default=None, description="How much of it may start in a window; None: any amount."
    )
    set_by: Name = Field(description="Who has set it.")
    reason: Reason = Field(description="Why.")
    created_at: UtcDatetime = Field(description="When, by the database's clock.")
    removed_at: UtcDatetime | None = Field(
        default=None, description="When it was removed or replaced; None while it is open."
    )
    removed_by: Name | None = Field(default=None, description="Who has removed it.")
    remove_reason: Reason | None = Field(default=None, description="Why it was removed.")

    def covers(self, proposal: ProposalRequest) -> bool:
        """Whether the limit is about this proposal, as the database sees it.

        Agents are compared in lower case. A proposal that names no agent is covered, as is one whose agent has other
        characters than printable ASCII, because the database can't compare it.
        """
        if not name_matches(self.action_name, proposal.action_name):
            return False
        agent = proposal.agent_id
        return (
            self.agent_id is None
            or not agent
            or agent.lower() == self.agent_id.lower()
            or any(not "!" <= letter <= "~" for letter in agent)
        )

    def amount_of(self, proposal: ProposalRequest) -> int | None:
        """How much of `max_sum` the start of this proposal needs; None if its integer is missing, so that it can't start."""
        return 0 if self.sum_of is None else amount_at(proposal.parameters, self.sum_of)


class LimitUse(NamedTuple):
    """A limit, and what is used of it in the window that ends now."""

    limit: Limit
    starts: int
    """The number of starts."""
    spent: int
    """The sum of their integers; 0 if the limit has no `sum_of`."""
    free_at: datetime | None
    """When the next start, or a next integer of 1, is possible; None if it is possible now, or if the limit is removed."""

    @property
    def is_reached(self) -> bool:
        """Whether nothing more may start at present."""
        return self.free_at is not None


def amount_at(parameters: Mapping[str, Any], path: Sequence[str | int]) -> int | None:
    """Returns the integer at `path`, from 0 to 2**63 - 1, or None if there is none."""
    found: Any = parameters
    for step in path:
        if isinstance(found, dict) and isinstance(step, str):
            found = cast("dict[str, Any]", found).get(step)
        elif isinstance(found, list) and isinstance(step, int):
            items = cast("list[Any]", found)
            found = items[step] if step < len(items) else None
        else:
            return None
    return found if type(found) is int and 0 <= found < 1 << 63 else None
