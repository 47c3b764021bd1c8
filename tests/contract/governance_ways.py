"""The ways to propose of the matrix in `test_governance_matrix`."""

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from operator_core.actions import (
    ActionError,
    ActionProposal,
    ActionStatus,
    ApprovalRequired,
    ConstraintViolation,
    WorkflowProposal,
)
from operator_core.db import ActionDB, migrate
from tests.conftest import proposal
from tests.contract.governed import S

FIELDS: Final[dict[str, Any]] = {
    "proposed_by": "planner",
    "requester_id": "rosa",
    "agent_id": "planner",
    "max_retries": 5,
    "retry_delay": 0.0,
}
INSERT: Final = (
    "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, proposed_by,"
    " requester_id, agent_id, max_retries, retry_delay, exclusive_key)"
    " VALUES (:name, :parameters, 'r', CURRENT_TIMESTAMP, 'planner', 'rosa', 'planner', 5, 0, :key)"
)

EXCLUDED: Final = ("excluded", "approved but excluded", "retry excluded")
"""The states whose proposals have an exclusive key, the same in each state."""
SUMMED: Final = ("limited by sum",)
"""The states whose proposals have an amount, of which a limit lets only so much start."""
AMOUNT: Final = "rows"


class Ledger(NamedTuple):
    """The doors to one ledger."""

    db: ActionDB
    joined: Callable[[Callable[[ActionDB], Awaitable[Any]]], Awaitable[Any]]
    service: ActionDB | None
    """By a role of a server that has only what a service needs."""


class Cell(NamedTuple):
    """A proposal: how it is made, and in which state. What may run has one for each way to start it."""

    make: str
    state: str
    move: str | None

    @property
    def name(self) -> str:
        return f"{self.state}/{self.make}/{self.move or 'any'}"

    @property
    def key(self) -> str | None:
        return self.state if self.state in EXCLUDED else None

    @property
    def parameters(self) -> dict[str, int]:
        return {AMOUNT: 1} if self.state in SUMMED else {}


def asked(cell: Cell, status: ActionStatus = S.PROPOSED) -> ActionProposal:
    more = {"exclusive_key": cell.key, "parameters": cell.parameters}
    return proposal(cell.name, status=status, **more, **FIELDS)


async def by_sql(db: ActionDB, sql: str, *rows: dict[str, Any]) -> None:
    """Each row in a transaction of its own, as another tool would."""
    for row in rows:

        def unit(conn: Connection, row: dict[str, Any] = row) -> None:
            conn.execute(text(sql), row)

        with suppress(ActionError):
            await db._units.write(unit)


async def by_facade(to: Ledger, cells: Sequence[Cell]) -> None:
    for cell in cells:
        await to.db.create_proposal(asked(cell))


async def by_key(to: Ledger, cells: Sequence[Cell]) -> None:
    for cell in cells:
        await to.db.create_proposal(asked(cell), idempotency_key=cell.name)


async def in_bulk(to: Ledger, cells: Sequence[Cell]) -> None:
    await to.db.create_proposals(map(asked, cells))


async def in_a_workflow(to: Ledger, cells: Sequence[Cell]) -> None:
    await to.db.create_workflow(WorkflowProposal(name="w"), [*map(asked, cells)])


async def as_failed(to: Ledger, cells: Sequence[Cell]) -> None:
    await to.db.create_proposals(asked(cell, S.FAILED) for cell in cells)


async def _begun(to: Ledger, cells: Sequence[Cell], status: ActionStatus) -> None:
    for cell in cells:
        with suppress(ApprovalRequired, ConstraintViolation):
            await to.db.create_proposal(asked(cell, status))


async def as_validated(to: Ledger, cells: Sequence[Cell]) -> None:
    await _begun(to, cells, S.VALIDATED)


async def as_executing(to: Ledger, cells: Sequence[Cell]) -> None:
    await _begun(to, cells, S.EXECUTING)


async def in_a_transaction(to: Ledger, cells: Sequence[Cell]) -> None:
    async with to.db.transaction() as tx:
        await tx.create_proposals(map(asked, cells))


async def in_a_session(to: Ledger, cells: Sequence[Cell]) -> None:
    await to.joined(lambda db: db.create_proposals(map(asked, cells)))


async def by_raw_sql(to: Ledger, cells: Sequence[Cell]) -> None:
    await by_sql(to.db, INSERT, *map(_values, cells))


async def by_a_service(to: Ledger, cells: Sequence[Cell]) -> None:
    await by_sql(to.service or to.db, INSERT, *map(_values, cells))


def _values(cell: Cell) -> dict[str, Any]:
    return {"name": cell.name, "key": cell.key, "parameters": json.dumps(cell.parameters)}


MAKES: Final = {
    make.__name__: make
    for make in (
        by_facade, by_key, in_bulk, in_a_workflow, as_failed, as_validated, as_executing,
        in_a_transaction, in_a_session, by_raw_sql, by_a_service,
    )
}  # fmt: skip
BEFORE_THE_RULES: Final = {"before the rules": in_bulk, "before the rules by raw SQL": by_raw_sql}
BEGUN: Final = ("as_validated", "as_executing")


# ------ rows of a ledger that was upgraded since

UPGRADED: Final = {
    f"{status.value} at {revision}": (revision, status)
    for revision, status in (
        # Before proposals named requesters and agents, and after.
        ("0002", S.PROPOSED),
        ("0002", S.VALIDATED),
        ("0006", S.PROPOSED),
        ("0006", S.FAILED),
    )
}
"""By the way to propose: the revision at which the row was written, and its status then."""

_RETRY: Final = (
    "UPDATE action_proposals SET status = 'failed', next_retry_at = CURRENT_TIMESTAMP"
    " WHERE status = 'executing'"
)


def make_upgraded(
    url: str,
    write: Callable[[str], object],
    cells: Sequence[Cell],
    upgrade: Callable[[], None],
) -> None:
    """Makes a ledger at an early revision and upgrades it in steps.

    `write` adds the rows of each step, and `upgrade` is the last one, to head.
    """
    for revision in sorted({revision for revision, _ in UPGRADED.values()}):
        migrate.upgrade(url, revision)
        for make, (written_at, status) in UPGRADED.items():
            if written_at == revision:
                write(_insert([cell for cell in cells if cell.make == make], revision, status))
        write(_RETRY)
    upgrade()


def _insert(cells: Sequence[Cell], revision: str, status: ActionStatus) -> str:
    """The statement that inserts proposals. Those that are to fail are executing first."""
    begun = S.EXECUTING if status is S.FAILED else status
    columns, values = "", ""
    if revision >= "0004":
        columns, values = ", requester_id, agent_id", ", 'rosa', 'planner'"
    rows = ", ".join(
        f"('{cell.name}', '{json.dumps(cell.parameters)}', 'r', '{begun}', CURRENT_TIMESTAMP, 'planner', 5, 0{values})"
        for cell in cells
    )
    return (
        "INSERT INTO action_proposals (action_name, parameters, reason, status, proposed_at, proposed_by,"
        f" max_retries, retry_delay{columns}) VALUES {rows}"
    )
