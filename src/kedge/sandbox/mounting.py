"""Mounts of a step, from plan to kernel: sources as detached mounts, targets resolved inside the new root.

Owns the root, the making of mount points and what was made. Runs in the zygote's child only, so it imports nothing
slow: no value classes, no errors of ours. Does not know what every step gets (`system`). Every target is mounted on by
descriptor; nothing here trusts a name in the image twice.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from kedge.kernel import syscalls as sc
from kedge.kernel.paths import make_dirs_in_root, open_in_root, resolve_in_root

TYPE_CHECKING = False  # typing.TYPE_CHECKING without the import of typing, which is a third of the zygote's start
if TYPE_CHECKING:
    from typing import Any

NODEV, NOSUID, NOEXEC, RDONLY = (
    sc.MOUNT_ATTR_NODEV,
    sc.MOUNT_ATTR_NOSUID,
    sc.MOUNT_ATTR_NOEXEC,
    sc.MOUNT_ATTR_RDONLY,
)


class Refused(Exception):
    """The plan cannot be carried out: `kind` is input, unsupported or failed; the text is for the user."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class Mounter:
    """Mounts the steps of one plan. `root` is the new root's mount, once it is in place.

    `stage` is a directory where mounts are put that must be attached somewhere to be cloned; it goes with the old root.
    `made` tells which mount points were made in the root: see `leftovers.Made`.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.root = -1
        self.contents, self.files = -1, 0
        self.made: list[tuple[str, int, int, list[tuple[str, bool]]]] = []

    def mount_root(self, step: dict[str, Any]) -> None:
        """Put the root over `/`; paths of the machine are still found, as they start below it."""
        self.root = self._source(step)
        sc.move_mount(self.root, sc.AT_FDCWD, "/")

    def mount(self, step: dict[str, Any]) -> None:
        """One mount inside the root."""
        source = self._source(step)
        kind, *args = step["source"]
        self.attach(source, step["dest"], take_mode=kind == "tmpfs" and args[1] is None)
        os.close(source)

    def attach(self, source: int, dest: str, take_mode: bool = False) -> None:
        """Put the detached mount on `dest` in the new root, making the mount point if need be.

        `take_mode`: the mount's root gets the mode of the directory it covers.
        """
        is_dir = stat.S_ISDIR(os.fstat(source).st_mode)
        target = self._target(dest, is_dir)
        try:
            if stat.S_ISDIR(os.fstat(target).st_mode) != is_dir:
                what = "a directory on a file" if is_dir else "a file on a directory"
                raise Refused("input", f"cannot mount {what} at {dest}")
            if take_mode:
                os.chmod(".", stat.S_IMODE(os.fstat(target).st_mode), dir_fd=source)
            sc.move_mount(source, target)
        finally:
            os.close(target)

    def _target(self, dest: str, is_dir: bool) -> int:
        try:
            return open_in_root(self.root, dest, os.O_PATH)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Refused("input", f"cannot mount at {dest}: {os.strerror(error.errno or 0)}") from None
        try:
            return self._make_target(resolve_in_root(self.root, dest), is_dir)
        except OSError as error:
            raise Refused("input", f"cannot make the mount point {dest}: {os.strerror(error.errno or 0)}") from None

    def _make_target(self, path: str, is_dir: bool) -> int:
        """Make a mount point that no stub layer could give; remembered, so that it is removed after the run."""
        parent, before = self._existing_parent(path)
        directory, _, name = path.rpartition("/")
        fd, made = make_dirs_in_root(self.root, path if is_dir else directory or "/", 0o755)
        stubs = [(made_path, True) for made_path in made]
        if not is_dir:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=fd))
            stubs.append((path, False))
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        self.made.append((parent, before, self._existing_parent(parent + "/x")[1], stubs))
        return fd

    def _existing_parent(self, path: str) -> tuple[str, int]:
        """The nearest parent that exists, and its mtime."""
        while True:
            path = path.rpartition("/")[0]
            try:
                fd = open_in_root(self.root, path or "/", os.O_PATH)
            except OSError:
                if not path:
                    raise
                continue
            mtime = os.fstat(fd).st_mtime_ns
            os.close(fd)
            return path, mtime

    def _source(self, step: dict[str, Any]) -> int:
        """A detached mount of the step's source, with its attributes."""
        kind, *args = step["source"]
        fd = _SOURCES[kind](self, step, *args)
        if step["attributes"]:
            sc.mount_setattr(fd, set=step["attributes"], recursive=kind == "bind")
        return fd

    def _overlay(
        self, step: dict[str, Any], directory: str, lowers: list[str], upper: str, work: str, options: Any
    ) -> int:
        os.chdir(directory)
        try:
            fd = _overlay_by_fsopen(lowers, upper, work, options)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise self._overlay_refused(error) from None
            try:
                fd = self._overlay_by_mount(lowers, upper, work, options)
            except OSError as second:
                raise self._overlay_refused(second) from error
        if step["selector"]:
            fd = self._select_staged(fd, step)
        return fd

    def _overlay_refused(self, error: OSError) -> Refused:
        return Refused("unsupported", f"cannot mount an overlay: {error.strerror}")

    def _overlay_by_mount(self, lowers: list[str], upper: str, work: str, options: Any) -> int:
        """Before Linux 6.5: all names in one page, so they are relative to a common directory and short."""
        escaped = ":".join(_escape(path) for path in reversed(lowers))
        words = [f"lowerdir={escaped}"]
        if upper:
            words += [f"upperdir={_escape(upper)}", f"workdir={_escape(work)}"]
        words += [key if value is None else f"{key}={value}" for key, value in options]
        stage = self.stage
        sc.mount("overlay", stage, "overlay", 0, ",".join(words))
        fd = sc.open_tree(sc.AT_FDCWD, stage, sc.OPEN_TREE_CLONE)
        sc.umount2(stage, sc.MNT_DETACH)
        return fd

    def _select_staged(self, fd: int, step: dict[str, Any]) -> int:
        """The selected part of a detached mount; kernels clone only what is attached, so it is attached out of
        sight."""
        sc.move_mount(fd, sc.AT_FDCWD, self.stage)
        return self._select(fd, step)

    def _select(self, fd: int, step: dict[str, Any], recursive: bool = False) -> int:
        selector = step["selector"]
        try:
            part = open_in_root(fd, selector, os.O_PATH)
        except OSError as error:
            why = "does not exist" if error.errno == errno.ENOENT else os.strerror(error.errno or 0)
            raise Refused("input", f"cannot mount {selector!r} at {step['dest']}: {why}") from None
        try:
            return clone(part, "", recursive)
        finally:
            os.close(part)
            os.close(fd)

    def _bind(self, step: dict[str, Any], path: str, recursive: bool) -> int:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise Refused("input", f"cannot mount {path} at {step['dest']}: {error.strerror}") from None
        if step["selector"]:
            return self._select(fd, step, recursive)
        try:
            return clone(fd, "", recursive)
        finally:
            os.close(fd)

    def _tmpfs(self, step: dict[str, Any], size: int, mode: int | None) -> int:
        options = [("mode", "1777" if mode is None else f"{mode:o}")] + ([("size", str(size))] if size else [])
        return new_mount("tmpfs", options, 0)

    def _content(self, step: dict[str, Any], data: bytes, mode: int, uid: int, gid: int) -> int:
        """A file on one tmpfs of all contents, which is attached out of sight so that its files can be cloned."""
        if self.contents < 0:
            self.contents = new_mount("tmpfs", [("mode", "700")], NODEV | NOSUID | NOEXEC)
            sc.move_mount(self.contents, sc.AT_FDCWD, self.stage)
        self.files += 1
        name = str(self.files)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.contents)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if uid or gid:
                _chown_if_mapped(fd, uid, gid)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        return sc.open_tree(self.contents, name, sc.OPEN_TREE_CLONE)


