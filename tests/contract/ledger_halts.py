"""What a halt covers, in plain Python."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from operator_core.actions import ActionProposal, HaltMode


@dataclass
class Stop:
    """A halt."""

    id: int
    mode: HaltMode
    action_name: str | None
    agent_id: str | None
    resumed_by: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it covers the whole ledger."""
        return self.action_name is self.agent_id is None

    def same(self, other: "Stop") -> bool:
        """Whether both stop the same in the same way."""
        return (self.mode, self.action_name, self.agent_id) == (
            other.mode,
            other.action_name,
            other.agent_id,
        )

    def covers(self, row: ActionProposal) -> bool:
        """Whether a proposal without run and parent is in its scope; upper and lower case differ."""
        of_agent = self.agent_id in (None, row.agent_id)
        return of_agent and fnmatchcase(row.action_name, self.action_name or "*")
