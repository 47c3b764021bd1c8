"""What the tests of worker processes share: a ledger of either kind as others see it, and the reckoning."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeAlias

from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB
from tests.databases import query
from tests.failures import harness, server_harness

Place: TypeAlias = str | Path
"""A file, or a server's URL."""


def seen(place: Place, sql: str) -> list[tuple[Any, ...]]:
    """What another program sees there."""
    return harness.rows(place, sql) if isinstance(place, Path) else query(place, sql)


def check_whole(place: Place) -> None:
    """Fails unless each row and its events are both there or both absent."""
    if isinstance(place, Path):
        harness.check_whole(place)
    else:
        server_harness.check_whole(place)


async def fill(place: Place, proposals: Iterable[ActionProposal]) -> None:
    async with ActionDB(place, busy_timeout=harness.PATIENCE) as db:
        await db.create_proposals(list(proposals))


UNFINISHED: Final = """
    SELECT id FROM action_proposals
    WHERE status NOT IN ('completed', 'failed', 'cancelled') OR next_retry_at IS NOT NULL
    UNION ALL SELECT proposal_id FROM action_records WHERE completed_at IS NULL"""
"""The proposals of which somebody has to do or end something."""

_WRONG: Final = {
    "proposals unfinished": UNFINISHED,
    "records without exactly one outcome": """
        SELECT id FROM action_records WHERE (success IS NULL) <> outcome_unknown""",
    "proposals started more often than they may be": """
        SELECT p.id FROM action_proposals p JOIN action_records r ON r.proposal_id = p.id
        GROUP BY p.id HAVING count(*) > 1 + max(p.max_retries)""",
    "proposals with starts or ends in their history that no execution had": """
        SELECT p.id FROM action_proposals p LEFT JOIN action_events e ON e.proposal_id = p.id
        GROUP BY p.id
        HAVING sum(CASE WHEN e.to_status = 'executing' THEN 1 ELSE 0 END)
                <> (SELECT count(*) FROM action_records WHERE proposal_id = p.id)
            OR sum(CASE WHEN e.from_status = 'executing' THEN 1 ELSE 0 END)
                <> (SELECT count(*) FROM action_records WHERE proposal_id = p.id)""",
    "proposals that are not what came of their last execution": """
        SELECT p.id FROM action_proposals p JOIN action_records r ON r.proposal_id = p.id
        WHERE r.id = (SELECT max(id) FROM action_records WHERE proposal_id = p.id)
            AND p.status <> CASE WHEN r.success THEN 'completed' ELSE 'failed' END""",
    "records of unknown outcome that have a result": """
        SELECT id FROM action_records WHERE outcome_unknown AND result_data IS NOT NULL""",
}

_ENDS_OF_RECORDS: Final = """
    SELECT proposal_id, CASE WHEN outcome_unknown THEN 'ledger' ELSE worker END,
        CASE WHEN success THEN 'completed' ELSE 'failed' END
    FROM action_records"""
_ENDS_IN_HISTORY: Final = """
    SELECT proposal_id, actor, to_status FROM action_events WHERE from_status = 'executing'"""


class Diary(NamedTuple):
    """What workers wrote down of their work in a file that knows nothing of the ledger."""

    started: list[tuple[int, int, str]]
    """Record, proposal, worker."""
    told: dict[str, set[int]]
    """The records of which the worker was told that they are done, failed or lost."""

    @classmethod
    def read(cls, path: Path) -> Self:
        diary = cls([], {"done": set(), "failed": set(), "lost": set()})
        for line in path.read_text().splitlines():
            what, record, proposal, worker = line.split()
            if what == "start":
                diary.started.append((int(record), int(proposal), worker))
            else:
                diary.told[what].add(int(record))
        return diary


class Figures(NamedTuple):
    proposals: int
    executions: int
    started: int
    done: int
    failed: int
    lost: int
    """Of which the worker was told that its lease was lost."""
    unknown: int
    doubles: int
    """Proposals without retries that were started more than once, by the diary."""

    def __str__(self) -> str:
        return " ".join(f"{name}={figure}" for name, figure in self._asdict().items())


def reckon(place: Place, path: Path) -> Figures:
    """Fails unless the ledger and the diary both say that nothing was lost or doubled."""
    diary = Diary.read(path)
    records = seen(place, "SELECT id, proposal_id, worker, success FROM action_records")
    limits = dict(seen(place, "SELECT id, max_retries FROM action_proposals"))
    starts = Counter(proposal for _, proposal, _ in diary.started)
    doubled = [id for id, times in starts.items() if times > 1 + limits[id]]
    figures = Figures(
        len(limits),
        len(records),
        len(diary.started),
        *(len(diary.told[what]) for what in ("done", "failed", "lost")),
        sum(success is None for *_, success in records),
        sum(limits[id] == 0 for id in doubled),
    )
    print(f"\n{figures}")
    _check_diary(diary, records)
    assert not doubled, f"started more often than they may be: {doubled}"
    for what, sql in _WRONG.items():
        assert seen(place, sql) == [], what
    ends = Counter(seen(place, _ENDS_OF_RECORDS))
    assert Counter(seen(place, _ENDS_IN_HISTORY)) == ends, "ended by whom it did not belong to"
    check_whole(place)
    return figures


def _check_diary(diary: Diary, records: list[tuple[Any, ...]]) -> None:
    """Fails unless each worker was told the truth, and each success is work that was begun, once."""
    by_success = {
        what: {id for id, _, _, success in records if success is None or bool(success) is expected}
        for what, expected in (("done", True), ("failed", False))
    }
    unknown = by_success["done"] & by_success["failed"]
    begun = Counter(record for record, _, _ in diary.started)
    assert max(begun.values()) == 1, "two ran the same execution"
    assert set(diary.started) <= {(id, proposal, who) for id, proposal, who, _ in records}
    for what, those in by_success.items():
        assert diary.told[what] <= those - unknown, (
            f"{what}, the workers were told, and it is not so"
        )
    assert diary.told["lost"] <= unknown, "a worker without a lease has ended an execution"
    assert by_success["done"] - unknown <= set(begun), "completed and never begun"
