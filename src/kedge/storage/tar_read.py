"""Unpacking tar archives that nobody vouches for.

Owns turning entries into files below a directory descriptor. Does not know blobs, compression or layer stacks; the
parser is `tar_reader`. Every path is resolved by the kernel inside the directory (openat2), every file made relative
to its parent's descriptor; what an archive says can create, replace and remove only below the directory it is unpacked
into.

The plan: find the parent's descriptor (remembered by the archive's own spelling of it; forgotten whenever a directory
or symlink goes away, since then the spelling may mean another), make the entry there by its last name without
following it, replacing what stands there as Docker does, and set owner, mode, attributes and time in the order in
which the kernel keeps them: chown(2) clears setuid bits and capabilities, making a child changes a directory's time.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kedge.kernel import paths, syscalls
from kedge.model.errors import IntegrityError, StoreError
from kedge.model.value import dataclass
from kedge.storage import ownership
from kedge.storage import tar_format as tar
from kedge.storage.disk import store_error
from kedge.storage.ownership import Ids, Policy, Record
from kedge.storage.removal import remove_tree
from kedge.storage.tar_format import Entry, malformed
from kedge.storage.tar_reader import Limits, Readable, TarReader

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PARENT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_REMEMBERED = 64  # parents' descriptors at once
_NO_XATTR = (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EINVAL)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_OUR_FAULT = (*_NO_SPACE, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOMEM)
_TIME_RANGE = (1 << 62) // 1_000_000_000 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What came out: entries, and plain bytes of the archive.

    `implied` are a layer's directories that have no entry of their own (made 0755, root, of 1970), outermost first.
    `opaque_root`: the layer hides all below it (overlayfs does not look for the attribute on a layer's root, so the
    stack must be cut there).
    """

    entries: int
    bytes: int
    implied: tuple[str, ...] = ()
    opaque_root: bool = False


def unpack(
    stream: Readable,
    directory_fd: int,
    *,
    layer: bool,
    limits: Limits | None = None,
    owner: Ids | None = None,
    progress: Callable[[int], None] | None = None,
) -> Unpacked:
    """Unpack the (uncompressed) tar `stream` into the directory, in one pass, to the stream's end.

    With `layer`, whiteouts become overlayfs's own form and the directory is one layer's; without, it is an archive for
    ADD and names mean what they say. `owner` replaces all owners. `progress` is told the plain bytes so far, now and
    then; it may raise to stop. Raises IntegrityError for what is malformed, hostile or over a limit (the directory then
    holds a part), StoreError when the disk fails. Not atomic; not to be used by two threads on one directory.
    """
    limits = limits or Limits()
    reader = TarReader(stream, limits)
    unpacker = _Unpacker(reader, directory_fd, layer, limits, owner)
    count = told = 0
    try:
        for entry in reader:
            count += 1
            if count > limits.entries:
                raise IntegrityError(f"the archive has more than {limits.entries} entries")
            try:
                unpacker.add(entry)
            except (OSError, ValueError, OverflowError) as error:
                raise _translated(error, entry) from error
            if progress is not None and reader.bytes - told >= 1 << 22:
                told = reader.bytes
                progress(told)
        unpacker.finish()
    finally:
        unpacker.forget()
    if progress is not None:
        progress(reader.bytes)
    return Unpacked(count, reader.bytes, tuple(unpacker.implied) if layer else (), unpacker.opaque_root)


def _translated(error: Exception, entry: Entry) -> IntegrityError | StoreError:
    name = os.fsdecode(entry.name[:200])
    if isinstance(error, OSError) and error.errno in _OUR_FAULT:
        return store_error(error, f"unpack {name!r}")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return IntegrityError(f"cannot unpack {name!r}: {reason}")


