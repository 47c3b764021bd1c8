"""What must hold of a ledger, in plain Python: no clock, no database, one change after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from operator_core.actions import (
    TRANSITIONS,
    ActionProposal,
    ActionStatus,
    AlreadyClaimed,
    Conflict,
    ConstraintViolation,
    CorruptRow,
    EndCode,
    Expired,
    Halted,
    HaltMode,
    HaltRequested,
    InvalidTransition,
    LeaseLost,
    NotDue,
    NotFound,
    TransitionHalted,
    TransitionUnapproved,
    VersionConflict,
)
from tests.contract.ledger_approvals import Decided
from tests.contract.ledger_halts import Stop
from tests.contract.ledger_limits import Bound, Held, Room, Start, Use

S = ActionStatus
LEDGER = "ledger"

PLAIN_ENDS = {S.CANCELLED: EndCode.CANCELLED, S.FAILED: EndCode.FAILED}
"""How a proposal has ended of which nothing else is known."""

Refusal = type[Exception] | None
"""What a call must raise; None if it must be done."""
Refusals = tuple[type[Exception], ...]
"""Of several at once, which of them a call raises may depend on the database; () if it must be done."""


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
    decided: Decided = field(default_factory=Decided)
    held: bool = False
    """Whether it was approved while it was halted, so that it moves when it is resumed."""

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

    def move(
        self,
        status: ActionStatus,
        by: str,
        end_code: EndCode | None = None,
        *,
        resolved: bool = False,
    ) -> None:
        # Only a resolution leads from `failed` to `completed`.
        assert resolved or status in TRANSITIONS[self.status]
        self.status, self.moved_by = status, by
        if status is S.VALIDATED:
            # Nothing holds it any more, whoever has moved it.
            self.held = False
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
    resolved: tuple[bool, str] | None = None
    """What somebody found out about its unknown outcome, and who."""


@dataclass
class Model:
    """Proposals and executions; a method says what must be refused, and makes the change that must be made."""

    sweeps_first: bool
    """A claim sees to what is overdue before it takes anything; a server's takes, then sees to it."""
    proposals: dict[int, Proposal] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)
    limits: dict[int, Bound] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    halts: dict[int, Stop] = field(default_factory=dict)
    facts: tuple[object, ...] = ()
    """What the last error says of the limit or the exclusive key because of which something did not start."""

    def open_limits(self) -> list[Bound]:
        return [each for each in self.limits.values() if each.removed_by is None]

    def uses(self) -> list[Use]:
        return [Use(each, *each.used(self.starts)) for each in self.open_limits()]

    def room(self) -> Room:
        executing = [each for each in self.proposals.values() if each.status is S.EXECUTING]
        keys = {p.row.exclusive_key: p.id for p in executing if p.row.exclusive_key is not None}
        assert len(keys) == sum(p.row.exclusive_key is not None for p in executing)
        return Room(self.uses(), keys)

    def _held_back(self, proposal: Proposal, room: Room) -> Held | None:
        return room.held(proposal.row, readable=proposal.readable)

    def _refusal(self, proposal: Proposal) -> Refusal:
        """The error of a proposal that a limit or an exclusive key keeps from starting."""
        held = self._held_back(proposal, self.room())
        if held is None:
            return None
        if not proposal.readable:
            return CorruptRow
        error, self.facts = held
        return error

    def _start(self, proposal: Proposal, by: str) -> None:
        proposal.move(S.EXECUTING, by)
        proposal.off_the_list()
        proposal.decided.begun += 1
        self.starts.append(Start(proposal.row))

    def open_halts(self) -> list[Stop]:
        return [each for each in self.halts.values() if each.resumed_by is None]

    def is_halted(self, row: ActionProposal, *, moves: bool = True) -> bool:
        """Whether a halt keeps a proposal from being validated or started, or without `moves` from being made."""
        return any(
            each.covers(row) and (moves or each.mode is HaltMode.HALTED)
            for each in self.open_halts()
        )

    def is_held_by_people(self, proposal: Proposal) -> bool:
        return self.is_halted(proposal.row) or not proposal.decided.met()

    def _refusal_by_people(self, proposal: Proposal) -> Refusal:
        """The error of a proposal that a halt or a missing approval keeps from being validated or started."""
        if self.is_halted(proposal.row):
            return TransitionHalted
        return None if proposal.decided.met() else TransitionUnapproved

    def check_new(self, made: Sequence[ActionProposal]) -> Refusals:
        """What creating these raises: a halt may cover one, and those that are executing must all have room."""
        room = self.room()
        begun = [row for row in made if row.status is S.EXECUTING]
        moves = (S.VALIDATED, S.EXECUTING)
        halted = any(self.is_halted(row, moves=row.status in moves) for row in made)
        full = not all(room.admits(row) for row in begun)
        return (Halted,) * halted + (ConstraintViolation,) * full

    def add(self, made: Proposal) -> None:
        self.proposals[made.id] = made
        if made.status is S.EXECUTING:
            made.decided.begun += 1
            self.starts.append(Start(made.row))

    def remove_limit(self, name: str, by: str) -> Refusal:
        found = [each for each in self.open_limits() if each.name == name]
        for each in found:
            each.removed_by = by
        return None if found else NotFound

    def set_limit(self, bound: Bound, by: str) -> None:
        self.remove_limit(bound.name, by)
        self.limits[bound.id] = bound

    def resolve(self, id: int, by: str, *, succeeded: bool) -> Refusal:
        record = self.records.get(id)
        if record is None:
            return NotFound
        if not record.unknown or record.resolved is not None:
            return Conflict
        record.resolved = (succeeded, by)
        proposal = self.proposals[record.proposal_id]
        if succeeded and proposal.status is S.FAILED and self.is_last(record):
            proposal.move(S.COMPLETED, by, resolved=True)
            proposal.off_the_list()
        return None

    def amend(self, id: int, by: str) -> Refusal:
        """Cancels what is superseded; who amends adds the other one."""
        proposal = self.proposals.get(id)
        if proposal is None:
            return NotFound
        if not proposal.readable:
            return CorruptRow
        if proposal.status not in (S.PROPOSED, S.VALIDATED):
            return InvalidTransition
        if self.is_halted(proposal.row, moves=False):
            return Halted
        proposal.move(S.CANCELLED, by, EndCode.SUPERSEDED)
        proposal.off_the_list()
        return None

    def open_records(self) -> list[Record]:
        return [record for record in self.records.values() if record.ended_by is None]

    def held(self, record: Record) -> bool:
        """Whether the proposal is still executed by this execution, and by none that came later."""
        is_executing = self.proposals[record.proposal_id].status is S.EXECUTING
        return is_executing and self.is_last(record)

    def is_last(self, record: Record) -> bool:
        """Whether the proposal was executed by nobody since."""
        ids = [each.id for each in self.records.values() if each.proposal_id == record.proposal_id]
        return record.id == max(ids)

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
        is_begun = to in (S.VALIDATED, S.EXECUTING)
        if is_begun and (refusal := self._refusal_by_people(proposal)):
            return refusal
        if to is S.EXECUTING and proposal.waits:
            return NotDue
        if to is S.EXECUTING and proposal.expired:
            return Expired
        if to is S.EXECUTING:
            if refusal := self._refusal(proposal):
                return refusal
            self._start(proposal, by)
            return None
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
        row = self.proposals[record.proposal_id].row
        return HaltRequested if self.is_halted(row, moves=False) else None

    def end(
        self,
        id: int,
        error: str | None,
        result: Mapping[str, object] | None,
        end_code: EndCode = EndCode.FAILED,
    ) -> Refusal:
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
                proposal.fail(record.worker, error, end_code=end_code)
                if end_code is EndCode.NOT_BEGUN:
                    mine = [each for each in self.starts if each.row.id == proposal.id]
                    mine[-1].given_back = True
                    proposal.decided.begun -= 1
        record.ended_by, record.success = record.worker, error is None
        if end_code is EndCode.OUTCOME_UNKNOWN:
            record.success, record.unknown = None, True
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

    def _to_retry(self, proposal: Proposal) -> bool:
        is_due = proposal.status is S.FAILED and proposal.retried and proposal.retry_due
        return is_due and not self.is_held_by_people(proposal)

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
        only: int | None = None,
    ) -> list[int]:
        """The proposals that are taken, in order, once what is overdue has been seen to."""
        taken: list[int] = []
        if not self.sweeps_first:
            taken = self._take(worker, limit, names, only)
        self.sweep(failed_at, taken)
        while more := self._take(worker, limit - len(taken), names, only):
            taken += more
        return taken

    def claim_proposal(self, id: int, worker: str, failed_at: Mapping[int, datetime]) -> Refusal:
        if self.claim(worker, 1, None, failed_at, only=id):
            return None
        proposal = self.proposals.get(id)
        if proposal is None:
            return NotFound
        if not proposal.readable:
            return CorruptRow
        if proposal.status is S.EXECUTING:
            return AlreadyClaimed
        if proposal.status is S.FAILED and proposal.retried:
            return self._refusal_by_people(proposal) if proposal.retry_due else NotDue
        if (proposal.moved_by, proposal.end_code) == (LEDGER, EndCode.EXPIRED):
            return Expired
        if proposal.status in (S.PROPOSED, S.VALIDATED) and not proposal.decided.met():
            return TransitionUnapproved
        if proposal.status is not S.VALIDATED:
            return InvalidTransition
        if self.is_halted(proposal.row):
            return TransitionHalted
        return NotDue if proposal.waits else self._refusal(proposal)

    def _take(
        self, worker: str, limit: int, names: Sequence[str] | None, only: int | None
    ) -> list[int]:
        due = [
            each
            for each in self.proposals.values()
            if each.status is S.VALIDATED and each.readable and not each.expired and not each.waits
            if (names is None or each.row.action_name in names) and only in (None, each.id)
            if not self.is_held_by_people(each)
        ]
        due.sort(key=lambda each: each.place)
        if not self.sweeps_first:
            # A server locks the first that could each start alone, and chooses among these.
            room = self.room()
            due = [each for each in due if self._held_back(each, room) is None][:limit]
        room = self.room()
        taken = [each for each in due if room.admitted < limit and room.admits(each.row)]
        for proposal in taken:
            self._start(proposal, worker)
        return [proposal.id for proposal in taken]
