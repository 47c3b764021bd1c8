"""What the tests of rules, approvals and grants share: rules in a line, and time that passes without waiting."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from operator_core.actions import (
    ActionEvent,
    ActionStatus,
    Claim,
    EventType,
    Grant,
    Rule,
    StoredProposal,
    StoredRule,
)
from operator_core.db import ActionDB
from tests.clocks import asleep
from tests.conftest import proposal

S: Final = ActionStatus

WHY: Final = {"by": "lead", "reason": "policy 7"}

# The times that are not part of what was proposed.
_TIMES: Final = {
    "action_proposals": (
        *("created_at", "updated_at", "status_changed_at", "validated_at"),
        *("lapses_at", "next_retry_at"),
    ),
    "action_requirements": ("created_at",),
    "action_decisions": ("created_at",),
    "action_rules": ("created_at", "valid_from", "valid_until"),
    "action_grants": ("created_at", "valid_until"),
}


async def rule(db: ActionDB, name: str = "sre", **fields: Any) -> StoredRule:
    """Adds a rule."""
    return await db.add_rule(Rule(name=name, **fields), **WHY)


async def proposed(db: ActionDB, action_name: str = "drop_table", **fields: Any) -> StoredProposal:
    """Proposes as the agent whose own approval never counts."""
    return await db.create_proposal(proposal(action_name, **{"proposed_by": "planner", **fields}))


async def approve(db: ActionDB, of: StoredProposal, by: str, *roles: str, **more: Any) -> Any:
    """Approves exactly what `of` is."""
    return await db.approve_proposal(of.id, by=by, digest=of.digest, roles=roles, **more)


async def given(db: ActionDB, **fields: Any) -> Grant:
    """A grant of few uses by somebody for some time."""
    usual: dict[str, Any] = {
        "by": "mia",
        "action_name": "*",
        "max_uses": 100,
        "valid_until": datetime.now(UTC) + timedelta(days=30),
        "reason": "routine",
    }
    return await db.grant(**{**usual, **fields})


async def now(db: ActionDB, of: StoredProposal | int) -> StoredProposal:
    """The proposal as it is."""
    found = await db.get_proposal(of if isinstance(of, int) else of.id)
    assert found is not None
    return found


async def status(db: ActionDB, of: StoredProposal | int) -> ActionStatus:
    return (await now(db, of)).status


async def last(db: ActionDB, of: StoredProposal | int) -> ActionEvent:
    """Its newest event."""
    return (await db.history(of if isinstance(of, int) else of.id))[-1]


async def told(db: ActionDB, kind: EventType) -> Sequence[ActionEvent]:
    """All events of this kind."""
    return [each async for each in db.events() if each.event_type is kind]


async def begin(db: ActionDB, of: StoredProposal) -> Claim:
    return await db.claim_proposal(of.id, "worker-1")


async def later(db: ActionDB, seconds: float) -> None:
    """So much time has passed for everything in the ledger: its times are set back, not the clocks."""

    def shifted(column: str, dialect: str) -> str:
        if dialect == "postgresql":
            return f"{column} = {column} - interval '{seconds} seconds'"
        return f"{column} = strftime('%Y-%m-%d %H:%M:%f000', {column}, '-{seconds} seconds')"

    dialect = await db._units.read(lambda conn: conn.dialect.name)
    statements = [
        f"UPDATE {table} SET {', '.join(shifted(each, dialect) for each in columns)}"
        for table, columns in _TIMES.items()
    ]
    await asleep(db, *statements)
