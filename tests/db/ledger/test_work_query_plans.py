"""What workers ask reads what waits, and never what is over, however much of that there is."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from operator_core.actions.types import ActionStatus
from operator_core.db.ledger import claims, executions, recovery
from operator_core.db.ledger.executions import Ending
from operator_core.db.ledger.status import Move, move_proposal
from operator_core.db.ledger.stops import Stop, cancel_pending
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.unit import SingleStatement, Unit
from tests.db.ledger.plans import plans_on_postgresql, plans_on_sqlite

pytestmark = pytest.mark.timeout(300)  # the first of them makes the rows

OVERDUE = (
    "idx_action_records_lease",
    "idx_action_proposals_expires",
    "idx_action_proposals_retry",
    "idx_action_proposals_lapses",
    "idx_action_proposals_approval",
)
ENDING = ("pk_action_records", "pk_action_proposals", "idx_action_records_proposal")
CLAIM = ("idx_action_proposals_due", "pk_action_proposals", *OVERDUE)


def claim(
    names: tuple[str, ...] | None = None, types: tuple[str, ...] | None = None, limit: int = 10
) -> SingleStatement[Any]:
    return claims.claim(claims.ClaimRequest("w", limit, 60.0, names, types))


# Each with every index that it has to use. The proposals 3, 2003, 4003, ... are executing, as are the
# records of these ids.
QUERIES: dict[str, tuple[Unit[Any], tuple[str, ...]]] = {
    "claim one": (claim(limit=1), CLAIM),
    "claim": (claim(), CLAIM),
    "claim many": (claim(limit=100), CLAIM),
    "claim names": (claim(names=("action_2", "action_12")), CLAIM),
    "claim no such name": (claim(names=("x",)), CLAIM),
    "claim types": (claim(types=("subject", "tool")), CLAIM),
    "claim no such type": (claim(types=("workflow",)), CLAIM),
    "claim names of types": (claim(names=("action_2",), types=("subject",)), CLAIM),
    "overdue": (lambda c: c.execute(select(recovery.overdue())).all(), OVERDUE),
    "recover": (recovery.recover, (*ENDING, "idx_action_records_lease")),
    "sweep": (recovery.sweep, (*ENDING, *OVERDUE)),
    "heartbeat": (executions.heartbeat(3, 60.0), ENDING),
    "complete": (executions.end([Ending(3, "{}", None)], executions.Manner(True, "a")), ENDING),
    "fail": (executions.end([Ending(3, None, "e")], executions.Manner(False, "a")), ENDING),
    "complete many": (
        executions.end(
            [Ending(n, "{}", None) for n in range(3, 200_000, 2000)], executions.Manner(True, "a")
        ),
        ENDING,
    ),
    "fail many": (
        executions.end(
            [Ending(n, None, "e") for n in range(3, 200_000, 2000)], executions.Manner(False, "a")
        ),
        ENDING,
    ),
    "cancel all": (
        partial(cancel_pending, stop=Stop(actor="a", reason=None)),
        ("idx_action_proposals_status", "idx_action_proposals_retry"),
    ),
}


def together(*units: SingleStatement[Any]) -> Unit[Any]:
    """The statement that a server runs for concurrent units."""
    shared = [each.shared for each in units if each.shared is not None]
    assert len({each.key for each in shared}) == 1
    statement = shared[0].together([each.argument for each in shared])
    return lambda conn: statement.answer(fetch(conn, statement.statement, statement.parameters))


EXECUTING = range(3, 200_000, 2000)

TOGETHER: dict[str, tuple[Unit[Any], tuple[str, ...]]] = {
    "moves together": (
        together(
            *(move_proposal(Move(n, ActionStatus.COMPLETED, "a", None)) for n in EXECUTING),
        ),
        ("pk_action_proposals",),
    ),
    "starts together": (
        together(
            *(move_proposal(Move(n, ActionStatus.EXECUTING, "a", None)) for n in EXECUTING),
        ),
        ("pk_action_proposals", "pk_action_dependencies"),
    ),
    "heartbeats together": (
        together(*(executions.heartbeat(n, 60.0) for n in EXECUTING)),
        ENDING,
    ),
    "completions together": (
        together(
            *(
                executions.end([Ending(n, "{}", None)], executions.Manner(True, "a"))
                for n in EXECUTING
            ),
        ),
        ENDING,
    ),
    "claim together": (together(claim(limit=1), claim(limit=2)), CLAIM),
}

RARE = (
    "claim many",
    "claim names",
    "claim no such name",
    "claim no such type",
    "claim names of types",
)


BY_ID = "USING INDEX idx_action_proposals_status (status=? AND id=?"
"""One proposal of an id that is known: as good as the primary key."""


# Which index it reads for what has failed and will be run again depends on SQLite's statistics: it is run
# once, by whoever stops everything.
@pytest.mark.parametrize("name", [name for name in QUERIES if name != "cancel all"])
async def test_workers_read_what_waits_on_sqlite(name: str, million_file: Path) -> None:
    unit, indexes = QUERIES[name]
    plans = await plans_on_sqlite(million_file, unit)
    if name.startswith("claim"):
        indexes = (*indexes, "idx_action_records_proposal")  # a claim sweeps first
    for index in indexes:
        words = {
            "pk_action_records": "SEARCH action_records USING INTEGER PRIMARY KEY (rowid=?)",
            "pk_action_proposals": "SEARCH action_proposals USING INTEGER PRIMARY KEY (rowid=?)",
        }
        if index == "pk_action_proposals" and any(BY_ID in plan for plan in plans):
            continue
        assert any(words.get(index, index) in plan for plan in plans), plans
    for plan in plans:
        for line in plan.splitlines():
            # In the order of the index, as far as the LIMIT goes.
            if "USING INDEX idx_action_proposals_due" in line:
                continue
            # By RETURNING and AUTOINCREMENT alone; it would be read if a deferred foreign key were broken.
            if line == "SCAN action_events" and "each_ids" in plan:
                continue
            if "idx_action_halts_open" in line:
                continue
            assert not line.startswith("SCAN action_"), plan
        if "idx_action_proposals_status (status=?)" in plan:
            assert name == "cancel all", plan
        # What expires or lapses is of several statuses, and so is what is pending.
        several = ("idx_action_proposals_expires", "idx_action_proposals_lapses")
        if not any(index in plan for index in several) and name != "cancel all":
            assert "TEMP B-TREE" not in plan, plan


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", [*QUERIES, *TOGETHER])
async def test_workers_read_what_waits_on_postgresql(
    name: str, plans: str, million_url: str
) -> None:
    unit, indexes = {**QUERIES, **TOGETHER}[name]
    found = "\n".join(await plans_on_postgresql(million_url, unit, plans))
    assert "Seq Scan" not in found, found
    if name.startswith("claim"):
        end = "CTE dealt" if name in TOGETHER else "CTE moved"
        due = found[found.index("CTE due") : found.index(end)]
        if name not in RARE or (plans == "force_generic_plan" and name != "claim many"):
            assert "idx_action_proposals_due" in due, due
            assert "Sort" not in due, due
        else:
            # All that waits, or all of a name, sorted, if the planner believes that it reads that anyhow.
            assert "(status = 'validated'::text)" in due or "(action_name = ANY" in due, due
        indexes = indexes[1:]
    for index in indexes:
        # Where one proposal is moved, either index finds it by its id.
        if index != "pk_action_proposals" or "(id = " not in found:
            assert index in found, found
