"""What the policy of a service may ask of a proposal, beyond the rules in the database."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, cast

from pydantic import Field

from operator_core.actions.errors import InvalidValue
from operator_core.actions.model import Model
from operator_core.actions.proposals import ActionProposal
from operator_core.actions.rules import Identity, Rule
from operator_core.actions.values import Reason

__all__ = ["Answer", "Deny", "Policy", "Require", "to_answer"]


class Deny(Model):
    """The proposal is denied: it is written as cancelled, with this reason."""

    reason: Reason = Field(description="Why, for people who read it later.")

    if TYPE_CHECKING:

        def __init__(self, *, reason: str) -> None: ...


class Require(Model):
    """So many approvals are required, as by a `Rule` with these fields, which say what they do."""

    name: Identity = Field(description="The name of the requirement, for people.")
    approvals: Annotated[int, Field(strict=True)] = 1
    roles: tuple[str, ...] | None = None
    approvers: tuple[str, ...] | None = None
    allow_self: bool = False
    allow_agents: bool = False
    decide_within: float | None = None
    valid_for: float | None = None
    covers_retries: bool = False

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            name: str,
            approvals: int = 1,
            roles: Sequence[str] | None = None,
            approvers: Sequence[str] | None = None,
            allow_self: bool = False,
            allow_agents: bool = False,
            decide_within: float | None = None,
            valid_for: float | None = None,
            covers_retries: bool = False,
        ) -> None: ...

    def model_post_init(self, context: Any, /) -> None:
        """Checks the limits, which are those of a rule."""
        Rule(**self.__dict__)


Answer: TypeAlias = Deny | Require | Sequence[Require] | None

Policy: TypeAlias = Callable[[ActionProposal], Answer | Awaitable[Answer]]
"""Called with each proposal before it is written. None means that there is nothing to add to the rules in the database."""

_PROBLEM: Final = "must return None, a Deny, a Require, or a list of Require, not {kind}"


def to_answer(answer: object) -> tuple[Deny | Require, ...]:
    """What a policy has answered, as a tuple; raises `InvalidValue` for anything else than the documented types."""
    if answer is None:
        return ()
    if isinstance(answer, Deny | Require):
        return (answer,)
    if isinstance(answer, list | tuple):
        several = cast("Sequence[object]", answer)
        for each in several:
            if not isinstance(each, Require):
                raise InvalidValue("policy", _PROBLEM.format(kind=f"a list with {each!r:.40}"))
        return tuple(cast("Sequence[Require]", several))
    raise InvalidValue("policy", _PROBLEM.format(kind=type(answer).__name__))
