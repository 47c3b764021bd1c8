"""Rules: which proposals need whose approval, and which are denied."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import to_json

from operator_core.actions.actors import normalised
from operator_core.actions.conditions import (
    Condition,
    Operator,
    condition_matches,
    matches,
    read_parameters,
)
from operator_core.actions.errors import InvalidValue
from operator_core.actions.model import Model
from operator_core.actions.statuses import ActionType, RequesterType
from operator_core.actions.values import Name, UtcDatetime

__all__ = [
    "MAX_APPROVALS",
    "MAX_APPROVERS",
    "MAX_CONDITIONS",
    "MAX_CONDITIONS_BYTES",
    "MAX_PERIOD",
    "Condition",
    "Effect",
    "Identity",
    "Operator",
    "Rule",
    "condition_matches",
    "name_matches",
    "normalised",
    "rule_matches",
    "why_it_matches",
]

MAX_APPROVALS: Final = 20
"""Limit of the approvals that a rule requires."""

MAX_APPROVERS: Final = 100
"""Limit of a rule's roles and of its approvers."""

MAX_CONDITIONS: Final = 20
"""Limit of a rule's conditions."""

MAX_CONDITIONS_BYTES: Final = 1 << 16
"""Limit of a rule's conditions as JSON, in bytes of UTF-8 (64 KiB)."""

MAX_PERIOD: Final = 31_622_400
"""Limit of `decide_within` and `valid_for`, in seconds (366 days)."""

Effect: TypeAlias = Literal["require", "deny"]


def _visible(identity: str) -> str:
    if not normalised(identity):
        raise InvalidValue("", "must not be blank")
    return identity


def _once(identities: tuple[str, ...]) -> tuple[str, ...]:
    if len({normalised(each) for each in identities}) < len(identities):
        raise InvalidValue("", "must name each once")
    return identities


Identity: TypeAlias = Annotated[Name, AfterValidator(_visible)]
_Identities: TypeAlias = Annotated[
    tuple[Identity, ...], Field(min_length=1, max_length=MAX_APPROVERS), AfterValidator(_once)
]
_Period: TypeAlias = Annotated[float, Field(strict=True, gt=0, le=MAX_PERIOD, allow_inf_nan=False)]


class Rule(Model):
    """For which proposals, and what: a denial, or a requirement of approvals.

    A proposal must fit every field from `action_name` to `conditions`. All rules that match apply: one that denies
    is enough, and each that requires is a requirement of its own.
    """

    name: Identity = Field(description="The name of the rule, for people.")
    action_name: Name | None = Field(
        default=None,
        description="The names of actions that it is for: * is any text, ? any one character; "
        "None: any name. Upper and lower case differ.",
    )
    action_type: ActionType | None = Field(
        default=None, description="The type of action that it is for; None: any."
    )
    agent_id: Identity | None = Field(
        default=None,
        description="The agent that it is for; None: any. Also for a proposal that names no agent.",
    )
    requester_type: RequesterType | None = Field(
        default=None,
        description="The type of requester that it is for; None: any. Also for a proposal that names none.",
    )
    conditions: Annotated[tuple[Condition, ...], Field(max_length=MAX_CONDITIONS)] = Field(
        default=(),
        description="What must hold of the parameters, all of it. A condition that can't be evaluated matches.",
    )
    effect: Effect = Field(
        default="require", description="require: approvals are needed. deny: it is refused."
    )
    approvals: Annotated[int, Field(strict=True, ge=1, le=MAX_APPROVALS)] = Field(
        default=1, description="How many persons must approve."
    )
    roles: _Identities | None = Field(
        default=None, description="An approver must have one of these roles; None: any or none."
    )
    approvers: _Identities | None = Field(
        default=None, description="An approver must be one of these; None: anybody."
    )
    allow_self: bool = Field(
        default=False,
        strict=True,
        description="Whether the requester, the agent and the proposer may be among the approvers.",
    )
    allow_agents: bool = Field(
        default=False, strict=True, description="Whether an approver may be of the type agent."
    )
    decide_within: _Period | None = Field(
        default=None,
        description="The time for the approvals, in seconds from the creation; then it is cancelled.",
    )
    valid_for: _Period | None = Field(
        default=None, description="How long an approval is good for, in seconds; None: always."
    )
    covers_retries: bool = Field(
        default=False, strict=True, description="Whether a retry needs no new approvals."
    )
    valid_from: UtcDatetime | None = Field(
        default=None, description="From when on it applies; None: from when it is added."
    )
    valid_until: UtcDatetime | None = Field(
        default=None, description="Until when it applies; None: until it is revoked."
    )

    if TYPE_CHECKING:
        # The validators accept more types than the fields hold, and type checkers see only the fields.
        # A test compares the names.
        def __init__(
            self,
            *,
            name: str,
            action_name: str | None = None,
            action_type: ActionType | None = None,
            agent_id: str | None = None,
            requester_type: RequesterType | None = None,
            conditions: Sequence[Condition | Mapping[str, Any]] = (),
            effect: Effect = "require",
            approvals: int = 1,
            roles: Sequence[str] | None = None,
            approvers: Sequence[str] | None = None,
            allow_self: bool = False,
            allow_agents: bool = False,
            decide_within: float | None = None,
            valid_for: float | None = None,
            covers_retries: bool = False,
            valid_from: datetime | None = None,
            valid_until: datetime | None = None,
        ) -> None: ...

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.approvers is not None:
            able = {normalised(each) for each in self.approvers}
            if self.agent_id is not None and not self.allow_self:
                able.discard(normalised(self.agent_id))
            if len(able) < self.approvals:
                raise InvalidValue("approvers", f"can't give {self.approvals} approvals")
        if self.valid_from and self.valid_until and self.valid_from >= self.valid_until:
            raise InvalidValue("valid_until", "must be after valid_from")
        if len(self.conditions_json().encode()) > MAX_CONDITIONS_BYTES:
            problem = f"must not be larger than {MAX_CONDITIONS_BYTES} bytes as JSON"
            raise InvalidValue("conditions", problem)
        return self

    def conditions_json(self) -> str:
        """Returns the conditions as the JSON text that the database stores and evaluates."""
        return to_json([each.as_json() for each in self.conditions]).decode()


