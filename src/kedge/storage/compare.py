"""What one tree has over another: paths that are gone, and paths that are new or other.

Owns what counts as a change: type, mode, owner, size, content, link target, device, extended attributes. Files with
the same size and time are taken for the same, unless the time has no part below a second (then somebody set it, and
content decides; as containerd's differ does). Does not know layers or ops.
"""

import os
import stat
from collections.abc import Iterator

from kedge.model.value import dataclass, field

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 1 << 20


@dataclass
class Changes:
    """Paths relative to the root. `gone` names the topmost of a removed directory only. It is a Tree's filter, too."""

    gone: list[str] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    _above: set[str] = field(default_factory=set)

    def add(self, path: str) -> None:
        """Note a new or changed path."""
        self.changed.add(path)
        parent = path.rpartition("/")[0]
        while parent and parent not in self._above:
            self._above.add(parent)
            parent = parent.rpartition("/")[0]

    def matches(self, path: str) -> bool:
        """Is the path to be left out of a copy of what changed?"""
        return path not in self.changed

    def may_match_below(self, directory: str) -> bool:
        """May the directory, left out itself, contain a path that is not?"""
        return directory in self._above


def compare(lower: int, upper: int) -> Changes:
    """The changes from the tree at descriptor `lower` to that at `upper`. Raises OSError."""
    changes = Changes()
    stack = [""]
    while stack:
        folder = stack.pop()
        old, new = _entries(lower, folder), _entries(upper, folder)
        changes.gone += [_join(folder, name) for name in sorted(old.keys() - new.keys())]
        for name in sorted(new):
            path = _join(folder, name)
            before, after = old.get(name), new[name]
            if before is None:
                for each in _everything(upper, path, after):
                    changes.add(each)
            elif not _same(lower, upper, path, before, after):
                changes.add(path)
            if before is not None and stat.S_ISDIR(after.st_mode):
                if stat.S_ISDIR(before.st_mode):
                    stack.append(path)
                else:
                    for each in _everything(upper, path, after):
                        changes.add(each)
    return changes


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _entries(root: int, folder: str) -> dict[str, os.stat_result]:
    fd = os.open(folder or ".", _DIRECTORY, dir_fd=root)
    try:
        return {name: os.stat(name, dir_fd=fd, follow_symlinks=False) for name in os.listdir(fd)}
    finally:
        os.close(fd)


def _everything(root: int, path: str, status: os.stat_result) -> Iterator[str]:
    yield path
    if stat.S_ISDIR(status.st_mode):
        for name, below in _entries(root, path).items():
            yield from _everything(root, f"{path}/{name}", below)


def _same(lower: int, upper: int, path: str, before: os.stat_result, after: os.stat_result) -> bool:
    facts = [(s.st_mode, s.st_uid, s.st_gid, s.st_rdev) for s in (before, after)]
    if facts[0] != facts[1]:
        return False
    if stat.S_ISLNK(after.st_mode):
        return os.readlink(path, dir_fd=lower) == os.readlink(path, dir_fd=upper)
    if stat.S_ISREG(after.st_mode):
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            return False
        if after.st_mtime_ns % 10**9 == 0 and not _same_content(lower, upper, path):
            return False
    return _attributes(lower, path) == _attributes(upper, path)


def _same_content(lower: int, upper: int, path: str) -> bool:
    with open(os.open(path, _FILE, dir_fd=lower), "rb") as old, open(os.open(path, _FILE, dir_fd=upper), "rb") as new:
        while piece := old.read(_PIECE):
            if piece != new.read(_PIECE):
                return False
        return not new.read(1)


def _attributes(root: int, path: str) -> dict[str, bytes]:
    place = f"/proc/self/fd/{root}/{path}"
    try:
        return {
            name: os.getxattr(place, name, follow_symlinks=False) for name in os.listxattr(place, follow_symlinks=False)
        }
    except OSError:
        return {}
