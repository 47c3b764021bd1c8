"""The adapters by which agentbarrier's conformance suite drives the gate.

    export OPERATOR_DATABASE_URL=ledger.db
    agentbarrier verify tests.peers.agentbarrier_gate:GateAdapter --strict-skips

An action is a call of the agent: its id is the `call_id`, and only the gate executes it. What it
delegates is called in its execution, by a gate whose `parent_id` it is. A replacement of its
arguments is another call, and the first one is rejected: a gate does not follow an amendment.
"""

import asyncio
from collections import defaultdict
from typing import Any
from uuid import uuid4

from agentbarrier.errors import AmbiguousEffectError
from agentbarrier.models import ActionRequest

from operator_core import Gate
from operator_core.actions import Conflict, OutcomeUnknown
from operator_core.gate import EffectUnknown, NotExecuted, Ticket, Tools
from tests.peers.agentbarrier_runs import AGENT, REVIEWER, ROLE, USER, Adapter, End, Run
from tests.peers.agentbarrier_words import to_action, to_parameters


class _Run(Run):
    """Each action is one function, which `settle` runs."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        # The run and its look-ups, whose repetition nobody needs to fear.
        self._own = Gate(self._db, run_id=self._run_id, agent_id=AGENT, repeat="allow")
        self._tickets: dict[str, Ticket] = {}
        self._limits: dict[str, asyncio.Timeout] = {}
        self._unknown: list[str] = []
        self._delegated: dict[str | None, list[ActionRequest]] = defaultdict(list)
        for action in self._actions:
            self._delegated[action.parent_action_id].append(action)
        self._tools = Tools()
        for name in {each.tool_name for each in self._actions}:
            self._tools.add(self._tool(name), name=name)
        self._gate = self._gate_in(None)

    async def _begin(self, name: str, parameters: dict[str, Any]) -> End:
        ticket = await self._own.propose(name, parameters, call_id=f"{name}-{uuid4()}")
        return (await self._own.begin(ticket)).done

    async def _propose_all(self) -> None:
        for action in self._delegated[None]:
            await self._propose(self._gate, action)

    async def _propose(self, gate: Gate, action: ActionRequest, suffix: str = "") -> None:
        ticket = await gate.propose(
            action.tool_name, to_parameters(action), call_id=action.action_id + suffix
        )
        self._tickets[action.action_id] = ticket
        self._ids[action.action_id] = ticket.proposal_id

    async def _replace(self, action: ActionRequest) -> str:
        first = await self._proposal_of(action.action_id)
        await self._propose(self._gate_in(first.parent_id), action, suffix=":replaced")
        why = f"replaced by proposal {self._ids[action.action_id]}"
        await self._db.reject_proposal(first.id, by=REVIEWER, reason=why, roles=[ROLE])
        return (await self._proposal_of(action.action_id)).digest or ""

    async def _execute_all(self) -> list[str]:
        async with asyncio.TaskGroup() as group:
            for action in self._delegated[None]:
                group.create_task(self._settle(self._gate, action))
        return self._unknown

    async def _settle(self, gate: Gate, action: ActionRequest) -> None:
        await self._retry_if_not_done(action.action_id)
        ticket = self._tickets[action.action_id]
        try:
            await self._execute(gate, ticket, action)
        except EffectUnknown:
            self._unknown.append(action.action_id)
        except NotExecuted:
            if ticket != self._tickets[action.action_id]:
                await self._settle(gate, action)

    async def _execute(self, gate: Gate, ticket: Ticket, action: ActionRequest) -> None:
        # Its end is a cancellation in the middle of the tool, which leaves the outcome unknown.
        async with asyncio.timeout(None) as self._limits[action.action_id]:
            await gate.settle(ticket)

    def _tool(self, name: str) -> Any:
        async def tool(
            action_id: str,
            parent_action_id: str | None,
            requires_approval: bool,
            arguments: dict[str, Any],
        ) -> str:
            # What the gate has handed out, not what this program remembers.
            action = ActionRequest(action_id, name, arguments, requires_approval, parent_action_id)
            limit = self._limits[action_id]
            if self._timeout is not None:
                limit.reschedule(asyncio.get_running_loop().time() + self._timeout)
            try:
                result = await self._effect(action)
            except AmbiguousEffectError as error:
                raise OutcomeUnknown(str(error)) from error
            limit.reschedule(None)
            await self._delegate(action_id)
            return result

        return tool

    async def _delegate(self, action_id: str) -> None:
        """Calls what an action delegates, in its execution."""
        gate = self._gate_in(self._ids[action_id])
        for action in self._delegated[action_id]:
            await self._propose(gate, action)
            await self._settle(gate, action)

    def _gate_in(self, parent_id: int | None) -> Gate:
        return Gate(
            self._db,
            run_id=self._run_id,
            agent_id=AGENT,
            requester=USER,
            parent_id=parent_id,
            tools=self._tools,
        )


class _TwoPhaseRun(_Run):
    """Each action is executed here, between `begin` and what says how it ended."""

    async def _execute(self, gate: Gate, ticket: Ticket, action: ActionRequest) -> None:
        try:
            begun = await gate.begin(ticket)
        except Conflict:
            return  # it was done before
        try:
            # The time is the tool's; the gate's own is no part of it.
            async with asyncio.timeout(self._timeout):
                result = await self._effect(to_action(begun.claim.proposal))
            await self._delegate(action.action_id)
        except AmbiguousEffectError as error:
            await begun.unknown(error)
        except (asyncio.CancelledError, TimeoutError) as error:
            await begun.unknown(error)
            raise
        except Exception as error:
            await begun.failed(error)
            raise
        else:
            await begun.done(result)
        # The ledger says what became of it.
        await gate.settle(ticket)


class GateAdapter(Adapter):
    """Proposes by `Gate.propose`, and executes by `Gate.settle`."""

    name = "operator-core-gate"
    run = _Run


class TwoPhaseAdapter(Adapter):
    """Proposes by `Gate.propose`; executes between `begin` and `done`, `failed` or `unknown`."""

    name = "operator-core-gate-two-phases"
    run = _TwoPhaseRun
