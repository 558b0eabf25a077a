"""A container with a masked /proc, as Docker and Kubernetes make it: `python masked.py COMMAND…` runs one in it.

Owns the covers over /proc (moby's default MaskedPaths and ReadonlyPaths) and the loss of CAP_SYS_ADMIN; root of this
machine or, for an ordinary user, of a user namespace. In a user namespace below, the kernel lets nobody uncover them
or mount another /proc. Does not know what runs in it.
"""

import os
import stat
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from kedge.kernel import identity
from kedge.kernel import syscalls as sc

COMMAND = (sys.executable, str(Path(__file__).resolve()))
COVERED = ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list")
READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


def main(command: list[str]) -> None:
    identity.enter_user_namespace()
    sc.unshare(sc.CLONE_NEWNS)
    sc.mount(None, "/", None, sc.MS_REC | sc.MS_PRIVATE)
    for name in COVERED:
        if os.path.exists(f"/proc/{name}"):
            _cover(f"/proc/{name}")
    for name in READ_ONLY:
        if os.path.exists(f"/proc/{name}"):
            fd = sc.open_tree(sc.AT_FDCWD, f"/proc/{name}", sc.OPEN_TREE_CLONE | sc.AT_RECURSIVE)
            sc.mount_setattr(fd, set=sc.MOUNT_ATTR_RDONLY, recursive=True)
            sc.move_mount(fd, sc.AT_FDCWD, f"/proc/{name}")
            os.close(fd)
    effective, permitted, _ = sc.capget()
    sc.capset(effective, permitted, 0)
    sc.prctl(sc.PR_CAPBSET_DROP, sc.CAPABILITIES.index("sys_admin"))
    os.execvp(command[0], command)


def _cover(path: str) -> None:
    if stat.S_ISDIR(os.stat(path).st_mode):
        sc.mount("tmpfs", path, "tmpfs", sc.MS_RDONLY)
        return
    fd = sc.open_tree(sc.AT_FDCWD, "/dev/null", sc.OPEN_TREE_CLONE)
    sc.move_mount(fd, sc.AT_FDCWD, path)
    os.close(fd)


if __name__ == "__main__":
    main(sys.argv[1:])
