"""A small worker loop: claims the proposals that it has handlers for, runs them, and records their outcome.

It is optional. A service with its own loop calls `ActionDB.claim`, `complete` and `fail`.
"""

from operator_core.worker.loop import Handler, run_worker
from operator_core.worker.running import HandlerExit

__all__ = ["Handler", "HandlerExit", "run_worker"]
