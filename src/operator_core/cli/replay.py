"""Recorded tool calls live through the ledger: proposed, validated, executed, their outcome kept."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from operator_core.actions.types import ActionProposal, ActionRecord, ActionStatus
from operator_core.cli.options import Run
from operator_core.cli.tool_calls import BrokenLine, ToolCall
from operator_core.db import ActionDB

__all__ = ["Tally", "replay"]

_AT_ONCE: Final = 64
"""How many calls live at the same time, so that their writes share commits."""


@dataclass
class Outcomes:
    """How the calls of one action ended."""

    completed: int = 0
    failed: int = 0
    waiting: int = 0


@dataclass
class Tally:
    """What a replay did so far; whoever stops it early still has it."""

    actions: dict[str, Outcomes] = field(default_factory=dict[str, Outcomes])
    broken: int = 0

    def add(self, call: ToolCall) -> None:
        """Counts a call that is in the ledger with all that is known of it."""
        outcomes = self.actions.setdefault(call.proposal.action_name, Outcomes())
        if call.success is None:
            outcomes.waiting += 1
        elif call.success:
            outcomes.completed += 1
        else:
            outcomes.failed += 1

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
        """Calls without a recorded result, which stay validated."""
        return sum(each.waiting for each in self.actions.values())


def replay(
    run: Run,
    db: ActionDB,
    lines: Iterable[ToolCall | BrokenLine],
    tally: Tally,
    report: Callable[[BrokenLine], None],
) -> None:
    """Takes `lines` as they come, a few dozen at a time, and counts them in `tally`.

    The proposals' ids are in the order of the lines. Each broken line is handed to `report`.
    """
    calls: list[ToolCall] = []
    for line in lines:
        if isinstance(line, BrokenLine):
            tally.broken += 1
            report(line)
            continue
        calls.append(line)
        if len(calls) == _AT_ONCE:
            run(_live(db, calls, tally))
            calls.clear()
    if calls:
        run(_live(db, calls, tally))


async def _live(db: ActionDB, calls: list[ToolCall], tally: Tally) -> None:
    proposals = await db.create_proposals(call.proposal for call in calls)
    lives = zip(proposals, calls, strict=True)
    await asyncio.gather(*(_carry_out(db, proposal, call, tally) for proposal, call in lives))


async def _carry_out(db: ActionDB, proposal: ActionProposal, call: ToolCall, tally: Tally) -> None:
    await db.update_proposal_status(proposal.id, ActionStatus.VALIDATED)
    if call.success is None:
        tally.add(call)
        return
    await db.update_proposal_status(proposal.id, ActionStatus.EXECUTING)
    record = await db.create_record(ActionRecord(proposal_id=proposal.id))
    await db.update_record(record.id, call.success, call.error_message, call.result_data)
    ended = ActionStatus.COMPLETED if call.success else ActionStatus.FAILED
    await db.update_proposal_status(proposal.id, ended)
    tally.add(call)
