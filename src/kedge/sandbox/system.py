"""What every step gets, whatever its image holds: /proc, /sys, /dev and the covers over parts of them.

Owns these lists. Runs in the zygote's child (`mounting` says what follows from that). Does not know the user's mounts.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable

from kedge.kernel import syscalls as sc
from kedge.kernel.paths import open_in_root
from kedge.sandbox.mounting import NODEV, NOEXEC, NOSUID, RDONLY, Mounter, Refused, clone, new_mount, open_existing

TYPE_CHECKING = False  # typing.TYPE_CHECKING without the import of typing, which is a third of the zygote's start
if TYPE_CHECKING:
    from typing import Any

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_NUMBERS = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
_MASKED = {
    "proc": (
        *("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats"),
        *("sched_debug", "scsi", "timer_list", "timer_stats"),
    ),
    "sys": ("devices/virtual/powercap", "firmware"),
}
_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


class System:
    """Mounts the system's parts of one plan. `terminal` is the (master, slave) of the step's terminal, if any."""

    def __init__(self, mounter: Mounter) -> None:
        self.mounter = mounter
        self.proc = self.sys = -1
        self.terminal: tuple[int, int] | None = None

    def mount(self, step: dict[str, Any]) -> bool:
        """Mount the step and tell so, if it is one of the system's."""
        kind, *args = step["source"]
        if kind in _SYSTEM:
            _SYSTEM[kind](self, step, *args)
        return kind in _SYSTEM

    def _proc(self, step: dict[str, Any]) -> None:
        try:
            fd = new_mount("proc", [], NODEV | NOSUID | NOEXEC)
        except OSError as error:
            kind = "masked" if error.errno == errno.EPERM else "unsupported"
            raise Refused(kind, f"cannot mount /proc: {os.strerror(error.errno or 0)}") from None
        self.mounter.attach(fd, "/proc")
        self.proc = fd

    def _surrounding_proc(self, step: dict[str, Any]) -> None:
        """The one that we have, with all that covers parts of it: the kernel does not let them be parted."""
        fd = clone(sc.AT_FDCWD, "/proc", True)
        sc.mount_setattr(fd, set=NODEV | NOSUID | NOEXEC, recursive=True)
        self.mounter.attach(fd, "/proc")
        self.proc = fd

    def _sys(self, step: dict[str, Any]) -> None:
        attributes = NODEV | NOSUID | NOEXEC | step["attributes"]
        try:
            fd = new_mount("sysfs", [], attributes)
        except OSError:
            # In a user namespace with the machine's network: show the machine's own, read-only.
            fd = clone(sc.AT_FDCWD, "/sys", True)
            sc.mount_setattr(fd, set=attributes, recursive=True)
        self.mounter.attach(fd, "/sys")
        self.sys = fd

    def _cgroup(self, step: dict[str, Any], version: int) -> None:
        attributes = NODEV | NOSUID | NOEXEC | step["attributes"]
        try:
            fd = new_mount("cgroup2" if version == 2 else "tmpfs", [], attributes)
        except OSError:
            fd = new_mount("tmpfs", [], attributes)
        try:
            target = open_in_root(self.sys, "fs/cgroup", os.O_PATH)
        except OSError:
            return  # a kernel without cgroups
        sc.move_mount(fd, target)

    def _dev(self, step: dict[str, Any], shm_size: int, pts_gid: int, terminal: bool) -> None:
        dev = new_mount("tmpfs", [("mode", "755"), ("size", "64k"), ("nr_inodes", "4k")], NOSUID | NODEV | NOEXEC)
        self.mounter.attach(dev, "/dev")
        for name in _DEVICES:
            self._device(dev, name)
        for name, target in _LINKS:
            os.symlink(target, name, dir_fd=dev)
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(name, 0o755, dir_fd=dev)
        options = [("mode", "620"), ("ptmxmode", "666")] + ([("gid", str(pts_gid))] if pts_gid else [])
        sc.move_mount(new_mount("devpts", options, NOSUID | NOEXEC), dev, "pts")
        options = [("mode", "1777"), ("size", str(shm_size))]
        sc.move_mount(new_mount("tmpfs", options, NOSUID | NODEV | NOEXEC), dev, "shm")
        try:
            sc.move_mount(new_mount("mqueue", [], NOSUID | NODEV | NOEXEC), dev, "mqueue")
        except OSError as error:  # a kernel without POSIX message queues
            if error.errno != errno.ENODEV:
                raise
        if terminal:
            self._open_terminal(dev)

    def _device(self, dev: int, name: str) -> None:
        """The machine's own node, bound: the tmpfs below allows no devices, whatever a step makes there."""
        fd = sc.open_tree(sc.AT_FDCWD, f"/dev/{name}", sc.OPEN_TREE_CLONE)
        info = os.fstat(fd)
        if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(*_DEVICE_NUMBERS[name]):
            raise Refused("unsupported", f"/dev/{name} of this machine is not the device it should be")
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=dev))
        sc.move_mount(fd, dev, name)
        os.close(fd)

    def _open_terminal(self, dev: int) -> None:
        """A pseudo-terminal of the step's own devpts, also bound as /dev/console."""
        master, slave = open_terminal(dev)
        os.close(os.open("console", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dev))
        console = sc.open_tree(slave, "", sc.OPEN_TREE_CLONE | sc.AT_EMPTY_PATH)
        sc.move_mount(console, dev, "console")
        os.close(console)
        self.terminal = (master, slave)

    def mask(self) -> None:
        """Cover what /proc and /sys must not show, and make read-only what must not be changed through them."""
        null = sc.open_tree(sc.AT_FDCWD, "/dev/null", sc.OPEN_TREE_CLONE)
        sc.mount_setattr(null, set=RDONLY | NOSUID | NOEXEC)
        first = True
        for top, names in (("proc", _MASKED["proc"]), ("sys", _MASKED["sys"])):
            base = self.proc if top == "proc" else self.sys
            for name in names:
                fd = open_existing(base, name)
                if fd < 0:
                    continue
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    sc.move_mount(new_mount("tmpfs", [("size", "0"), ("nr_inodes", "2")], RDONLY | NODEV | NOSUID), fd)
                else:
                    # A detached mount attaches once; the later ones are clones of the first, now attached, one.
                    sc.move_mount(null if first else sc.open_tree(null, "", sc.OPEN_TREE_CLONE | sc.AT_EMPTY_PATH), fd)
                    first = False
                os.close(fd)
        for name in _READ_ONLY:
            fd = open_existing(self.proc, name)
            if fd >= 0:
                copy = clone(fd, "", True)
                sc.mount_setattr(copy, set=RDONLY | NODEV | NOSUID | NOEXEC, recursive=True)
                sc.move_mount(copy, fd)
                os.close(copy)
                os.close(fd)


def open_terminal(dev: int) -> tuple[int, int]:
    """A new (master, slave) of the devpts mounted in that /dev, whatever a step may have put in its place."""
    master = os.open("pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dev)
    if os.fstat(master).st_rdev != os.makedev(5, 2):
        raise Refused("unsupported", "/dev/pts/ptmx of this root is no pseudo-terminal")
    fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK: unlock
    slave = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)  # TIOCGPTPEER
    return master, slave


_SYSTEM: dict[str, Callable[..., None]] = {
    "proc": System._proc,
    "surrounding_proc": System._surrounding_proc,
    "sys": System._sys,
    "cgroup": System._cgroup,
    "dev": System._dev,
}
