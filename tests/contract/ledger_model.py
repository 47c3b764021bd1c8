"""What must hold of a ledger, in plain Python: no clock, no database, one change after another."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from operator_core.actions import (
    TRANSITIONS,
    ActionEvent,
    ActionProposal,
    ActionStatus,
    EndCode,
    EventType,
    Expired,
    InvalidTransition,
    LeaseLost,
    NotDue,
    NotFound,
    VersionConflict,
)

S = ActionStatus
LEDGER = "ledger"

PLAIN_ENDS = {S.CANCELLED: EndCode.CANCELLED, S.FAILED: EndCode.FAILED}
"""How a proposal has ended of which nothing else is known."""

Refusal = type[Exception] | None
"""What a call must raise; None if it must be done."""


@dataclass
class Proposal:
    """A proposal; what it waits for is past or so far away that it never comes."""

    row: ActionProposal
    status: ActionStatus
    moved_by: str
    waits: bool = False
    expired: bool = False
    readable: bool = True
    version: int = 1
    retry_count: int = 0
    last_error: str | None = None
    retried: bool = False
    """Whether it has failed and is to be run again by itself."""
    retry_due: bool = False
    retry_at: datetime | None = None
    """Where a retry stands in the order; None until it is put there."""
    settled: bool = False
    """Whether a retry's time is known to the model, and not one that clock and jitter gave."""
    end_code: EndCode | None = None

    def __post_init__(self) -> None:
        self.end_code = PLAIN_ENDS.get(self.status)

    @property
    def id(self) -> int:
        assert self.row.id is not None
        return self.row.id

    @property
    def place(self) -> tuple[int, datetime, int]:
        """Where it stands among those that wait for a worker, the first being the smallest."""
        due = self.retry_at or self.row.scheduled_at or self.row.created_at
        assert due is not None
        return -self.row.priority, due, self.id

    def move(self, status: ActionStatus, by: str, end_code: EndCode | None = None) -> None:
        assert status in TRANSITIONS[self.status]
        self.status, self.moved_by = status, by
        self.end_code = end_code or PLAIN_ENDS.get(status)
        self.version += 1

    def off_the_list(self) -> None:
        self.retried = self.retry_due = self.settled = False
        self.retry_at = None

    def fail(
        self,
        by: str,
        why: str,
        at: datetime | None = None,
        end_code: EndCode = EndCode.FAILED,
    ) -> None:
        self.move(S.FAILED, by, end_code)
        self.last_error = why
        self.off_the_list()
        if self.retry_count < self.row.max_retries:
            self.retried, self.retry_due, self.retry_at = True, self.row.retry_delay == 0, at


@dataclass
class Record:
    """One execution."""

    id: int
    proposal_id: int
    worker: str
    lapsed: bool
    ended_by: str | None = None
    success: bool | None = None
    unknown: bool = False
    error: str | None = None
    result: Mapping[str, object] | None = None


