"""The small file actions: making files and directories, removing, linking.

Owns their meaning (BuildKit's file op). Does not know vertices or layers; `root_fd` is the root of a writable merged
tree, and no path leaves it.
"""

import errno
import os
import posixpath
import stat

from kedge.kernel import paths
from kedge.model import ops
from kedge.model.errors import Conflict, InvalidInput, KedgeError, NotFound, StoreError
from kedge.storage import ownership
from kedge.storage.copy_selection import clean, expand
from kedge.storage.disk import store_error
from kedge.storage.ownership import Ids
from kedge.storage.removal import remove_tree
from kedge.storage.tree import Tree

_PARENT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_OF_THE_PATH = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EPERM, errno.EEXIST)


def translated(error: OSError, path: str) -> KedgeError:
    """What an OSError at `path` of an image means to the user."""
    if error.errno in _NO_SPACE:
        return store_error(error, f"write {path}")
    if error.errno == errno.ENOENT:
        return NotFound(f"{path}: not found")
    if error.errno in _OF_THE_PATH:
        return InvalidInput(f"cannot write {path}: {error.strerror}")
    return StoreError(f"cannot write {path}: {error.strerror}")


def make_file(action: ops.MakeFile, root_fd: int, owner: Ids | None = None) -> None:
    """Write `data` at `path`, following symlinks; an existing file keeps its mode. Raises NotFound without a parent."""
    try:
        parent, name = _place(root_fd, paths.resolve_in_root(root_fd, clean(action.path)))
        try:
            _write_file(action, parent, name, owner)
        finally:
            os.close(parent)
    except OSError as error:
        raise translated(error, action.path) from error


def _write_file(action: ops.MakeFile, parent: int, name: str, owner: Ids | None) -> None:
    try:
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        there = None
    if there is not None and not stat.S_ISREG(there.st_mode):
        raise InvalidInput(f"cannot write {action.path}: it is there and no regular file")
    fd = os.open(name, _WRITE, 0o600, dir_fd=parent)
    try:
        rest = memoryview(action.data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if owner is not None:
            ownership.give(fd, owner.uid, owner.gid, ownership.policy())
        os.fchmod(fd, action.mode & 0o777 if there is None else there.st_mode & 0o7777)
        _set_time(fd, action.timestamp)
    finally:
        os.close(fd)


def make_dir(action: ops.MakeDir, root_fd: int, owner: Ids | None = None) -> None:
    """Make `path`; one that exists is left as it is. With `parents`, missing ones are made alike. Raises NotFound."""
    try:
        path = clean(action.path)
        if not action.parents:
            path = paths.resolve_in_root(root_fd, path)
            parent, _ = _place(root_fd, path)
            os.close(parent)
        fd, made = paths.make_dirs_in_root(root_fd, path, action.mode & 0o777)
        os.close(fd)
        for name in reversed(made):
            _dress(root_fd, name, owner, action.timestamp)
    except OSError as error:
        raise translated(error, action.path) from error


def _dress(root_fd: int, path: str, owner: Ids | None, timestamp: int) -> None:
    fd = paths.open_in_root(root_fd, path, _DIRECTORY)
    try:
        if owner is not None:
            ownership.give(fd, owner.uid, owner.gid, ownership.policy())
        _set_time(fd, timestamp)
    finally:
        os.close(fd)


def remove(action: ops.Remove, root_fd: int) -> None:
    """Remove `path` and all below it; its last component is not followed. Raises NotFound unless `allow_not_found`."""
    found = expand(Tree(root_fd), action.path, False) if action.wildcard else [clean(action.path)]
    for path in found:
        if path == "/":
            raise InvalidInput("cannot remove the root directory")
        try:
            parent, name = _place(root_fd, path)
            try:
                remove_tree(name, parent)
            finally:
                os.close(parent)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not action.allow_not_found:
                raise NotFound(f"{path}: not found") from error
        except OSError as error:
            raise translated(error, path) from error


def symlink(action: ops.Symlink, root_fd: int, owner: Ids | None = None) -> None:
    """Make a symlink at `path` with `target` verbatim. Raises Conflict when `path` exists."""
    try:
        parent, name = _place(root_fd, clean(action.path))
        try:
            os.symlink(action.target, name, dir_fd=parent)
            if owner is not None:
                ownership.give(name, owner.uid, owner.gid, ownership.policy(), parent)
            if action.timestamp != -1:
                os.utime(name, ns=(action.timestamp, action.timestamp), dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)
    except FileExistsError:
        raise Conflict(f"{action.path} exists already") from None
    except OSError as error:
        raise translated(error, action.path) from error


def _place(root_fd: int, path: str) -> tuple[int, str]:
    """A descriptor of the directory around `path`, resolved in the root, and the last name, which is not."""
    above, name = posixpath.split(path)
    return paths.open_in_root(root_fd, above, _PARENT), name or "."


def _set_time(fd: int, timestamp: int) -> None:
    if timestamp != -1:
        os.utime(fd, ns=(timestamp, timestamp))
