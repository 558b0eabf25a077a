"""Linux system calls that the standard library lacks, typed, each raising OSError with errno.

Owns numbers, constants and calling convention. Does not know why anyone calls. `ctypes` is loaded at the first call,
not at import: a fully cached build makes none. Every descriptor returned is close-on-exec. Sources: the man page of
each call, and include/uapi/linux/{mount,openat2,seccomp,capability}.h for constants.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress
from functools import cache

TYPE_CHECKING = False  # typing.TYPE_CHECKING without the import of typing, which costs as much as a fork
if TYPE_CHECKING:
    from typing import Any

# ---- numbers: calls since 5.1 have one number everywhere; older ones are (x86_64, aarch64) ------------------------

_AARCH64 = os.uname().machine == "aarch64"
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_PIDFD_OPEN, _CLOSE_RANGE, _OPENAT2, _PIDFD_SEND_SIGNAL, _MOUNT_SETATTR = 434, 436, 437, 424, 442
_PIVOT_ROOT = 41 if _AARCH64 else 155
_CAPGET, _CAPSET = (90, 91) if _AARCH64 else (125, 126)
_SECCOMP = 277 if _AARCH64 else 317
_RENAMEAT2 = 276 if _AARCH64 else 316
_KEYCTL = 219 if _AARCH64 else 250
_CLONE = 220 if _AARCH64 else 56

# ---- constants -------------------------------------------------------------------------------------------------------

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 2, 4, 8, 16

MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MS_REC, MS_PRIVATE, MS_SLAVE = 16384, 1 << 18, 1 << 19
MNT_DETACH = 2

OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOATIME = 1, 2, 4, 8, 0x10

CLONE_PARENT = 0x8000
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x8000000, 0x10000000, 0x20000000, 0x40000000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 15, 24, 38
PR_SET_CHILD_SUBREAPER = 36

SECCOMP_SET_MODE_FILTER = 1

LANDLOCK_SCOPE_SIGNAL = 2
_LANDLOCK_CREATE_RULESET_VERSION = 1

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2

_FICLONE = 0x40049409
_SIGCHLD = 17

_CAPABILITY_NAMES = """chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace
sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control
setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"""
CAPABILITIES = tuple(_CAPABILITY_NAMES.split())  # a capability's number is its index: capabilities(7)


# ---- calling ---------------------------------------------------------------------------------------------------------


@cache
def _library() -> tuple[Any, Any, Any]:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    # c_void_p takes integers, bytes (as a pointer) and None alike, and passes all 64 bits.
    libc.syscall.argtypes = [ctypes.c_long] + [ctypes.c_void_p] * 6
    for name, count in (("mount", 5), ("umount2", 2), ("unshare", 1), ("setns", 2), ("prctl", 5)):
        getattr(libc, name).argtypes = [ctypes.c_void_p] * count
    return libc, ctypes.get_errno, ctypes


def _check(result: int, name: str, path: str | None = None) -> int:
    if result < 0:
        code = _library()[1]()
        raise OSError(code, f"{name}: {os.strerror(code)}" if name else os.strerror(code), path)
    return result


def _syscall(name: str, number: int, *args: Any, path: str | None = None) -> int:
    libc = _library()[0]
    return _check(libc.syscall(number, *args, *(0,) * (6 - len(args))), name, path)


def _text(value: str | bytes | None) -> bytes | None:
    """The C string for a path or option; a NUL inside would silently cut it, so it is refused as the kernel would."""
    if value is None:
        return None
    data = os.fsencode(value)
    if b"\0" in data:
        raise OSError(errno.EINVAL, "embedded null byte")
    return data


# ---- paths and files -------------------------------------------------------------------------------------------------


def openat2(dir_fd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2): a descriptor for `path` under `dir_fd`, resolved as the RESOLVE_ bits in `resolve` allow."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    # Told as open(2) would be: such errors reach users, with the path.
    return _syscall("", _OPENAT2, dir_fd, _text(path), how, len(how), path=os.fsdecode(path))


def renameat2(old_dir: int, old: str, new_dir: int, new: str, flags: int = 0) -> None:
    """renameat2(2), with RENAME_NOREPLACE or RENAME_EXCHANGE."""
    _syscall("renameat2", _RENAMEAT2, old_dir, _text(old), new_dir, _text(new), flags, path=old)


def reflink(source_fd: int, dest_fd: int) -> bool:
    """Make `dest_fd` share the bytes of `source_fd` (FICLONE); False where the file systems cannot."""
    try:
        fcntl.ioctl(dest_fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM):
            return False
        raise
    return True


def syncfs(fd: int) -> None:
    """syncfs(2): wait until what was written to the file system of `fd` is on disk."""
    _check(_library()[0].syncfs(fd), "syncfs")


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """close_range(2): close every descriptor from `first` to `last`, both included."""
    try:
        _syscall("close_range", _CLOSE_RANGE, first, last, 0)
    except OSError as error:  # before Linux 5.9
        if error.errno != errno.ENOSYS:
            raise
        for name in os.listdir("/proc/self/fd"):
            if first <= int(name) <= last:
                with suppress(OSError):  # the listing's own descriptor is gone already
                    os.close(int(name))


# ---- mounts ----------------------------------------------------------------------------------------------------------


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    libc = _library()[0]
    _check(libc.mount(_text(source), _text(target), _text(kind), flags, _text(data)), "mount", target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_library()[0].umount2(_text(target), flags), "umount2", target)


def fsopen(kind: str) -> int:
    """fsopen(2): a descriptor in which a file system of `kind` is configured."""
    return _syscall("fsopen", _FSOPEN, _text(kind), 1, path=kind)


def fsconfig_string(fs_fd: int, key: str, value: str | bytes) -> None:
    """fsconfig(2) FSCONFIG_SET_STRING; on failure the kernel's own words are added to the error."""
    _fsconfig(fs_fd, FSCONFIG_SET_STRING, _text(key), _text(value), 0, key)


