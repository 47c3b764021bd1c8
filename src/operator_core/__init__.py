"""An action ledger for AI operators: tool calls are proposals before they are acts."""

import logging

__all__ = ["__version__"]

__version__ = "0.2.0"

logging.getLogger("operator_core").addHandler(logging.NullHandler())
