"""``operator-core rules``: what needs whose approval, and what is denied."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from operator_core.actions.errors import InvalidValue
from operator_core.actions.tool_calls import parse_object
from operator_core.actions.types import (
    ActionType,
    Condition,
    ProposalRequest,
    RequesterType,
    Rule,
    StoredRule,
)
from operator_core.cli.approval_views import asked, scope
from operator_core.cli.conditions import to_condition
from operator_core.cli.formatting import one_line, plain, when
from operator_core.cli.options import (
    AsJson,
    By,
    DbPath,
    Url,
    Why,
    choose,
    exit_over,
    reported,
    who,
)
from operator_core.cli.output import print_json, print_lines
from operator_core.cli.table import Line, Span
from operator_core.cli.times import to_later, to_span

__all__ = ["app", "rule_spans"]

app = typer.Typer(
    help="Work with rules: which actions need whose approval, and which are denied.",
    no_args_is_help=True,
)

_EFFECTS = {"require": "yellow", "deny": "bold red"}


@app.command("list")
def list_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    every: Annotated[
        bool, typer.Option("--all", help="Also those that are revoked or over.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the rules, oldest first."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        rules = run(db.rules(active=not every))
    if as_json:
        for rule in rules:
            print_json(rule)
    elif rules:
        print_lines(line for rule in rules for line in _rule_lines(rule))
    elif not rules.corrupt:
        print_lines([[(" no rules", "")]])
    exit_over(rules.corrupt)


def _rule_lines(rule: StoredRule) -> Iterator[Line]:
    yield [(f" rule {rule.id} ", "bold"), *rule_spans(rule)]
    added = f"   added by {one_line(rule.added_by)} at {when(rule.created_at)}"
    yield [(f"{added}: {one_line(rule.reason)}", "dim")]
    if rule.revoked_at is not None:
        revoked = f"   revoked by {one_line(rule.revoked_by or '?')} at {when(rule.revoked_at)}"
        yield [(f"{revoked}: {one_line(rule.revoke_reason or '')}", "red")]


def rule_spans(rule: Rule) -> Iterator[Span]:
    """Formats the content of a rule."""
    others = {
        "action_type": rule.action_type and rule.action_type.value,
        "agent_id": rule.agent_id,
        "requester_type": rule.requester_type and rule.requester_type.value,
    }
    yield (one_line(rule.name), "bold")
    yield (f": {scope(rule.action_name, rule.conditions, **others)}: ", "")
    yield (asked(rule), _EFFECTS[rule.effect])
    if rule.valid_from is not None:
        yield (f", from {when(rule.valid_from)}", "")
    if rule.valid_until is not None:
        yield (f", until {when(rule.valid_until)}", "")


@app.command("add")
def add_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    reason: Why,
    by: By = None,
    name: Annotated[str, typer.Option(metavar="TEXT", help="The name of the rule, for people.")],
    action_name: Annotated[
        str | None,
        typer.Option(
            "--action",
            metavar="PATTERN",
            help="Only actions of this name; * is any text and ? any character.",
            show_default=False,
        ),
    ] = None,
    action_type: Annotated[
        ActionType | None, typer.Option(help="Only actions of this type.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="ID", help="Only proposals of this agent.")
    ] = None,
    requester_type: Annotated[
        RequesterType | None, typer.Option(help="Only proposals for this type of requester.")
    ] = None,
    conditions: Annotated[
        list[Condition] | None,
        typer.Option(
            "--condition",
            parser=to_condition,
            metavar="CONDITION",
            help="What must hold of the parameters, such as 'amount gt 100', or a JSON object; can be repeated.",
            show_default=False,
        ),
    ] = None,
    deny: Annotated[bool, typer.Option("--deny", help="Deny such proposals.")] = False,
    approvals: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="How many persons must approve; 1 by default.", show_default=False
        ),
    ] = None,
    roles: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="An approver must have one of these roles; can be repeated.",
            show_default=False,
        ),
    ] = None,
    approvers: Annotated[
        list[str] | None,
        typer.Option(
            "--approver",
            metavar="NAME",
            help="An approver must be one of these; can be repeated.",
            show_default=False,
        ),
    ] = None,
    allow_self: Annotated[
        bool,
        typer.Option("--allow-self", help="Requester, agent and proposer may approve too."),
    ] = False,
    allow_agents: Annotated[
        bool, typer.Option("--allow-agents", help="Agents may approve too.")
    ] = False,
    decide_within: Annotated[
        timedelta | None,
        typer.Option(
            parser=to_span,
            metavar="TIME",
            help="Cancel what is not decided in this time: seconds, or 90s, 15m, 1h, 2d.",
            show_default=False,
        ),
    ] = None,
    valid_for: Annotated[
        timedelta | None,
        typer.Option(
            parser=to_span,
            metavar="TIME",
            help="How long an approval is good for: seconds, or 90s, 15m, 1h, 2d.",
            show_default=False,
        ),
    ] = None,
    covers_retries: Annotated[
        bool, typer.Option("--covers-retries", help="A retry needs no new approvals.")
    ] = False,
    valid_from: Annotated[
        datetime | None,
        typer.Option(
            parser=to_later, metavar="TIME", help="From when on it applies.", show_default=False
        ),
    ] = None,
    valid_until: Annotated[
        datetime | None,
        typer.Option(
            parser=to_later, metavar="TIME", help="Until when it applies.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a rule for the proposals that are created from now on: who must approve them, or that they are denied."""
    required = {
        "--approvals": approvals is not None,
        "--role": bool(roles),
        "--approver": bool(approvers),
        "--allow-self": allow_self,
        "--allow-agents": allow_agents,
        "--decide-within": decide_within is not None,
        "--valid-for": valid_for is not None,
        "--covers-retries": covers_retries,
    }
    if deny and (contrary := [option for option, is_set in required.items() if is_set]):
        raise typer.BadParameter(f"--deny needs no approvals: leave {', '.join(contrary)} out")
    try:
        rule = Rule(
            name=name,
            action_name=action_name,
            action_type=action_type,
            agent_id=agent,
            requester_type=requester_type,
            conditions=conditions or (),
            effect="deny" if deny else "require",
            approvals=1 if approvals is None else approvals,
            roles=roles or None,
            approvers=approvers or None,
            allow_self=allow_self,
            allow_agents=allow_agents,
            decide_within=None if decide_within is None else decide_within.total_seconds(),
            valid_for=None if valid_for is None else valid_for.total_seconds(),
            covers_retries=covers_retries,
            valid_from=valid_from,
            valid_until=valid_until,
        )
    except InvalidValue as error:
        raise typer.BadParameter(plain(str(error))) from None
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        added = run(db.add_rule(rule, by=who(by), reason=reason))
    if as_json:
        print_json(added)
    else:
        print_lines(_rule_lines(added))


