"""What is to run, and what it shall see: values only, and the Executor contract.

Owns the process, its mounts and its standard streams as values. Does not know how the kernel is asked for them (that
is `plan` and `linux`), nor where the directories come from.
"""

import posixpath
import threading
from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeAlias

from kedge.model.errors import InvalidInput
from kedge.model.ops import Pairs, Ulimit
from kedge.model.value import dataclass, field

# ---- mounts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overlay:
    """Layer directories merged by overlayfs: `lowers` bottom first, as in a Snapshot; `upper` takes what is written.

    Without `upper` the mount is read-only. `upper` and `work` are empty strings or both paths on one file system. The
    mount is private to the process: it exists in its mount namespace only and is gone with it.
    """

    lowers: tuple[str, ...]
    upper: str = ""
    work: str = ""

    def __post_init__(self) -> None:
        if bool(self.upper) != bool(self.work):
            raise InvalidInput("an overlay needs both an upper and a work directory, or neither")


@dataclass(frozen=True, slots=True)
class HostPath:
    """A file or directory of this machine, bind mounted, with the mounts below it if `recursive`.

    `device` lets the step open `path` as the device node it is (RUN --device); everything else is mounted `nodev`.
    `path` is absolute and trusted: links in it are followed in the builder's own root. A `MountPoint.selector` below
    it is not trusted and is resolved inside it.
    """

    path: str
    recursive: bool = False
    device: bool = False


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """An empty tmpfs; `size` in bytes, 0 for the kernel's default of half the memory.

    `mode` None: that of the directory it covers, 1777 where there was none (runc's rule, by which images are built).
    """

    size: int = 0
    mode: int | None = 0o1777


@dataclass(frozen=True, slots=True)
class Content:
    """A file with these bytes, kept in memory only (a secret, /etc/hosts)."""

    data: bytes = field(repr=False)
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class SocketAt:
    """A listening Unix socket of the builder, by its path (an SSH agent's proxy)."""

    path: str


MountSource: TypeAlias = Overlay | HostPath | Tmpfs | Content | SocketAt


@dataclass(frozen=True, slots=True)
class MountPoint:
    """`source` at `dest`, an absolute path resolved inside the new root (links in the image cannot lead out).

    Exactly one mount of a process has `dest` "/": the root. `selector` is a path inside an Overlay or HostPath,
    resolved inside it; a missing one is an error. Missing mount points are made, and leave no trace in the root's
    upper directory.
    """

    dest: str
    source: MountSource
    selector: str = ""
    readonly: bool = False

    def __post_init__(self) -> None:
        if not self.dest.startswith("/") or "\0" in self.dest:
            raise InvalidInput(f"mount target {self.dest!r} is not an absolute path")
        object.__setattr__(self, "dest", "/" + posixpath.normpath(self.dest).lstrip("/"))


LEAST_MEMORY: Final = 6 << 20  # bytes a process can be limited to: below that, none starts

# ---- the process -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """Resource limits through cgroups, where the machine has them: bytes, CPUs (1.5), processes. 0: no limit."""

    memory: int = 0
    cpus: float = 0.0
    pids: int = 0

    def __post_init__(self) -> None:
        if self.memory and self.memory < LEAST_MEMORY:
            raise InvalidInput("Minimum memory limit allowed is 6MB")  # Docker's words, and its number

    @property
    def exhausted(self) -> str:
        """What to say when memory ran out."""
        return f"memory ran out: the kernel killed a process, the limit being {self.memory / (1 << 20):g} MiB"


