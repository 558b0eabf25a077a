"""Decides what a step's child does: from Process and MountPoints to a plan of plain values that `perform` carries out.

Owns the decisions (order of mounts, attributes, what every step gets). Touches nothing but what `Machine` and `Stubs`
say. Does not know how a plan travels, nor the system calls.
"""

import posixpath
from collections.abc import Callable
from typing import Any

from kedge.kernel import syscalls as sc
from kedge.model.errors import InvalidInput
from kedge.model.value import dataclass
from kedge.sandbox import network, seccomp
from kedge.sandbox.process import Content, HostPath, MountPoint, MountSource, Overlay, Process, SocketAt, Tmpfs, root_of

DEFAULT_HOSTNAME = "kedge"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # only to look the program up
DEFAULT_SHM = 64 << 20
_TTY_GROUP = 5
_MOST_LAYERS = 500  # OVL_MAX_STACK in the kernel's fs/overlayfs

# Docker's default set: enough for package managers, nothing that reaches out of the namespaces.
DEFAULT_CAPABILITIES = (
    *("chown", "dac_override", "fsetid", "fowner", "mknod", "net_raw", "setgid", "setuid", "setfcap", "setpcap"),
    *("net_bind_service", "sys_chroot", "kill", "audit_write"),
)
_APT = "/etc/apt/apt.conf.d/99kedge-single-id"

Kind = str  # "d" directory, "t" directory for a tmpfs without a mode of its own, "f" file, "" unknown
Stubs = Callable[
    [frozenset[tuple[str, Kind]]], str
]  # a directory that holds these mount points, on the layers' file system


@dataclass(frozen=True, slots=True)
class Machine:
    """What the kernel lets us do, as far as plans depend on it. `ids` is how many ids are mapped."""

    privileged: bool
    single_id: bool
    architecture: str
    last_capability: int
    cgroup_version: int  # 2: a pure version 2 hierarchy; 1: hybrid or version 1; 0: none
    stage: str  # an empty directory of ours
    process_namespaces: bool = True  # False: steps see the processes of the surrounding container
    open_files: tuple[int, int] | None = None  # soft and hard limit for steps; None: they have ours


@dataclass(frozen=True, slots=True)
class Plan:
    """`flags` for clone(2), `values` for `perform`, and the overlays whose work directories need care afterwards.

    `kept`: no process namespace ends the step's processes, so somebody must (`keeper`).
    """

    flags: int
    values: dict[str, Any]
    root: MountPoint
    works: tuple[str, ...]
    notes: tuple[str, ...] = ()
    kept: bool = False


def make_plan(
    process: Process,
    mounts: tuple[MountPoint, ...],
    machine: Machine,
    stubs: Stubs,
    kind_of: Callable[[MountPoint], Kind],
) -> Plan:
    """The plan of one run; raises InvalidInput for mounts that make no sense."""
    root = root_of(mounts)
    latest = {mount.dest: mount for mount in mounts if mount is not root}  # of two at one place, the later one
    asked = sorted(latest.values(), key=lambda m: m.dest.count("/"))
    for mount in asked:
        if mount.dest == "/proc" or mount.dest.startswith("/proc/"):
            raise InvalidInput(f"cannot mount at {mount.dest}: /proc belongs to the sandbox")
    every = [*_files(process, machine, {m.dest for m in asked}), *asked]
    maker = _Maker(process, machine, stubs, {m: kind_of(m) for m in every}, root, every)
    values = _identity(process, machine) | {
        "root": maker.step(root),
        "root_readonly": root.readonly,
        "mounts": [*maker.system(), *(maker.step(m) for m in every)],
        "mask": process.security == "sandbox",
        "stage": machine.stage,
        "cgroups": [],
        "cgroup_namespace": machine.cgroup_version > 0,
        "loopback": process.network in ("none", "private"),
        "addresses": [network.ADDRESS, network.GATEWAY] if process.network == "private" else [],
        "sysctls": [(f"sys/{name.replace('.', '/')}", value) for name, value in process.sysctls],
        "new_keyring": process.security == "insecure",
    }
    works = tuple(m.source.work for m in mounts if isinstance(m.source, Overlay) and m.source.work)
    notes: tuple[str, ...] = ()
    if _fakes_ids(machine) and process.uid:
        notes = (
            f"user {process.uid} runs as the only user that this machine allows: `kedge doctor` tells how to get more",
        )
    return Plan(_namespaces(process, machine), values, root, works, notes, not machine.process_namespaces)