def rule_matches(rule: Rule, fields: Mapping[str, Any]) -> bool:
    """Whether a rule is for a proposal with these fields, apart from the time for which the rule is valid.

    It looks at ``action_name``, ``action_type``, ``agent_id``, ``requester_type`` and ``parameters`` (see
    `condition_matches`). A field that is missing or None matches.
    """
    if not name_matches(rule.action_name, fields.get("action_name")):
        return False
    agent = normalised(fields.get("agent_id") or "")
    if rule.agent_id is not None and agent and agent != normalised(rule.agent_id):
        return False
    for field in ("action_type", "requester_type"):
        wanted, found = getattr(rule, field), fields.get(field)
        if wanted is not None and found is not None and wanted != found:
            return False
    if not rule.conditions:
        return True
    document = read_parameters(fields.get("parameters"))
    return document is None or all(matches(each, document) for each in rule.conditions)


def why_it_matches(rule: Rule, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """What a rule that matches asks for, and how a proposal with these fields fits it; empty if it asks for nothing."""
    found: list[str] = []
    if rule.action_name is not None:
        found.append(f"action_name fits {rule.action_name}")
    for field in ("action_type", "agent_id", "requester_type"):
        wanted = getattr(rule, field)
        if wanted is not None:
            given = "" if fields.get(field) else ", and the proposal does not say it"
            found.append(f"{field} is {wanted}{given}")
    for each in rule.conditions:
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in each.path)
        value = "" if each.op == "exists" else f" {to_json(each.value).decode()}"
        found.append(f"parameters{path} {each.op}{value}, or it can't be evaluated")
    return tuple(found)


def name_matches(pattern: str | None, name: str | None) -> bool:
    """Whether a pattern matches a name: ``*`` is any text and ``?`` any one character; None matches.

    It takes at most the product of their lengths; a regular expression could take exponentially more.
    """
    if pattern is None or name is None:
        return True
    at = begin = 0
    star = -1
    for_star = 0
    while begin < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, for_star = at, begin
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[begin]):
            at += 1
            begin += 1
        elif star >= 0:
            # Only the last star needs to take more: what the earlier ones took can stay as short as it is.
            for_star += 1
            at, begin = star + 1, for_star
        else:
            return False
    return not pattern[at:].strip("*")
