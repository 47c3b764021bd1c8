"""Clocks that a process sets for itself alone: each `take_...` returns what sets it, in seconds from the right one."""

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, TypeAlias

from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sqlite import handle, opening

Jump: TypeAlias = Callable[[float], None]

_right_time = time.time


def take_own() -> Jump:
    """Python's clock; the databases know nothing of it. To be called when everything is imported."""
    offset = 0.0

    class OfAnyKind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, datetime)

    class Wrong(datetime, metaclass=OfAnyKind):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=offset)

        @classmethod
        def utcnow(cls) -> datetime:  # type: ignore[override]
            return datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=offset)

    time.time = lambda: _right_time() + offset
    time.time_ns = lambda: int((_right_time() + offset) * 1e9)
    for name, module in list(sys.modules.items()):
        ours = name.startswith("operator_core") or name == "__main__"
        if ours and getattr(module, "datetime", None) is datetime:
            module.datetime = Wrong  # type: ignore[attr-defined]

    def jump(seconds: float) -> None:
        nonlocal offset
        offset = seconds

    return jump


def take_sqlites() -> Jump:
    """SQLite's clock on the connections that are made from here on, and nothing else."""
    offset = 0.0
    lock = threading.Lock()
    right = dbapi.connect(":memory:", check_same_thread=False)
    real_connect = dbapi.connect

    def strftime(form: str, *rest: Any) -> Any:
        if rest[:1] == ("now",):
            now = datetime.fromtimestamp(_right_time() + offset, UTC)
            rest = (now.isoformat(" ", "milliseconds").removesuffix("+00:00"), *rest[1:])
        marks = ", ?" * len(rest)
        with lock:
            return right.execute(f"SELECT strftime(?{marks})", (form, *rest)).fetchone()[0]

    def connect(*arguments: Any, **options: Any) -> dbapi.Connection:
        connection = real_connect(*arguments, **options)
        connection.create_function("strftime", -1, strftime)
        return connection

    dbapi.connect = connect  # type: ignore[assignment]
    # Where the schema is not trusted, its triggers may not call a function of Python's.
    for module in (handle, opening):
        module.TRUST = "PRAGMA trusted_schema = ON"  # type: ignore[misc]

    def jump(seconds: float) -> None:
        nonlocal offset
        offset = seconds

    return jump


def take_machines() -> Jump:
    """The clock of the whole process, SQLite's too, if it runs with `faketime` as its environment."""
    file = Path(os.environ["FAKETIME_TIMESTAMP_FILE"])

    def jump(seconds: float) -> None:
        # Put there in one step: the library reads it whenever somebody asks what time it is.
        beside = file.with_suffix(".next")
        beside.write_text(f"{seconds:+.0f}\n")
        beside.rename(file)

    return jump


def faketime(library: Path, file: Path) -> dict[str, str]:
    """The environment of a process whose clock stands in `file`."""
    file.write_text("+0\n")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        # Read anew each time, or a jump would be noticed when ten seconds have passed.
        "FAKETIME_NO_CACHE": "1",
        # Timers run on: what a machine's clock is set to does not touch them.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


TAKE: dict[str, Callable[[], Jump]] = {
    "right": lambda: lambda seconds: None,
    "own": take_own,
    "sqlite's": take_sqlites,
    "machine's": take_machines,
}
