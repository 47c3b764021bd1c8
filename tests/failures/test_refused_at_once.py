"""What the ledger can't keep is refused before anything waits for a lock."""

import os
from pathlib import Path

import pytest

from operator_core.actions import ActionRecord, InvalidValue
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.conftest import proposal


async def test_an_invalid_value_does_not_wait_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    # Should it wait after all, it gets Busy at once.
    async with ActionDB(path, busy_timeout=0, max_json_bytes=100) as db:
        created = await db.create_proposal(proposal())
        record = await db.create_record(ActionRecord(proposal_id=created.id))
        other = dbapi.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InvalidValue):
            await db.create_proposal(proposal(parameters={"a": "x" * 200}))
        with pytest.raises(InvalidValue):
            await db.create_proposal(created)
        with pytest.raises(InvalidValue):
            await db.update_record(record.id, True, result_data={"a": float("inf")})
        other.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_ledger_made_before_a_fork_and_opened_after_it_is_the_childs(tmp_path: Path) -> None:
    from tests.failures.harness import run

    (seen,) = run("made_before_fork.py", tmp_path / "ledger.db")
    assert seen == {"child": 1}
