"""A container's files from outside, while it may run: looked at, copied out, copied in.

Owns the walk. Every path is resolved by the kernel inside the container's root, every file is opened by its last name
below a descriptor of its directory, following nothing: whatever the container renames or links meanwhile, what is read
and written lies inside (CVE-2018-15664, CVE-2019-14271 and their kin: nothing of the container is loaded or executed,
either). Does not know clients.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.kernel import syscalls
from kedge.kernel.paths import open_in_root, resolve_in_root
from kedge.model.errors import InvalidInput, NotFound, StoreError
from kedge.model.value import dataclass
from kedge.sandbox.container import Container
from kedge.storage import tar_format as tar
from kedge.storage.tar_format import BLOCK, Entry, format_header
from kedge.storage.tar_write import Writable

if TYPE_CHECKING:
    from kedge.storage.tar_reader import Readable

_CHUNK = 1 << 18
_DIRECTORIES_ONLY = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class PathStatus:
    """One path: `mode` as stat(2) has it, `mtime` in nanoseconds, `link` where a symlink leads inside the root."""

    name: str
    size: int
    mode: int
    mtime: int
    link: str = ""


@contextmanager
def opened_root(container: Container, lowers: tuple[Path, ...], pidfd: int = -1) -> Iterator[int]:
    """A descriptor of the root: of a running container (`pidfd` of its first process) as that sees it, with its
    volumes; else of the layers under what it wrote.
    """
    if pidfd >= 0:
        root = _root_of_process(container.record.pid, pidfd)
        try:
            yield root
        finally:
            os.close(root)
        return
    from kedge.storage import overlay

    with overlay.merged(lowers, container.upper, container.home / "work") as root:
        yield root


def _root_of_process(pid: int, pidfd: int) -> int:
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"cannot look into the container: {error.strerror}") from None
    try:
        syscalls.pidfd_send_signal(pidfd, 0)  # it still lives, so the number was its own
    except OSError:
        os.close(root)
        raise StoreError("the container has stopped meanwhile") from None
    return root


def status(root: int, path: str, called: str = "") -> PathStatus:
    """What is at `path`, by the name `called` if that says another than its last part; a link there is not followed.

    Raises NotFound.
    """
    fd = _open(root, path, follow=path.endswith(("/", "/.")))
    try:
        info = os.fstat(fd)
        link = resolve_in_root(root, path) if stat.S_ISLNK(info.st_mode) else ""
        name = called or os.path.basename(_normal(path)) or "/"
        return PathStatus(name, info.st_size, info.st_mode, info.st_mtime_ns, link)
    except OSError as error:
        raise InvalidInput(f"cannot look at {path}: {error.strerror}") from None
    finally:
        os.close(fd)


def _normal(path: str) -> str:
    """Absolute and clean; of two leading slashes POSIX would keep both."""
    return os.path.normpath("/" + path.lstrip("/"))


def _open(root: int, path: str, *, follow: bool) -> int:
    try:
        return open_in_root(root, path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"Could not find the file {path} in the container") from None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot open {path}: {getattr(error, 'strerror', None) or error}") from None


def pack(root: int, path: str, out: Writable, *, one_file_system: bool = False, called: str = "") -> None:
    """Write what is at `path` as a tar: entries are named from its last part (or `called`) on, `/.` means from the
    directory itself on.

    With `one_file_system`, other mounts' directories come empty. Raises NotFound, StoreError; what `out` raises
    passes.
    """
    inside = path.endswith("/.") or _normal(path) == "/"
    name = os.fsencode(called) or (b"." if inside else os.fsencode(os.path.basename(_normal(path))))
    fd = _open(root, path, follow=path.endswith(("/", "/.")))
    try:
        packer = _Packer(out, os.fstat(fd).st_dev if one_file_system else None)
        packer.node(fd, name)
        out.write(bytes(2 * BLOCK))
    finally:
        os.close(fd)


class _Packer:
    """One tar being written. Takes O_PATH descriptors; never a path."""

    def __init__(self, out: Writable, device: int | None) -> None:
        self._out, self._device = out, device
        self._first: dict[tuple[int, int], bytes] = {}

    def node(self, fd: int, name: bytes, depth: int = 0) -> None:
        info = os.fstat(fd)
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFDIR:
            self._directory(fd, name, info, depth)
        elif kind in tar.KIND_OF_TYPE:
            self._leaf(fd, name, info, tar.KIND_OF_TYPE[kind])

    def _directory(self, fd: int, name: bytes, info: os.stat_result, depth: int) -> None:
        self._header(self._entry(name + b"/", tar.DIRECTORY, info))
        if (self._device is not None and info.st_dev != self._device) or depth > 500:
            return
        real = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            for child in sorted(map(os.fsencode, os.listdir(real))):
                try:
                    inner = os.open(child, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=real)
                except FileNotFoundError:
                    continue  # it went meanwhile
                try:
                    self.node(inner, name + b"/" + child, depth + 1)
                finally:
                    os.close(inner)
        except OSError as error:
            if error.filename is None:
                raise  # of `out`
            raise StoreError(f"cannot read {os.fsdecode(name)}: {error.strerror}") from None
        finally:
            os.close(real)

    def _leaf(self, fd: int, name: bytes, info: os.stat_result, kind: bytes) -> None:
        entry = self._entry(name, kind, info)
        if info.st_nlink > 1:
            first = self._first.setdefault((info.st_dev, info.st_ino), name)
            if first != name:
                entry.kind, entry.link = tar.HARD_LINK, first
                self._header(entry)
                return
        if kind == tar.SYMLINK:
            entry.link = os.fsencode(os.readlink("", dir_fd=fd))
        elif kind in (tar.CHARACTER, tar.BLOCK_DEVICE):
            entry.major, entry.minor = os.major(info.st_rdev), os.minor(info.st_rdev)
        elif kind == tar.FILE:
            self._file(fd, entry, info.st_size)
            return
        self._header(entry)

    def _file(self, fd: int, entry: Entry, size: int) -> None:
        """A file of the size it has now: if it shrinks meanwhile, zeros take the place of what went."""
        entry.size = entry.stored = size
        self._header(entry)
        left = size
        # A regular file by fstat(2) of this very descriptor: opening it again has no side effects.
        real = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while left:
                data = os.read(real, min(left, _CHUNK))
                if not data:
                    break
                self._out.write(data)
                left -= len(data)
        finally:
            os.close(real)
        while left:
            count = min(left, _CHUNK)
            self._out.write(bytes(count))
            left -= count
        if size % BLOCK:
            self._out.write(bytes(-size % BLOCK))

    @staticmethod
    def _entry(name: bytes, kind: bytes, info: os.stat_result) -> Entry:
        seconds = info.st_mtime_ns // 1_000_000_000
        return Entry(name, kind, info.st_mode & 0o7777, info.st_uid, info.st_gid, mtime=seconds * 1_000_000_000)

    def _header(self, entry: Entry) -> None:
        self._out.write(format_header(entry))


def unpack_into(root: int, path: str, stream: "Readable") -> None:
    """Unpack a tar, compressed or not, into the directory `path` inside the root. Raises NotFound, InvalidInput,
    IntegrityError for a bad archive.
    """
    from kedge.storage.compression import decompressed
    from kedge.storage.tar_read import unpack

    found = _open(root, path, follow=True)
    try:
        directory = os.open(".", _DIRECTORY, dir_fd=found)
    except NotADirectoryError:
        raise InvalidInput(f"extraction point is not a directory: {path}") from None
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from None
    finally:
        os.close(found)
    try:
        unpack(decompressed(stream), directory, layer=False)
    finally:
        os.close(directory)


def changed_paths(upper: Path, lowers: tuple[Path, ...]) -> Iterator[tuple[str, int]]:
    """What is different from the image, by paths: 0 changed, 1 added, 2 deleted (Docker's numbers)."""
    with ExitStack() as stack:
        images = []
        for lower in lowers:
            images.append(os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, images[-1])
        for folder, folders, names in os.walk(upper):
            for name in sorted((*folders, *names)):
                path = os.path.join(folder, name)
                shown = path[len(str(upper)) :]
                info = os.lstat(path)
                if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                    yield shown, 2
                else:
                    yield shown, 0 if any(_holds(image, shown) for image in images) else 1


def _holds(root: int, path: str) -> bool:
    """Is something there, reached through directories only? A link of a lower layer leads nowhere, this machine's root
    least of all.
    """
    try:
        os.close(syscalls.openat2(root, path.lstrip("/"), os.O_PATH | os.O_NOFOLLOW, 0, _DIRECTORIES_ONLY))
    except OSError:
        return False
    return True