@dataclass
class Model:
    """Proposals and executions; a method says what must be refused, and makes the change that must be made."""

    sweeps_first: bool
    """A claim sees to what is overdue before it takes anything; a server's takes, then sees to it."""
    proposals: dict[int, Proposal] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)

    def open_records(self) -> list[Record]:
        return [record for record in self.records.values() if record.ended_by is None]

    def held(self, record: Record) -> bool:
        """Whether the proposal is still executed by this execution, and by none that came later."""
        last = max(r.id for r in self.records.values() if r.proposal_id == record.proposal_id)
        return self.proposals[record.proposal_id].status is S.EXECUTING and record.id == last

    def move(
        self,
        id: int,
        to: ActionStatus,
        by: str,
        version: int | None,
        *,
        retry: bool = False,
        end_code: EndCode | None = None,
    ) -> Refusal:
        proposal = self.proposals.get(id)
        if proposal is None:
            return NotFound
        if version not in (None, proposal.version):
            return VersionConflict
        if to not in TRANSITIONS[proposal.status] or (retry and proposal.status is not S.FAILED):
            return InvalidTransition
        if to is S.EXECUTING and proposal.waits:
            return NotDue
        if to is S.EXECUTING and proposal.expired:
            return Expired
        proposal.move(to, by, end_code)
        proposal.off_the_list()
        return None

    def cancel_pending(self, by: str) -> int:
        count = 0
        for proposal in self.proposals.values():
            if proposal.status in (S.PROPOSED, S.VALIDATED):
                proposal.move(S.CANCELLED, by)
                count += 1
            elif proposal.status is S.FAILED and proposal.retried:
                proposal.version += 1
            else:
                continue
            proposal.off_the_list()
        return count

    def heartbeat(self, id: int, *, lapsed: bool) -> Refusal:
        record = self.records.get(id)
        if record is None:
            return NotFound
        if record.ended_by is not None or not self.held(record):
            return LeaseLost
        record.lapsed = lapsed
        return None

    def end(self, id: int, error: str | None, result: Mapping[str, object] | None) -> Refusal:
        """Completes an execution, or fails it if there is an error."""
        record = self.records.get(id)
        if record is None:
            return NotFound
        if record.ended_by is not None:
            return LeaseLost
        if self.held(record):
            proposal = self.proposals[record.proposal_id]
            if error is None:
                proposal.move(S.COMPLETED, record.worker)
                proposal.off_the_list()
            else:
                proposal.fail(record.worker, error)
        record.ended_by, record.success = record.worker, error is None
        record.error, record.result = error, result
        return None

    def recover(self, failed_at: Mapping[int, datetime], begun: Sequence[int] = ()) -> list[int]:
        """Ends what is silent; proposals in `begun` are executed anew already."""
        silent = [record for record in self.open_records() if record.lapsed]
        for record in silent:
            record.ended_by, record.unknown = LEDGER, True
            record.error = "its lease ran out: whether it was done is not known"
            if record.proposal_id not in begun and self.held(record):
                at = failed_at[record.proposal_id]
                proposal = self.proposals[record.proposal_id]
                proposal.fail(LEDGER, record.error, at, EndCode.OUTCOME_UNKNOWN)
        return [record.id for record in silent]

    def overdue(self) -> bool:
        """Whether a sweep would change anything."""
        return any(record.lapsed for record in self.open_records()) or any(
            self._too_late(each) or self._to_retry(each) for each in self.proposals.values()
        )

    @staticmethod
    def _too_late(proposal: Proposal) -> bool:
        return proposal.status in (S.PROPOSED, S.VALIDATED) and proposal.expired

    @staticmethod
    def _to_retry(proposal: Proposal) -> bool:
        return proposal.status is S.FAILED and proposal.retried and proposal.retry_due

    def sweep(self, failed_at: Mapping[int, datetime], begun: Sequence[int] = ()) -> None:
        self.recover(failed_at, begun)
        for proposal in self.proposals.values():
            if self._too_late(proposal):
                proposal.move(S.CANCELLED, LEDGER, EndCode.EXPIRED)
                proposal.off_the_list()
            elif self._to_retry(proposal):
                proposal.move(S.VALIDATED, LEDGER)
                proposal.retry_count += 1

    def claim(
        self,
        worker: str,
        limit: int,
        names: Sequence[str] | None,
        failed_at: Mapping[int, datetime],
    ) -> list[int]:
        """The proposals that are taken, in order, once what is overdue has been seen to."""
        taken: list[int] = []
        if not self.sweeps_first:
            taken = self._take(worker, limit, names)
        self.sweep(failed_at, taken)
        return taken + self._take(worker, limit - len(taken), names)

    def _take(self, worker: str, limit: int, names: Sequence[str] | None) -> list[int]:
        due = [
            each
            for each in self.proposals.values()
            if each.status is S.VALIDATED and each.readable and not each.expired and not each.waits
            if names is None or each.row.action_name in names
        ]
        taken = sorted(due, key=lambda each: each.place)[:limit]
        for proposal in taken:
            proposal.move(S.EXECUTING, worker)
            proposal.off_the_list()
        return [proposal.id for proposal in taken]


@dataclass
class Replay:
    """What the history alone says of proposals and executions."""

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
    last: int = 0

    def apply(self, events: Iterable[ActionEvent]) -> None:
        for event in events:
            assert event.id > self.last
            self.last = event.id
            self._apply(event)

    def _count(self, event: ActionEvent) -> None:
        """An UPDATE that changes nothing of what is told counts too, so some versions have no event."""
        assert event.version is not None
        assert event.version > self.versions.get(event.proposal_id, 0)
        self.versions[event.proposal_id] = event.version

    def _apply(self, event: ActionEvent) -> None:
        id, record_id = event.proposal_id, event.record_id
        match event.event_type:
            case EventType.PROPOSAL_CREATED | EventType.STATUS_CHANGED:
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
            case EventType.RETRY_SCHEDULED | EventType.RETRY_CANCELLED:
                # Of one that is put back already it is where it stands among those that wait.
                assert event.from_status is event.to_status is self.statuses[id]
                self._count(event)
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