class _Unpacker:
    """The state of one unpacking; `add` is told the entries in order, `finish` sets the directories' times."""

    def __init__(self, reader: TarReader, root: int, layer: bool, limits: Limits, owner: Ids | None) -> None:
        self.implied: list[str] = []
        self.opaque_root = False
        self._reader = reader
        self._root = root
        self._layer = layer
        self._limits = limits
        self._owner = owner
        self._how = ownership.policy()
        self._overlay = ownership.overlay_prefix().encode()
        self._parents: dict[bytes, int] = {}
        self._times: dict[bytes, int] = {}
        self._closed: dict[bytes, int] = {}  # modes without write permission for ourselves, set at the end
        self._stale = False
        self._all_powerful = os.geteuid() == 0
        self._makers: dict[bytes, Callable[[Entry, int, bytes], None]] = {
            tar.FILE: self._file,
            tar.HARD_LINK: self._hard_link,
            tar.SYMLINK: self._symlink,
            tar.CHARACTER: self._device,
            tar.BLOCK_DEVICE: self._device,
            tar.DIRECTORY: self._directory,
            tar.FIFO: self._device,
        }

    def add(self, entry: Entry) -> None:
        """Make one entry."""
        if self._stale:
            self.forget()
        if self._owner is not None:
            entry.uid, entry.gid = self._owner.uid, self._owner.gid
        directory, _, name = entry.name.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            directory, _, name = self._clean(entry.name).rpartition(b"/")
            if not name:
                self._root_entry(entry)
                return
        if self._layer and (name[:4] == tar.WHITEOUT or b"/.wh." in directory or directory[:4] == tar.WHITEOUT):
            self._whiteout(directory, name)
            return
        parent = self._parents.get(directory)
        if parent is None:
            parent = self._find_parent(directory)
        self._makers[entry.kind](entry, parent, name)

    def finish(self) -> None:
        """Set what children would have changed: the directories' times and read-only modes."""
        entered: set[int] = set()  # inodes of directories with an entry of their own
        for path, mtime in self._times.items():
            with self._still_there(os.fsdecode(path)) as fd:
                if fd is None:
                    continue
                _set_time(fd, mtime)
                if path in self._closed:
                    os.fchmod(fd, self._closed[path])
                if self.implied:
                    entered.add(os.fstat(fd).st_ino)
        if self._layer:
            self.implied = [path for path in dict.fromkeys(self.implied) if self._is_only_implied(path, entered)]

    def _is_only_implied(self, path: str, entered: set[int]) -> bool:
        with self._still_there(path) as fd:
            if fd is None or os.fstat(fd).st_ino in entered:
                return False
            _set_time(fd, 0)  # and not the clock's
            return True

    @contextmanager
    def _still_there(self, path: str) -> Iterator[int | None]:
        """A directory that was made before; None if it was replaced by a later entry."""
        try:
            fd = paths.open_in_root(self._root, path, _DIRECTORY)
        except OSError:
            yield None
            return
        try:
            yield fd
        finally:
            os.close(fd)

    def forget(self) -> None:
        """Close the descriptors of parents: their spelling may mean something else from now on."""
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()
        self._stale = False

    # ---- places ------------------------------------------------------------------------------------------------------

    def _clean(self, name: bytes) -> bytes:
        """`name` without empty parts and dots; `..` is taken by its words and ends at the root, as in Go's
        path.Clean.
        """
        parts: list[bytes] = []
        for part in name.split(b"/"):
            if part == b"..":
                if parts:
                    parts.pop()
            elif part not in (b"", b"."):
                parts.append(part)
        if len(parts) > self._limits.depth:
            raise malformed(f"a path deeper than {self._limits.depth} directories")
        return b"/".join(parts)

    def _find_parent(self, directory: bytes) -> int:
        clean = self._clean(directory)
        path = os.fsdecode(clean)
        try:
            fd = paths.open_in_root(self._root, path, _PARENT)
        except (FileNotFoundError, NotADirectoryError):
            fd = self._make_parents(path)
        if len(self._parents) >= _REMEMBERED:
            self.forget()
        self._parents[directory] = fd
        return fd

    def _make_parents(self, path: str) -> int:
        while True:
            try:
                fd, created = paths.make_dirs_in_root(self._root, path, 0o755)
                break
            except NotADirectoryError:
                if not self._layer or not self._uncover(path):
                    raise
        self.implied += created
        return fd

    def _uncover(self, path: str) -> bool:
        """Replace the outermost whiteout on the way to `path` by an opaque directory; False if there is none."""
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            resolved = paths.resolve_in_root(self._root, "/".join(parts[:end]))
            above, _, name = resolved.rpartition("/")
            try:
                parent = paths.open_in_root(self._root, above, _PARENT)
            except OSError:
                return False
            try:
                if not _is_whiteout(name, parent):
                    continue
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o755, dir_fd=parent)
                self._make_opaque(parent, os.fsencode(name))
                self.implied.append(resolved)
                return True
            finally:
                os.close(parent)
        return False

    def _make_way(self, parent: int, name: bytes) -> None:
        """Remove what stands where the entry goes."""
        there = _lstat(name, parent)
        if stat.S_ISREG(there.st_mode):
            os.unlink(name, dir_fd=parent)
            return
        if stat.S_ISDIR(there.st_mode):
            remove_tree(name, parent)
        else:
            os.unlink(name, dir_fd=parent)
        self._stale = True

    # ---- kinds -------------------------------------------------------------------------------------------------------

    def _root_entry(self, entry: Entry) -> None:
        """`.` or `/`: the root itself, which only a directory may be (CVE-2021-29136)."""
        if entry.kind != tar.DIRECTORY:
            raise malformed(f"the root directory as an entry of type {entry.kind.decode()}")
        if self._layer:
            fd = os.open(".", _DIRECTORY, dir_fd=self._root)
            try:
                self._set_metadata(fd, entry)
                self._times[b""] = entry.mtime
            finally:
                os.close(fd)

    def _file(self, entry: Entry, parent: int, name: bytes) -> None:
        try:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._make_way(parent, name)
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            if entry.size:
                self._reader.write_data(fd, entry)
            self._set_metadata(fd, entry)
            _set_time(fd, entry.mtime)
        finally:
            os.close(fd)

    def _directory(self, entry: Entry, parent: int, name: bytes) -> None:
        uncovered = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            there = _lstat(name, parent)
            if not stat.S_ISDIR(there.st_mode):
                uncovered = self._layer and stat.S_ISCHR(there.st_mode) and there.st_rdev == 0
                self._make_way(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            self._set_metadata(fd, entry)
            path = self._clean(entry.name)
            self._times.pop(path, None)
            self._times[path] = entry.mtime
            if uncovered:
                self._make_opaque(parent, name)
            if not self._all_powerful and entry.mode & 0o700 != 0o700:
                os.fchmod(fd, entry.mode | 0o700)
                self._closed[path] = entry.mode
        finally:
            os.close(fd)

    def _symlink(self, entry: Entry, parent: int, name: bytes) -> None:
        if not entry.link:
            raise malformed("a symlink to nothing")
        try:
            os.symlink(entry.link, name, dir_fd=parent)
        except FileExistsError:
            self._make_way(parent, name)
            os.symlink(entry.link, name, dir_fd=parent)
        self._set_metadata_by_name(entry, parent, name)

    def _hard_link(self, entry: Entry, parent: int, name: bytes) -> None:
        """A second name in the root for the file (or symlink: it is not followed) that the link names, and no more.

        The metadata is the file's already; setting it again through the link is what CVE-2021-32760 did.
        """
        directory, _, base = self._clean(entry.link).rpartition(b"/")
        source = paths.open_in_root(self._root, os.fsdecode(directory), _PARENT)
        try:
            target = _lstat(base, source)
            if not base or stat.S_ISDIR(target.st_mode) or (self._layer and _is_whiteout(base, source)):
                raise malformed(f"a hard link to {os.fsdecode(entry.link[:200])!r}, which is no file of it")
            try:
                there = _lstat(name, parent)
            except FileNotFoundError:
                pass
            else:
                if (there.st_dev, there.st_ino) == (target.st_dev, target.st_ino):
                    return
                self._make_way(parent, name)
            os.link(base, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _device(self, entry: Entry, parent: int, name: bytes) -> None:
        try:
            self._make_node(entry, parent, name)
        except FileExistsError:
            self._make_way(parent, name)
            self._make_node(entry, parent, name)

    def _make_node(self, entry: Entry, parent: int, name: bytes) -> None:
        kinds = {tar.FIFO: stat.S_IFIFO, tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK}
        if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):  # the kernel's MAJOR and MINOR widths
            raise malformed(f"a device {entry.major}:{entry.minor}")
        if not self._layer and entry.kind == tar.CHARACTER and not entry.major and not entry.minor:
            raise malformed("a device 0:0, which overlayfs takes for a whiteout")
        try:
            os.mknod(name, 0o600 | kinds[entry.kind], os.makedev(entry.major, entry.minor), dir_fd=parent)
        except PermissionError:
            if self._how is Policy.REAL or entry.kind == tar.FIFO:
                raise
            self._stand_in(entry, parent, name)
            return
        self._set_metadata_by_name(entry, parent, name)

    def _stand_in(self, entry: Entry, parent: int, name: bytes) -> None:
        """An empty file that says which device it would be: user namespaces may not make devices."""
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            os.fchmod(fd, entry.mode)
            kind = "c" if entry.kind == tar.CHARACTER else "b"
            ownership.record(fd, Record(entry.uid, entry.gid, kind, entry.major, entry.minor))
            _set_time(fd, entry.mtime)
        finally:
            os.close(fd)

    # ---- whiteouts ---------------------------------------------------------------------------------------------------

    def _whiteout(self, directory: bytes, name: bytes) -> None:
        """layer.md, "Whiteouts": `.wh.NAME` hides NAME of the layers below, never of this one."""
        clean = self._clean(directory)
        if any(part[:8] == tar.META for part in clean.split(b"/")) or (name[:8] == tar.META and name != tar.OPAQUE):
            return  # AUFS's own bookkeeping
        if b"/.wh." in b"/" + clean:
            raise malformed("a whiteout with something below it")
        hidden = name[4:]
        if hidden in (b"", b".", b".."):
            raise malformed(f"a whiteout named {name.decode()!r}")
        if name == tar.OPAQUE and not clean:
            self.opaque_root = True
            self._make_opaque(self._root, b".")
            return
        parent = self._parents.get(directory)
        if parent is None:
            parent = self._find_parent(directory)
        if name == tar.OPAQUE:
            self._make_opaque(parent, b".")
            return
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(_lstat(hidden, parent).st_mode):
                self._make_opaque(parent, hidden)

    def _make_opaque(self, parent: int, name: bytes) -> None:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            os.setxattr(fd, self._overlay + b"opaque", b"y")
        finally:
            os.close(fd)

    # ---- metadata ----------------------------------------------------------------------------------------------------

    def _set_metadata(self, fd: int, entry: Entry) -> None:
        if self._how is Policy.REAL:
            os.fchown(fd, entry.uid, entry.gid)
        else:
            ownership.give(fd, entry.uid, entry.gid, self._how)
        os.fchmod(fd, entry.mode)
        if entry.xattrs:
            self._set_xattrs(fd, entry)

    def _set_metadata_by_name(self, entry: Entry, parent: int, name: bytes) -> None:
        """For what cannot be opened: symlinks, devices, FIFOs."""
        path = os.fsdecode(name)
        ownership.give(path, entry.uid, entry.gid, self._how, parent)
        fd = syscalls.openat2(parent, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if entry.kind != tar.SYMLINK:
                os.chmod(f"/proc/self/fd/{fd}", entry.mode)
        finally:
            os.close(fd)
        if entry.xattrs:
            self._set_xattrs(f"/proc/self/fd/{parent}/{path}", entry)
        _set_time_by_name(path, entry.mtime, parent)

    def _set_xattrs(self, target: int | str, entry: Entry) -> None:
        """Those the kernel takes, never overlayfs's own: a layer has them escaped (Documentation/filesystems/
        overlayfs.rst, "Nesting overlayfs mounts"), what ADD unpacks, perhaps right into a layer, not at all.
        """
        follow = isinstance(target, int)
        for key, value in entry.xattrs.items():
            if key.startswith(ownership.PRIVATE_PREFIX.encode()):
                continue
            if key.startswith(self._overlay):
                if not self._layer:
                    continue
                key = self._overlay + b"overlay." + key[len(self._overlay) :]
            try:
                os.setxattr(target, key, value, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in _NO_XATTR:
                    raise


def _lstat(name: str | bytes, directory_fd: int) -> os.stat_result:
    return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)


def _is_whiteout(name: str | bytes, directory_fd: int) -> bool:
    try:
        status = _lstat(name, directory_fd)
    except OSError:
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _set_time(fd: int, mtime: int) -> None:
    mtime = max(-_TIME_RANGE, min(mtime, _TIME_RANGE))
    os.utime(fd, ns=(mtime, mtime))


def _set_time_by_name(name: str, mtime: int, directory_fd: int) -> None:
    mtime = max(-_TIME_RANGE, min(mtime, _TIME_RANGE))
    os.utime(name, ns=(mtime, mtime), dir_fd=directory_fd, follow_symlinks=False)
