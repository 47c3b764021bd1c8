"""Views of rules, requirements, decisions and grants for people."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from pydantic_core import to_json

from operator_core.actions.types import (
    Approvals,
    Condition,
    Decision,
    PendingApproval,
    Requirement,
    RequirementState,
    Rule,
)
from operator_core.cli.formatting import json_text, one_line, span, when
from operator_core.cli.table import Line, Span

__all__ = [
    "approval_sections",
    "approvals_json",
    "asked",
    "condition_text",
    "counted_by",
    "missing",
    "pending_json",
    "scope",
]


def condition_text(condition: Condition) -> str:
    """Formats a condition as it can be written on the command line."""
    first, *rest = condition.path
    steps = [f"[{each}]" if isinstance(each, int) else f".{each}" for each in rest]
    head = f"[{first}]" if isinstance(first, int) else first
    value = "" if condition.op == "exists" else f" {to_json(condition.value).decode()}"
    return one_line(json_text(f"{head}{''.join(steps)} {condition.op}{value}"))


def scope(action_name: str | None, conditions: Iterable[Condition], **others: str | None) -> str:
    """Formats for which proposals a rule or a grant is."""
    parts = ["every action" if action_name is None else one_line(action_name)]
    parts += [
        f"{name.replace('_', ' ')} {one_line(value)}" for name, value in others.items() if value
    ]
    parts += [condition_text(each) for each in conditions]
    return ", ".join(parts)


def asked(of: Rule | Requirement) -> str:
    """Formats what a rule or a requirement asks for."""
    if of.effect == "deny":
        return "denied"
    text = f"{of.approvals} approval{'' if of.approvals == 1 else 's'}"
    if of.roles is not None:
        text += f" with a role among {_names(of.roles)}"
    if of.approvers is not None:
        text += f" by {_names(of.approvers)}"
    if of.allow_self:
        text += ", also one's own"
    if of.allow_agents:
        text += ", also by agents"
    if of.decide_within is not None:
        text += f", decided within {_length(of.decide_within)}"
    if of.valid_for is not None:
        text += f", each good for {_length(of.valid_for)}"
    if of.covers_retries:
        text += ", retries included"
    return text


def _names(names: Iterable[str]) -> str:
    return " ".join(one_line(each) for each in names)


def _length(seconds: float) -> str:
    return f"{seconds:g}s" if seconds < 1 else span(timedelta(seconds=seconds))


def missing(states: Iterable[RequirementState]) -> str:
    """Formats the requirements that are not met; empty if there are none."""
    parts: list[str] = []
    for state in states:
        if not state.met:
            of = state.requirement
            parts.append(f"{_still(state)} for {one_line(of.name)}")
    return ", ".join(parts)


def _still(state: RequirementState) -> str:
    of = state.requirement
    if of.effect == "deny":
        return "denied"
    who = [" or ".join(map(one_line, each)) for each in (of.roles, of.approvers) if each]
    return f"{state.missing} of {of.approvals}" + (f" ({', '.join(who)})" if who else "")


def counted_by(states: Iterable[RequirementState]) -> str:
    """Formats the persons whose approvals count."""
    return ", ".join(one_line(each.decided_by) for state in states for each in state.counted)


def approval_sections(
    approvals: Approvals, *, waits: bool = True
) -> Iterator[tuple[str, list[tuple[str, Line]]]]:
    """Yields the sections of a page about what is required and what was decided, if there is any.

    Nothing is missing for a proposal that does not wait: its approvals have been used, or are not needed any more.
    """
    if approvals.requirements:
        facts = [_required(each, waits) for each in approvals.requirements]
        if approvals.lapses_at is not None:
            facts.append(("expires", [(when(approvals.lapses_at), "")]))
        yield "requirements", facts
    if approvals.decisions:
        yield "decisions", [_decided(each) for each in approvals.decisions]


def _required(state: RequirementState, waits: bool) -> tuple[str, Line]:
    of = state.requirement
    source = f"requirement {of.id}" + ("" if of.rule_id is None else f", rule {of.rule_id}")
    line: list[Span] = [(f"{one_line(of.name)} ({source}): {asked(of)}", "")]
    if state.counted:
        line.append((f"; approved by {counted_by([state])}", ""))
    if state.met:
        return "met", line
    if of.effect == "deny":
        return "denied", line
    return f"missing {state.missing}" if waits else "required", line


def _decided(decision: Decision) -> tuple[str, Line]:
    who = one_line(decision.decided_by)
    if decision.decider_type.value != "user":
        who += f" ({decision.decider_type.value})"
    facts = [f"decision {decision.id}"]
    if decision.roles:
        facts.append(f"as {_names(decision.roles)}")
    for name in ("requirement", "grant", "withdraws"):
        value = getattr(decision, f"{name}_id")
        if value is not None:
            facts.append(f"{name} {value}")
    comment = "" if decision.comment is None else f": {one_line(decision.comment)}"
    text = f"{when(decision.created_at)} by {who} ({', '.join(facts)}){comment}"
    return decision.kind.value, [(text, "")]


def approvals_json(approvals: Approvals) -> dict[str, Any]:
    """Returns what is required and what was decided, for `print_json`."""
    lapses_at = approvals.lapses_at
    return {
        "approved": approvals.approved,
        "lapses_at": None if lapses_at is None else lapses_at.isoformat(),
        "requirements": _states_json(approvals.requirements),
        "decisions": list(approvals.decisions),
    }


def pending_json(pending: PendingApproval) -> dict[str, Any]:
    """Returns a proposal that waits, for `print_json`."""
    return {
        "proposal": pending.proposal,
        "digest": pending.proposal.digest,
        "requirements": _states_json(pending.requirements),
        "age": pending.age.total_seconds(),
    }


def _states_json(states: Iterable[RequirementState]) -> Sequence[dict[str, Any]]:
    return [
        {
            "requirement": each.requirement,
            "counted": [decision.id for decision in each.counted],
            "missing": each.missing,
            "met": each.met,
        }
        for each in states
    ]
