"""Writes proposals as a trace of AgentAck, schema version 2, for ``agentack check``.

A trace is JSON lines: what was proposed, what a person was shown and decided, what was executed or not, and an end. The
digests in it are of different sources, so that the check compares them: those of the events, of the decisions, and of
the rows as they are now. Source: AgentAck 0.6, its parser and its policy.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias, cast

from pydantic_core import to_json

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import (
    ActionEvent,
    ActionStatus,
    Decision,
    DecisionKind,
    EventType,
    StoredProposal,
)
from operator_core.cli.story import Story, told
from operator_core.db import ActionDB
from operator_core.db.verbs.executions import NOT_BEGUN

__all__ = ["trace"]

Line: TypeAlias = dict[str, Any]

_FOREVER: Final = datetime.max.replace(tzinfo=UTC)
"""Without a time of its own, a decision would count as expired after the five minutes of the default policy."""

_MAX_EVENTS: Final = 100_000
_MAX_LINE: Final = 1_000_000
_MAX_DEPTH: Final = 20

_BEGUN: Final = (ActionStatus.EXECUTING, ActionStatus.COMPLETED, ActionStatus.FAILED)


async def trace(
    db: ActionDB, proposals: AsyncIterator[StoredProposal], run_id: str | None
) -> AsyncIterator[Line]:
    """Yields the lines for these proposals, which are those of a run or of the whole ledger, in the order of the events.

    Raises `InvalidValue` for more events than a trace can have.
    """
    lines: list[tuple[int, Line]] = []
    async for proposal in proposals:
        story = await told(db, proposal)
        of = _Proposal(story)
        lines += [(event.id or 0, line) for event in story.history for line in of.lines(event)]
        if len(lines) >= _MAX_EVENTS:
            raise InvalidValue(
                "--format", f"can't have more than {_MAX_EVENTS:,} events: export one --run"
            )
    lines += [(event.id or 0, line) async for event, line in _interrupts(db, run_id)]
    lines.sort(key=lambda each: each[0])
    at = lines[-1][1]["timestamp"] if lines else datetime.now(UTC)
    end = {"type": "session_end", "timestamp": at, "reason": "exported"}
    for line in [*(line for _, line in lines), end]:
        yield {"schema_version": 2, "session_id": run_id or "operator-core", **line}


async def _interrupts(db: ActionDB, run_id: str | None) -> AsyncIterator[tuple[ActionEvent, Line]]:
    """Halts of the whole session that nobody has ended: the format has no word for a resumption."""
    halts = {
        each.id for each in await db.halts() if each.valid_from is None and each.valid_until is None
    }
    if not halts:
        return
    async for event in db.events():
        about = event.details or {}
        if event.event_type is not EventType.HALTED or about.get("halt") not in halts:
            continue
        scope = {key: about[key] for key in ("action_name", "agent_id", "run_id") if about.get(key)}
        if scope in ({}, {"run_id": run_id}):
            yield (
                event,
                {"type": "interrupt", "timestamp": event.occurred_at, "reason": event.reason},
            )


class _Proposal:
    """The lines of one proposal."""

    def __init__(self, story: Story) -> None:
        proposal, records, approvals, history = story
        self._proposal = proposal
        self._decisions = {each.id: each for each in approvals.decisions}
        self._requirements = [each.requirement for each in approvals.requirements]
        self._unbegun = {each.id for each in records if each.error_message in NOT_BEGUN}
        self._starts = {each.id for each in history if self._is_start(each, recorded=bool(records))}
        ends = [each.id for each in history if each.to_status in ("cancelled", "failed")]
        is_over = proposal.status is ActionStatus.CANCELLED or (
            proposal.status is ActionStatus.FAILED and proposal.next_retry_at is None
        )
        self._blocked = ends[-1] if ends and is_over and not self._starts else None
        self._live: list[Decision] = []
        self._used: list[str] = []

    def _is_start(self, event: ActionEvent, *, recorded: bool) -> bool:
        if event.event_type is EventType.RECORD_STARTED:
            return event.record_id not in self._unbegun
        if recorded:
            return False
        # Moved by hand, or imported.
        is_new = event.event_type is EventType.PROPOSAL_CREATED
        return event.to_status is ActionStatus.EXECUTING or (is_new and event.to_status in _BEGUN)

    def lines(self, event: ActionEvent) -> Iterator[Line]:
        about, at = event.details or {}, event.occurred_at
        if event.event_type is EventType.PROPOSAL_CREATED:
            yield self._line("action_proposed", at, action=self._action(about.get("digest")))
        elif event.event_type in (EventType.APPROVED, EventType.REJECTED):
            yield from self._decided(self._decisions[about["decision"]])
        elif event.event_type is EventType.APPROVAL_WITHDRAWN:
            self._live = [each for each in self._live if each.id != about["withdraws"]]
        if event.id in self._starts:
            yield from self._started(at)
        if event.id == self._blocked:
            last = self._decisions.get(about.get("decision", 0)) or (self._live or [None])[-1]
            yield self._line(
                "action_blocked",
                at,
                approval_id=last and _name(last),
                reason=f"{self._proposal.end_code or event.to_status}: {event.reason or ''}",
            )

    def _decided(self, decision: Decision, name: str | None = None) -> Iterator[Line]:
        """What a person saw, and what it decided."""
        allows = decision.kind is DecisionKind.APPROVED
        approval, at = name or _name(decision), decision.created_at
        yield self._line(
            "approval_requested", at, approval_id=approval, action=self._action(decision.digest)
        )
        yield self._line(
            "approval_decision",
            at,
            approval_id=approval,
            decision="allow" if allows else "deny",
            expires_at=self._expiry(decision) if allows else None,
        )
        if allows and name is None:
            self._live.append(decision)

    def _started(self, at: datetime) -> Iterator[Line]:
        required = [each for each in self._requirements if each.effect == "require"]
        fresh = [each for each in self._live if _name(each) not in self._used]
        approval = None
        if fresh:
            approval = _name(fresh[-1])
        elif self._live:
            approval = _name(self._live[-1])
            if any(each.covers_retries for each in required):
                # An approval that is good for retries too, which the format can't say.
                approval += f"-retry-{len(self._used)}"
                yield from self._decided(self._live[-1], approval)
        elif self._requirements:
            # Of which there is no trace: the check says so.
            approval = f"requirement-{self._requirements[0].id}"
        self._used += [_name(each) for each in self._live]
        action = self._action(self._proposal.digest)
        yield self._line("action_executed", at, approval_id=approval, action=action)

    def _expiry(self, decision: Decision) -> datetime:
        """The latest at which it counts: the ledger says for none which requirement it counts for."""
        required = [each for each in self._requirements if each.effect == "require"]
        times = [each.valid_for for each in required if each.valid_for is not None]
        if not times or len(times) < len(required):
            return _FOREVER
        return decision.created_at + timedelta(seconds=max(times))

    def _action(self, digest: str | None) -> Line:
        """The action: its digest is that of whom the line is about, so that the check compares them."""
        of = self._proposal
        arguments: Any = of.parameters
        if _depth(arguments) > _MAX_DEPTH - 1 or len(to_json(arguments)) > _MAX_LINE // 2:
            arguments = None
        action = {
            "tool": of.action_name,
            "operation": "call",
            "parameters": {"arguments": arguments, "digest": digest or of.content_digest},
        }
        return action if of.exclusive_key is None else {**action, "resource": of.exclusive_key}

    def _line(self, kind: str, at: datetime, **fields: Any) -> Line:
        of = self._proposal
        intent = of.digest if of.run_id else None
        given = {key: value for key, value in fields.items() if value is not None}
        line = {"type": kind, "timestamp": at, "action_id": f"proposal-{of.id}"}
        return {**line, **({"intent_id": intent} if intent else {}), **given}


def _name(decision: Decision) -> str:
    return f"decision-{decision.id}"


def _depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(cast("dict[str, object]", value).values())
    if isinstance(value, list):
        return 1 + max(map(_depth, cast("list[object]", value)), default=0)
    return 0
