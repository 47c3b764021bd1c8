"""The models of rules in the ledger, of what they require, and of the decisions of people."""

from datetime import datetime, timedelta
from typing import Annotated, NamedTuple, Self

from pydantic import Field

from operator_core.actions.conditions import Condition
from operator_core.actions.model import KEPT, Model
from operator_core.actions.proposals import StoredProposal
from operator_core.actions.rules import Effect, Rule
from operator_core.actions.statuses import DecisionKind, RequesterType
from operator_core.actions.values import Identifier, Name, Reason, UtcDatetime

__all__ = [
    "Approvals",
    "Decision",
    "Grant",
    "PendingApproval",
    "Requirement",
    "RequirementState",
    "RuleMatch",
    "StoredRule",
]

_REPEATED = "_repeated"


class StoredRule(Rule):
    """A rule in the ledger. It is never edited: it is revoked once, and another one is added.

    Its `agent_id`, `roles` and `approvers` are normalised, as identities are compared.
    """

    id: Annotated[Identifier, KEPT] = Field(description="Set by the ledger.")
    added_by: Annotated[Name, KEPT] = Field(description="Who added it.")
    reason: Annotated[Reason, KEPT] = Field(description="Why.")
    created_at: Annotated[UtcDatetime, KEPT] = Field(
        description="When it was added, by the database's clock."
    )
    revoked_at: Annotated[UtcDatetime | None, KEPT] = Field(
        default=None, description="When it was revoked; None while it applies."
    )
    revoked_by: Annotated[Name | None, KEPT] = Field(default=None, description="Who revoked it.")
    revoke_reason: Annotated[Reason | None, KEPT] = Field(
        default=None, description="Why it was revoked."
    )


class RuleMatch(NamedTuple):
    """A rule that is for a proposal, and why."""

    rule: StoredRule
    why: tuple[str, ...]
    """What the rule asks for that the proposal fits; empty for a rule for every proposal."""

    @property
    def effect(self) -> Effect:
        """What the rule does: ``require`` or ``deny``."""
        return self.rule.effect


class Requirement(Model):
    """What is required of a proposal: a snapshot of a rule, or what a service's policy added. It never changes."""

    id: Identifier = Field(description="Set by the ledger.")
    proposal_id: Identifier = Field(description="The proposal.")
    rule_id: Identifier | None = Field(
        default=None, description="The rule; None if the policy of a service requires it."
    )
    name: Name = Field(description="The name of the rule, or the policy's.")
    effect: Effect = Field(description="require: approvals are needed. deny: it is refused.")
    approvals: int = Field(description="How many persons must approve.")
    roles: tuple[str, ...] | None = Field(
        default=None, description="An approver must have one of these roles; None: any or none."
    )
    approvers: tuple[str, ...] | None = Field(
        default=None, description="An approver must be one of these; None: anybody."
    )
    allow_self: bool = Field(
        description="Whether the requester, the agent and the proposer may be among the approvers."
    )
    allow_agents: bool = Field(description="Whether an approver may be of the type agent.")
    decide_within: float | None = Field(
        default=None, description="The time for the approvals, in seconds from the creation."
    )
    valid_for: float | None = Field(
        default=None, description="How long an approval is good for, in seconds; None: always."
    )
    covers_retries: bool = Field(description="Whether a retry needs no new approvals.")
    created_at: UtcDatetime = Field(description="When, by the database's clock.")


class Decision(Model):
    """What a person decided about a proposal. It is never changed: an approval is withdrawn by another decision."""

    id: Identifier = Field(description="Set by the ledger.")
    proposal_id: Identifier = Field(description="The proposal.")
    kind: DecisionKind = Field(description="approved, rejected, or withdrawn.")
    decided_by: Name = Field(description="Who decided.")
    decider_type: RequesterType = Field(description="The type of who decided.")
    roles: tuple[str, ...] = Field(
        default=(), description="The roles that the service vouches for."
    )
    digest: str | None = Field(
        default=None, description="The digest of what the person saw: see docs/digest.md."
    )
    comment: Reason | None = Field(
        default=None, description="What the person said; the reason of a rejection or withdrawal."
    )
    requirement_id: Identifier | None = Field(
        default=None,
        description="The only requirement that it may count for; None: any that it fits.",
    )
    grant_id: Identifier | None = Field(
        default=None, description="The grant by which it was given in advance."
    )
    withdraws_id: Identifier | None = Field(
        default=None, description="The approval that it withdraws."
    )
    created_at: UtcDatetime = Field(description="When, by the database's clock.")

    @property
    def repeated(self) -> bool:
        """Whether `approve_proposal` found this approval of the same person and wrote nothing."""
        return bool(self.__dict__.get(_REPEATED))

    def as_repeated(self) -> Self:
        """Returns an equal decision whose `repeated` is true."""
        return self.from_stored({**self.__dict__, _REPEATED: True})


class RequirementState(NamedTuple):
    """A requirement, and the approvals that count for it now."""

    requirement: Requirement
    counted: tuple[Decision, ...]

    @property
    def missing(self) -> int:
        """How many approvals are missing; for a denial, no number would be enough."""
        return max(0, self.requirement.approvals - len(self.counted))

    @property
    def met(self) -> bool:
        """Whether it is met."""
        return self.requirement.effect == "require" and not self.missing


class Approvals(NamedTuple):
    """What is required of a proposal, and what was decided."""

    proposal_id: int
    requirements: tuple[RequirementState, ...]
    """Each approval counts for at most one requirement, so that as many as possible are met."""
    decisions: tuple[Decision, ...]
    """All decisions, oldest first."""
    approved: bool
    """Whether nothing is missing now."""
    lapses_at: datetime | None
    """When the proposal is cancelled unless it is decided or started before; None: never."""


class PendingApproval(NamedTuple):
    """A proposal that waits for people, or that people have approved."""

    proposal: StoredProposal
    requirements: tuple[RequirementState, ...]
    age: timedelta
    """Since when it has waited: since its creation, or since it failed."""
    lapses_at: datetime | None
    """When it is cancelled unless it is decided or started before; None: never."""

    @property
    def missing(self) -> tuple[RequirementState, ...]:
        """The requirements that are not met."""
        return tuple(each for each in self.requirements if not each.met)


class Grant(Model):
    """A vote that a person gives in advance on proposals that fit, bounded in time and uses."""

    id: Identifier = Field(description="Set by the ledger.")
    action_name: Name | None = Field(
        default=None, description="The actions: a name, or a pattern with * and ?."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        description="What must hold of the parameters. A condition that can't be evaluated does not hold.",
    )
    roles: tuple[str, ...] = Field(
        default=(), description="The roles that the service vouches for."
    )
    max_uses: int = Field(description="On how many proposals it may be used.")
    uses: int = Field(default=0, description="On how many proposals it was used.")
    valid_until: UtcDatetime = Field(description="When it ends.")
    granted_by: Name = Field(description="Whose vote it is.")
    grantor_type: RequesterType = Field(description="The type of that one.")
    reason: Reason = Field(description="Why.")
    created_at: UtcDatetime = Field(description="When, by the database's clock.")
    revoked_at: UtcDatetime | None = Field(
        default=None, description="When it was revoked; None while it is open."
    )
    revoked_by: Name | None = Field(default=None, description="Who revoked it.")
    revoke_reason: Reason | None = Field(default=None, description="Why it was revoked.")
