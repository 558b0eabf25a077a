"""The inside of a step: from a fresh child in new namespaces to the user's program, by a plan of plain values.

Owns the order of system calls. Runs in the zygote's child only, so it imports nothing slow: no dataclasses, no errors
of ours. Does not know why the plan says what it says (`plan`). Every target is resolved inside the new root and
mounted on by descriptor; nothing here trusts a name in the image twice.

The plan of one run, in words: build the root mount and put it over `/`; mount the list, in order, inside it; mask what
/proc and /sys must not show; pivot; then hostname, limits, streams, ids, capabilities, filter; then execve.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from marshal import dumps, loads

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


class Refused(Exception):
    """The plan cannot be carried out: `kind` is input, unsupported or failed; the text is for the user."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


def run_child(plan_fd: int, stdio: tuple[int, int, int], status: socket.socket) -> None:
    """Carry out the plan read from `plan_fd` and become the program. Never returns."""
    child = _Child(stdio, status)
    try:
        with open(plan_fd, "rb") as file:
            file.seek(0)
            child.plan = loads(file.read())
        child.run()
    except Refused as refused:
        _tell(child.status, b"E", (refused.kind, refused.text))
    except OSError as error:
        _tell(child.status, b"E", ("failed", f"sandbox: cannot {child.doing}: {error.strerror or error}"))
    except BaseException as error:
        _tell(child.status, b"E", ("bug", f"{type(error).__name__}: {error} (line {_line_of(error)})"))
    finally:
        os._exit(125)


def _line_of(error: BaseException) -> int:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_lineno if trace else 0


def _tell(status: socket.socket, kind: bytes, value: Any, fds: tuple[int, ...] = ()) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    status.sendmsg([kind + dumps(value)], rights)


