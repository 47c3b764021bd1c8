"""The verbs of the ledger: what a caller says is checked here, and done as one unit of work."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any, Final, TypeAlias

from pydantic import BaseModel

from operator_core.actions.types import (
    ActionEvent,
    ActionProposal,
    ActionRecord,
    ActionStatus,
    ProposalRequest,
)
from operator_core.db import checks, endings, events, moves, proposal_queries, proposals, records
from operator_core.db.engine import Alike
from operator_core.db.following import FollowVerbs
from operator_core.db.holding import HoldingVerbs
from operator_core.db.rows import Listing
from operator_core.db.stopping import Stop, cancel_pending, cancel_pending_in_parts
from operator_core.db.workflow_verbs import WorkflowVerbs

__all__ = ["ActionLedger", "Statuses"]

Statuses: TypeAlias = ActionStatus | Iterable[ActionStatus] | None

_PAGE: Final = 1000
"""How many proposals `iter_proposals` holds at once."""

_TURN: Final = 100
"""How many proposals are checked before other tasks get a turn."""


class ActionLedger(HoldingVerbs, FollowVerbs, WorkflowVerbs):
    """The verbs of the ledger. Each is one unit of work: one transaction, answered when durable.

    Ids are taken as the models give them, so that ``proposal.id`` needs no assertion before it; the
    None of a model that is in no ledger is an `InvalidValue`, as any other thing that is no id.
    """

    async def create_proposal(
        self,
        proposal: ProposalRequest,
        *,
        proposed_by: str | None = None,
        idempotency_key: str | None = None,
        actor: str | None = None,
    ) -> ActionProposal:
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
        key = checks.check_key(idempotency_key)
        batch = self._batch(actor)
        batch.add(checks.check_proposal(proposal, "proposal", self._who(actor), proposed_by))
        if key is None:
            return (await self._create(batch))[0]
        return await self._units.write(
            lambda conn: proposals.create_once(conn, batch, key), single=not batch.depends
        )

    async def create_proposals(
        self,
        proposals_: Iterable[ProposalRequest],
        *,
        proposed_by: str | None = None,
        actor: str | None = None,
    ) -> list[ActionProposal]:
        """Writes all of them down, in order, or none; takes and raises what `create_proposal` does."""
        checks.check_iterable(proposals_, "proposals")
        batch, who = self._batch(actor), self._who(actor)
        for index, proposal in enumerate(proposals_):
            at = f"proposals[{index}]"
            batch.add(checks.check_proposal(proposal, at, who, proposed_by))
            if index % _TURN == _TURN - 1:
                await asyncio.sleep(0)
        return await self._create(batch)

    def _batch(self, actor: str | None) -> proposals.Batch:
        return proposals.Batch(self._who(actor), self._max_json_bytes)

    async def _create(self, batch: proposals.Batch) -> list[ActionProposal]:
        rows = len(batch.values)
        unit = Alike(
            proposals.create_proposals,
            batch,
            size=rows,
            may_wait=batch.refers,
            plain=proposals.plain_create(batch),
        )
        single = rows <= proposals.MAX_ROWS and not batch.depends
        return await self._units.write(unit, single=single)

    async def get_proposal(self, proposal_id: int | None) -> ActionProposal | None:
        """The proposal, or None; raises `CorruptRow` if another tool damaged it."""
        known = checks.check_id(proposal_id, "proposal_id")
        return await self._units.read(proposal_queries.plain_get(known))

    async def list_proposals(
        self,
        status: Statuses = None,
        *,
        action_name: str | None = None,
        ticket_id: int | None = None,
        proposed_by: str | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> Listing[ActionProposal]:
        """The proposals that fit every given filter, newest first.

        `status` takes one or several. For the next page, pass the last id as `before`. Rows that
        can't be read are left out, logged, and reported in the list's `corrupt`.
        """
        filters: dict[str, Any] = {
            "action_name": checks.check_name(action_name, "action_name"),
            "ticket_id": checks.check_optional_id(ticket_id, "ticket_id"),
            "proposed_by": checks.check_name(proposed_by, "proposed_by"),
            "before": checks.check_optional_id(before, "before"),
            "limit": checks.check_limit(limit),
        }
        wanted = _statuses(status)
        if wanted is not None and not wanted:
            return Listing()
        return await self._units.read(
            lambda conn: proposal_queries.list_proposals(conn, wanted or (), **filters)
        )

    async def iter_proposals(
        self,
        status: Statuses = None,
        *,
        action_name: str | None = None,
        ticket_id: int | None = None,
        proposed_by: str | None = None,
        before: int | None = None,
    ) -> AsyncIterator[ActionProposal]:
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
            before = min(
                [*(each.id or 0 for each in page[-1:]), *(each.id for each in page.corrupt)]
            )

    async def count_proposals(self) -> dict[ActionStatus, int]:
        """How many proposals stand in each status; every status has a key."""
        return await self._units.read(proposal_queries.count_proposals)

    async def update_proposal_status(
        self,
        proposal_id: int | None,
        status: ActionStatus,
        *,
        actor: str | None = None,
        reason: str | None = None,
        expected_version: int | None = None,
    ) -> None:
        """Moves a proposal along its lifecycle; of two callers that want the same move one loses.

        Raises `NotFound`, or `InvalidTransition`, which says what would be allowed: `NotDue`, `Expired` or
        `DependencyPending` for one that may not start yet or any more. With the
        `expected_version` of a proposal that was read before, raises `VersionConflict` if it has
        changed since.
        """
        move = moves.Move(
            checks.check_id(proposal_id, "proposal_id"),
            checks.check_status(status),
            self._who(actor),
            checks.check_reason(reason),
            checks.check_version(expected_version),
        )
        await self._units.write(moves.plain_update(move), single=True)

    async def cancel_all_pending(
        self, *, actor: str | None = None, reason: str | None = None
    ) -> int:
        """Cancels every proposal that is proposed or validated, at once, and says how many.

        What has failed and would be run again is not, and does not count. What is executing goes on: only its
        worker can stop it. What the database refuses to change is logged, and is in the way of nothing else.
        """
        stop = Stop(actor=self._who(actor), reason=checks.check_reason(reason))
        return await self._write_what_can_be(
            partial(cancel_pending, stop=stop), partial(cancel_pending_in_parts, stop=stop)
        )

    async def create_record(
        self, record: ActionRecord, *, actor: str | None = None
    ) -> ActionRecord:
        """Writes down that an execution started, and returns the record with its id.

        It has no lease: if nobody ends it, `recover_expired(older_than=...)` does. `claim` makes one that has. Raises
        `NotFound` for an unknown proposal, `Conflict` for a start of one that has ended, `InvalidValue` for a record
        that has an id, or that has part of an outcome and no `success`.
        """
        checks.check_model(record, ActionRecord, "record")
        values = records.prepare_record(
            record, actor=self._who(actor), max_json_bytes=self._max_json_bytes
        )
        return await self._units.write(
            lambda conn: records.create_record(conn, values), single=True
        )

    async def get_record(self, record_id: int | None) -> ActionRecord | None:
        """The execution record, or None; raises `CorruptRow` if another tool damaged it."""
        known = checks.check_id(record_id, "record_id")
        return await self._units.read(lambda conn: records.get_record(conn, known))

    async def get_records_for_proposal(self, proposal_id: int | None) -> Listing[ActionRecord]:
        """The executions of a proposal, oldest first; none for an unknown one."""
        known = checks.check_id(proposal_id, "proposal_id")
        return await self._units.read(lambda conn: records.get_records_for_proposal(conn, known))

    async def update_record(
        self,
        record_id: int | None,
        success: bool,
        error_message: str | None = None,
        result_data: dict[str, Any] | BaseModel | None = None,
        *,
        actor: str | None = None,
    ) -> None:
        """Ends an execution now. The outcome is final: ending it again raises `Conflict`.

        The proposal of a claimed one moves with it, as by `complete` and `fail`; that of a record which was made by
        hand is moved by hand. Raises `NotFound` for an unknown record.
        """
        known = checks.check_id(record_id, "record_id")
        ending = endings.Ending(
            known,
            records.prepare_result(result_data, self._max_json_bytes),
            checks.check_message(error_message),
        )
        manner = endings.Manner(
            checks.check_flag(success, "success"), self._who(actor), leased=True
        )
        if not await self._units.write(endings.end([ending], manner), single=True):
            raise await self._units.read(lambda conn: endings.why_not_ended(conn, known))

    async def history(
        self,
        proposal_id: int | None = None,
        *,
        after: int | None = None,
        limit: int | None = None,
    ) -> Listing[ActionEvent]:
        """The events, of one proposal or of all, oldest first; pass the last id as `after` to go on."""
        checks.check_optional_id(proposal_id, "proposal_id")
        checks.check_position(after, "after")
        most = checks.check_limit(limit)
        return await self._units.read(
            lambda conn: events.list_events(conn, proposal_id, after=after, limit=most)
        )


def _statuses(status: Statuses) -> frozenset[ActionStatus] | None:
    if status is None:
        return None
    if isinstance(status, str):
        return frozenset({checks.check_status(status)})
    return frozenset(checks.check_status(each) for each in checks.check_iterable(status, "status"))
