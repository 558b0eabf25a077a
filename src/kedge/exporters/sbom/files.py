"""Files of a hostile tree, read within bounds: only regular ones, resolved inside the root, never more than asked.

Owns the reading. Does not know what the files say.
"""

import os
import stat
from collections.abc import Iterator
from typing import Final

from kedge.kernel.paths import open_in_root
from kedge.model.value import dataclass

MOST_ENTRIES: Final = 3_000_000  # of a tree; the rest is not looked at
DEEPEST: Final = 100  # directories below each other
_PART: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file met on a walk: its path from the root without a leading slash."""

    path: str
    name: str
    size: int
    executable: bool


class Files:
    """The tree below a directory descriptor."""

    def __init__(self, root: int) -> None:
        self._root = root
        self.truncated = False

    def open(self, path: str) -> int | None:
        """A descriptor of a regular file, links followed inside the root; None where there is none."""
        try:
            fd = open_in_root(self._root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None

    def read(self, path: str, limit: int) -> bytes | None:
        """The first `limit` bytes of a regular file; None where there is none."""
        fd = self.open(path)
        if fd is None:
            return None
        try:
            return _read(fd, limit)
        finally:
            os.close(fd)

    def names(self, path: str) -> list[str]:
        """The sorted names in a directory; empty where there is none."""
        try:
            fd = open_in_root(self._root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            return sorted(os.listdir(fd))
        except OSError:
            return []
        finally:
            os.close(fd)

    def walk(self) -> Iterator[Found]:
        """Every regular file, in a fixed order. Links are not followed, other file systems do not exist here."""
        left = MOST_ENTRIES
        todo = [("", 0)]
        while todo:
            folder, depth = todo.pop()
            try:
                entries = sorted(self._scan(folder), key=lambda entry: entry[0])
            except OSError:
                continue
            below = []
            for name, status in entries:
                left -= 1
                if left < 0:
                    self.truncated = True
                    return
                path = f"{folder}/{name}" if folder else name
                if stat.S_ISDIR(status.st_mode):
                    if depth < DEEPEST:
                        below.append((path, depth + 1))
                elif stat.S_ISREG(status.st_mode):
                    yield Found(path, name, status.st_size, bool(status.st_mode & 0o111))
            todo += reversed(below)

    def _scan(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = open_in_root(self._root, folder or "/", flags)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    yield entry.name, entry.stat(follow_symlinks=False)
        finally:
            os.close(fd)


def _read(fd: int, limit: int) -> bytes:
    parts, left = [], limit
    while left and (part := os.read(fd, min(left, _PART))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def text_of(data: bytes) -> str:
    """Bytes as text; what is no UTF-8 is replaced."""
    return data.decode("utf-8", "replace")
