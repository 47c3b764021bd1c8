"""The command line, ``operator-core``. The extra ``cli`` installs its dependencies."""

import sys

from operator_core.actions.errors import InvalidValue

__all__ = ["main"]

_EXTRA = ("typer", "rich")


def main() -> None:
    """Runs the command line; without its extra, prints how to install it and exits with status 1."""
    try:
        from operator_core.cli.app import run  # noqa: PLC0415 - typer and rich are optional
    except InvalidValue as error:
        # The settings that are read when the ledger is imported.
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit("operator-core's command line needs its extra: pip install 'operator-core[cli]'")
    run()