_SOURCES: dict[str, Callable[..., int]] = {
    "overlay": Mounter._overlay,
    "bind": Mounter._bind,
    "tmpfs": Mounter._tmpfs,
    "content": Mounter._content,
}


# ---- single acts -----------------------------------------------------------------------------------------------------


def new_mount(kind: str, options: list[tuple[str, str]], attributes: int) -> int:
    fs = sc.fsopen(kind)
    try:
        sc.fsconfig_string(fs, "source", kind)  # what /proc/mounts and df show
        for key, value in options:
            sc.fsconfig_string(fs, key, value)
        sc.fsconfig_create(fs)
        return sc.fsmount(fs, attributes)
    finally:
        os.close(fs)


def _overlay_by_fsopen(lowers: list[str], upper: str, work: str, options: Any) -> int:
    fs = sc.fsopen("overlay")
    try:
        for path in reversed(lowers):  # the kernel wants the top one first
            sc.fsconfig_string(fs, "lowerdir+", path)
        if upper:
            sc.fsconfig_string(fs, "upperdir", upper)
            sc.fsconfig_string(fs, "workdir", work)
        for key, value in options:
            if value is None:
                sc.fsconfig_flag(fs, key)
            else:
                sc.fsconfig_string(fs, key, value)
        sc.fsconfig_create(fs)
        return sc.fsmount(fs, 0)
    finally:
        os.close(fs)


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def clone(dir_fd: int, path: str, recursive: bool) -> int:
    flags = sc.OPEN_TREE_CLONE | (0 if path else sc.AT_EMPTY_PATH)
    if not recursive:
        try:
            return sc.open_tree(dir_fd, path, flags)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # In a user namespace a mount may not be shown without the ones that cover parts of it: take them along.
    return sc.open_tree(dir_fd, path, flags | sc.AT_RECURSIVE)


def _chown_if_mapped(fd: int, uid: int, gid: int) -> None:
    try:
        os.fchown(fd, uid, gid)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise


def open_existing(base: int, name: str) -> int:
    try:
        return open_in_root(base, name, os.O_PATH)
    except OSError:
        return -1