class _Child:
    """One step's child. `root` is the new root's mount, once it is in place."""

    def __init__(self, stdio: tuple[int, int, int], status: socket.socket) -> None:
        self.plan: dict[str, Any] = {}
        self.stdio, self.status = stdio, status
        self.doing = "start"  # for the message, should a system call fail
        self.root = -1
        self.contents, self.files = -1, 0
        self.made: list[tuple[str, int, int, list[tuple[str, bool]]]] = []

    def run(self) -> None:
        plan = self.plan
        os.umask(0o22)
        if plan["new_keyring"]:
            with suppress(OSError):  # the quota of keys is used up
                sc.new_session_keyring()
        for path in plan["cgroups"]:
            self._join_cgroup(path)
        if plan["cgroup_namespace"]:
            sc.unshare(sc.CLONE_NEWCGROUP)
        self.doing = "mount the root"
        self._mount_root(plan["root"])
        for step in plan["mounts"]:
            self.doing = f"mount {step['dest']}"
            self._mount(step)
        if self.made:
            _tell(self.status, b"C", self.made)
        self.doing = "mask /proc and /sys"
        if plan["mask"]:
            self._mask()
        if plan["root_readonly"]:
            sc.mount_setattr(self.root, set=RDONLY)
        self.doing = "enter the root"
        self._enter()
        self.doing = "become the program"
        self._become()

    # ---- mounts ------------------------------------------------------------------------------------------------------

    def _join_cgroup(self, path: str) -> None:
        try:
            with open(path, "w") as file:
                file.write("0")
        except OSError as error:
            _tell(self.status, b"N", f"resource limits are not in force: {path}: {error.strerror}")

    def _mount_root(self, step: dict[str, Any]) -> None:
        self.root = self._source(step)
        sc.move_mount(self.root, sc.AT_FDCWD, "/")

    def _mount(self, step: dict[str, Any]) -> None:
        kind = step["source"][0]
        if kind in _SYSTEM:
            _SYSTEM[kind](self, step)
            return
        source = self._source(step)
        self._attach(source, step["dest"])
        os.close(source)

    def _attach(self, source: int, dest: str) -> None:
        """Put the detached mount on `dest` in the new root, making the mount point if need be."""
        is_dir = stat.S_ISDIR(os.fstat(source).st_mode)
        target = self._target(dest, is_dir)
        try:
            if stat.S_ISDIR(os.fstat(target).st_mode) != is_dir:
                what = "a directory on a file" if is_dir else "a file on a directory"
                raise Refused("input", f"cannot mount {what} at {dest}")
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
        stage = self.plan["stage"]
        sc.mount("overlay", stage, "overlay", 0, ",".join(words))
        fd = sc.open_tree(sc.AT_FDCWD, stage, sc.OPEN_TREE_CLONE)
        sc.umount2(stage, sc.MNT_DETACH)
        return fd

    def _select_staged(self, fd: int, step: dict[str, Any]) -> int:
        """The selected part of a detached mount; kernels clone only what is attached, so it is attached out of
        sight."""
        sc.move_mount(fd, sc.AT_FDCWD, self.plan["stage"])
        return self._select(fd, step)

    def _select(self, fd: int, step: dict[str, Any], recursive: bool = False) -> int:
        selector = step["selector"]
        try:
            part = open_in_root(fd, selector, os.O_PATH)
        except OSError as error:
            why = "does not exist" if error.errno == errno.ENOENT else os.strerror(error.errno or 0)
            raise Refused("input", f"cannot mount {selector!r} at {step['dest']}: {why}") from None
        try:
            return _clone(part, "", recursive)
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
            return _clone(fd, "", recursive)
        finally:
            os.close(fd)

    def _tmpfs(self, step: dict[str, Any], size: int, mode: int) -> int:
        options = [("mode", f"{mode:o}")] + ([("size", str(size))] if size else [])
        return _new_mount("tmpfs", options, 0)

    def _content(self, step: dict[str, Any], data: bytes, mode: int, uid: int, gid: int) -> int:
        """A file on one tmpfs of all contents, which is attached out of sight so that its files can be cloned."""
        if self.contents < 0:
            self.contents = _new_mount("tmpfs", [("mode", "700")], NODEV | NOSUID | NOEXEC)
            sc.move_mount(self.contents, sc.AT_FDCWD, self.plan["stage"])
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

    # ---- what every step gets ----------------------------------------------------------------------------------------

    def _proc(self, step: dict[str, Any]) -> None:
        try:
            fd = _new_mount("proc", [], NODEV | NOSUID | NOEXEC)
        except OSError as error:
            raise Refused("unsupported", f"cannot mount /proc: {error.strerror}") from None
        self._attach(fd, "/proc")
        self.proc = fd

    def _sys(self, step: dict[str, Any]) -> None:
        attributes = NODEV | NOSUID | NOEXEC | step["attributes"]
        try:
            fd = _new_mount("sysfs", [], attributes)
        except OSError:
            # In a user namespace with the machine's network: show the machine's own, read-only.
            fd = _clone(sc.AT_FDCWD, "/sys", True)
            sc.mount_setattr(fd, set=attributes, recursive=True)
        self._attach(fd, "/sys")
        self.sys = fd

    def _cgroup(self, step: dict[str, Any], version: int) -> None:
        attributes = NODEV | NOSUID | NOEXEC | step["attributes"]
        try:
            fd = _new_mount("cgroup2" if version == 2 else "tmpfs", [], attributes)
        except OSError:
            fd = _new_mount("tmpfs", [], attributes)
        try:
            target = open_in_root(self.sys, "fs/cgroup", os.O_PATH)
        except OSError:
            return  # a kernel without cgroups
        sc.move_mount(fd, target)

    def _dev(self, step: dict[str, Any], shm_size: int, pts_gid: int, terminal: bool) -> None:
        dev = _new_mount("tmpfs", [("mode", "755"), ("size", "64k"), ("nr_inodes", "4k")], NOSUID | NODEV | NOEXEC)
        self._attach(dev, "/dev")
        for name in _DEVICES:
            self._device(dev, name)
        for name, target in _LINKS:
            os.symlink(target, name, dir_fd=dev)
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(name, 0o755, dir_fd=dev)
        options = [("mode", "620"), ("ptmxmode", "666")] + ([("gid", str(pts_gid))] if pts_gid else [])
        sc.move_mount(_new_mount("devpts", options, NOSUID | NOEXEC), dev, "pts")
        options = [("mode", "1777"), ("size", str(shm_size))]
        sc.move_mount(_new_mount("tmpfs", options, NOSUID | NODEV | NOEXEC), dev, "shm")
        try:
            sc.move_mount(_new_mount("mqueue", [], NOSUID | NODEV | NOEXEC), dev, "mqueue")
        except OSError as error:  # a kernel without POSIX message queues
            if error.errno != errno.ENODEV:
                raise
        if terminal:
            self._terminal(dev)

    def _device(self, dev: int, name: str) -> None:
        """The machine's own node, bound: the tmpfs below allows no devices, whatever a step makes there."""
        fd = sc.open_tree(sc.AT_FDCWD, f"/dev/{name}", sc.OPEN_TREE_CLONE)
        info = os.fstat(fd)
        if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(*_DEVICE_NUMBERS[name]):
            raise Refused("unsupported", f"/dev/{name} of this machine is not the device it should be")
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=dev))
        sc.move_mount(fd, dev, name)
        os.close(fd)

    def _terminal(self, dev: int) -> None:
        """A pseudo-terminal of the step's own devpts: its master goes to the builder, the slave becomes our
        streams."""
        master = os.open("pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dev)
        fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK: unlock
        slave = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)  # TIOCGPTPEER
        _tell(self.status, b"T", None, (master,))
        os.close(master)
        os.fchown(slave, self.plan["uid"] if not self.plan["fake_ids"] else 0, -1)
        os.close(os.open("console", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dev))
        console = sc.open_tree(slave, "", sc.OPEN_TREE_CLONE | sc.AT_EMPTY_PATH)
        sc.move_mount(console, dev, "console")
        os.close(console)
        self.stdio = (slave, slave, slave)

    def _mask(self) -> None:
        null = sc.open_tree(sc.AT_FDCWD, "/dev/null", sc.OPEN_TREE_CLONE)
        sc.mount_setattr(null, set=RDONLY | NOSUID | NOEXEC)
        first = True
        for top, names in (("proc", _MASKED["proc"]), ("sys", _MASKED["sys"])):
            base = self.proc if top == "proc" else self.sys
            for name in names:
                fd = _open_existing(base, name)
                if fd < 0:
                    continue
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    sc.move_mount(_new_mount("tmpfs", [("size", "0"), ("nr_inodes", "2")], RDONLY | NODEV | NOSUID), fd)
                else:
                    # A detached mount attaches once; the later ones are clones of the first, now attached, one.
                    sc.move_mount(null if first else sc.open_tree(null, "", sc.OPEN_TREE_CLONE | sc.AT_EMPTY_PATH), fd)
                    first = False
                os.close(fd)
        for name in _READ_ONLY:
            fd = _open_existing(self.proc, name)
            if fd >= 0:
                copy = _clone(fd, "", True)
                sc.mount_setattr(copy, set=RDONLY | NODEV | NOSUID | NOEXEC, recursive=True)
                sc.move_mount(copy, fd)
                os.close(copy)
                os.close(fd)

    # ---- becoming the program ----------------------------------------------------------------------------------------

    def _enter(self) -> None:
        os.fchdir(self.root)
        sc.pivot_root(".", ".")
        sc.umount2(".", sc.MNT_DETACH)  # the old root was stacked on the new one
        os.chdir("/")
        if self.plan["loopback"]:
            _raise_loopback()
        socket.sethostname(self.plan["hostname"])
        cwd = self.plan["cwd"]
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            owner = None if self.plan["fake_ids"] else (self.plan["uid"], self.plan["gid"])
            fd, _ = make_dirs_in_root(root, cwd, 0o755, owner)
        except OSError as error:
            # ELOOP is also how a magic link (/proc/self/fd/7, CVE-2024-21626) is refused.
            raise Refused(
                "input", f"cannot use {cwd} as the working directory: {os.strerror(error.errno or 0)}"
            ) from None
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("(unreachable)"):
                raise Refused("input", f"the working directory {cwd} is outside of the root")
        except OSError:
            pass
        os.fchdir(fd)

    def _become(self) -> None:
        plan = self.plan
        for name, soft, hard in plan["rlimits"]:
            self._limit(name, soft, hard)
        self._streams()
        program = self._find_program()
        self._drop_privileges()
        sc.prctl(sc.PR_SET_PDEATHSIG, 9)
        try:
            os.execve(program, plan["args"], plan["environment"])
        except OSError as error:
            self._cannot_execute(program, error)

    def _limit(self, name: str, soft: int, hard: int) -> None:
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None:
            _tell(self.status, b"N", f"ulimit {name} is unknown here and was not set")
            return
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, OSError):
            _, most = resource.getrlimit(number)
            capped = [most if value < 0 or (0 <= most < value) else value for value in (soft, hard)]
            resource.setrlimit(number, (capped[0], capped[1]))
            _tell(self.status, b"N", f"ulimit {name} was capped at {most}: no right to raise it")

    def _streams(self) -> None:
        """Put the streams in place and close all else but the status channel, which closes when the program starts."""
        os.setsid()
        if self.plan["terminal"]:
            fcntl.ioctl(self.stdio[0], 0x540E, 0)  # TIOCSCTTY
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (*self.stdio, self.status.fileno())]
        for fd in range(3):
            os.dup2(moved[fd], fd)
        os.dup2(moved[3], 3, inheritable=False)
        self.status.detach()
        self.status = socket.socket(fileno=3)
        sc.close_range(4)
        uid = self.plan["uid"]
        if uid and not self.plan["fake_ids"]:
            for fd in range(3):  # so that /dev/stdout can be opened again; files and devices are not ours to give away
                if stat.S_ISFIFO(os.fstat(fd).st_mode):
                    with suppress(OSError):
                        os.fchown(fd, uid, -1)

    def _find_program(self) -> str:
        name = self.plan["args"][0]
        if "/" in name:
            found = _look(name)
        else:
            found = errno.ENOENT
            for directory in self.plan["path"].split(":"):
                code = _look(f"{directory or '.'}/{name}")
                if code == 0:
                    return f"{directory or '.'}/{name}"
                if code == errno.EACCES:
                    found = code
        if found == 0:
            return str(name)
        why = "executable file not found in $PATH" if found == errno.ENOENT and "/" not in name else _words(found)
        self._fail(126 if found not in (errno.ENOENT, errno.ENOTDIR) else 127, f'exec: "{name}": {why}')
        raise AssertionError

    def _cannot_execute(self, program: str, error: OSError) -> None:
        code = error.errno or 0
        why = _words(code)
        if code == errno.ENOENT:
            interpreter = _interpreter(program)
            why = f"its interpreter {interpreter} does not exist" if interpreter else "its loader does not exist"
        elif code == errno.ENOEXEC:
            why = "exec format error (made for another platform, or a script without a #! line)"
        self._fail(127 if code == errno.ENOENT else 126, f'exec: "{program}": {why}')

    def _fail(self, code: int, text: str) -> None:
        try:
            os.write(2, text.encode(errors="surrogateescape") + b"\n")
        finally:
            os._exit(code)

    def _drop_privileges(self) -> None:
        """Groups, ids, bounding set, filter, capabilities; in this order each call still has the right it needs."""
        plan = self.plan
        if not plan["fake_ids"]:
            try:
                os.setgroups(plan["groups"])
                os.setresgid(plan["gid"], plan["gid"], plan["gid"])
            except OSError:
                wanted = " ".join(str(gid) for gid in sorted({plan["gid"], *plan["groups"]}))
                raise Refused("unsupported", f"not all of the groups {wanted} are mapped here: {_MAP_MORE}") from None
        keep = plan["capabilities"]
        if keep is not None:
            for number in range(plan["last_capability"] + 1):
                if not keep >> number & 1:
                    sc.prctl(sc.PR_CAPBSET_DROP, number)
        if plan["no_new_privileges"]:
            sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
        if plan["seccomp"]:
            sc.seccomp_filter(plan["seccomp"])
        if not plan["fake_ids"] and plan["uid"]:
            try:
                os.setresuid(plan["uid"], plan["uid"], plan["uid"])
            except OSError:
                raise Refused("unsupported", f"user {plan['uid']} is not mapped here: {_MAP_MORE}") from None
        elif keep is not None:
            sc.capset(keep, keep, 0)


