"""The warning about a ledger that was not closed."""

import warnings

__all__ = ["warn_unclosed"]


def warn_unclosed(name: str, runner: object, use: str = "async with ActionDB(...)") -> None:
    """Warns that the ledger `name` was garbage-collected while it was open; for a runner's ``__del__``."""
    warnings.warn(
        f"unclosed ledger {name}: use `{use}`, or call close()",
        ResourceWarning,
        stacklevel=2,
        source=runner,
    )
