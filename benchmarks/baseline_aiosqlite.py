"""A plain repository, written by hand on aiosqlite: one class, one connection.

Its settings are aiosqlite's defaults: a rollback journal (DELETE) and synchronous=FULL, so that an
answered write is durable here too. It has no history, no guard on the lifecycle and no constraints.
The methods have `ActionDB`'s names, so that the same code can drive both.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiosqlite
from pydantic import BaseModel, Field

__all__ = [
    "INSERT",
    "SCHEMA",
    "PlainProposal",
    "PlainRecord",
    "PlainRepository",
    "insert_values",
]

SCHEMA = """
CREATE TABLE IF NOT EXISTS action_proposals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ticket_id INTEGER REFERENCES tickets (id),
    action_name TEXT NOT NULL,
    action_type TEXT NOT NULL DEFAULT 'subject',
    parameters TEXT NOT NULL,
    reason TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'proposed',
    proposed_at TEXT NOT NULL,
    proposed_by TEXT NOT NULL DEFAULT 'agent',
    validated_at TEXT,
    cancelled_at TEXT,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS action_records (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    proposal_id INTEGER NOT NULL REFERENCES action_proposals (id),
    started_at TEXT,
    completed_at TEXT,
    success BOOLEAN,
    error_message TEXT,
    result_data TEXT,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS idx_action_proposals_status ON action_proposals (status);
CREATE INDEX IF NOT EXISTS idx_action_proposals_ticket ON action_proposals (ticket_id);
CREATE INDEX IF NOT EXISTS idx_action_records_proposal ON action_records (proposal_id);
"""

INSERT = (
    "INSERT INTO action_proposals (ticket_id, action_name, action_type, parameters, reason, "
    "status, proposed_at, proposed_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def _now() -> datetime:
    return datetime.now(UTC)


class PlainProposal(BaseModel):
    """A proposal, without the ledger's rules for values."""

    id: int | None = None
    ticket_id: int | None = None
    action_name: str
    action_type: str = "subject"
    parameters: dict[str, Any] = {}
    reason: str
    status: str = "proposed"
    proposed_at: datetime = Field(default_factory=_now)
    proposed_by: str = "agent"
    validated_at: datetime | None = None
    cancelled_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class PlainRecord(BaseModel):
    """An execution of a proposal."""

    id: int | None = None
    proposal_id: int
    started_at: datetime | None = None
    completed_at: datetime | None = None
    success: bool | None = None
    error_message: str | None = None
    result_data: dict[str, Any] | None = None


class PlainRepository:
    """Proposals and records in a SQLite file whose tables exist already."""

    _db: aiosqlite.Connection

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        self._db = await aiosqlite.connect(self._path)
        self._db.row_factory = aiosqlite.Row
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._db.close()

    async def create_proposal(self, proposal: PlainProposal) -> PlainProposal:
        """Inserts, commits, and reads back the stored row."""
        cursor = await self._db.execute(INSERT, insert_values(proposal))
        await self._db.commit()
        created = await self.get_proposal(cursor.lastrowid or 0)
        assert created is not None
        return created

    async def get_proposal(self, id: int) -> PlainProposal | None:
        """The proposal, or None."""
        async with self._db.execute("SELECT * FROM action_proposals WHERE id = ?", (id,)) as cursor:
            row = await cursor.fetchone()
        return None if row is None else _row_to_proposal(row)

    async def list_proposals(self, status: str | None = None) -> list[PlainProposal]:
        """All proposals, or those in one status, newest first."""
        query, values = "SELECT * FROM action_proposals", ()
        if status is not None:
            query, values = f"{query} WHERE status = ?", (status,)
        async with self._db.execute(f"{query} ORDER BY id DESC", values) as cursor:
            rows = await cursor.fetchall()
        return [_row_to_proposal(row) for row in rows]

    async def update_proposal_status(self, id: int, status: str) -> None:
        """Sets the status without a check of the old one."""
        now = _now().isoformat()
        stamp = {"validated": "validated_at", "cancelled": "cancelled_at"}.get(status)
        if stamp is None:
            await self._db.execute(
                "UPDATE action_proposals SET status = ?, updated_at = ? WHERE id = ?",
                (status, now, id),
            )
        else:
            await self._db.execute(
                f"UPDATE action_proposals SET status = ?, {stamp} = ?, updated_at = ? WHERE id = ?",
                (status, now, now, id),
            )
        await self._db.commit()

    async def create_record(self, record: PlainRecord) -> PlainRecord:
        """Inserts, commits, and reads back the stored row."""
        cursor = await self._db.execute(
            "INSERT INTO action_records (proposal_id, started_at) VALUES (?, ?)",
            (record.proposal_id, (record.started_at or _now()).isoformat()),
        )
        await self._db.commit()
        async with self._db.execute(
            "SELECT * FROM action_records WHERE id = ?", (cursor.lastrowid,)
        ) as found:
            row = await found.fetchone()
        assert row is not None
        return _row_to_record(row)

    async def update_record(
        self,
        id: int,
        success: bool,
        error_message: str | None = None,
        result_data: dict[str, Any] | None = None,
    ) -> None:
        """Writes the outcome without a check of the old one."""
        await self._db.execute(
            "UPDATE action_records SET completed_at = ?, success = ?, error_message = ?, "
            "result_data = ? WHERE id = ?",
            (
                _now().isoformat(),
                success,
                error_message,
                None if result_data is None else json.dumps(result_data),
                id,
            ),
        )
        await self._db.commit()


def insert_values(proposal: PlainProposal) -> tuple[Any, ...]:
    """The parameters of `INSERT`."""
    return (
        proposal.ticket_id,
        proposal.action_name,
        proposal.action_type,
        json.dumps(proposal.parameters),
        proposal.reason,
        proposal.status,
        proposal.proposed_at.isoformat(),
        proposal.proposed_by,
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _row_to_proposal(row: aiosqlite.Row) -> PlainProposal:
    return PlainProposal(
        id=row["id"],
        ticket_id=row["ticket_id"],
        action_name=row["action_name"],
        action_type=row["action_type"],
        parameters=json.loads(row["parameters"]),
        reason=row["reason"],
        status=row["status"],
        proposed_at=datetime.fromisoformat(row["proposed_at"]),
        proposed_by=row["proposed_by"],
        validated_at=_time(row["validated_at"]),
        cancelled_at=_time(row["cancelled_at"]),
        created_at=_time(row["created_at"]),
        updated_at=_time(row["updated_at"]),
    )


def _row_to_record(row: aiosqlite.Row) -> PlainRecord:
    return PlainRecord(
        id=row["id"],
        proposal_id=row["proposal_id"],
        started_at=_time(row["started_at"]),
        completed_at=_time(row["completed_at"]),
        success=None if row["success"] is None else bool(row["success"]),
        error_message=row["error_message"],
        result_data=None if row["result_data"] is None else json.loads(row["result_data"]),
    )
