"""The run's own SQLite databases in one folder, a new one for each turn."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.peers.databases import Written

__all__ = ["Files", "path_of"]


class Files:
    """Makes databases and removes them, as `Databases` does on a server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def new(self, name: str, template: str = "") -> str:
        """The URL of a copy of the template at that URL, or of a database that does not exist yet."""
        path = self._folder / f"{name}.db"
        if template:
            # The last connection of the template is closed, so that no log is left beside it.
            shutil.copyfile(path_of(template), path)
        return f"sqlite:///{path}"

    async def drop(self, url: str) -> None:
        path = path_of(url)
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()

    async def written(self, url: str, creates: int) -> Written:
        """Counts nothing."""
        return {}


def path_of(url: str) -> Path:
    """The file that a URL of SQLite names."""
    return Path(urlsplit(url).path.removeprefix("/"))