@dataclass(frozen=True, slots=True)
class Resolver:
    """How names are looked up, where it is not as on this machine: resolv.conf(5). Empty: what the machine's own file
    says.
    """

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Process:
    """One process, in terms of the new root: ids are those inside, `env` entries are `NAME=value` and are all it gets.

    `cwd` is made if it does not exist (0755, owned by `uid` and `gid`). `network` "sandbox" is the machine's own
    network (docs/security.md says why); "private" is one of its own with `network.ADDRESS`, whose way out is
    the caller's to carry (`Stdio.on_way_out`).
    `capabilities` None is Docker's default set. `sysctls` are for its own namespaces. With `init`, process 1 is ours:
    it passes signals on to the program and waits for orphans. `hostname` "" stands for `kedge`. `shm_size` in bytes,
    0 for 64 MiB. With `terminal` the process leads a session on a new pseudo-terminal. `no_new_privileges` False lets
    set-user-id programs (sudo) work. `resolv_conf` and `hosts` False leave the root's own files in place.
    """

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    hostname: str = ""
    network: Literal["sandbox", "host", "none", "private"] = "sandbox"
    security: Literal["sandbox", "insecure"] = "sandbox"
    extra_hosts: Pairs = ()
    ulimits: tuple[Ulimit, ...] = ()
    limits: Limits = Limits()
    terminal: bool = False
    shm_size: int = 0
    cgroup_parent: str = ""
    no_new_privileges: bool = True
    resolv_conf: bool = True
    hosts: bool = True
    capabilities: frozenset[str] | None = None  # lower case, without cap_
    sysctls: Pairs = ()
    resolver: Resolver = Resolver()
    init: bool = False

    def __post_init__(self) -> None:
        if not self.args or not self.args[0]:
            raise InvalidInput("no command to run")
        for text in (*self.args, *self.env, self.cwd, self.hostname):
            if "\0" in text:
                raise InvalidInput("a NUL character cannot be part of a command, its environment or its directory")
        if len(self.hostname.encode()) > 64:  # sethostname(2)
            raise InvalidInput(f"the host name {self.hostname[:20]}… is longer than 64 bytes")
        for number in (self.uid, self.gid, *self.groups):
            if not 0 <= number < 0xFFFFFFFF:  # (uid_t)-1 means "unchanged" to the kernel (CVE-2024-40635)
                raise InvalidInput(f"user or group id {number} is out of range")


# ---- streams ---------------------------------------------------------------------------------------------------------

Output: TypeAlias = Callable[[int, bytes], None]  # stream 1 or 2, and a chunk as it came; from a thread of the executor


@dataclass(frozen=True, slots=True)
class Stdio:
    """Where the process's standard streams go.

    `stdin` is a descriptor it inherits, None for end of file at once. `output` is called with what it wrote, in order,
    and has got everything before `Executor.run` returns. `stdout` and `stderr`, if given, are inherited instead.
    With `Process.terminal`, `on_terminal` gets the master descriptor of the pseudo-terminal (to keep and close)
    before the process runs, and the other fields are not used. `on_start` gets a function that sends a signal to the
    process, and its pid; `on_way_out` gets the sockets (to keep and close) that a private network's TCP connections
    and name look-ups come to, before the process runs; `on_program` is called when all is made ready and the program
    itself begins; `note` gets one-line remarks (a limit that could not be set). `on_oom` is called before the
    end of `Executor.run` if the kernel killed any of the processes because a limited memory ran out.
    """

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    output: Output | None = None
    on_terminal: Callable[[int], None] | None = None
    on_start: Callable[["Signaller", int], None] | None = None
    on_program: Callable[[], None] | None = None
    note: Callable[[str], None] | None = None
    on_way_out: Callable[[int, int], None] | None = None
    on_oom: Callable[[], None] | None = None


# For a machine on which no /proc can be mounted: the switch, what it costs, and the way without that cost.
PROC_REMEDY: Final = (
    "set process-sandbox = false under [sandbox] in the config file, or KEDGE_PROCESS_SANDBOX=false, or give "
    "kedge-buildkitd --oci-worker-no-process-sandbox: steps then see the other processes of the surrounding container "
    "and may signal those of the same user (docs/security.md). Or run that container with an unmasked /proc: "
    "--security-opt systempaths=unconfined for Docker, procMount: Unmasked for Kubernetes"
)


Signaller: TypeAlias = Callable[[int], None]  # sends the signal number to the process; silent once it has ended


NO_STDIO = Stdio()


class Executor(Protocol):
    """Runs processes. Implementations: `linux.LinuxExecutor`, `fake.FakeExecutor`. Any thread may call it, many at
    once."""

    def run(
        self,
        process: Process,
        mounts: tuple[MountPoint, ...],
        stdio: Stdio = NO_STDIO,
        cancel: threading.Event | None = None,
    ) -> int:
        """Run to the end and give the exit code: the process's own, or 128 + n for signal n.

        A program that is not in the root gives 127 and one that cannot be executed 126, with a line on standard
        error. Blocks; raises Cancelled soon after `cancel` is set, when every process of the step is dead;
        Unsupported when the machine cannot do it; InvalidInput for mounts and directories that do not exist or would
        lead out of the root.
        """
        ...

    def close(self) -> None:
        """Kill what still runs and let the machine's resources go. Idempotent."""
        ...


def root_of(mounts: tuple[MountPoint, ...]) -> MountPoint:
    """The mount at "/"; raises InvalidInput unless there is exactly one."""
    roots = [mount for mount in mounts if mount.dest == "/"]
    if len(roots) != 1:
        raise InvalidInput(f"a process needs one root mount, not {len(roots)}")
    return roots[0]