_MAP_MORE = "more ids are needed in /etc/subuid and /etc/subgid"
_SOURCES: dict[str, Callable[..., int]] = {
    "overlay": _Child._overlay,
    "bind": _Child._bind,
    "tmpfs": _Child._tmpfs,
    "content": _Child._content,
}
_SYSTEM: dict[str, Callable[..., None]] = {
    "proc": lambda child, step: child._proc(step),
    "sys": lambda child, step: child._sys(step),
    "cgroup": lambda child, step: child._cgroup(step, *step["source"][1:]),
    "dev": lambda child, step: child._dev(step, *step["source"][1:]),
}


# ---- single acts -----------------------------------------------------------------------------------------------------


def _new_mount(kind: str, options: list[tuple[str, str]], attributes: int) -> int:
    fs = sc.fsopen(kind)
    try:
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


def _clone(dir_fd: int, path: str, recursive: bool) -> int:
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


def _open_existing(base: int, name: str) -> int:
    try:
        return open_in_root(base, name, os.O_PATH)
    except OSError:
        return -1


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0x1 | 0x40)  # struct ifreq; IFF_UP | IFF_RUNNING: netdevice(7)
        fcntl.ioctl(control, 0x8914, request)  # SIOCSIFFLAGS


def _look(path: str) -> int:
    """0 if `path` is a file that some may execute, else an errno; magic links are refused (CVE-2019-5736)."""
    try:
        fd = sc.openat2(sc.AT_FDCWD, path, os.O_PATH, 0, sc.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        return error.errno or errno.ENOENT
    mode = os.fstat(fd).st_mode
    os.close(fd)
    if stat.S_ISDIR(mode):
        return errno.EISDIR
    return 0 if stat.S_ISREG(mode) and mode & 0o111 else errno.EACCES


def _words(code: int) -> str:
    text = os.strerror(code)
    return text[:1].lower() + text[1:]


def _interpreter(program: str) -> str:
    try:
        with open(program, "rb") as file:
            line = file.readline(256)
    except OSError:
        return ""
    return line[2:].strip().decode(errors="replace") if line.startswith(b"#!") else ""
