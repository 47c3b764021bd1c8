"""The revisions' scripts, run by Alembic, which is imported when it is needed."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["alembic_config", "postgresql_script", "upgrade_on"]

# Alembic keeps the migration under way in globals of its modules: one at a time in a process.
_ALEMBIC: Final = threading.Lock()


def alembic_config(options: Mapping[str, str] = {}) -> "Config":
    """Alembic's configuration for the ledger's revisions, wherever they are installed."""
    import argparse
    import sys

    from alembic.config import Config

    home = _home()
    # Alembic's own default is what stdout was when it was imported, which may be closed by now.
    config = Config(home / "alembic.ini", stdout=sys.stdout)
    config.cmd_opts = argparse.Namespace(x=[f"{key}={value}" for key, value in options.items()])
    return config


def postgresql_script() -> str:
    """The schema at head as a script for PostgreSQL, as ``alembic upgrade head --sql`` prints it."""
    import io

    from alembic import command

    config = alembic_config({"url": "postgresql://"})
    config.output_buffer = io.StringIO()
    with _ALEMBIC:
        command.upgrade(config, "head", sql=True)
    return config.output_buffer.getvalue()


def _home() -> Path:
    """The folder with ``alembic.ini`` and ``migrations``: the package, or the checkout it is in."""
    here = Path(__file__).resolve()
    for home in (here.parents[2], here.parents[4]):
        if (home / "migrations" / "env.py").is_file():
            return home
    raise FileNotFoundError("operator-core was installed without its migrations")


def upgrade_on(conn: Connection, revision: str = "head", options: Mapping[str, str] = {}) -> None:
    """Runs the revisions in the transaction that `conn` is in, which holds what lock there is to hold."""
    from alembic import command

    config = alembic_config(options)
    config.attributes["connection"] = conn
    config.attributes["locked"] = True
    while not _ALEMBIC.acquire(blocking=False):
        time.sleep(0.005)
        # Where this runs inside an event loop, the other migration may do so too and needs a turn.
        conn.exec_driver_sql("SELECT 1")
    try:
        command.upgrade(config, revision)
    finally:
        _ALEMBIC.release()