def fsconfig_flag(fs_fd: int, key: str) -> None:
    """fsconfig(2) FSCONFIG_SET_FLAG."""
    _fsconfig(fs_fd, FSCONFIG_SET_FLAG, _text(key), None, 0, key)


def fsconfig_create(fs_fd: int) -> None:
    """fsconfig(2) FSCONFIG_CMD_CREATE: make the superblock."""
    _fsconfig(fs_fd, FSCONFIG_CMD_CREATE, None, None, 0, "create")


def _fsconfig(fs_fd: int, command: int, key: bytes | None, value: bytes | None, aux: int, what: str) -> None:
    try:
        _syscall("fsconfig", _FSCONFIG, fs_fd, command, key, value, aux)
    except OSError as error:
        words = "; ".join(fs_messages(fs_fd))
        if not words:
            raise
        raise OSError(error.errno, f"{os.strerror(error.errno or 0)} ({words})", what) from None


def fs_messages(fs_fd: int) -> list[str]:
    """The kernel's messages about a file system being configured (fsopen(2), "message retrieval"), newest last."""
    messages: list[str] = []
    while True:
        try:
            line = os.read(fs_fd, 4096)
        except OSError:
            return messages
        if not line:
            return messages
        messages.append(line.decode(errors="replace").strip().removeprefix("e "))  # "e" for error


def fsmount(fs_fd: int, attributes: int = 0) -> int:
    """fsmount(2): a detached mount with MOUNT_ATTR_ bits, as an O_PATH descriptor of its root."""
    return _syscall("fsmount", _FSMOUNT, fs_fd, 1, attributes)


def open_tree(dir_fd: int, path: str, flags: int = OPEN_TREE_CLONE) -> int:
    """open_tree(2): with OPEN_TREE_CLONE a detached copy of the mount at `path` (`""` with AT_EMPTY_PATH:
    `dir_fd`)."""
    return _syscall("open_tree", _OPEN_TREE, dir_fd, _text(path), flags | os.O_CLOEXEC, path=path)


