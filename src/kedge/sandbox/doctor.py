"""What this machine allows: each check tried for real, with the one command that mends it.

Owns the checks. Does not know which commands need which, beyond `require`.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from kedge.kernel import identity
from kedge.kernel import syscalls as sc
from kedge.model.errors import Unsupported
from kedge.model.platform import Platform
from kedge.model.value import dataclass
from kedge.sandbox import cgroups, seccomp
from kedge.sandbox.process import PROC_REMEDY

_OLDEST = (5, 12)  # mount_setattr(2); unprivileged overlayfs came with 5.11
_ENOUGH_SPACE = 2 << 30
_LANDLOCK_SCOPES = 6  # the version of Landlock that scopes signals
_FOREIGN = {"x86_64": "arm64", "aarch64": "amd64"}


@dataclass(frozen=True, slots=True)
class Check:
    """One answer: `name` is stable and short (`overlayfs`); `detail` one line.

    `remedy` is the command or sentence that mends it, empty if ok. `needed` tells whether RUN steps fail without it.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    needed: bool = False


def checks(root: Path | None = None, process_sandbox: bool = True) -> list[Check]:
    """All checks, for this process's own privileges; `root` is the store's directory. Takes well below a second.

    Without `process_sandbox` steps need no /proc of their own.
    """
    directory = _nearest(root or Path(tempfile.gettempdir()))
    namespaces = _user_namespaces()
    tried = namespaces.ok or identity.can_mount()  # without a namespace each would fail, for a reason not its own
    return [
        _kernel(),
        _privileges(),
        namespaces,
        _subordinate_ids(),
        _interpreter(),
        _overlay(directory) if tried else _untried("overlayfs", needed=True),
        _seccomp() if tried else _untried("seccomp"),
        _proc(process_sandbox) if tried else _untried("proc", needed=True),
        _cgroups(),
        _emulation(),
        _space(directory),
    ]


def _untried(name: str, needed: bool = False) -> Check:
    return Check(name, False, "not tried: that needs a user namespace", "mend user-namespaces first", needed)


def require(root: Path | None = None) -> None:
    """Raise Unsupported, naming what is missing and its remedy, unless steps can run here. Costs a few
    milliseconds."""
    directory = _nearest(root or Path(tempfile.gettempdir()))
    for check in (_kernel(), _privileges(), _interpreter(), _overlay(directory, fork=False)):
        if check.needed and not check.ok:
            raise Unsupported(f"RUN steps cannot work here: {check.name}: {check.detail}", hint=check.remedy)


def _nearest(path: Path) -> Path:
    while not path.is_dir():
        path = path.parent
    return path


def _kernel() -> Check:
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    ok = numbers >= _OLDEST
    remedy = "" if ok else f"boot Linux {_OLDEST[0]}.{_OLDEST[1]} or newer"
    return Check("kernel", ok, f"Linux {release} on {os.uname().machine}", remedy, needed=True)


def _privileges() -> Check:
    who = identity.current()
    if who.privileged:
        return Check("privileges", True, "root in the initial user namespace", needed=True)
    if who.in_user_namespace and identity.has_capability("sys_admin"):
        ids = "one id" if who.single_id else f"{who.subuids + 1} ids"
        return Check("privileges", True, f"user {who.outer_uid} in a user namespace with {ids}", needed=True)
    remedy = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" if _apparmor_restricts() else ""
    remedy = remedy or "run kedge as root, or see what `kedge doctor` says of user namespaces"
    return Check("privileges", False, "neither root nor in a user namespace", remedy, needed=True)


def _apparmor_restricts() -> bool:
    return _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1"


def _user_namespaces() -> Check:
    """Needed by ordinary users only; each way that distributions use to forbid them has its own remedy."""
    name = "user-namespaces"
    if forbidden := identity.user_namespaces_forbidden():
        return Check(name, False, f"{forbidden[0]}: ordinary users cannot build", forbidden[1])
    error = _try_in_child(lambda: sc.unshare(sc.CLONE_NEWUSER))
    if error:
        return Check(name, False, error, "run kedge as root, or allow the container it runs in to unshare(2)")
    return Check(name, True, "ordinary users may make them")


def _subordinate_ids() -> Check:
    name = "subordinate-ids"
    who = identity.current()
    if who.privileged:
        return Check(name, True, "not needed by root")
    if who.in_user_namespace and not who.single_id:
        return Check(name, True, f"{who.subuids} besides our own")
    tools = all(shutil.which(tool) for tool in ("newuidmap", "newgidmap"))
    if not tools:
        return Check(name, False, "newuidmap is not installed: steps have one user id", "sudo apt-get install uidmap")
    uid = who.outer_uid
    if not identity.subordinate_ids("/etc/subuid", uid) or not identity.subordinate_ids("/etc/subgid", uid):
        first = identity.free_subordinate_ids()
        ids = f"{first}-{first + 65535}"
        command = f"sudo usermod --add-subuids {ids} --add-subgids {ids} $(id -un {uid})"
        return Check(
            name, False, f"user {uid} has no range in /etc/subuid and /etc/subgid: steps have one user id", command
        )
    return Check(name, False, "newuidmap did not work", "sudo apt-get install --reinstall uidmap")


