"""The inside of a step: from a fresh child in new namespaces to the user's program, by a plan of plain values.

Owns the order of system calls. Runs in the zygote's child only, so it imports nothing slow: no value classes, no errors
of ours. Does not know why the plan says what it says (`plan`).

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
from contextlib import suppress
from marshal import dumps, loads

from kedge.kernel import syscalls as sc
from kedge.kernel.paths import make_dirs_in_root
from kedge.sandbox.init import stand_before
from kedge.sandbox.mounting import RDONLY, Mounter, Refused
from kedge.sandbox.private import open_way_out, raise_loopback
from kedge.sandbox.system import System, open_terminal

TYPE_CHECKING = False  # typing.TYPE_CHECKING without the import of typing, which is a third of the zygote's start
if TYPE_CHECKING:
    from typing import Any

_MAP_MORE = "more ids are needed in /etc/subuid and /etc/subgid"


def run_child(plan_fd: int, stdio: tuple[int, int, int], status: socket.socket, join: int = -1) -> None:
    """Carry out the plan read from `plan_fd` and become the program. Never returns.

    With `join`, a pidfd, nothing is mounted: the program starts in that process's namespaces.
    """
    child = _Child(stdio, status)
    try:
        with open(plan_fd, "rb") as file:
            file.seek(0)
            child.plan = loads(file.read())
        child.run(join)
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
    """One step's child."""

    def __init__(self, stdio: tuple[int, int, int], status: socket.socket) -> None:
        self.plan: dict[str, Any] = {}
        self.stdio, self.status = stdio, status
        self.doing = "start"  # for the message, should a system call fail
        self.root = -1  # the new root's mount

    def run(self, join: int) -> None:
        plan = self.plan
        os.umask(0o22)
        if join >= 0:
            for path in plan["cgroups"]:
                self._join_cgroup(path)
            self.doing = "enter the container"
            self._join(join)
            self._change_directory()
            self.doing = "become the program"
            self._become()
        if plan["new_keyring"]:
            with suppress(OSError):  # the quota of keys is used up
                sc.new_session_keyring()
        for path in plan["cgroups"]:
            self._join_cgroup(path)
        if plan["cgroup_namespace"]:
            sc.unshare(sc.CLONE_NEWCGROUP)
        self._mount_all()
        self.doing = "enter the root"
        self._enter()
        self.doing = "become the program"
        self._become()

    def _join(self, pidfd: int) -> None:
        """Go where that process is. Its own root's processes must not look into us meanwhile (CVE-2016-9962)."""
        sc.prctl(sc.PR_SET_DUMPABLE, 0)
        try:
            sc.setns(pidfd, self.plan["join"])
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise Refused("unsupported", "the container has stopped") from None
            raise
        if self.plan["terminal"]:
            dev = os.open("/dev", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._take_terminal(*open_terminal(dev))

    def _mount_all(self) -> None:
        plan, mounter = self.plan, Mounter(self.plan["stage"])
        system = System(mounter)
        self.doing = "mount the root"
        mounter.mount_root(plan["root"])
        self.root = mounter.root
        for step in plan["mounts"]:
            self.doing = f"mount {step['dest']}"
            if not system.mount(step):
                mounter.mount(step)
        if mounter.made:
            _tell(self.status, b"C", mounter.made)
        if system.terminal:
            self._take_terminal(*system.terminal)
        for path, value in plan["sysctls"]:
            self._set(system.proc, path, value)
        self.doing = "mask /proc and /sys"
        if plan["mask"]:
            system.mask()
        if plan["root_readonly"]:
            sc.mount_setattr(self.root, set=RDONLY)

    def _set(self, proc: int, path: str, value: str) -> None:
        """A sysctl of our own namespaces, while /proc/sys can still be written."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, dir_fd=proc)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            name = path.removeprefix("sys/").replace("/", ".")
            raise Refused("input", f"cannot set the sysctl {name} to {value!r}: {error.strerror}") from None

    def _take_terminal(self, master: int, slave: int) -> None:
        _tell(self.status, b"T", None, (master,))
        os.close(master)
        os.fchown(slave, self.plan["uid"] if not self.plan["fake_ids"] else 0, -1)
        self.stdio = (slave, slave, slave)

    def _join_cgroup(self, path: str) -> None:
        try:
            with open(path, "w") as file:
                file.write("0")
        except OSError as error:
            _tell(self.status, b"N", f"resource limits are not in force: {path}: {error.strerror}")

    # ---- becoming the program ----------------------------------------------------------------------------------------

    def _enter(self) -> None:
        os.fchdir(self.root)
        sc.pivot_root(".", ".")
        sc.umount2(".", sc.MNT_DETACH)  # the old root was stacked on the new one
        os.chdir("/")
        if self.plan["loopback"]:
            self._make_network(self.plan["addresses"])
        socket.sethostname(self.plan["hostname"])
        self._change_directory()

    def _make_network(self, addresses: list[str]) -> None:
        """A namespace with loopback, and for a private network the sockets that its way out leads to."""
        raise_loopback(addresses)
        if addresses:
            try:
                sockets = open_way_out(*addresses)
            except OSError as error:
                _tell(self.status, b"N", f"the container's network has no way out: {error.strerror}")
                return
            _tell(self.status, b"W", None, tuple(each.fileno() for each in sockets))
            for each in sockets:
                each.close()

    def _change_directory(self) -> None:
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
        os.fchdir(fd)
        try:
            os.getcwd()
        except OSError:
            raise Refused("input", f"the working directory {cwd} is outside of the root") from None

    def _become(self) -> None:
        plan = self.plan
        for name, soft, hard in plan["rlimits"]:
            self._limit(name, soft, hard)
        self._streams()
        program = self._find_program()
        self._drop_privileges()
        sc.prctl(sc.PR_SET_PDEATHSIG, 9)
        if plan["init"]:
            stand_before(plan["terminal"])
        if plan["announce"]:
            self.status.send(b"B")
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
        if plan["wall"]:
            with suppress(OSError):  # before Linux 6.12, or without Landlock: docs/security.md says what then holds
                sc.landlock_scope(sc.LANDLOCK_SCOPE_SIGNAL)
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


# ---- single acts -----------------------------------------------------------------------------------------------------


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