def join_plan(process: Process, machine: Machine) -> Plan:
    """The plan of one more process in the namespaces of one that runs: it sees what that one sees.

    Of `process`, what concerns mounts and names (hostname, hosts) is not looked at; `network` is that one's.
    """
    own = _namespaces(process, machine) & ~sc.CLONE_NEWPID | (sc.CLONE_NEWCGROUP if machine.cgroup_version > 0 else 0)
    values = _identity(process, machine) | {"cgroups": [], "join": own}
    return Plan(0, values, MountPoint("/", Overlay(())), (), kept=not machine.process_namespaces)


def _namespaces(process: Process, machine: Machine) -> int:
    flags = sc.CLONE_NEWNS | sc.CLONE_NEWIPC | sc.CLONE_NEWUTS
    flags |= sc.CLONE_NEWPID if machine.process_namespaces else 0
    return flags | (sc.CLONE_NEWNET if process.network in ("none", "private") else 0)


def _files(process: Process, machine: Machine, taken: set[str]) -> list[MountPoint]:
    """The files that every step gets, unless the caller mounts something there."""
    hostname = process.hostname or DEFAULT_HOSTNAME
    files = []
    if process.resolv_conf:
        resolving = network.resolv_conf(resolver=process.resolver, private=process.network == "private")
        files.append(MountPoint("/etc/resolv.conf", Content(resolving), readonly=True))
    if process.hosts:
        names = network.hosts(hostname, process.extra_hosts, process.network == "private")
        files.append(MountPoint("/etc/hosts", Content(names), readonly=True))
    if _fakes_ids(machine):
        # apt checks that it really became another user; with one id it cannot.
        files.append(MountPoint(_APT, Content(b'APT::Sandbox::User "root";\n'), readonly=True))
    return [file for file in files if file.dest not in taken]


def _fakes_ids(machine: Machine) -> bool:
    return machine.single_id and not machine.privileged


def _identity(process: Process, machine: Machine) -> dict[str, Any]:
    sandboxed = process.security == "sandbox"
    environment = dict(entry.split("=", 1) for entry in process.env if "=" in entry)
    fake = _fakes_ids(machine)
    return {
        "args": list(process.args),
        "environment": environment,
        "path": environment.get("PATH") or DEFAULT_PATH,
        "cwd": process.cwd or "/",
        "uid": process.uid,
        "gid": process.gid,
        "groups": list(process.groups),
        "fake_ids": fake,
        "hostname": process.hostname or DEFAULT_HOSTNAME,
        "rlimits": _limits(process, machine),
        "terminal": process.terminal,
        "capabilities": _mask(process, machine),
        "wall": not machine.process_namespaces,
        "last_capability": machine.last_capability,
        "no_new_privileges": sandboxed and process.no_new_privileges,
        "seccomp": seccomp.program(machine.architecture, fake, _added(process)) if sandboxed else b"",
        "init": process.init,
    }


def _limits(process: Process, machine: Machine) -> list[tuple[str, int, int]]:
    limits = [(limit.name, limit.soft, limit.hard) for limit in process.ulimits]
    if machine.open_files and all(name != "nofile" for name, _, _ in limits):
        limits.append(("nofile", *machine.open_files))
    return limits


def _mask(process: Process, machine: Machine) -> int | None:
    """The capabilities that it has, None for all. None of them looks into processes that are not the step's own."""
    every = (2 << machine.last_capability) - 1
    visible = every if machine.process_namespaces else every & ~(1 << sc.CAPABILITIES.index("sys_ptrace"))
    if process.security == "insecure":
        return None if visible == every else visible
    names = DEFAULT_CAPABILITIES if process.capabilities is None else process.capabilities
    return sum(1 << sc.CAPABILITIES.index(name) for name in names) & visible


def _added(process: Process) -> frozenset[str]:
    """The capabilities beyond the default set: the filter lets through what they are for."""
    return (process.capabilities or frozenset()) - frozenset(DEFAULT_CAPABILITIES)


