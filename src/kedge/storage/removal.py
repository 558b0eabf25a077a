"""Removing a tree below a directory descriptor.

Owns removal that never follows a symlink and needs neither recursion nor a descriptor for each level, however deep the
tree.
"""

import errno
import os
import stat

from kedge.model.errors import StoreError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(name: str | bytes, directory_fd: int) -> bool:
    """Remove `name` in the directory and all below it; False if it was no directory, so that only itself went.

    Raises FileNotFoundError when it is not there, OSError when something may not go, StoreError if the tree is moved
    away meanwhile.
    """
    try:
        os.unlink(name, dir_fd=directory_fd)
        return False
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode):
            raise
    _empty(os.open(name, _DIRECTORY, dir_fd=directory_fd))
    os.rmdir(name, dir_fd=directory_fd)
    return True


def _empty(fd: int) -> None:
    """Remove all that is in the directory `fd`, and close it.

    Going up is by `..`, which another process could have bent by moving the directory: so the parent must be the one
    that was left.
    """
    parents: list[tuple[str, tuple[int, int]]] = []
    try:
        while True:
            below = _unlink_files(fd)
            if below is not None:
                here = os.fstat(fd)
                child = os.open(below, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = child
                parents.append((below, (here.st_dev, here.st_ino)))
                continue
            if not parents:
                return
            name, identity = parents.pop()
            parent = os.open("..", _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = parent
            above = os.fstat(fd)
            if (above.st_dev, above.st_ino) != identity:
                raise StoreError(f"the directory {name} was moved while it was removed")
            os.rmdir(name, dir_fd=fd)
    finally:
        os.close(fd)


def _unlink_files(fd: int) -> str | None:
    """Remove the entries that are not directories, and empty directories; the name of one that is not empty, if any."""
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
            continue
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return name
    return None
