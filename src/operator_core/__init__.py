"""An action ledger for AI operators: every tool call is a proposal before it is executed."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from operator_core import messages
    from operator_core.gate import Gate, SyncGate

__all__ = ["Gate", "SyncGate", "__version__", "messages"]

__version__ = "0.2.0"

logging.getLogger("operator_core").addHandler(logging.NullHandler())

_FROM: Final = {"Gate": "operator_core.gate", "SyncGate": "operator_core.gate"}


def __getattr__(name: str) -> Any:
    # Imported when used: the vocabulary alone takes a third of the time.
    if name == "messages":
        return import_module("operator_core.messages")
    if name in _FROM:
        return getattr(import_module(_FROM[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