class _Maker:
    """Steps of one plan; knows all mounts, so that each root gets stubs for what is mounted below it."""

    def __init__(
        self,
        process: Process,
        machine: Machine,
        stubs: Stubs,
        kinds: dict[MountPoint, Kind],
        root: MountPoint,
        every: list[MountPoint],
    ) -> None:
        self.process, self.machine, self.stubs, self.kinds = process, machine, stubs, kinds
        self.root, self.every = root, every
        self.open = process.security == "insecure"

    def system(self) -> list[dict[str, Any]]:
        readonly = 0 if self.open else sc.MOUNT_ATTR_RDONLY
        shm = self.process.shm_size or DEFAULT_SHM
        group = 0 if self.machine.single_id else _TTY_GROUP
        return [
            self._plain("/proc", ("proc" if self.machine.process_namespaces else "surrounding_proc",), 0),
            self._plain("/dev", ("dev", shm, group, self.process.terminal), 0),
            self._plain("/sys", ("sys",), readonly),
            self._plain("/sys/fs/cgroup", ("cgroup", self.machine.cgroup_version), readonly),
        ]

    def step(self, mount: MountPoint) -> dict[str, Any]:
        # Without nodev a step could make a node of the machine's disk (CAP_MKNOD) and open it.
        granted = isinstance(mount.source, HostPath) and mount.source.device
        attributes = 0 if self.open or granted else sc.MOUNT_ATTR_NODEV
        if isinstance(mount.source, Content):
            attributes |= sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NOEXEC
        if mount.readonly and mount is not self.root:
            attributes |= sc.MOUNT_ATTR_RDONLY
        return self._plain(mount.dest, self._source(mount), attributes) | {"selector": mount.selector.strip("/")}

    def _plain(self, dest: str, source: tuple[Any, ...], attributes: int) -> dict[str, Any]:
        return {"dest": dest, "source": source, "attributes": attributes, "selector": ""}

    def _source(self, mount: MountPoint) -> tuple[Any, ...]:
        source: MountSource = mount.source
        if isinstance(source, Overlay):
            return self._overlay(mount, source)
        if isinstance(source, HostPath):
            return ("bind", source.path, source.recursive)
        if isinstance(source, SocketAt):
            return ("bind", source.path, False)
        if isinstance(source, Tmpfs):
            return ("tmpfs", source.size, source.mode)
        return ("content", source.data, source.mode, source.uid, source.gid)

    def _overlay(self, mount: MountPoint, source: Overlay) -> tuple[Any, ...]:
        """Paths relative to the layers' directory: names stay short, for kernels that want them all in one page.

        Mount points are in a layer below all others, so that making them changes nothing in the upper directory.
        """
        below = self._stubs_below(mount)
        room = len(source.lowers) + 2 <= _MOST_LAYERS
        lowers = [self.stubs(below), *source.lowers] if room else list(source.lowers)
        if len(lowers) == 1 and not source.upper:
            lowers.insert(0, self.stubs(frozenset()))
        paths = [*lowers, *([source.upper, source.work] if source.upper else [])]
        base = posixpath.dirname(paths[len(lowers) - 1])
        short = [posixpath.relpath(path, base) for path in paths]
        upper, work = short[len(lowers) :] if source.upper else ("", "")
        options: list[tuple[str, str | None]] = [("volatile", None)] if upper else []
        if self.machine.privileged:
            options += [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")]
        else:
            options += [("userxattr", None)]
        return ("overlay", base, short[: len(lowers)], upper, work, options)

    def _stubs_below(self, mount: MountPoint) -> frozenset[tuple[str, Kind]]:
        prefix = mount.dest.rstrip("/") + "/"
        stubs: set[tuple[str, Kind]] = set()
        if mount is self.root:
            stubs = {("proc", "d"), ("sys", "d"), ("dev", "d")}
        others = [other for other in self.every if other is not mount]
        for other in others:
            inside = other.dest.startswith(prefix)
            covered = any(
                o is not other and _is_below(other.dest, o.dest) and _is_below(o.dest, mount.dest) for o in others
            )
            if inside and not covered and not other.dest.startswith("/dev/") and self.kinds[other]:
                selected = mount.selector.strip("/")
                stubs.add((posixpath.join(selected, other.dest[len(prefix) :]), self.kinds[other]))
        return _consistent(stubs)


def _is_below(path: str, directory: str) -> bool:
    return path != directory and path.startswith(directory.rstrip("/") + "/")


def _consistent(stubs: set[tuple[str, Kind]]) -> frozenset[tuple[str, Kind]]:
    """Without entries that another needs as something else: a file with something below it."""
    return frozenset(s for s in stubs if s[1] != "f" or not any(_is_below(other, s[0]) for other, _ in stubs))
