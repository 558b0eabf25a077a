"""Who this process is to the kernel: privileged or in a user namespace, and with how many ids.

Owns entering a user namespace where this process may not mount. Does not know what the privileges are for.
"""

import os
import pwd
import signal
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

from kedge.kernel import syscalls
from kedge.model.errors import Unsupported
from kedge.model.value import dataclass

_ALL_IDS = 4294967295
# How distributions keep ordinary users from user namespaces: a file, what it then holds, the setting that ends it.
_SWITCHES = (
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=28633"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the kernel lets this process be.

    `privileged`: uid 0 with CAP_SYS_ADMIN in the initial user namespace (overlayfs then uses `trusted.overlay.*`).
    `single_id`: only one user or one group id is mapped, so chown to others is impossible.
    `uid`, `gid`: the effective ids inside; `outer_uid` what the first is in the parent namespace.
    `subuids`: how many user ids are mapped besides our own.
    """

    privileged: bool
    single_id: bool
    uid: int
    gid: int
    in_user_namespace: bool
    subuids: int
    outer_uid: int


@cache
def current() -> Identity:
    """The identity of this process; remembered until `enter_user_namespace`."""
    uids, gids = _id_map("/proc/self/uid_map"), _id_map("/proc/self/gid_map")
    inside = uids != [(0, 0, _ALL_IDS)]
    uid, gid = os.geteuid(), os.getegid()
    mapped = sum(count for _, _, count in uids)
    return Identity(
        privileged=uid == 0 and not inside and has_capability("sys_admin"),
        single_id=inside and (mapped == 1 or sum(count for _, _, count in gids) == 1),
        uid=uid,
        gid=gid,
        in_user_namespace=inside,
        subuids=mapped - 1 if inside else 0,
        outer_uid=_outer(uids, uid),
    )


def has_capability(name: str) -> bool:
    """Is the capability (`sys_admin`) in this process's effective set?"""
    with open("/proc/self/status") as status:
        mask = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
    return bool(mask >> syscalls.CAPABILITIES.index(name) & 1)


def can_mount() -> bool:
    """Is this process root enough to mount: uid 0 with CAP_SYS_ADMIN, of whatever user namespace?"""
    return os.geteuid() == 0 and has_capability("sys_admin")


def subordinate_ids(file: str, uid: int) -> list[tuple[int, int]]:
    """The (start, count) ranges that `file` (/etc/subuid or /etc/subgid) grants the user: subuid(5)."""
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    return [(start, count) for owner, start, count in _granted(file) if owner in names]


def free_subordinate_ids(files: Sequence[str] = ("/etc/subuid", "/etc/subgid")) -> int:
    """The least id from which on no file grants any to anybody: who shares ids with others can write their files."""
    return max([100_000, *(start + held for file in files for _, start, held in _granted(file))])


def _granted(file: str) -> list[tuple[str, int, int]]:
    """Owner, start and count of each range in the file; lines that are none do not count."""
    ranges = []
    try:
        with open(file) as lines:
            for line in lines:
                owner, _, rest = line.strip().partition(":")
                start, _, count = rest.partition(":")
                if start.isdigit() and count.isdigit() and int(count) > 0:
                    ranges.append((owner, int(start), int(count)))
    except OSError:
        return []
    return ranges


def user_namespaces_forbidden() -> tuple[str, str] | None:
    """The setting of this machine that keeps ordinary users from user namespaces, and the command that lets them."""
    for file, forbids, command in _SWITCHES:
        with suppress(OSError), open(file) as value:
            if value.read().strip() == forbids:
                return f"{file} is {forbids}", f"sudo sysctl -w {command}"
    return None


def enter_user_namespace() -> Identity:
    """Become uid 0 of a new user namespace with a private mount namespace, unless this process can mount already.

    Maps all of /etc/subuid and /etc/subgid through newuidmap(1) and newgidmap(1) where both work, else the single own
    id. Root without CAP_SYS_ADMIN, as in a plain Kubernetes pod, keeps all its ids if it has CAP_SETUID, CAP_SETGID and
    CAP_SETFCAP. Must be called before any thread is started. Idempotent. Raises Unsupported when user namespaces are
    forbidden.
    """
    if can_mount():
        return current()
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:  # as some supervisors start us: no child could be waited for
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    uid, gid = os.geteuid(), os.getegid()
    helper = _start_mapper(uid, gid)
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    except OSError as error:
        helper.abandon()
        forbidden, command = user_namespaces_forbidden() or (error.strerror, "")
        raise Unsupported(
            f"cannot create a user namespace: {forbidden}",
            hint=f"{command or 'See what `kedge doctor` says'}, or run kedge as root.",
        ) from None
    mapped = helper.map()
    if not mapped:
        _map_single(uid, gid)
    try:
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    except OSError as error:
        # Ubuntu since 24.04: AppArmor gives the namespace, but no capabilities in it.
        raise Unsupported(
            f"the user namespace has no privileges: {error.strerror}",
            hint="sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ) from None
    current.cache_clear()
    return current()


class _Mapper:
    """A child that stays outside of the namespace and runs newuidmap for us: only outsiders may map other ids."""

    def __init__(self, pid: int, go: int) -> None:
        self.pid, self.go = pid, go

    def map(self) -> bool:
        os.write(self.go, b"1")
        os.close(self.go)
        return os.waitpid(self.pid, 0)[1] == 0

    def abandon(self) -> None:
        os.close(self.go)
        os.waitpid(self.pid, 0)


def _start_mapper(uid: int, gid: int) -> _Mapper:
    parent = os.getpid()
    wait, go = os.pipe()
    pid = os.fork()
    if pid:
        os.close(wait)
        return _Mapper(pid, go)
    os.close(go)
    status = 1
    try:
        if os.read(wait, 1):
            status = 0 if _map_as_root(parent, uid) or _run_mappers(parent, uid, gid) else 1
    finally:
        os._exit(status)


def _map_as_root(target: int, uid: int) -> bool:
    """As root, give the namespace the ids that we have, under their own numbers; False where the kernel refuses."""
    if uid != 0:
        return False
    for name in ("uid_map", "gid_map"):
        ranges = _id_map(f"/proc/self/{name}")
        # One less than all of them: who has all is taken for the initial namespace.
        text = "".join(f"{start} {start} {min(count, _ALL_IDS - 1)}\n" for start, _, count in ranges)
        try:
            with open(f"/proc/{target}/{name}", "w") as file:
                file.write(text)
        except OSError:
            return False
    return True


def _run_mappers(target: int, uid: int, gid: int) -> bool:
    for program, own, file in (("newuidmap", uid, "/etc/subuid"), ("newgidmap", gid, "/etc/subgid")):
        ranges = subordinate_ids(file, uid)
        if not ranges:
            return False
        words, next_id = ["0", str(own), "1"], 1
        for start, count in ranges:
            words += [str(next_id), str(start), str(count)]
            next_id += count
        null = os.open("/dev/null", os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        try:
            pid = os.posix_spawnp(program, [program, str(target), *words], dict(os.environ), file_actions=actions)
        except OSError:
            return False
        if os.waitpid(pid, 0)[1] != 0:
            return False
    return True


def _map_single(uid: int, gid: int) -> None:
    """Map only our own ids; the kernel wants setgroups denied for that: user_namespaces(7)."""
    for name, text in (("uid_map", f"0 {uid} 1"), ("setgroups", "deny"), ("gid_map", f"0 {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except PermissionError:
            if name == "uid_map" and _id_map("/proc/self/uid_map"):
                continue  # newuidmap worked and newgidmap did not
            raise Unsupported(
                f"cannot map ids in a user namespace (/proc/self/{name})",
                # Since Linux 5.12 nobody may map root who could not give a file capabilities: capabilities(7).
                hint="see what `kedge doctor` says about user namespaces" if uid else "keep the capability SETFCAP",
            ) from None


def _id_map(file: str) -> list[tuple[int, int, int]]:
    with open(file) as lines:
        return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in lines)]


def _outer(ranges: list[tuple[int, int, int]], inside: int) -> int:
    return next((outer + inside - start for start, outer, count in ranges if start <= inside < start + count), inside)
