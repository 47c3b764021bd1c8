"""A small worker loop: claims the proposals that it has handlers for, runs them, and records their outcome.

It is optional. A service with its own loop calls `ActionDB.claim`, `complete` and `fail`. `run_worker` works in an
event loop, `run_sync_worker` without one.
"""

from operator_core.worker.loop import Handler, run_worker
from operator_core.worker.running import HandlerExit
from operator_core.worker.threads import SyncHandler, run_sync_worker

__all__ = ["Handler", "HandlerExit", "SyncHandler", "run_sync_worker", "run_worker"]
