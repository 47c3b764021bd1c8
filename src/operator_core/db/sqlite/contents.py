"""Noticing that a file in WAL mode was written to by something that is not SQLite, such as ``cp``.

There SQLite changes the file itself only by checkpoints, and each leaves its mark in the log's index (SQLite, "WAL-mode
File Format", 2.2 and 2.3). A file that has changed without one was written to by somebody else.
"""

import hashlib
import os
import threading
from typing import Final, NamedTuple, TypeAlias

__all__ = ["Contents", "Inode", "inode_of"]

Inode: TypeAlias = tuple[int, int]

_SAMPLE: Final = 1 << 18

_SALTS: Final = slice(32, 40)
_WRITTEN_BACK: Final = slice(96, 100)
_TO_WRITE_BACK: Final = slice(128, 132)


def inode_of(found: os.stat_result) -> Inode:
    """The device and the inode, which no two files have in common."""
    return found.st_dev, found.st_ino


class _Seen(NamedTuple):
    times: tuple[int, int]
    """When the file was last written to, and its size."""
    checkpoint: bytes
    """Which checkpoint was the last; it was over."""
    sample: bytes


class Contents:
    """What a ledger's file held when it was last looked at. For several threads.

    `watched`: a connection stays open all the time. Without one the index may be made anew between two looks,
    and one in which nothing stands yet does not tell one checkpoint from another.
    """

    def __init__(self, path: str, *, watched: bool) -> None:
        self._path = path
        self._watched = watched
        self._file = _Descriptor()
        self._index = _Descriptor()
        self._lock = threading.Lock()
        self._seen: _Seen | None = None

    def remember(self) -> None:
        """Looks at the file; where it can't, as elsewhere than in WAL mode, nothing will be noticed."""
        with self._lock:
            self._seen = self._look()

    def checkpoint(self) -> bytes | None:
        """Which checkpoint was the last; None while one is under way, and if there is no telling."""
        try:
            return self._checkpoint()
        except OSError:
            return None

    def were_replaced(self, found: os.stat_result, checkpoint: bytes | None) -> bool:
        """Whether somebody else has written to the file.

        `found` is what was just said of it, and `checkpoint` what was said before that. Without that, which saves
        a reader some time, the last write's is taken.
        """
        seen = self._seen
        if checkpoint is None and (seen is None or seen.times == _times(found)):
            return False
        with self._lock:
            seen = self._seen
            if seen is not None and seen.times == _times(found):
                if checkpoint is not None and checkpoint != seen.checkpoint:
                    # The log has begun anew, or there was nothing to write back.
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
            # Nothing is written any more once the index says that all is written back.
            after = os.stat(self._path)
        except OSError:
            return None
        if sample is None or _times(before) != _times(after):
            return None
        return _Seen(_times(after), checkpoint, sample)

    def _checkpoint(self) -> bytes | None:
        index = self._index.read(inode_of(os.stat(f"{self._path}-shm")), _TO_WRITE_BACK.stop, 0)
        if index is None or index[_WRITTEN_BACK] != index[_TO_WRITE_BACK]:
            return None
        if not self._watched and not any(index[_SALTS]):
            return None
        return index[_SALTS] + index[_TO_WRITE_BACK]

    def _sample(self, found: os.stat_result) -> bytes | None:
        """A digest of the file's size, beginning and end: its owner may have done no more than touch it."""
        digest = hashlib.blake2b(str(found.st_size).encode())
        for start in (0, max(0, found.st_size - _SAMPLE)):
            part = self._file.read(inode_of(found), _SAMPLE, start)
            if part is None:
                return None
            digest.update(part)
        return digest.digest()


def _times(found: os.stat_result) -> tuple[int, int]:
    return found.st_mtime_ns, found.st_size


class _Descriptor:
    """Reads a file that SQLite has open, by SQLite's own descriptor.

    To open and close it anew would give up the locks that the process has on it (SQLite, "How To Corrupt", 2.2).
    """

    def __init__(self) -> None:
        self._number = -1

    def read(self, inode: Inode, size: int, start: int) -> bytes | None:
        """Bytes of the file with that inode; None if nobody has it open for reading. Raises `OSError`."""
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
        # It may have been closed meanwhile, and the number have become another file's.
        return found if inode_of(os.fstat(number)) == inode else None
    except OSError:
        return None
