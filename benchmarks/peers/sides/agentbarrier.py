"""agentbarrier, used as its barrier uses a store: submit, decide, claim, complete, all synchronous.

Its SQLite store sets WAL and synchronous=FULL itself, which are the ledger's settings. Threads share one store on
SQLite and have a store each on PostgreSQL, which is the faster way on either.
"""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from itertools import cycle

from agentbarrier.models import Decision
from agentbarrier.runtime import (
    PolicyDecision,
    PolicyEffect,
    PostgresRuntimeStore,
    RuntimeRequest,
    RuntimeStatus,
    SQLiteRuntimeStore,
)

from benchmarks.peers import works
from benchmarks.peers.files import path_of
from benchmarks.peers.worker import Answer, Job, serve, versions

_Store = SQLiteRuntimeStore | PostgresRuntimeStore
_Prepared = tuple[RuntimeRequest, str]

_SQLITE = "sqlite:"
_POLICY = "1"
_ASKS = PolicyDecision(PolicyEffect.REQUIRE_APPROVAL, "moves of leaders", _POLICY)


class _Client:
    def __init__(self, stores: Sequence[_Store]) -> None:
        self._stores = stores

    def prepare(self, job: Job) -> _Prepared:
        request = RuntimeRequest(
            action_id=str(uuid.uuid4()),
            namespace="default",
            tool_name=job["action_name"],
            arguments=job["parameters"],
            idempotency_key=str(uuid.uuid4()),
            policy_version=_POLICY,
            created_at_ns=time.time_ns(),
            requested_by=job["proposed_by"],
        )
        return request, job["reason"]

    async def act(self, prepared: _Prepared) -> None:
        _act(self._stores[0], prepared)

    async def act_by_tasks(self, shares: Sequence[Sequence[_Prepared]]) -> None:
        pairs = [
            [(store, prepared) for prepared in share]
            for store, share in zip(cycle(self._stores), shares, strict=False)
        ]
        works.in_threads(lambda pair: _act(*pair), pairs)

    async def unfinished(self) -> int:
        actions = self._stores[0].list_actions()
        return sum(each.status is not RuntimeStatus.SUCCEEDED for each in actions)


def _act(store: _Store, prepared: _Prepared) -> None:
    request, reason = prepared
    action = store.submit(request, _ASKS)
    store.decide(action.action_id, Decision.APPROVE, decided_by="operator", reason=reason)
    digest = request.request_digest
    store.claim(action.action_id, request_digest=digest)
    store.complete(action.action_id, request_digest=digest, result=None)


def _store(url: str, *, install: bool = False) -> _Store:
    if url.startswith(_SQLITE):
        return SQLiteRuntimeStore(path_of(url))
    return PostgresRuntimeStore(url, create_schema=install, migrate=install)


@asynccontextmanager
async def _open(url: str, connections: int) -> AsyncIterator[_Client]:
    count = 1 if url.startswith(_SQLITE) else connections
    with ExitStack() as stack:
        yield _Client([stack.enter_context(_store(url)) for _ in range(count)])


async def _install(url: str, _: list[Job]) -> Answer:
    _store(url, install=True).close()
    return versions("agentbarrier")


if __name__ == "__main__":
    serve({"install": _install, **works.of(_open)})