@app.command("revoke")
def revoke_command(
    *,
    rule_id: Annotated[int, typer.Argument(min=1, metavar="RULE", help="The rule's id.")],
    db_path: DbPath = None,
    url: Url = None,
    reason: Why,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a rule. What it requires of proposals that exist stays required."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        revoked = run(db.revoke_rule(rule_id, by=who(by), reason=reason))
    if as_json:
        print_json(revoked)
    else:
        print_lines(_rule_lines(revoked))


@app.command("explain")
def explain_command(
    *,
    action_name: Annotated[
        str, typer.Option("--action", metavar="NAME", help="The name of the action.")
    ],
    db_path: DbPath = None,
    url: Url = None,
    parameters: Annotated[
        str, typer.Option(metavar="JSON", help="The parameters: a JSON object.")
    ] = "{}",
    action_type: Annotated[ActionType | None, typer.Option(help="The type of the action.")] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="ID", help="The agent that acts.")
    ] = None,
    requester_type: Annotated[
        RequesterType | None, typer.Option(help="The type of the requester.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what would be required of a proposal now, and why, without writing anything."""
    fields: dict[str, Any] = {"action_name": action_name, "agent_id": agent}
    fields |= {"requester_type": requester_type, "reason": "explain"}
    if action_type is not None:
        fields["action_type"] = action_type
    try:
        fields["parameters"] = parse_object(parameters, "parameters")
        proposal = ProposalRequest.model_validate(fields)
    except InvalidValue as error:
        raise typer.BadParameter(plain(str(error))) from None
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        matches = run(db.explain(proposal))
    if as_json:
        for rule, why in matches:
            print_json({"rule": rule, "why": list(why)})
        return
    lines: list[Line] = []
    for rule, why in matches:
        lines.append([(f" rule {rule.id} ", "bold"), *rule_spans(rule)])
        lines += [[(f"   {one_line(each)}", "dim")] for each in why or ("it is for every action",)]
    print_lines(lines or [[(" nothing is required", "")]])
