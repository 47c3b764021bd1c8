"""The verbs of proposals: to write them down, read them, and count them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, TypeAlias

from operator_core.actions.types import ActionStatus, ProposalRequest, StoredProposal
from operator_core.db.ledger import proposals, queries
from operator_core.db.sql.rows import Listing
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check, check_proposal
from operator_core.db.verbs.base import Verbs

__all__ = ["ProposalVerbs", "Statuses"]

Statuses: TypeAlias = ActionStatus | Iterable[ActionStatus] | None

_PAGE: Final = 1000
"""How many proposals `iter_proposals` holds at once."""

_TURN: Final = 100
"""How many proposals are checked before other tasks get a turn."""


class ProposalVerbs(Verbs):
    """What is asked of the ledger about proposals."""

    async def create_proposal(
        self,
        proposal: ProposalRequest,
        *,
        proposed_by: str | None = None,
        idempotency_key: str | None = None,
        actor: str | None = None,
    ) -> StoredProposal:
        """Writes a proposal down and returns it with its id and the database's times.

        `proposal` is a `ProposalRequest`, which `proposed_by` (by default whom the call or the ledger names as
        acting) makes a proposal of; or an `ActionProposal`, which says that itself unless `proposed_by` is given, and which
        in another status than proposed is an import, as the history says. Raises `NotFound` for an unknown
        ticket or dependency, `InvalidValue` for a proposal that already has an id.

        With an `idempotency_key` (1 to 255 characters, unique in the ledger) it is written once,
        however often and from wherever it is asked: the same key with the same content gives back
        the first one as it stands now, `replayed`; with another content it raises `Conflict`. The
        content is what is proposed and by whom; not why, which a model words anew each time, not when, and not in which
        status.
        """
        key = check(arguments.NAME, idempotency_key, "idempotency_key")
        new = self._new(actor)
        new.add(check_proposal(proposal, "proposal", self._who(actor), proposed_by))
        if key is None:
            return (await self._create(new))[0]
        return await self._units.write(proposals.creation_once(new, key))

    async def create_proposals(
        self,
        proposals_: Iterable[ProposalRequest],
        *,
        proposed_by: str | None = None,
        actor: str | None = None,
    ) -> list[StoredProposal]:
        """Writes all of them down, in order, or none; takes and raises what `create_proposal` does."""
        check(arguments.COLLECTION, proposals_, "proposals")
        new, who = self._new(actor), self._who(actor)
        for index, proposal in enumerate(proposals_):
            at = f"proposals[{index}]"
            new.add(check_proposal(proposal, at, who, proposed_by))
            if index % _TURN == _TURN - 1:
                await asyncio.sleep(0)
        return await self._create(new)

    def _new(self, actor: str | None) -> proposals.NewProposals:
        return proposals.NewProposals(self._who(actor), self._max_json_bytes)

    async def _create(self, new: proposals.NewProposals) -> list[StoredProposal]:
        return await self._units.write(proposals.creation(new))

    async def get_proposal(self, proposal_id: int) -> StoredProposal | None:
        """The proposal, or None; raises `CorruptRow` if another tool damaged it."""
        known = check(arguments.ID, proposal_id, "proposal_id")
        return await self._units.read(queries.read_proposal(known))

    async def list_proposals(
        self,
        status: Statuses = None,
        *,
        action_name: str | None = None,
        ticket_id: int | None = None,
        proposed_by: str | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> Listing[StoredProposal]:
        """The proposals that fit every given filter, newest first.

        `status` takes one or several. For the next page, pass the last id as `before`. Rows that
        can't be read are left out, logged, and reported in the list's `corrupt`.
        """
        filters: dict[str, Any] = {
            "action_name": check(arguments.NAME, action_name, "action_name"),
            "ticket_id": check(arguments.OPTIONAL_ID, ticket_id, "ticket_id"),
            "proposed_by": check(arguments.NAME, proposed_by, "proposed_by"),
            "before": check(arguments.OPTIONAL_ID, before, "before"),
            "limit": check(arguments.POSITION, limit, "limit"),
        }
        wanted = _statuses(status)
        if wanted is not None and not wanted:
            return Listing()
        return await self._units.read(
            lambda conn: queries.list_proposals(conn, wanted or (), **filters)
        )

    async def iter_proposals(
        self,
        status: Statuses = None,
        *,
        action_name: str | None = None,
        ticket_id: int | None = None,
        proposed_by: str | None = None,
        before: int | None = None,
    ) -> AsyncIterator[StoredProposal]:
        """As `list_proposals`, a page at a time, so that memory stays the same however many there are.

        Between pages others may write: what is proposed meanwhile does not appear, and a status
        may have moved on. Unreadable rows are logged and left out.
        """
        wanted = _statuses(status)
        while True:
            page = await self.list_proposals(
                wanted,
                action_name=action_name,
                ticket_id=ticket_id,
                proposed_by=proposed_by,
                before=before,
                limit=_PAGE,
            )
            for proposal in page:
                yield proposal
            if len(page) + len(page.corrupt) < _PAGE:
                return
            before = min([*(each.id for each in page[-1:]), *(each.id for each in page.corrupt)])

    async def count_proposals(self) -> dict[ActionStatus, int]:
        """How many proposals stand in each status; every status has a key."""
        return await self._units.read(queries.count_proposals)


def _statuses(status: Statuses) -> frozenset[ActionStatus] | None:
    if status is None:
        return None
    if isinstance(status, str):
        return frozenset({check(arguments.STATUS, status, "status")})
    return frozenset(
        check(arguments.STATUS, each, "status")
        for each in check(arguments.COLLECTION, status, "status")
    )
