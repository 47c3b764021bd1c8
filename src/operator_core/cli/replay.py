"""Writes recorded tool calls as proposals, with their moves through the lifecycle and their outcomes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from operator_core.actions.types import ActionRecord, ActionStatus
from operator_core.cli.call_log import BrokenLine, Entry, LoggedCall, LoggedResult, Outcome
from operator_core.cli.options import Run
from operator_core.db import ActionDB
from operator_core.db.verbs.ledger import ActionLedger

__all__ = ["Outcomes", "Tally", "replay"]

_AT_ONCE: Final = 64
"""Number of calls and results in one transaction."""


@dataclass
class Outcomes:
    """The outcomes of the calls of one action."""

    completed: int = 0
    failed: int = 0
    waiting: int = 0

    def count(self, outcome: Outcome | None, number: int = 1) -> None:
        """Counts calls with this outcome; None counts calls that have not ended."""
        if outcome is None:
            self.waiting += number
        elif outcome.success:
            self.completed += number
        else:
            self.failed += number


@dataclass
class Tally:
    """The counts of a replay so far; they are valid even if the replay ends early."""

    actions: dict[str, Outcomes] = field(default_factory=dict[str, Outcomes])
    already: int = 0
    broken: int = 0

    def of(self, action_name: str) -> Outcomes:
        """The counts of one action."""
        return self.actions.setdefault(action_name, Outcomes())

    def add(self, other: "Tally") -> None:
        """Adds the counts of `other`."""
        for name, outcomes in other.actions.items():
            mine = self.of(name)
            mine.completed += outcomes.completed
            mine.failed += outcomes.failed
            mine.waiting += outcomes.waiting
        self.already += other.already
        self.broken += other.broken

    @property
    def completed(self) -> int:
        """Calls that succeeded."""
        return sum(each.completed for each in self.actions.values())

    @property
    def failed(self) -> int:
        """Calls whose recorded result was an error."""
        return sum(each.failed for each in self.actions.values())

    @property
    def waiting(self) -> int:
        """Calls without a recorded result, which stay proposed."""
        return sum(each.waiting for each in self.actions.values())


class _Open(NamedTuple):
    """A call without an outcome so far; `is_new` tells whether this replay wrote it."""

    proposal_id: int
    action_name: str
    status: ActionStatus
    is_new: bool


def replay(
    run: Run,
    db: ActionDB,
    entries: Iterable[Entry],
    tally: Tally,
    report: Callable[[BrokenLine], None],
) -> None:
    """Writes the calls of `entries` in order and counts them in `tally`.

    Each call is written once, under its key, in one transaction with its outcome. So no worker can claim a call
    during the import, and a replay that was killed can be repeated. A call without an outcome stays proposed.
    `report` is called with each broken line, and with each result that belongs to no call.
    """
    replaying = _Replay(db, tally, report)
    group: list[LoggedCall | LoggedResult] = []
    for entry in entries:
        if isinstance(entry, BrokenLine):
            tally.broken += 1
            report(entry)
            continue
        group.append(entry)
        if len(group) == _AT_ONCE:
            run(replaying.write(group))
            group.clear()
    if group:
        run(replaying.write(group))


class _Replay:
    def __init__(self, db: ActionDB, tally: Tally, report: Callable[[BrokenLine], None]) -> None:
        self._db = db
        self._tally = tally
        self._report = report
        self._open: dict[str, _Open] = {}

    async def write(self, group: Iterable[LoggedCall | LoggedResult]) -> None:
        """Writes a group in one transaction, and counts it after the commit."""
        counts = Tally()
        async with self._db.transaction() as tx:
            for entry in group:
                if isinstance(entry, LoggedCall):
                    await self._write_call(tx, entry, counts)
                else:
                    await self._write_result(tx, entry, counts)
        self._tally.add(counts)

    async def _write_call(self, tx: ActionLedger, call: LoggedCall, counts: Tally) -> None:
        proposal = await tx.create_proposal(call.proposal, idempotency_key=call.key)
        if call.outcome is not None and proposal.status is ActionStatus.PROPOSED:
            await _carry_out(tx, proposal.id, call.outcome)
        elif call.outcome is None and call.call_id is not None:
            name, is_new = proposal.action_name, not proposal.replayed
            self._open[call.call_id] = _Open(proposal.id, name, proposal.status, is_new)
        if proposal.replayed:
            counts.already += 1
        else:
            counts.of(proposal.action_name).count(call.outcome)

    async def _write_result(self, tx: ActionLedger, result: LoggedResult, counts: Tally) -> None:
        call = self._open.pop(result.call_id, None)
        if call is None:
            counts.broken += 1
            problem = f"is a result, but no earlier call with the id {result.call_id} waits for one"
            self._report(BrokenLine(result.line, problem))
            return
        if call.status is ActionStatus.PROPOSED:
            await _carry_out(tx, call.proposal_id, result.outcome)
        if call.is_new:
            outcomes = counts.of(call.action_name)
            outcomes.count(None, -1)
            outcomes.count(result.outcome)


async def _carry_out(tx: ActionLedger, proposal_id: int, outcome: Outcome) -> None:
    await tx.update_proposal_status(proposal_id, ActionStatus.VALIDATED)
    await tx.update_proposal_status(proposal_id, ActionStatus.EXECUTING)
    record = await tx.create_record(ActionRecord(proposal_id=proposal_id))
    success, message, result = outcome.success, outcome.error_message, outcome.result_data
    await tx.update_record(record.id, success, message, result)
    ended = ActionStatus.COMPLETED if success else ActionStatus.FAILED
    await tx.update_proposal_status(proposal_id, ended)
