"""What the disk says: its errors in our words, how much a tree takes, and removing trees of any shape.

Owns nothing on disk. Does not know what the files are.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kedge.kernel import syscalls
from kedge.model.errors import StoreError
from kedge.model.value import dataclass, field

FULL_HINT = "Free some space, for instance with `kedge prune`, or name a store on another disk with --root."
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_LONG = 3500  # bytes of a path below PATH_MAX (4096), with room for a name


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn an OSError into a StoreError that says `what` could not be done."""
    try:
        yield
    except OSError as error:
        raise store_error(error, what) from error


def store_error(error: OSError, what: str) -> StoreError:
    """The StoreError for a failed `what` ("write a blob")."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return StoreError(f"no space left in the store: cannot {what}", hint=FULL_HINT)
    hint = "May this user write to the store? Name another with --root." if error.errno in _DENIED else ""
    return StoreError(f"cannot {what}: {reason}", hint=hint)


# ---- how much --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Measure:
    """What a tree takes on disk, in bytes of blocks, as du(1) counts: an inode with several links once.

    `seen` may be shared between trees, so that what links span is counted with the first. `linked`: the tree has files
    with links outside it.
    """

    bytes: int = 0
    linked: bool = False
    seen: set[tuple[int, int]] = field(default_factory=set)
    links: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # inode -> links it has, links met here

    def add(self, status: os.stat_result) -> None:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            inode = (status.st_dev, status.st_ino)
            self.links.setdefault(inode, [status.st_nlink, 0])[1] += 1
            if inode in self.seen:
                return
            self.seen.add(inode)
        self.bytes += status.st_blocks * 512


def measure(directory: Path, seen: set[tuple[int, int]] | None = None) -> Measure:
    """Measure a tree and its root. Files that vanish meanwhile do not count; a missing tree takes nothing."""
    total = Measure(seen=set() if seen is None else seen)
    try:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return total
    try:
        total.add(os.fstat(root))
        pending = [""]
        while pending:
            pending += _measure_one(root, pending.pop(), total)
    finally:
        os.close(root)
    total.linked = any(met < links for links, met in total.links.values())
    return total


def _measure_one(root: int, directory: str, total: Measure) -> list[str]:
    """Add a directory's entries; returns its subdirectories."""
    below = []
    try:
        fd = _open_deep(root, directory)
    except OSError:
        return []
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    total.add(entry.stat(follow_symlinks=False))
                    if entry.is_dir(follow_symlinks=False):
                        below.append(f"{directory}/{entry.name}" if directory else entry.name)
                except OSError:
                    continue
    except OSError:
        return below
    finally:
        os.close(fd)
    return below


def _open_deep(root: int, path: str) -> int:
    """Open a directory below `root` whose path may be longer than the kernel takes at once."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.dup(root)
    while len(os.fsencode(path)) > _LONG:
        cut = path.index("/", len(path) // 2 if len(path) < _LONG else _LONG // 4)
        fd, outer = os.open(path[:cut], flags, dir_fd=fd), fd
        os.close(outer)
        path = path[cut + 1 :]
    try:
        return os.open(path or ".", flags, dir_fd=fd)
    finally:
        os.close(fd)


# ---- away ------------------------------------------------------------------------------------------------------------


def remove_tree(directory: Path) -> None:
    """Remove a tree that stands in a directory for rubbish only. Leaves what it cannot remove; killed, it leaves the
    rest.

    Subdirectories are moved up beside the tree and removed from there: no recursion, no long path, whatever the depth.
    """
    pending, serial = [directory], 0
    while pending:
        current = pending.pop()
        for name in _empty(current):
            serial += 1
            aside = directory.with_name(f"{directory.name}.{serial}")
            try:
                os.rename(current / name, aside)
            except OSError:
                continue
            pending.append(aside)
        try:
            os.rmdir(current)
        except OSError:
            continue


def _empty(directory: Path) -> list[str]:
    """Unlink what is no directory; returns the names of the directories."""
    below: list[str] = []
    try:
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            os.chmod(directory, 0o700)
        entries = list(os.scandir(directory))
    except NotADirectoryError:
        directory.unlink(missing_ok=True)
        return below
    except OSError:
        return below
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                # rename(2) writes the `..` of a directory it moves, so an ordinary user needs its write bit.
                if not os.access(entry.path, os.W_OK):
                    os.chmod(entry.path, 0o700)
                below.append(entry.name)
            else:
                os.unlink(entry.path)
        except OSError:
            continue
    return below


_BALLAST = 512 << 10  # bytes: more than SQLite's journal and its index take while rows are removed


def take_ballast(root: Path) -> None:
    """Put some space aside, if there is any."""
    fd = os.open(root / "ballast", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_blocks * 512 < _BALLAST:
            os.posix_fallocate(fd, 0, _BALLAST)
    except OSError:
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def drop_ballast(root: Path) -> None:
    """Give that space back when the disk is nearly full."""
    if free_space(root) < 2 * _BALLAST:
        (root / "ballast").unlink(missing_ok=True)


def free_space(directory: Path) -> int:
    """Bytes that may still be written to the directory's file system."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


# ---- for good --------------------------------------------------------------------------------------------------------


def sync_file_system(directory: Path) -> None:
    """syncfs(2): wait until all that was written to the directory's file system is on disk. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


def this_boot() -> str:
    """What tells this boot of the machine from others (proc_sys_kernel(5)); "" where it is hidden."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
