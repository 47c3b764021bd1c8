"""`ActionDB`, the ledger as services use it."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, cast

from pydantic import BaseModel
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from operator_core.actions.errors import InvalidValue, NotOpen
from operator_core.actions.types import ActionEvent, ActionProposal, ActionRecord, ActionStatus
from operator_core.actions.values import MAX_JSON_BYTES
from operator_core.db import checks, events, migrate, proposals, records
from operator_core.db.engine import Runner, UnitRunner
from operator_core.db.pooled import EngineRunner, SessionRunner
from operator_core.db.rows import Listing
from operator_core.db.sqlite import SqliteRunner
from operator_core.db.sqlite_connection import MEMORY

__all__ = ["ActionDB", "Target"]

Target: TypeAlias = str | os.PathLike[str] | URL | AsyncEngine | AsyncSession

Statuses: TypeAlias = ActionStatus | Iterable[ActionStatus] | None

BUSY_TIMEOUT: Final = 10.0

_PAGE: Final = 1000
"""How many proposals `iter_proposals` holds at once."""


class ActionLedger:
    """The verbs of the ledger. Each is one unit of work: one transaction, answered when durable."""

    def __init__(self, runner: UnitRunner | None, actor: str, max_json_bytes: int) -> None:
        self._runner = runner
        self._actor = actor
        self._max_json_bytes = max_json_bytes

    @property
    def _units(self) -> UnitRunner:
        if self._runner is None:
            raise NotOpen("the ledger is not open: use `async with ActionDB(...) as db:`")
        return self._runner

    def _who(self, actor: str | None) -> str:
        return self._actor if actor is None else checks.check_actor(actor)

    async def create_proposal(self, proposal: ActionProposal) -> ActionProposal:
        """Writes a proposal down and returns it with its id and the database's times.

        A proposal in another status than proposed is an import, and the history says so. Raises
        `NotFound` for an unknown ticket, `InvalidValue` for a proposal that already has an id.
        """
        return (await self.create_proposals([proposal]))[0]

    async def create_proposals(self, proposals_: Iterable[ActionProposal]) -> list[ActionProposal]:
        """Writes all of them down, in order, or none; raises as `create_proposal` does."""
        wanted = list(proposals_)
        for index, proposal in enumerate(wanted):
            checks.check_model(proposal, ActionProposal, f"proposals[{index}]")
        return await self._units.write(
            lambda conn: proposals.create_proposals(
                conn, wanted, actor=self._actor, max_json_bytes=self._max_json_bytes
            )
        )

    async def get_proposal(self, id: int) -> ActionProposal | None:
        """The proposal, or None; raises `CorruptRow` if another tool damaged it."""
        checks.check_id(id)
        return await self._units.read(lambda conn: proposals.get_proposal(conn, id))

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
            "action_name": action_name and checks.check_name(action_name, "action_name"),
            "ticket_id": ticket_id and checks.check_id(ticket_id, "ticket_id"),
            "proposed_by": proposed_by and checks.check_name(proposed_by, "proposed_by"),
            "before": None if before is None else checks.check_id(before, "before"),
            "limit": checks.check_limit(limit),
        }
        wanted = _statuses(status)
        if wanted is not None and not wanted:
            return Listing()
        return await self._units.read(
            lambda conn: proposals.list_proposals(conn, wanted or (), **filters)
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
        while True:
            page = await self.list_proposals(
                status,
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
        return await self._units.read(proposals.count_proposals)

    async def update_proposal_status(
        self,
        id: int,
        status: ActionStatus,
        *,
        actor: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Moves a proposal along its lifecycle; of two callers that want the same move one loses.

        Raises `NotFound`, or `InvalidTransition`, which says what would be allowed.
        """
        checks.check_id(id)
        to, who, why = checks.check_status(status), self._who(actor), checks.check_reason(reason)
        await self._units.write(
            lambda conn: proposals.update_proposal_status(conn, id, to, actor=who, reason=why)
        )

    async def cancel_all_pending(
        self, *, actor: str | None = None, reason: str | None = None
    ) -> int:
        """Cancels every proposal that is proposed or validated, at once, and says how many.

        What is executing goes on: only its worker can stop it.
        """
        who, why = self._who(actor), checks.check_reason(reason)
        return await self._units.write(
            lambda conn: proposals.cancel_all_pending(conn, actor=who, reason=why)
        )

    async def create_record(self, record: ActionRecord) -> ActionRecord:
        """Writes down that an execution started, and returns the record with its id.

        Raises `NotFound` for an unknown proposal, `InvalidValue` for a record that has an id, or
        that has part of an outcome and no `success`.
        """
        checks.check_model(record, ActionRecord, "record")
        return await self._units.write(
            lambda conn: records.create_record(
                conn, record, actor=self._actor, max_json_bytes=self._max_json_bytes
            )
        )

    async def get_record(self, id: int) -> ActionRecord | None:
        """The execution record, or None; raises `CorruptRow` if another tool damaged it."""
        checks.check_id(id)
        return await self._units.read(lambda conn: records.get_record(conn, id))

    async def get_records_for_proposal(self, proposal_id: int) -> Listing[ActionRecord]:
        """The executions of a proposal, oldest first; none for an unknown one."""
        checks.check_id(proposal_id, "proposal_id")
        return await self._units.read(
            lambda conn: records.get_records_for_proposal(conn, proposal_id)
        )

    async def update_record(
        self,
        id: int,
        success: bool,
        error_message: str | None = None,
        result_data: dict[str, Any] | BaseModel | None = None,
    ) -> None:
        """Ends an execution now. The outcome is final: ending it again raises `Conflict`.

        Raises `NotFound` for an unknown record.
        """
        checks.check_id(id)
        checks.check_flag(success, "success")
        message = checks.check_message(error_message)
        await self._units.write(
            lambda conn: records.update_record(
                conn,
                id,
                success,
                message,
                result_data,
                actor=self._actor,
                max_json_bytes=self._max_json_bytes,
            )
        )

    async def history(
        self,
        proposal_id: int | None = None,
        *,
        after: int | None = None,
        limit: int | None = None,
    ) -> Listing[ActionEvent]:
        """The events, of one proposal or of all, oldest first; pass the last id as `after` to go on."""
        if proposal_id is not None:
            checks.check_id(proposal_id, "proposal_id")
        if after is not None and after != 0:
            checks.check_id(after, "after")
        most = checks.check_limit(limit)
        return await self._units.read(
            lambda conn: events.list_events(conn, proposal_id, after=after, limit=most)
        )


