"""Merged views of layer directories by overlayfs, as mounts attached nowhere.

Owns the mount options and the way to give the kernel many layers. Does not know layers' ids or drafts. Kernels since
6.7 take layers one by one; before, one option string of at most a page holds them all, so their names must be short:
they are then given relative to the directory that most of them are in.
"""

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kedge.kernel import identity, syscalls
from kedge.model.errors import StoreError, Unsupported

MOST_LAYERS = 500  # OVL_MAX_STACK in the kernel's fs/overlayfs/params.h
_LONGEST_VALUE = 255  # fsconfig(2) takes strings of at most 256 bytes with the final zero
_OLD_KERNEL = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def merged(lowers: Sequence[Path], upper: Path | None = None, work: Path | None = None) -> Iterator[int]:
    """The merged root of `lowers` (bottom first, at least two unless there is an `upper`) as a descriptor.

    Read-only without `upper`. All are directories that nobody writes to meanwhile. The mount ends with the context.
    Raises Unsupported for more than 500 layers or where overlayfs cannot be mounted, StoreError otherwise.
    """
    if len(lowers) + bool(upper) > MOST_LAYERS:
        raise Unsupported(
            f"{len(lowers)} layers cannot be stacked: the kernel takes {MOST_LAYERS}",
            hint="Join RUN or COPY instructions, or copy the result of a stage into a new one.",
        )
    fd = _mount(lowers, upper, work)
    try:
        yield fd
    finally:
        os.close(fd)
        if work:
            _allow_another_mount(work)


def _mount(lowers: Sequence[Path], upper: Path | None, work: Path | None) -> int:
    try:
        try:
            return _mount_one_by_one(lowers, upper, work)
        except OSError as error:
            if error.errno not in _OLD_KERNEL:
                raise
            return _mount_by_string(lowers, upper, work)
    except OSError as error:
        text = error.strerror or str(error)
        if error.errno in (errno.EPERM, errno.ENODEV):
            raise Unsupported(
                f"cannot mount overlayfs: {text}", hint="`kedge doctor` tells what this machine allows."
            ) from error
        raise StoreError(f"cannot merge {len(lowers)} layers: {text}") from error


def _options(writable: bool) -> list[tuple[str, str]]:
    """Options without layers: (name, value), "" for a flag.

    Renamed directories and files with changed modes are copied whole, so that a layer means the same without those
    below it.
    """
    if not identity.current().privileged:
        # Implies redirect_dir=nofollow and metacopy=off, which may then not be given (overlayfs.rst, "User xattr").
        options = [("userxattr", "")]
    else:
        options = [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")]
    # Without `volatile`, ending a writable mount syncs the whole file system below; Store.flush does that once.
    return [*options, ("volatile", "")] if writable else options


def _mount_one_by_one(lowers: Sequence[Path], upper: Path | None, work: Path | None) -> int:
    context = syscalls.fsopen("overlay")
    opened: list[int] = []
    try:
        for name, value in _options(upper is not None):
            if value:
                syscalls.fsconfig_string(context, name, value)
            else:
                syscalls.fsconfig_flag(context, name)
        for path in reversed(lowers):
            syscalls.fsconfig_string(context, "lowerdir+", _short(path, opened))
        if upper and work:
            syscalls.fsconfig_string(context, "upperdir", _short(upper, opened))
            syscalls.fsconfig_string(context, "workdir", _short(work, opened))
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context, _attributes(upper is not None))
    finally:
        for fd in (context, *opened):
            os.close(fd)


def _attributes(writable: bool) -> int:
    safe = syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOATIME
    return safe if writable else safe | syscalls.MOUNT_ATTR_RDONLY


def _short(path: Path, opened: list[int]) -> str:
    """A name for `path` that fits into one value; adds the descriptor it goes through, if any, to `opened`."""
    text = str(path)
    if len(os.fsencode(text)) <= _LONGEST_VALUE:
        return text
    opened.append(os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    return f"/proc/self/fd/{opened[-1]}/{path.name}"


def _mount_by_string(lowers: Sequence[Path], upper: Path | None, work: Path | None) -> int:
    """As before Linux 6.7: mount(2) with all layers in one string, in a thread with a mount namespace of its own."""
    result: list[int | BaseException] = []

    def mount() -> None:
        try:
            result.append(_mount_in_private(lowers, upper, work))
        except BaseException as error:  # handed to the caller's thread
            result.append(error)

    # unshare(CLONE_NEWNS) also gives the thread a working directory of its own; both end with the thread.
    thread = threading.Thread(target=mount, name="kedge-mount")
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _mount_in_private(lowers: Sequence[Path], upper: Path | None, work: Path | None) -> int:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    base = lowers[-1].parent
    os.chdir(base)
    pairs = [name if not value else f"{name}={value}" for name, value in _options(upper is not None)]
    pairs.append("lowerdir=" + ":".join(_relative(path, base) for path in reversed(lowers)))
    if upper and work:
        pairs += [f"upperdir={_relative(upper, base)}", f"workdir={_relative(work, base)}"]
    flags = syscalls.MS_NODEV | syscalls.MS_NOSUID | (0 if upper else syscalls.MS_RDONLY)
    data = ",".join(pairs)
    if len(data) >= os.sysconf("SC_PAGE_SIZE"):
        raise OSError(errno.E2BIG, "their names do not fit into one page; a kernel since 6.7 has no such limit")
    syscalls.mount("overlay", str(lowers[-1]), "overlay", flags, data)
    return syscalls.open_tree(syscalls.AT_FDCWD, str(lowers[-1]), syscalls.OPEN_TREE_CLONE)


def _relative(path: Path, base: Path) -> str:
    text = path.name if path.parent == base else os.path.relpath(path, base)
    return text.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _allow_another_mount(work: Path) -> None:
    """Take away the mark of a `volatile` mount, which says that a crash may have lost data (overlayfs.rst)."""
    mark = work / "work" / "incompat" / "volatile"
    with suppress(OSError):
        os.unlink(mark / "dirty")
        os.rmdir(mark)
        os.rmdir(mark.parent)
