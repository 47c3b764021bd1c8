"""What rules ask for, and what decisions come to, in plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from operator_core.actions import ActionProposal
from tests.contract.ledger_limits import AMOUNT


@dataclass(frozen=True)
class Required:
    """A requirement: so many persons, each with one of the roles if there are any."""

    approvals: int
    roles: Sequence[str] | None
    covers_retries: bool
    valid_for: float | None = None
    """Seconds."""


@dataclass
class Vote:
    """An approval that nobody has withdrawn."""

    person: str
    roles: Sequence[str]
    at: float
    begun: int
    """How many executions had begun."""


@dataclass
class Decided:
    """What is required of a proposal, and what was decided about it."""

    required: Sequence[Required] = ()
    denials: int = 0
    """How many rules deny it."""
    rejected: bool = False
    parties: frozenset[str] = frozenset()
    """Who acts or asks, and so can't approve."""
    votes: list[Vote] = field(default_factory=list[Vote])
    time: float = 0.0
    begun: int = 0
    """How many executions have begun."""

    def fits(self, vote: Vote) -> list[int]:
        """The requirements for which a vote can count."""
        if vote.person in self.parties:
            return []
        return [
            number
            for number, each in enumerate(self.required)
            if (each.roles is None or set(each.roles) & set(vote.roles))
            and (each.valid_for is None or vote.at + each.valid_for > self.time)
            and (each.covers_retries or vote.begun == self.begun)
        ]

    def met(self) -> bool:
        """Whether an assignment of the votes meets all requirements, by trying all."""

        def place(votes: list[Vote], missing: tuple[int, ...]) -> bool:
            if not any(missing):
                return True
            if not votes:
                return False
            first, *others = votes
            return place(others, missing) or any(
                missing[at] and place(others, (*missing[:at], missing[at] - 1, *missing[at + 1 :]))
                for at in self.fits(first)
            )

        is_open = not self.denials and not self.rejected
        return is_open and place(self.votes, tuple(each.approvals for each in self.required))

    def vote_of(self, person: str, roles: Sequence[str]) -> Vote:
        """The vote that a person would give now."""
        return Vote(person, roles, self.time, self.begun)

    def has_voted(self, person: str) -> bool:
        """Whether another vote of the same person would change nothing."""
        asks = self.required or self.denials
        return any(each.person == person and (not asks or self.fits(each)) for each in self.votes)

    def withdraw(self, person: str) -> bool:
        """Takes back the last vote of a person, whether it still counts or not; whether there is one."""
        mine = [each for each in self.votes if each.person == person]
        if mine:
            self.votes.remove(mine[-1])
        return bool(mine)


@dataclass
class Ruled:
    """A rule."""

    id: int
    action_name: str
    agent_id: str | None
    above: int | None
    """It is for larger amounts only."""
    denies: bool
    required: Required
    revoked_by: str | None = None

    def matches(self, row: ActionProposal) -> bool:
        """Whether it is for a proposal; what the proposal does not say matches."""
        amount = row.parameters.get(AMOUNT)
        is_small = self.above is not None and type(amount) is int and amount <= self.above
        is_of_another = self.agent_id and row.agent_id and row.agent_id.lower() != self.agent_id
        return fnmatchcase(row.action_name, self.action_name) and not is_small and not is_of_another


@dataclass
class Granted:
    """A vote that was given in advance."""

    id: int
    person: str
    """As it is compared."""
    by: str
    roles: Sequence[str]
    action_name: str
    max_uses: int
    uses: int = 0
    revoked_by: str | None = None
