"""What all verbs of the ledger have in common: where they run, and who acts."""

from operator_core.actions.errors import NotOpen
from operator_core.db import checks
from operator_core.db.engine import UnitRunner

__all__ = ["Verbs"]


class Verbs:
    """A place for units of work, and what holds for all calls."""

    def __init__(self, runner: UnitRunner | None, actor: str, max_json_bytes: int) -> None:
        self._runner = runner
        self._actor = actor
        self._max_json_bytes = max_json_bytes

    @property
    def _units(self) -> UnitRunner:
        if self._runner is None:
            raise NotOpen("the ledger is not open: use `async with ActionDB(...) as db:`")
        return self._runner

    def _who(self, actor: str | None) -> str:
        return self._actor if actor is None else checks.check_actor(actor)
