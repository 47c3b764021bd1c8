"""What the failure tests share: child processes, and what a ledger must look like afterwards."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeAlias

from operator_core.actions.types import ActionProposal
from operator_core.db.sql.sqlite_library import dbapi
from tests import warm

HERE: Final = Path(__file__).resolve().parent

Child: TypeAlias = "subprocess.Popen[bytes] | warm.Child"

_WARM: Final = {
    "approval_racer.py",
    "claimant.py",
    "clocked_worker.py",
    "contender.py",
    "event_writer.py",
    "limit_racer.py",
    "mortal_worker.py",
    "server_claimant.py",
    "server_contender.py",
    "writer.py",
}
"""Programs that are started many at a time, and say nothing of how an interpreter starts or forks."""

PATIENCE: Final = 100.0
"""Seconds after which a test that waits gives up, on a machine however busy."""

_BROKEN: Final = {
    "proposals without exactly one creation in the history": """
        SELECT p.id FROM action_proposals p LEFT JOIN action_events e
            ON e.proposal_id = p.id AND e.event_type = 'proposal_created'
        GROUP BY p.id HAVING count(e.id) != 1""",
    "proposals whose status is not that of their last event": """
        SELECT p.id FROM action_proposals p WHERE p.status IS NOT (
            SELECT to_status FROM action_events
            WHERE proposal_id = p.id AND to_status IS NOT NULL ORDER BY id DESC LIMIT 1)""",
    "records without exactly their events": """
        SELECT r.id FROM action_records r LEFT JOIN action_events e
            ON e.proposal_id = r.proposal_id AND e.record_id = r.id
        GROUP BY r.id
        HAVING sum(e.event_type = 'record_started') IS NOT 1
            OR sum(e.event_type = 'record_finished') IS NOT (r.completed_at IS NOT NULL)""",
    "events without their row": """
        SELECT id FROM action_events
        WHERE proposal_id NOT IN (SELECT id FROM action_proposals)
            OR record_id IS NOT NULL AND record_id NOT IN (SELECT id FROM action_records)""",
}


def proposal(**fields: Any) -> ActionProposal:
    """A proposal of which only what matters to the test needs saying."""
    return ActionProposal(
        **{"action_name": "transfer_leader", "reason": "store 2 is hot", **fields}
    )


def rows(path: Path, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """What another program sees in the file."""
    with closing(dbapi.connect(path, timeout=PATIENCE)) as connection:
        return connection.execute(sql, parameters).fetchall()


def snapshot(path: Path) -> tuple[list[tuple[Any, ...]], ...]:
    """All that a unit of work can change, without times."""
    return (
        rows(path, "SELECT id, status FROM action_proposals ORDER BY id"),
        rows(path, "SELECT id, success, completed_at IS NULL FROM action_records ORDER BY id"),
        rows(
            path,
            "SELECT proposal_id, record_id, event_type, from_status, to_status "
            "FROM action_events ORDER BY id",
        ),
    )


def check_whole(path: Path) -> None:
    """Fails unless the file is sound, and each row and its events are both there or both absent."""
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    for what, sql in _BROKEN.items():
        assert rows(path, sql) == [], what


def check_lock_free(path: Path) -> None:
    """Fails if anyone holds the write lock: this one does not wait for it."""
    with closing(dbapi.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except dbapi.OperationalError as error:
            raise AssertionError(f"the write lock is held: {error}") from error
        connection.execute("ROLLBACK")


def lost(path: Path, acknowledged: Iterable[str]) -> set[str]:
    """Those of the acknowledged writes, as the writers print them, that are not in the file."""
    kept = {f"proposal {number}" for (number,) in rows(path, "SELECT id FROM action_proposals")}
    kept |= {f"record {number}" for (number,) in rows(path, "SELECT id FROM action_records")}
    kept |= {
        f"outcome {number}"
        for (number,) in rows(path, "SELECT id FROM action_records WHERE completed_at IS NOT NULL")
    }
    kept |= {
        f"status {number} {status}"
        for number, status in rows(
            path, "SELECT proposal_id, to_status FROM action_events WHERE to_status IS NOT NULL"
        )
    }
    return set(acknowledged) - kept


def start(program: str, *arguments: object, **options: Any) -> Child:
    """Runs one of `programs` in a process of its own, with pipes to and from it."""
    path = os.pathsep.join(filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    own = options.pop("environment", {})
    environment = {**os.environ, **own, "PYTHONPATH": path}
    if program in _WARM and not own and not options:
        return warm.start(HERE / "programs" / program, *map(str, arguments), env=environment)
    return subprocess.Popen(
        [sys.executable, str(HERE / "programs" / program), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        **options,
    )


def finish(child: Child) -> list[Any]:
    """Waits for the child's good end and gives back what it printed, a JSON value a line."""
    try:
        printed, _ = child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise
    assert child.returncode == 0, f"the child ended with {child.returncode}"
    return [json.loads(line) for line in printed.splitlines()]


def run(program: str, *arguments: object, **options: Any) -> list[Any]:
    """Runs one of `programs` to its end."""
    return finish(start(program, *arguments, **options))


def let_go(children: Sequence[Child], where: str) -> None:
    """Waits until every child has come to its `meet(where)`, and lets them all go on at once."""
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline().decode().strip() == where
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
