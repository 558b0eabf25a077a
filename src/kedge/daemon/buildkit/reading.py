"""Looking into a tree: files, directories and their metadata, for the gateway.

Owns the look; every path is resolved inside the tree (openat2), links included. Does not know who asks, nor what the
tree is of.
"""

import os
import stat
from typing import Any, Final

from kedge.daemon.sessions.modes import to_go
from kedge.daemon.wire import fsutil_stat
from kedge.kernel.paths import open_in_root, resolve_in_root
from kedge.model.errors import InvalidInput, NotFound
from kedge.model.globs import glob_match

LARGEST_READ: Final = 16 << 20  # bytes in one answer; clients' messages hold no more
_MOST_ENTRIES: Final = 100_000


def read_file(root: int, path: str, offset: int, length: int) -> bytes:
    """Bytes of a regular file below a root directory's descriptor. Raises NotFound, InvalidInput."""
    if offset < 0 or length < 0 or "\0" in path:
        raise InvalidInput("invalid range")
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _missing(path, error) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):  # looked at before: open() takes no directory
        os.close(fd)
        raise InvalidInput(f"{path[:200]} is no regular file")
    with open(fd, "rb") as file:
        file.seek(offset)
        data = file.read(min(length or LARGEST_READ + 1, LARGEST_READ + 1))
    if len(data) > LARGEST_READ:
        raise InvalidInput(f"{path[:200]} has more than {LARGEST_READ >> 20} MiB: read it in parts")
    return data


def read_directory(root: int, path: str, pattern: str) -> list[Any]:
    """The Stat of every entry whose name matches `pattern` (all, if it is empty), by name."""
    try:
        fd = open_in_root(root, path or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _missing(path, error) from None
    try:
        names = sorted(os.listdir(fd))
        if len(names) > _MOST_ENTRIES:
            raise InvalidInput(f"{path[:200]} has more than {_MOST_ENTRIES} entries")
        return [_stat(fd, name, name) for name in names if not pattern or glob_match(pattern, name)]
    finally:
        os.close(fd)


def stat_file(root: int, path: str) -> Any:
    """The Stat of one path; a final link is not followed."""
    folder, _, name = path.rstrip("/").rpartition("/")
    try:
        if name in ("", ".", ".."):
            folder, name = resolve_in_root(root, path or "/"), "."
        fd = open_in_root(root, folder or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _missing(path, error) from None
    try:
        return _stat(fd, name, os.path.basename(path) if name != "." else "/")
    except (OSError, ValueError) as error:
        raise _missing(path, error) from None
    finally:
        os.close(fd)


def _stat(fd: int, name: str, shown: str) -> Any:
    told = os.lstat(name, dir_fd=fd)
    device = stat.S_ISCHR(told.st_mode) or stat.S_ISBLK(told.st_mode)
    return fsutil_stat.Stat(
        path=_readable(shown),
        mode=to_go(told.st_mode),
        uid=told.st_uid,
        gid=told.st_gid,
        size=told.st_size if stat.S_ISREG(told.st_mode) else 0,
        modTime=told.st_mtime_ns,
        linkname=_readable(os.readlink(name, dir_fd=fd)) if stat.S_ISLNK(told.st_mode) else "",
        devmajor=os.major(told.st_rdev) if device else 0,
        devminor=os.minor(told.st_rdev) if device else 0,
    )


def _readable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()  # this message's names are UTF-8


def _missing(path: str, error: OSError | ValueError) -> NotFound:
    reason = getattr(error, "strerror", None) or "no such file or directory"  # a NUL is in no name
    return NotFound(f"open {path[:200]}: {reason.lower()}")
