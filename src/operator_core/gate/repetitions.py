"""The same call under other ids: a model repeats itself."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeAlias

from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db.verbs.ledger import ActionLedger
from operator_core.gate.endings import ended, is_rejected
from operator_core.gate.errors import EffectUnknown
from operator_core.gate.settings import Settings
from operator_core.gate.tickets import Ticket
from operator_core.gate.tools import Call

__all__ = ["Twins", "executing", "is_executing", "twins_of"]

_S = ActionStatus

_Call: TypeAlias = tuple[int | None, str | None, str | None]
"""A proposal, its run and its call id: a program may have several ledgers, with the same ids of proposals."""

_inside: ContextVar[tuple[_Call, ...]] = ContextVar("operator_core_gate_inside", default=())
"""The calls in whose executions, by a gate, this code runs."""


@contextmanager
def executing(proposal: ActionProposal) -> Generator[None]:
    """A block in which the tool of a proposal runs."""
    token = _inside.set((*_inside.get(), (proposal.id, proposal.run_id, proposal.call_id)))
    try:
        yield
    finally:
        _inside.reset(token)


def is_executing(ticket: Ticket | None = None) -> bool:
    """Whether this code runs in such a block: in that of this call, or in any."""
    if ticket is None:
        return bool(_inside.get())
    return (ticket.proposal_id, ticket.run_id, ticket.call_id) in _inside.get()


class Twins(NamedTuple):
    """The same call under other ids: why it must not be repeated, or which of them is executed now."""

    refusal: str | None = None
    running: int | None = None


async def twins_of(verbs: ActionLedger, call: Call, of: Settings, proposal_id: int | None) -> Twins:
    """What became of the same call under other ids in this run."""
    if not of.refuses_repeats:
        return Twins()
    running: list[int] = []
    for each in await verbs.list_proposals(
        (_S.EXECUTING, _S.FAILED, _S.CANCELLED),
        run_id=of.run_id,
        action_name=call.name,
    ):
        if each.id == proposal_id or not call.is_of(each.action_name, each.parameters):
            continue
        if each.status is _S.EXECUTING:
            running.append(each.id)
            continue
        if await is_rejected(verbs, each):
            return Twins(f"the same call was rejected before (proposal {each.id})")
        if each.status is _S.FAILED and each.next_retry_at is not None:
            continue
        if isinstance((await ended(verbs, each)).error, EffectUnknown):
            why = f"whether the same call was done before is not known (proposal {each.id})"
            return Twins(why)
    if running:
        # A tool may make its own call again, for which it must not wait.
        own = await _ancestors(verbs, of)
        running = [each for each in running if each not in own]
    return Twins(running=running[0] if running else None)


async def _ancestors(verbs: ActionLedger, of: Settings) -> set[int]:
    """The executions in which this gate's calls are made, as far as it is known."""
    own = {id_ for id_, run_id, _ in _inside.get() if id_ is not None and run_id == of.run_id}
    parent = of.parent_id
    while parent is not None and parent not in own:
        own.add(parent)
        above = await verbs.get_proposal(parent)
        parent = None if above is None else above.parent_id
    return own
