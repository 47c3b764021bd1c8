"""The verbs of limits."""

from collections.abc import Sequence
from functools import partial

from operator_core.actions.actors import normalised
from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import Limit, LimitUse
from operator_core.db.ledger import limits
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.base import Verbs

__all__ = ["LimitVerbs"]


class LimitVerbs(Verbs):
    """The verbs of limits."""

    async def set_limit(
        self,
        name: str,
        *,
        action_name: str | None = None,
        agent_id: str | None = None,
        window: float,
        max_starts: int | None = None,
        sum_of: Sequence[str | int] | None = None,
        max_sum: int | None = None,
        by: str,
        reason: str,
    ) -> Limit:
        """Sets a limit: at most `max_starts` starts, or so much of an integer parameter, in any window of `window` seconds.

        It is for every program that writes to the ledger. It covers proposals with this `action_name`, which may be a
        pattern with ``*`` and ``?``, and this `agent_id`; without them, all proposals. An agent's limit also covers
        proposals that name no agent. The window (a millisecond to 366 days) slides, by the database's clock.

        `sum_of` is the place of an integer in the parameters: 1 to 16 keys and indices. `max_sum` (1 to 10**15) limits
        the sum of these integers. A proposal without an integer from 0 there can't start. `max_starts` is from 1 to 10**9.

        Over a limit, a proposal stays `validated` and claims pass over it; `claim_proposal` and a move to `executing` raise
        `LimitReached`. A start counts whatever becomes of it, also if its outcome is unknown; but not if it was not
        begun, because its claim was cancelled.

        A limit is not edited. If the name is in use, the new limit replaces the other one in the same unit of work. A new
        limit counts what has started in its window before, as the history tells. Integers that can't be read count as 0 there.
        """
        length = check(arguments.WINDOW, window, "window")
        starts = check(arguments.MAX_STARTS, max_starts, "max_starts")
        path = check(arguments.PATH, sum_of, "sum_of")
        most = check(arguments.MAX_SUM, max_sum, "max_sum")
        if starts is None and most is None:
            raise InvalidValue("max_starts", "must be given, or max_sum")
        if (path is None) != (most is None):
            raise InvalidValue("max_sum", "must be given together with sum_of")
        agent = check(arguments.NAME, agent_id, "agent_id")
        if agent is not None:
            agent = normalised(agent)
            if not agent:
                raise InvalidValue("agent_id", "must not be blank")
        request = limits.LimitRequest(
            check(arguments.REQUIRED_NAME, name, "name"),
            check(arguments.NAME, action_name, "action_name"),
            agent,
            length,
            starts,
            path,
            most,
            set_by=check(arguments.ACTOR, by, "by"),
            reason=check(arguments.REQUIRED_REASON, reason, "reason"),
        )
        return await self._units.write(partial(limits.set_limit, request=request))

    async def remove_limit(self, name: str, *, by: str, reason: str) -> Limit:
        """Removes the open limit of this name, and returns it. Raises `NotFound` if there is none."""
        return await self._units.write(
            partial(
                limits.remove_limit,
                name=check(arguments.REQUIRED_NAME, name, "name"),
                by=check(arguments.ACTOR, by, "by"),
                reason=check(arguments.REQUIRED_REASON, reason, "reason"),
            )
        )

    async def limits(self, *, active: bool = True) -> list[LimitUse]:
        """Returns the open limits with what is used of each now; the removed ones too if not `active`."""
        check(arguments.FLAG, active, "active")
        return await self._units.read(partial(limits.list_limits, active=active))
