"""What the history alone says of a ledger."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from operator_core.actions import ActionEvent, ActionStatus, EndCode, EventType
from tests.contract.ledger_model import PLAIN_ENDS

S = ActionStatus


@dataclass
class Replay:
    """Proposals, executions and limits, as the events tell of them."""

    statuses: dict[int, ActionStatus] = field(default_factory=dict)
    moved_by: dict[int, str] = field(default_factory=dict)
    ends: dict[int, EndCode | None] = field(default_factory=dict)
    digests: dict[int, str | None] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    failed_at: dict[int, datetime] = field(default_factory=dict)
    records: dict[int, tuple[str, str | None, bool | None, str | None]] = field(
        default_factory=dict
    )
    """Of each: who started it, who ended it (None: it is open), its outcome (None: unknown), its error."""
    starts: list[tuple[int, bool]] = field(default_factory=list)
    """The proposal of each start, and whether the start was given back."""
    limits: dict[int, tuple[Mapping[str, Any], str | None]] = field(default_factory=dict)
    """The details of each, and who removed it."""
    resolved: dict[int, tuple[bool | None, str]] = field(default_factory=dict)
    """By execution: whether it was done, and who found that out."""
    rules: dict[int, str | None] = field(default_factory=dict)
    """Who revoked each."""
    grants: dict[int, str | None] = field(default_factory=dict)
    uses: Counter[int] = field(default_factory=Counter)
    """How often each grant was used."""
    halts: dict[int, str | None] = field(default_factory=dict)
    """Who resumed each."""
    required: Counter[int] = field(default_factory=Counter)
    """The number of requirements and denials of each proposal."""
    votes: dict[int, dict[int, str]] = field(default_factory=dict)
    """By proposal, the approvals that were not withdrawn, and whose they are."""
    rejected: set[int] = field(default_factory=set)
    last: int = 0

    def apply(self, events: Iterable[ActionEvent]) -> None:
        for event in events:
            assert event.id > self.last
            self.last = event.id
            self._apply(event)

    def _count(self, event: ActionEvent) -> None:
        """An UPDATE that changes nothing of what is told counts too, so some versions have no event."""
        assert event.proposal_id is not None
        assert event.version is not None
        assert event.version > self.versions.get(event.proposal_id, 0)
        self.versions[event.proposal_id] = event.version

    def _count_start(self, id: int, event: ActionEvent) -> None:
        if event.to_status is S.EXECUTING:
            self.starts.append((id, False))
        elif event.from_status is S.EXECUTING and self.ends[id] == EndCode.NOT_BEGUN:
            last = max(at for at, start in enumerate(self.starts) if start[0] == id)
            self.starts[last] = (id, True)

    def _apply(self, event: ActionEvent) -> None:
        id, record_id = event.proposal_id, event.record_id
        match event.event_type:
            case EventType.PROPOSAL_CREATED | EventType.STATUS_CHANGED:
                assert id is not None
                assert event.to_status is not None
                assert self.statuses.get(id) == event.from_status
                self.statuses[id], self.moved_by[id] = event.to_status, event.actor
                self._count(event)
                details = event.details or {}
                if event.event_type is EventType.PROPOSAL_CREATED:
                    self.ends[id] = PLAIN_ENDS.get(event.to_status)
                    self.digests[id] = details.get("digest")
                else:
                    self.ends[id] = details.get("end_code")
                if event.to_status is S.FAILED:
                    self.failed_at[id] = event.occurred_at
                self._count_start(id, event)
            case EventType.RETRY_SCHEDULED | EventType.RETRY_CANCELLED:
                # Of one that is put back already it is where it stands among those that wait.
                assert id is not None
                assert event.from_status is event.to_status is self.statuses[id]
                self._count(event)
            case EventType.LIMIT_SET:
                assert id is None
                assert event.details is not None
                assert not any(
                    by is None and told["name"] == event.details["name"]
                    for told, by in self.limits.values()
                )
                self.limits[event.details["limit"]] = (event.details, None)
            case EventType.LIMIT_REMOVED:
                assert event.details is not None
                assert self.limits[event.details["limit"]] == (event.details, None)
                self.limits[event.details["limit"]] = (event.details, event.actor)
            case EventType.OUTCOME_RESOLVED:
                assert record_id is not None
                assert record_id not in self.resolved
                self.resolved[record_id] = (event.success, event.actor)
            case EventType.RECORD_STARTED:
                assert record_id is not None
                assert record_id > max(self.records, default=0)
                self.records[record_id] = (event.actor, None, None, None)
            case EventType.RECORD_FINISHED:
                assert record_id is not None
                started_by, ended_by, _, _ = self.records[record_id]
                assert ended_by is None
                ended = (started_by, event.actor, event.success, event.reason)
                self.records[record_id] = ended
            case _:
                self._apply_decision(event)

    def _apply_decision(self, event: ActionEvent) -> None:
        id, details = event.proposal_id, event.details or {}
        match event.event_type:
            case EventType.RULE_ADDED | EventType.GRANT_ADDED | EventType.HALTED:
                begun, which = self._governing(event)
                assert which > max(begun, default=0)
                begun[which] = None
            case EventType.RULE_REVOKED | EventType.GRANT_REVOKED | EventType.RESUMED:
                begun, which = self._governing(event)
                assert begun[which] is None
                begun[which] = event.actor
            case EventType.APPROVAL_REQUIRED:
                assert id is not None
                self.required[id] += 1
            case EventType.APPROVED:
                assert id is not None
                assert details["digest"] == self.digests[id]
                self.votes.setdefault(id, {})[details["decision"]] = event.actor.lower()
                if "grant" in details:
                    assert self.grants[details["grant"]] is None
                    self.uses[details["grant"]] += 1
            case EventType.APPROVAL_WITHDRAWN:
                assert id is not None
                assert self.votes[id].pop(details["withdraws"]) == event.actor.lower()
            case EventType.REJECTED:
                assert id is not None
                self.rejected.add(id)
            case _:
                raise AssertionError(event)

    def _governing(self, event: ActionEvent) -> tuple[dict[int, str | None], int]:
        """The rules, grants or halts, and which of them an event is about."""
        assert event.proposal_id is None
        name, _, _ = event.event_type.value.partition("_")
        kinds = {"rule": self.rules, "grant": self.grants}
        if name in kinds:
            return kinds[name], (event.details or {})[name]
        return self.halts, (event.details or {})["halt"]
