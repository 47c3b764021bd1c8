"""The ticket of a proposed tool call, and what became of the call."""

from dataclasses import dataclass
from typing import Any, Self

from pydantic import TypeAdapter
from pydantic_core import to_json

from operator_core.actions.errors import InvalidValue
from operator_core.gate.errors import GateError

__all__ = ["Outcome", "Ticket"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """A proposed tool call: small JSON that survives a restart of the program.

    It names the proposal and is no permission: whether the call may run is decided by the ledger when it is settled.
    """

    proposal_id: int
    run_id: str
    call_id: str
    name: str
    """The name of the tool, as the model called it."""

    def to_json(self) -> str:
        """The ticket as a JSON object."""
        return to_json(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The ticket of `to_json`; raises `InvalidValue` for anything else."""
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except (TypeError, ValueError) as error:
            raise InvalidValue("ticket", "is not the JSON of a ticket") from error


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a tool call: the `value` that the tool returned, or the `error` that says why there is none.

    If `propose` raises a `GateError`, ``Outcome(call_id, error=error)`` is the outcome of that call.
    """

    call_id: str
    value: Any = None
    error: GateError | None = None
    ticket: Ticket | None = None
    """None if nothing was proposed."""

    @property
    def ok(self) -> bool:
        """Whether the tool was executed and returned."""
        return self.error is None
