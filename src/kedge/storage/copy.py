"""Copying between trees as COPY and ADD mean it (BuildKit's file op, fsutil's copy).

Owns destination rules and what is made there. Which files is `copy_selection`'s answer. Does not know vertices or
layers: the destination is the writable merged tree of a draft, where the kernel copies up.

The rules: missing directories on the way are made 0755 (or with the action's octal mode). A directory is copied *into*
an existing destination under its own name, unless only its contents are meant; a file into an existing directory;
everything else becomes the destination. Symlinks on the way to the destination are followed inside the root; what
stands at a copied file's place is replaced, a symlink not followed. Directories merge; a copied one gives its metadata
to one that was there, but for the topmost.
"""

import errno
import os
import posixpath
import stat
from collections.abc import Callable

from kedge.kernel import paths
from kedge.model import ops
from kedge.model.errors import InvalidInput, NotFound, SourceError
from kedge.model.value import dataclass, replace
from kedge.storage import archives, ownership
from kedge.storage.checksum import Witness, signature
from kedge.storage.copy_bytes import copy_bytes
from kedge.storage.copy_metadata import Metadata, read_metadata
from kedge.storage.copy_mode import parse_mode
from kedge.storage.copy_selection import Filters, Found, clean, expand, locate, missing, walk
from kedge.storage.file_actions import translated
from kedge.storage.ownership import Ids
from kedge.storage.removal import remove_tree
from kedge.storage.tree import Tree

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PARENT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_OWN_MODE = -1
_OWN_TIME = -1


def copy(
    action: ops.Copy, source: Tree, dest_fd: int, owner: Ids | None = None, *, witness: Witness | None = None
) -> None:
    """Perform `action` from `source` into the tree whose root is `dest_fd`.

    `owner` None keeps each file's own (0:0 for a client's directory). With `witness`, a file that changed since it was
    checksummed raises SourceError. Raises NotFound for a source that is not there, InvalidInput for a destination of
    the wrong kind or a bad mode, IntegrityError for a hostile archive, StoreError for a full disk. Not atomic.
    """
    sources = expand(source, action.src, action.follow_symlinks) if action.wildcard else [clean(action.src)]
    if not sources:
        if action.allow_empty_wildcard:
            return
        raise missing(source, clean(action.src))
    copier = _Copier(action, source, dest_fd, owner, witness)
    try:
        copier.check_parent()
        for path in sources:
            if not (action.unpack and copier.unpack(path)):
                copier.copy(path)
        copier.finish()
    except OSError as error:
        raise translated(error, action.dest) from error


@dataclass(slots=True)
class _Below:
    """A directory being filled: its path below the copied one, descriptors of its parent and itself, and what it shall
    get.
    """

    path: str
    parent: int
    fd: int
    name: str
    metadata: Metadata | None
    mode: int
    mtime: int | None
    fresh: bool = False  # made by this copy: nothing can be in the way