def _statuses(status: Statuses) -> frozenset[ActionStatus] | None:
    if status is None:
        return None
    if isinstance(status, str):
        return frozenset({checks.check_status(status)})
    return frozenset(checks.check_status(each) for each in status)


class ActionDB(ActionLedger):
    """An action ledger: proposals, their executions and their history, in one database.

    `target` says where: a path (or a plain string) is a SQLite file, ``":memory:"`` one that lasts
    as long as the object; a URL, as text with ``://`` or as `sqlalchemy.URL`; an `AsyncEngine` of
    the caller's, borrowed; an `AsyncSession`, joined: then everything is part of the caller's
    transaction.

    Use it as ``async with ActionDB(...) as db:``, or call `open` and `close`. Opening makes the
    schema in a new SQLite file and upgrades one that is behind. Many may be open on one file.

    `actor` is who acts where a call does not say. `busy_timeout` is how many seconds a write waits
    for other processes' writes before it raises `Busy`; `max_json_bytes` the size limit of
    parameters and result data as JSON.
    """

    def __init__(
        self,
        target: Target,
        *,
        actor: str = "agent",
        busy_timeout: float = BUSY_TIMEOUT,
        max_json_bytes: int = MAX_JSON_BYTES,
    ) -> None:
        super().__init__(None, checks.check_actor(actor), max_json_bytes)
        self._database = _runner(target, busy_timeout)

    @classmethod
    def from_env(cls, **settings: Any) -> Self:
        """The ledger that the environment variable ``OPERATOR_DATABASE_URL`` names.

        Raises `InvalidValue` if it is not set.
        """
        url = os.environ.get(migrate.URL_VARIABLE, "")
        if not url:
            raise InvalidValue(migrate.URL_VARIABLE, "must be set to the ledger's URL or path")
        return cls(url, **settings)

    async def open(self) -> Self:
        """Opens the ledger; raises `SchemaError` or `StorageError`. Opening an open one does nothing."""
        await self._database.open()
        self._runner = self._database
        return self

    async def close(self) -> None:
        """Refuses new calls, waits for those under way, and gives everything back."""
        self._runner = None
        await self._database.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[ActionLedger]:
        """What is called on the object that it yields is one transaction, all or nothing.

        This is the one place where the write lock is held while the caller thinks: other writers
        of the process queue behind it, those of other processes wait up to their `busy_timeout`.
        An exception or a cancellation rolls it back at once. Inside, call the yielded object's
        methods, not this one's.
        """
        async with self._units.transaction() as units:
            yield ActionLedger(units, self._actor, self._max_json_bytes)


def _runner(target: Target, busy_timeout: float) -> Runner:
    if isinstance(target, AsyncSession):
        return SessionRunner(target)
    if isinstance(target, AsyncEngine):
        return EngineRunner(target, busy_timeout=busy_timeout)
    if isinstance(target, str) and "://" in target:
        try:
            target = make_url(target)
        except ArgumentError:
            raise InvalidValue("target", "is not a database URL") from None
    if isinstance(target, URL):
        if target.get_backend_name() != "sqlite":
            backend = target.get_backend_name()
            raise InvalidValue("target", f"must be a SQLite database, not {backend}")
        return SqliteRunner(target.database or MEMORY, busy_timeout=busy_timeout)
    if not isinstance(cast(object, target), str | os.PathLike) or not os.fspath(target):
        raise InvalidValue("target", "must be a path, a URL, an AsyncEngine or an AsyncSession")
    path = os.fspath(target)
    return SqliteRunner(path if path == MEMORY else str(Path(path)), busy_timeout=busy_timeout)
