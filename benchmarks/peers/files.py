"""SQLite databases of the run's own in one folder: each turn's is new."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.peers.databases import Written

__all__ = ["Files"]


class Files:
    """Makes databases and removes them, as `Databases` does on a server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def new(self, name: str, template: str = "") -> str:
        """The URL of a database, a copy of the template at that URL, or of none yet."""
        path = self._folder / f"{name}.db"
        if template:
            # Its last connection is closed, so that no log is left beside it.
            shutil.copyfile(_path(template), path)
        return f"sqlite:///{path}"

    async def drop(self, url: str) -> None:
        path = _path(url)
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()

    async def written(self, url: str, creates: int) -> Written:
        """Nothing is counted here."""
        return {}


def _path(url: str) -> Path:
    return Path(urlsplit(url).path.removeprefix("/"))