def _interpreter() -> Check:
    path = os.path.realpath(sys.executable or "")
    ok = os.access(path, os.X_OK)
    detail = (
        f"{path} can be started by the sandbox"
        if ok
        else f"{path or 'the interpreter'} cannot be executed by this user"
    )
    return Check("interpreter", ok, detail, "" if ok else "use a Python that this user may execute", needed=True)


def _overlay(directory: Path, fork: bool = True) -> Check:
    """A real overlay mount where the store is; never attached anywhere."""
    name = "overlayfs"
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".kedge-doctor-") as scratch:
            for part in ("lower", "upper", "work"):
                os.mkdir(f"{scratch}/{part}")
            error = (
                _try_in_child(lambda: _mount_overlay(scratch)) if fork else _attempt(lambda: _mount_overlay(scratch))
            )
    except OSError as failure:
        remedy = "choose another --root"
        return Check(name, False, f"cannot write to {directory}: {failure.strerror}", remedy, needed=True)
    if not error:
        return Check(name, True, f"works on {directory}", needed=True)
    known = "overlay" in _read("/proc/filesystems")
    remedy = "choose a --root on ext4, xfs, btrfs or tmpfs; in a container, a volume"
    remedy = remedy if known else "sudo modprobe overlay"
    return Check(name, False, error, remedy, needed=True)


def _mount_overlay(scratch: str) -> None:
    fs = sc.fsopen("overlay")
    try:
        sc.fsconfig_string(fs, "lowerdir", f"{scratch}/lower")
        sc.fsconfig_string(fs, "upperdir", f"{scratch}/upper")
        sc.fsconfig_string(fs, "workdir", f"{scratch}/work")
        sc.fsconfig_flag(fs, "volatile")  # or its end would sync the whole file system below
        if not identity.current().privileged:
            sc.fsconfig_flag(fs, "userxattr")
        sc.fsconfig_create(fs)
        os.close(sc.fsmount(fs))
    finally:
        os.close(fs)


def _seccomp() -> Check:
    machine = os.uname().machine
    program = seccomp.program(machine)
    if not program:
        return Check("seccomp", False, f"no filter for {machine}: steps run without one", "none yet")

    def install() -> None:
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
        sc.seccomp_filter(program)

    error = _try_in_child(install)
    return Check(
        "seccomp",
        not error,
        error or "filters can be installed",
        "boot a kernel with CONFIG_SECCOMP_FILTER" if error else "",
    )


def _proc(process_sandbox: bool) -> Check:
    if not process_sandbox and not identity.current().privileged:
        walled = sc.landlock_version() >= _LANDLOCK_SCOPES
        harm = "but signal none that is not theirs" if walled else "and may signal those of the same user"
        detail = f"process-sandbox is false: steps see the processes of the surrounding container, {harm}"
        return Check("proc", True, detail, needed=True)

    def mount_proc() -> None:
        sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWPID)
        if os.fork() == 0:
            code = 1
            try:
                fs = sc.fsopen("proc")
                sc.fsconfig_create(fs)
                sc.fsmount(fs)
                code = 0
            finally:
                os._exit(code)
        if os.wait()[1]:
            raise OSError(1, "a new /proc cannot be mounted")

    error = _try_in_child(mount_proc)
    detail = error or "a process namespace can have its own /proc"
    return Check("proc", not error, detail, PROC_REMEDY if error else "", needed=True)


def _cgroups() -> Check:
    version = cgroups.version()
    if version == 0:
        return Check("cgroups", False, "none: steps cannot be limited", "mount -t cgroup2 none /sys/fs/cgroup")
    writable = os.access("/sys/fs/cgroup/memory" if version == 1 else "/sys/fs/cgroup", os.W_OK)
    kind = "version 2" if version == 2 else "version 1 or hybrid"
    if writable:
        return Check("cgroups", True, f"{kind}: memory and CPU of a step can be limited")
    return Check(
        "cgroups", False, f"{kind}, not ours to write: steps cannot be limited", "run kedge as root to limit steps"
    )


def _emulation() -> Check:
    from kedge.sandbox.emulation import emulation

    other = Platform("linux", _FOREIGN.get(os.uname().machine, "amd64"))
    found = emulation(other)
    detail = found.detail if found.ok else f"{other} steps cannot run: {found.detail}"
    return Check("emulation", found.ok, detail, found.remedy)


def _space(directory: Path) -> Check:
    free = shutil.disk_usage(directory).free
    ok = free >= _ENOUGH_SPACE
    return Check("space", ok, f"{free / 1e9:.1f} GB free at {directory}", "" if ok else "kedge prune")


def _try_in_child(action: Callable[[], object]) -> str:
    """Do something irrevocable in a forked child, as root of a user namespace if we are no root; "" or the error."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "it crashed"
        try:
            text = _attempt(identity.enter_user_namespace) or _attempt(action)
        finally:
            os.write(write, text.encode())
            os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(pid, 0)
    return text


def _attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    except Unsupported as error:
        return error.message
    return ""


@cache
def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
