"""The files of a merged tree as a program in it would see them.

Owns looking up and bounded reading, always inside the root, never of anything but regular files. Does not know whose
tree it is.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from kedge.kernel.paths import open_in_root, resolve_in_root
from kedge.model.value import dataclass
from kedge.storage import ownership
from kedge.storage.tree import Tree
from kedge.storage.users import User


@dataclass(frozen=True, slots=True)
class Found:
    """A file or directory behind a path, symlinks followed. `mode` as by stat(2); owner as the image has it."""

    mode: int
    uid: int
    gid: int
    size: int

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def has_execute_bit(self) -> bool:
        return bool(self.mode & 0o111)

    def lets_execute(self, user: User) -> bool:
        """May `user` execute the file, or search the directory? (path_resolution(7); root needs any of the bits.)"""
        if user.uid == 0:
            return self.has_execute_bit or stat.S_ISDIR(self.mode)
        if user.uid == self.uid:
            return bool(self.mode & 0o100)
        if self.gid in (user.gid, *user.groups):
            return bool(self.mode & 0o010)
        return bool(self.mode & 0o001)


class Reader:
    """Positioned reads of one open file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def __call__(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`; fewer at the end of the file, none beyond it."""
        if offset < 0 or offset >= self.size or size <= 0:
            return b""
        return os.pread(self._fd, min(size, self.size - offset), offset)


class Files:
    """Files of one tree, valid as long as the tree is mounted."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._how = ownership.policy()

    def find(self, path: str) -> Found | None:
        """What is at `path`; None for nothing, and for a path that leads nowhere or in circles."""
        try:
            fd = open_in_root(self.tree.fd, path, os.O_PATH | os.O_CLOEXEC)
        except (OSError, ValueError):
            return None
        try:
            return self._found(fd)
        finally:
            os.close(fd)

    def is_file(self, path: str) -> bool:
        """Whether a regular file is at `path`."""
        found = self.find(path)
        return found is not None and found.is_file

    @contextmanager
    def reading(self, path: str) -> Iterator[Reader | None]:
        """A reader of the regular file at `path`; None when there is none, or it may not be read."""
        fd = self._open(path)
        try:
            yield None if fd is None else Reader(fd)
        finally:
            if fd is not None:
                os.close(fd)

    def read(self, path: str, limit: int) -> bytes:
        """The first `limit` bytes of the regular file at `path`, empty when there is none."""
        with self.reading(path) as reader:
            return reader(0, limit) if reader else b""

    def names(self, directory: str, most: int = 1000) -> list[str]:
        """Names in a directory, in no order; [] when there is none."""
        try:
            fd = open_in_root(self.tree.fd, directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError):
            return []
        try:
            with os.scandir(fd) as entries:
                return [entry.name for entry, _ in zip(entries, range(most), strict=False)]
        finally:
            os.close(fd)

    def resolved(self, path: str) -> str:
        """`path` without symlinks."""
        try:
            return resolve_in_root(self.tree.fd, path)
        except (OSError, ValueError):
            return path

    def _open(self, path: str) -> int | None:
        """By way of O_PATH: opening a FIFO would block, opening a device act."""
        try:
            seen = open_in_root(self.tree.fd, path, os.O_PATH | os.O_CLOEXEC)
        except (OSError, ValueError):
            return None
        try:
            if not stat.S_ISREG(os.fstat(seen).st_mode):
                return None
            return os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        finally:
            os.close(seen)

    def _found(self, fd: int) -> Found:
        status = os.fstat(fd)
        owner = (status.st_uid, status.st_gid)
        if self._how is not ownership.Policy.REAL:
            owner = self._recorded(fd, status) or owner
        return Found(status.st_mode, *owner, status.st_size)

    def _recorded(self, fd: int, status: os.stat_result) -> tuple[int, int] | None:
        try:
            value = os.getxattr(f"/proc/self/fd/{fd}", ownership.OWNER_XATTR)
        except OSError:
            return None
        record = ownership.decode(value, status.st_uid, status.st_gid, self._how)
        return (record.uid, record.gid) if record else None
