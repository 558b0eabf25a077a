"""What a run leaves on disk that must not become part of a layer: mount point stubs and overlayfs's own marks.

Owns removing them. Everything is opened below the upper directory by descriptor, following no link: the process that
ran may have put anything there (CVE-2024-23652).
"""

import os
from contextlib import suppress
from typing import TypeAlias

from kedge.kernel import syscalls as sc
from kedge.sandbox.process import HostPath, MountPoint, Overlay

# (nearest parent that existed, its mtime before, its mtime after, [(path made, is a directory), outermost first])
Made: TypeAlias = tuple[str, int, int, list[tuple[str, bool]]]


def clean(root: MountPoint, works: tuple[str, ...], made: list[Made]) -> None:
    """Remove the stubs that were made in the root and are still empty, and let the overlays be mounted again."""
    for work in works:
        # A volatile overlay marks its work directory as unclean, and a later mount of it would be refused. There was no
        # crash, so the mark says nothing; making layers durable is the store's business.
        with suppress(OSError):
            os.unlink(f"{work}/work/incompat/volatile/dirty")
            os.rmdir(f"{work}/work/incompat/volatile")
            os.rmdir(f"{work}/work/incompat")
    source = root.source
    top = source.upper if isinstance(source, Overlay) else source.path if isinstance(source, HostPath) else ""
    if not made or not top:
        return
    fd = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for item in reversed(made):
            _undo(fd, item)
    finally:
        os.close(fd)


def _undo(top: int, item: Made) -> None:
    parent, before, after, stubs = item
    gone = True
    fd = _open(top, parent)
    untouched = fd >= 0 and os.stat(fd).st_mtime_ns == after
    for path, is_dir in reversed(stubs):
        gone = gone and _remove(top, path, is_dir)
    if gone and untouched:  # so that the parent looks as if nothing had ever been in it (moby/buildkit#3148)
        with suppress(OSError):
            os.utime(f"/proc/self/fd/{fd}", ns=(before, before))
    if fd >= 0:
        os.close(fd)


def _remove(top: int, path: str, is_dir: bool) -> bool:
    directory, _, name = path.rpartition("/")
    fd = _open(top, directory)
    if fd < 0:
        return False
    try:
        if is_dir:
            os.rmdir(name, dir_fd=fd)
        elif os.stat(name, dir_fd=fd, follow_symlinks=False).st_size == 0:
            os.unlink(name, dir_fd=fd)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def _open(top: int, directory: str) -> int:
    try:
        flags = os.O_PATH | os.O_DIRECTORY
        return sc.openat2(top, directory.strip("/") or ".", flags, 0, sc.RESOLVE_BENEATH | sc.RESOLVE_NO_SYMLINKS)
    except OSError:
        return -1
