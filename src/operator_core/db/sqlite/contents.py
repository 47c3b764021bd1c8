"""Detects that a program other than SQLite, such as ``cp``, wrote to a file in WAL mode.

In this mode SQLite changes the file itself only in checkpoints, and the log's index shows each of them (SQLite,
"WAL-mode File Format", 2.2 and 2.3). If a file changed without a checkpoint, another program wrote to it.
"""

import os
import threading
from typing import Final, NamedTuple, TypeAlias
from zlib import crc32

__all__ = ["Contents", "Inode", "inode_of"]

Inode: TypeAlias = tuple[int, int]

_SAMPLE: Final = 1 << 18

_SALTS: Final = slice(32, 40)
_WRITTEN_BACK: Final = slice(96, 100)
_TO_WRITE_BACK: Final = slice(128, 132)
_INDEX: Final = _TO_WRITE_BACK.stop


def inode_of(found: os.stat_result) -> Inode:
    """The device and the inode, which identify a file."""
    return found.st_dev, found.st_ino


class _Seen(NamedTuple):
    times: tuple[int, int]
    """The file's modification time and its size."""
    checkpoint: bytes
    """The identity of the last checkpoint, which was complete."""
    sample: int


class Contents:
    """The state of a ledger's file at the last look. Several threads may use it.

    `watched` means that a connection is open all the time. Otherwise SQLite may recreate the index between
    two looks, and an empty index does not distinguish checkpoints.
    """

    def __init__(self, path: str, *, watched: bool) -> None:
        self._path = path
        self._watched = watched
        self._file = _Descriptor()
        self._index = _Descriptor()
        self._lock = threading.Lock()
        self._seen: _Seen | None = None

    def remember(self) -> None:
        """Stores the file's state. If it can't be read, as outside WAL mode, no write is detected."""
        with self._lock:
            self._seen = self._look()

    def checkpoint(self) -> bytes | None:
        """The identity of the last checkpoint; None while a checkpoint runs, or if it is unknown."""
        try:
            return self._checkpoint()
        except OSError:
            return None

    def is_as_before(self, found: os.stat_result, index: bytes | None) -> bool:
        """Whether the last look still holds, which is then known without another one. `index` is from `glance`."""
        seen = self._seen
        if seen is None or index is None or seen.times != _times(found):
            return False
        if index[_WRITTEN_BACK] != index[_TO_WRITE_BACK]:
            return True
        return index[_SALTS] + index[_TO_WRITE_BACK] == seen.checkpoint

    def glance(self) -> bytes | None:
        """The index, or what else has its descriptor's number by now: it only serves to confirm the last look."""
        return self._index.glance(_INDEX)

    def were_replaced(self, found: os.stat_result, checkpoint: bytes | None) -> bool:
        """Whether a program other than SQLite has written to the file.

        `found` is the file's current status, and `checkpoint` the result of `checkpoint()` before it. With None,
        which saves a reader time, the checkpoint of the last write counts.
        """
        seen = self._seen
        if checkpoint is None and (seen is None or seen.times == _times(found)):
            return False
        with self._lock:
            seen = self._seen
            if seen is not None and seen.times == _times(found):
                if checkpoint is not None and checkpoint != seen.checkpoint:
                    # The log was restarted, or there was nothing to write back.
                    self._seen = seen._replace(checkpoint=checkpoint)
                return False
            now = self._look()
            if (
                seen is not None
                and now is not None
                and now.checkpoint == seen.checkpoint
                and now.sample != seen.sample
            ):
                return True
            self._seen = now
            return False

    def _look(self) -> _Seen | None:
        try:
            before = os.stat(self._path)
            checkpoint = self._checkpoint()
            if checkpoint is None:
                return None
            sample = self._sample(before)
            # SQLite writes nothing to the file after the index shows that all is written back.
            after = os.stat(self._path)
        except OSError:
            return None
        if sample is None or _times(before) != _times(after):
            return None
        return _Seen(_times(after), checkpoint, sample)

    def _checkpoint(self) -> bytes | None:
        index = self._index.read(inode_of(os.stat(f"{self._path}-shm")), _INDEX, 0)
        if index is None or index[_WRITTEN_BACK] != index[_TO_WRITE_BACK]:
            return None
        if not self._watched and not any(index[_SALTS]):
            return None
        return index[_SALTS] + index[_TO_WRITE_BACK]

    def _sample(self, found: os.stat_result) -> int | None:
        """A checksum of the file's size, beginning and end: ``touch`` changes a file's time but not its content.

        It is no digest, because an accident is to be noticed, not a forgery: blake2b takes ten times as long, which
        was a fifth of opening a ledger.
        """
        checksum = crc32(str(found.st_size).encode())
        for start in dict.fromkeys((0, max(0, found.st_size - _SAMPLE))):
            part = self._file.read(inode_of(found), _SAMPLE, start)
            if part is None:
                return None
            checksum = crc32(part, checksum)
        return checksum


def _times(found: os.stat_result) -> tuple[int, int]:
    return found.st_mtime_ns, found.st_size


class _Descriptor:
    """Reads a file that SQLite has open, by SQLite's own descriptor.

    Opening and closing the file again would release the process's locks on it (SQLite, "How To Corrupt", 2.2).
    """

    def __init__(self) -> None:
        self._number = -1

    def glance(self, size: int) -> bytes | None:
        """The first bytes of whatever file now has the number; None without a number, or if there are fewer."""
        if self._number < 0:
            return None
        try:
            found = os.pread(self._number, size, 0)
        except OSError:
            return None
        return found if len(found) == size else None

    def read(self, inode: Inode, size: int, start: int) -> bytes | None:
        """Bytes of the file with `inode`; None if the process does not have it open for reading. Raises `OSError`."""
        found = _read(self._number, inode, size, start)
        if found is None:
            for name in os.listdir("/dev/fd"):
                found = _read(int(name), inode, size, start)
                if found is not None:
                    self._number = int(name)
                    break
        return found


def _read(number: int, inode: Inode, size: int, start: int) -> bytes | None:
    try:
        if inode_of(os.fstat(number)) != inode:
            return None
        found = os.pread(number, size, start)
        # The descriptor may have been closed meanwhile, and its number reused for another file.
        return found if inode_of(os.fstat(number)) == inode else None
    except OSError:
        return None
