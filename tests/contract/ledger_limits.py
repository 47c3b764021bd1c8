"""What limits and exclusive keys let start, in plain Python."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from operator_core.actions import ActionProposal, ExclusiveBusy, LimitReached

DAY = 86_400.0

AMOUNT = "amount"
"""The key of the integer that limits sum up."""

MAX_INTEGER = 2**63 - 1


def amount_of(row: ActionProposal) -> int | None:
    """The integer of a proposal, or None if it has none that counts."""
    found = row.parameters.get(AMOUNT)
    return found if type(found) is int and 0 <= found <= MAX_INTEGER else None


@dataclass
class Start:
    """A move to `executing`."""

    row: ActionProposal
    days: int = 0
    """How old it is."""
    given_back: bool = False


@dataclass
class Bound:
    """A limit."""

    id: int
    name: str
    action_name: str | None
    agent_id: str | None
    window: float
    max_starts: int | None
    max_sum: int | None
    removed_by: str | None = None

    def covers(self, row: ActionProposal) -> bool:
        agents = (None, self.agent_id)
        of_agent = self.agent_id is None or (row.agent_id and row.agent_id.lower()) in agents
        return of_agent and fnmatchcase(row.action_name, self.action_name or "*")

    def used(self, starts: Iterable[Start]) -> tuple[int, int]:
        """The number of the starts in the window, and the sum of their integers."""
        counted = [
            start.row
            for start in starts
            if self.covers(start.row) and not start.given_back and start.days * DAY < self.window
        ]
        if self.max_sum is None:
            return len(counted), 0
        # One that started before the limit was set may have any integer, or none.
        return len(counted), sum(min(amount_of(row) or 0, self.max_sum) for row in counted)


@dataclass
class Use:
    """A limit, and what is used of it."""

    bound: Bound
    starts: int
    spent: int

    @property
    def is_reached(self) -> bool:
        bound = self.bound
        if bound.max_starts is not None and self.starts >= bound.max_starts:
            return True
        return bound.max_sum is not None and self.spent >= bound.max_sum

    def fits(self, amount: int | None) -> bool:
        if self.is_reached:
            return False
        most = self.bound.max_sum
        return most is None or (amount is not None and self.spent + amount <= most)

    def facts(self, amount: int | None) -> tuple[str, int, bool]:
        """What an error says: the name, how much is used, and whether waiting never helps."""
        most, number = self.bound.max_sum, self.bound.max_starts
        never = most is not None and (amount is None or amount > most)
        by_number = number is not None and self.starts >= number
        return self.bound.name, self.starts if by_number else self.spent, never


Held = tuple[type[Exception], tuple[object, ...]]
"""The error of a proposal that can't start, and the facts of this error."""


@dataclass
class Room:
    """What may start together: each start that it admits takes its room."""

    uses: Sequence[Use]
    keys: dict[str, int] = field(default_factory=dict[str, int])
    """Who executes, by exclusive key."""
    admitted: int = 0

    def held(self, row: ActionProposal, *, readable: bool = True) -> Held | None:
        """What keeps a proposal from starting; None if it may start."""
        key = row.exclusive_key
        if key is not None and key in self.keys:
            return ExclusiveBusy, (key, self.keys[key])
        amount = amount_of(row) if readable else None
        for use in self.uses:
            if use.bound.covers(row) and not use.fits(amount):
                return LimitReached, use.facts(amount)
        return None

    def admits(self, row: ActionProposal) -> bool:
        """Whether a proposal may start; if so, it does."""
        if self.held(row) is not None:
            return False
        self.admitted += 1
        if row.exclusive_key is not None:
            self.keys[row.exclusive_key] = row.id or 0
        for use in self.uses:
            if use.bound.covers(row):
                use.starts += 1
                if use.bound.max_sum is not None:
                    use.spent += amount_of(row) or 0
        return True
