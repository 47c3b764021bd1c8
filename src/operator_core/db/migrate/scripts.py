"""Runs the revisions' scripts by Alembic, which is imported only when it is needed."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["alembic_config", "postgresql_script", "upgrade_on"]

# Alembic keeps the running migration in globals of its modules, so a process runs one at a time.
_ALEMBIC: Final = threading.Lock()


def alembic_config(options: Mapping[str, str] = {}) -> "Config":
    """Alembic's configuration for the ledger's revisions, in the package or in a checkout."""
    import argparse
    import sys

    from alembic.config import Config

    home = _home()
    # Alembic's own default is the stdout at the time of its import, which may be closed.
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
    """The folder with ``alembic.ini`` and ``migrations``: the package, or its checkout."""
    here = Path(__file__).resolve()
    for home in (here.parents[2], here.parents[4]):
        if (home / "migrations" / "env.py").is_file():
            return home
    raise FileNotFoundError("operator-core was installed without its migrations")


def upgrade_on(conn: Connection, revision: str = "head", options: Mapping[str, str] = {}) -> None:
    """Runs the revisions in the current transaction of `conn`, which must hold the migration lock."""
    from alembic import command

    config = alembic_config(options)
    config.attributes["connection"] = conn
    config.attributes["locked"] = True
    while not _ALEMBIC.acquire(blocking=False):
        time.sleep(0.005)
        # Inside an event loop, the other migration may run in the same loop and needs a turn.
        conn.exec_driver_sql("SELECT 1")
    try:
        command.upgrade(config, revision)
    finally:
        _ALEMBIC.release()
