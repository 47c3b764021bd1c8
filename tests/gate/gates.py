"""Gates on either facade, with the methods of `Gate`."""

from functools import wraps
from typing import Any

from operator_core.gate import Gate, SyncGate
from operator_core.gate.sync import SyncBegun
from tests.looks_async import LooksAsync


class _LooksAsync:
    def __init__(self, of: Any) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if name in ("tool", "tools", "claim", "halt"):
            return found

        @wraps(found)
        async def call(*args: Any, **kwargs: Any) -> Any:
            result = found(*args, **kwargs)
            return _LooksAsync(result) if isinstance(result, SyncBegun) else result

        return call


def gate_of(db: Any, **settings: Any) -> Any:
    """A gate on a ledger of the contract suite; on `SyncActionDB` its calls block the event loop."""
    known = {"run_id": "run-1", "agent_id": "planner", **settings}
    if isinstance(db, LooksAsync):
        return _LooksAsync(SyncGate(db.ledger, **known))
    return Gate(db, **known)


class Calls:
    """A tool that notes with what it was called."""

    def __init__(self, result: Any = None, error: Exception | None = None) -> None:
        self.seen: list[dict[str, Any]] = []
        self.result = result
        self.error = error

    def drain(self, store: int, fast: bool = False) -> Any:
        self.seen.append({"store": store, "fast": fast})
        if self.error is not None:
            raise self.error
        return self.result