def move_mount(from_fd: int, to_fd: int, to_path: str = "") -> None:
    """move_mount(2): attach the detached mount `from_fd` at `to_path` under `to_fd`, or on `to_fd` itself."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if to_path else MOVE_MOUNT_T_EMPTY_PATH)
    _syscall("move_mount", _MOVE_MOUNT, from_fd, b"", to_fd, _text(to_path), flags, path=to_path)


def mount_setattr(
    dir_fd: int,
    path: str = "",
    *,
    set: int = 0,
    clear: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    user_namespace_fd: int = 0,
) -> None:
    """mount_setattr(2): change MOUNT_ATTR_ bits and propagation of the mount at `path`, or of `dir_fd` itself."""
    attributes = struct.pack("=QQQQ", set, clear, propagation, user_namespace_fd)
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    _syscall("mount_setattr", _MOUNT_SETATTR, dir_fd, _text(path), flags, attributes, len(attributes), path=path)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2); `(".", ".")` stacks the old root on the new one."""
    _syscall("pivot_root", _PIVOT_ROOT, _text(new_root), _text(put_old), path=new_root)


# ---- processes, namespaces, privileges -------------------------------------------------------------------------------


def unshare(flags: int) -> None:
    """unshare(2). CLONE_NEWUSER needs a single-threaded caller."""
    _check(_library()[0].unshare(flags), "unshare")


def clone(flags: int) -> int:
    """clone(2) as fork with namespaces (CLONE_NEW* bits): the child's pid, 0 in the child.

    Bypasses the hooks of fork(3), so only a single-threaded caller whose child soon executes or exits may use it.
    """
    return _syscall("clone", _CLONE, flags | _SIGCHLD, 0, 0, 0, 0)


def setns(fd: int, kind: int = 0) -> None:
    """setns(2)."""
    _check(_library()[0].setns(fd, kind), "setns")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2) with integer arguments."""
    return _check(_library()[0].prctl(option, arg2, arg3, arg4, arg5), "prctl")


def set_process_name(name: str) -> None:
    """PR_SET_NAME: what ps shows, at most 15 bytes."""
    _check(_library()[0].prctl(PR_SET_NAME, _text(name[:15]), 0, 0, 0), "prctl")


_CAPABILITY_VERSION_3 = 0x20080522


def capset(effective: int, permitted: int, inheritable: int = 0) -> None:
    """capset(2) for the calling thread; arguments are bit masks by capability number."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    words = [(mask >> shift) & 0xFFFFFFFF for shift in (0, 32) for mask in (effective, permitted, inheritable)]
    _syscall("capset", _CAPSET, header, struct.pack("=6I", *words))


def capget() -> tuple[int, int, int]:
    """capget(2) of the calling thread: effective, permitted and inheritable as bit masks."""
    ctypes = _library()[2]
    header, data = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    _syscall("capget", _CAPGET, header, data)
    low_e, low_p, low_i, high_e, high_p, high_i = struct.unpack("=6I", data.raw)
    return low_e | high_e << 32, low_p | high_p << 32, low_i | high_i << 32


def seccomp_filter(program: bytes, flags: int = 0) -> None:
    """seccomp(2) SECCOMP_SET_MODE_FILTER: install `program`, an array of struct sock_filter of 8 bytes each."""
    ctypes = _library()[2]
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    _syscall("seccomp", _SECCOMP, SECCOMP_SET_MODE_FILTER, flags, fprog)


def landlock_version() -> int:
    """Which Landlock the kernel has, 0 for none: landlock_create_ruleset(2)."""
    try:
        return _syscall("landlock", _LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def landlock_scope(scopes: int) -> None:
    """Enter a Landlock domain of one's own, by LANDLOCK_SCOPE_ bits: since Linux 6.12, landlock(7).

    Whoever is in one can neither trace nor look into (ptrace(2), access modes) what is not in it.
    """
    ruleset = _syscall("landlock", _LANDLOCK_CREATE_RULESET, struct.pack("=QQQ", 0, 0, scopes), 24, 0)
    try:
        _syscall("landlock", _LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def pidfd_open(pid: int) -> int:
    """pidfd_open(2)."""
    return _syscall("pidfd_open", _PIDFD_OPEN, pid, 0)


def pidfd_send_signal(fd: int, signal_number: int) -> None:
    """pidfd_send_signal(2)."""
    _syscall("pidfd_send_signal", _PIDFD_SEND_SIGNAL, fd, signal_number, None, 0)


def new_session_keyring() -> None:
    """keyctl(2) KEYCTL_JOIN_SESSION_KEYRING: leave the keys of the caller's session behind."""
    _syscall("keyctl", _KEYCTL, 1, None)
