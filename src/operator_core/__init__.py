"""An action ledger for AI operators: every tool call is a proposal before it is executed."""

import logging

__all__ = ["__version__"]

__version__ = "0.2.0"

logging.getLogger("operator_core").addHandler(logging.NullHandler())
