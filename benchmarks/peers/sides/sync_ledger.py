"""operator-core without an event loop, used as docs/sync.md shows: `SyncActionDB`, and its verbs."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.peers import works
from benchmarks.peers.worker import Answer, Job, serve, versions
from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db import SyncActionDB, migrate

_WORKER = "worker-1"


class _Client:
    def __init__(self, db: SyncActionDB) -> None:
        self._db = db

    def prepare(self, job: Job) -> ActionProposal:
        return ActionProposal(**job)

    async def act(self, prepared: ActionProposal) -> None:
        self._act(prepared)

    async def act_by_tasks(self, shares: Sequence[Sequence[ActionProposal]]) -> None:
        works.in_threads(self._act, shares)

    def _act(self, prepared: ActionProposal) -> None:
        created = self._db.create_proposal(prepared)
        self._db.update_proposal_status(created.id, ActionStatus.VALIDATED)
        while not (claims := self._db.claim(_WORKER)):
            pass
        self._db.complete(claims[0].record.id)

    async def unfinished(self) -> int:
        counts = self._db.count_proposals()
        return sum(counts.values()) - counts[ActionStatus.COMPLETED]


@asynccontextmanager
async def _open(url: str, connections: int) -> AsyncIterator[_Client]:
    with SyncActionDB(url, pool_size=connections) as db:
        yield _Client(db)


async def _install(url: str, _: list[Job]) -> Answer:
    migrate.upgrade(url)
    return versions("operator-core", "sqlalchemy")


if __name__ == "__main__":
    serve({"install": _install, **works.of(_open)})