class _Copier:
    """One action's state: the names of files seen with several, and the directories made on the way."""

    def __init__(self, action: ops.Copy, source: Tree, root: int, owner: Ids | None, witness: Witness | None) -> None:
        self._action = action
        self._source = source
        self._root = root
        self._owner = owner
        self._witness = witness
        self._filters = Filters(action.include, action.exclude)
        self._symbolic = parse_mode(action.mode_text) if action.mode_text else None
        self._how = ownership.policy()
        self._links: dict[tuple[int, int], str] = {}
        self._made: list[str] = []

    # ---- where -------------------------------------------------------------------------------------------------------

    def check_parent(self) -> None:
        """Without create_dest_path, the directory around the destination must be there."""
        if self._action.create_dest_path:
            return
        around = posixpath.dirname(paths.resolve_in_root(self._root, clean(self._action.dest)))
        if self._kind(around) is None:
            raise NotFound(f"{self._action.dest}: the directory around it does not exist")

    def _destination(self, path: str, is_directory: bool) -> str:
        """The resolved path that the source at `path` becomes; what leads there is made."""
        text = self._action.dest
        if text.endswith(("/", "/.")) or clean(text) == "/":
            self._make_dirs(clean(text))
        else:
            self._make_dirs(posixpath.dirname(clean(text)))
        dest = paths.resolve_in_root(self._root, clean(text))
        there = self._kind(dest)
        contents_only = self._action.contents_only and is_directory
        if (is_directory and not contents_only and there is not None) or (not is_directory and there == stat.S_IFDIR):
            dest = posixpath.join(dest, posixpath.basename(path))
        self._make_dirs(dest if contents_only and there is None else posixpath.dirname(dest))
        return clean(dest)

    def _kind(self, path: str) -> int | None:
        try:
            fd = paths.open_in_root(self._root, path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return stat.S_IFMT(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def _make_dirs(self, path: str, *, own_mode: bool = True) -> None:
        plain = self._action.mode == _OWN_MODE or self._symbolic or not own_mode
        try:
            fd, made = paths.make_dirs_in_root(self._root, path, 0o755 if plain else self._action.mode & 0o777)
        except NotADirectoryError:
            raise InvalidInput(
                f"cannot copy to {self._action.dest}: something on the way to it is no directory"
            ) from None
        os.close(fd)
        self._made += made
        if self._owner is not None:
            uid, gid = self._owner.uid, self._owner.gid
            for name in made:
                self._with_directory(name, lambda fd: ownership.give(fd, uid, gid, self._how))

    def _with_directory(self, path: str, change: Callable[[int], None]) -> None:
        fd = paths.open_in_root(self._root, path, _DIRECTORY)
        try:
            change(fd)
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Give the directories made on the way the action's time, now that nothing is put into them any more."""
        if self._action.timestamp != _OWN_TIME:
            for path in self._made:
                self._with_directory(path, lambda fd: os.utime(fd, ns=(self._action.timestamp,) * 2))

    # ---- archives ----------------------------------------------------------------------------------------------------

    def unpack(self, path: str) -> bool:
        """Unpack the source at the destination, if it is an archive."""
        real = locate(self._source, path, True)
        seen = paths.open_in_root(self._source.fd, real, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(seen).st_mode):
                return False
            fd = os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(seen)
        with open(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            if not archives.is_archive(file):
                return False
            self._check_witness(real, status)
            dest = paths.resolve_in_root(self._root, clean(self._action.dest))
            self._make_dirs(dest, own_mode=False)  # modes are the archive's
            below = paths.open_in_root(self._root, dest, _DIRECTORY)
            try:
                archives.unpack_archive(file, below, self._owner)
            finally:
                os.close(below)
            self._check_unchanged(real, status, fd)
        return True

    # ---- files -------------------------------------------------------------------------------------------------------

    def copy(self, path: str) -> None:
        """Copy the source at `path` and all that is chosen below it. Hard links are kept within it, as in BuildKit."""
        self._links.clear()
        real = locate(self._source, path, self._action.follow_symlinks)
        steps = walk(self._source, real, self._filters)
        first = next(steps, None)
        if first is None:
            raise missing(self._source, real)
        dest = self._destination(path, stat.S_ISDIR(first.status.st_mode))
        parent = paths.open_in_root(self._root, posixpath.dirname(dest), _PARENT)
        stack = [_Below("", parent, parent, "", None, 0, 0)]
        try:
            self._place(first, dest, stack)
            for found in steps:
                while len(stack) > 2 and not found.path.startswith(stack[-1].path + "/"):
                    self._leave(stack.pop())
                self._place(found, dest, stack)
            while len(stack) > 1:
                self._leave(stack.pop())
        finally:
            for below in stack:
                os.close(below.fd)

    def _place(self, found: Found, dest: str, stack: list[_Below]) -> None:
        parent = stack[-1].fd
        name = posixpath.basename(found.path) if found.path else posixpath.basename(dest) or "."
        mode = found.status.st_mode
        if stat.S_ISDIR(mode):
            stack.append(self._directory(found, parent, name))
            return
        if not stack[-1].fresh:
            self._make_way(found, parent, name)
        where = posixpath.join(dest, found.path) if found.path else dest
        metadata = self._metadata(found)
        if stat.S_ISREG(mode):
            self._regular(found, parent, name, where, metadata)
            return
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(found.name, dir_fd=found.directory_fd), name, dir_fd=parent)
        else:
            if stat.S_ISCHR(mode) and not found.status.st_rdev:
                raise InvalidInput(f"{found.real} is a device 0:0, which overlayfs takes for a whiteout")
            try:
                os.mknod(name, stat.S_IFMT(mode) | 0o600, found.status.st_rdev, dir_fd=parent)
            except PermissionError:
                raise InvalidInput(f"{found.real} is a device, which this user may not make") from None
        self._dress_by_name(parent, name, found, metadata)

    def _directory(self, found: Found, parent: int, name: str) -> _Below:
        created = True
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            created = False
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                if not self._action.always_replace:
                    raise InvalidInput(f"cannot copy the directory {found.real} over something that is none") from None
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o700, dir_fd=parent)
                created = True
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            gives = created or (bool(found.path) and not found.parent_only)
            metadata = self._metadata(found) if gives else None
        except BaseException:
            os.close(fd)
            raise
        mtime = self._time(found.status) if gives or not found.path else None
        return _Below(found.path, parent, fd, name, metadata, self._mode(found.status.st_mode), mtime, created)

    def _leave(self, below: _Below) -> None:
        """Give a directory its metadata, last, when its children no longer change its time."""
        try:
            if below.metadata is not None:
                self._dress(below.fd, below.metadata, below.mode)
            if below.mtime is not None:
                os.utime(below.fd, ns=(below.mtime, below.mtime))
        finally:
            os.close(below.fd)

    def _make_way(self, found: Found, parent: int, name: str) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise
            if not self._action.always_replace:
                raise InvalidInput(f"cannot replace the directory {name} by {found.real}, which is none") from None
            remove_tree(name, parent)

    def _regular(self, found: Found, parent: int, name: str, where: str, metadata: Metadata) -> None:
        status = found.status
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), where)
            if first != where and self._link(first, parent, name):
                return
        source = self._open(found)
        try:
            fd = os.open(name, _NEW, 0o600, dir_fd=parent)
            try:
                copy_bytes(source, fd, status.st_size, status.st_blocks)
                self._check_unchanged(found.real, status, source)
                self._dress(fd, metadata, self._mode(status.st_mode))
                mtime = self._time(status)
                os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)
        finally:
            os.close(source)

    def _link(self, first: str, parent: int, name: str) -> bool:
        above = paths.open_in_root(self._root, posixpath.dirname(first), _PARENT)
        try:
            os.link(posixpath.basename(first), name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False  # replaced by a later file of the same copy
        finally:
            os.close(above)
        return True

    def _open(self, found: Found) -> int:
        try:
            fd = os.open(found.name, _READ, dir_fd=found.directory_fd)
        except OSError as error:
            raise SourceError(f"cannot read {found.real}: {error.strerror}") from error
        try:
            self._check_witness(found.real, found.status)
            self._check_unchanged(found.real, found.status, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check_witness(self, real: str, status: os.stat_result) -> None:
        if self._witness is not None and self._witness.files.get(real, signature(status)) != signature(status):
            raise SourceError(
                f"{real} changed between being checked and being copied", hint="Build again once nothing writes to it."
            )

    def _check_unchanged(self, real: str, status: os.stat_result, fd: int) -> None:
        if signature(os.fstat(fd)) != signature(status):
            raise SourceError(f"{real} changed while it was copied", hint="Build again once nothing writes to it.")

    # ---- metadata ----------------------------------------------------------------------------------------------------

    def _metadata(self, found: Found) -> Metadata:
        found_metadata = read_metadata(found.directory_fd, found.name, found.status, self._source.in_place, self._how)
        if self._owner is None:
            return found_metadata
        return replace(found_metadata, uid=self._owner.uid, gid=self._owner.gid)

    def _mode(self, mode: int) -> int:
        if self._symbolic is not None:
            return self._symbolic(mode)
        return mode & 0o7777 if self._action.mode == _OWN_MODE else self._action.mode & 0o7777

    def _time(self, status: os.stat_result) -> int:
        return status.st_mtime_ns if self._action.timestamp == _OWN_TIME else self._action.timestamp

    def _dress(self, fd: int, metadata: Metadata, mode: int) -> None:
        """Owner first: chown(2) clears what follows."""
        ownership.give(fd, metadata.uid, metadata.gid, self._how)
        os.fchmod(fd, mode)
        _set_xattrs(fd, metadata)

    def _dress_by_name(self, parent: int, name: str, found: Found, metadata: Metadata) -> None:
        ownership.give(name, metadata.uid, metadata.gid, self._how, parent)
        seen = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if not stat.S_ISLNK(found.status.st_mode):
                os.chmod(f"/proc/self/fd/{seen}", self._mode(found.status.st_mode))
        finally:
            os.close(seen)
        _set_xattrs(f"/proc/self/fd/{parent}/{name}", metadata)
        mtime = self._time(found.status)
        os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)


def _set_xattrs(target: int | str, metadata: Metadata) -> None:
    """As many as the destination takes: BuildKit too copies on without the others."""
    for key, value in metadata.xattrs:
        try:
            os.setxattr(target, key, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
