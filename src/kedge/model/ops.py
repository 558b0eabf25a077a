"""The operations of a build graph: BuildKit's LLB, one dataclass for each op and action.

Owns what an operation *is*: pure data that names its inputs only by their index in `Vertex.inputs`. Does not know what
an operation means (that is `operations/`), nor how the Dockerfile spells it. Fields follow BuildKit's
solver/pb/ops.proto so that the service is a codec.
"""

from typing import Literal, TypeAlias

from kedge.model.value import dataclass

NO_INPUT = -1  # pb.Empty: no input, scratch
NO_OUTPUT = -1  # pb.SkipOutput: the result is thrown away

Pairs: TypeAlias = tuple[tuple[str, str], ...]  # a mapping, sorted by key


# ---- source ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """Bytes from outside: `identifier` is `scheme://rest` with docker-image, local, git, https, http, oci-layout, or
    docker-image+blob and oci-layout+blob for one blob.

    Attribute names are BuildKit's (`local.includepattern`, `git.keepgitdir`, `http.checksum`, `image.resolvemode` …).
    """

    identifier: str
    attrs: Pairs = ()

    @property
    def scheme(self) -> str:
        return self.identifier.partition("://")[0]

    def attr(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.attrs if key == name), default)


# ---- exec ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """A cache mount: directories of one `id` are the same; `sharing` says what two steps at once do."""

    id: str
    sharing: Literal["shared", "private", "locked"] = "shared"


@dataclass(frozen=True, slots=True)
class SecretOptions:
    """A secret as a file: 0400 by default; a missing one is an error unless `optional`."""

    id: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o400
    optional: bool = False


@dataclass(frozen=True, slots=True)
class SshOptions:
    """A forwarded agent socket; `id` is `default` unless named."""

    id: str = "default"
    uid: int = 0
    gid: int = 0
    mode: int = 0o600
    optional: bool = False


@dataclass(frozen=True, slots=True)
class TmpfsOptions:
    """A tmpfs; `size` in bytes, 0 for the kernel's default."""

    size: int = 0


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of an Exec. The root file system is the mount with `dest == "/"`.

    `input` indexes Vertex.inputs; `selector` is the path inside it; `output` the index of the result that holds what
    was written here. Exactly the options of its `kind` are set.
    """

    dest: str
    input: int = NO_INPUT
    output: int = NO_OUTPUT
    selector: str = ""
    readonly: bool = False
    kind: Literal["bind", "cache", "tmpfs", "secret", "ssh"] = "bind"
    cache: CacheOptions | None = None
    secret: SecretOptions | None = None
    ssh: SshOptions | None = None
    tmpfs: TmpfsOptions | None = None
    by_content: bool = False  # a read-only bind whose content, not whose origin, decides the cache key


@dataclass(frozen=True, slots=True)
class SecretEnv:
    """A secret as an environment variable; never part of a cache key's text beyond id and name."""

    id: str
    name: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Ulimit:
    """One resource limit by its lower-case setrlimit(2) name without the prefix (`nofile`)."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Exec:
    """A process in a root file system with mounts.

    `env` entries are `NAME=value`, in order. `proxy_env` is given to the process but kept out of cache keys (BuildKit's
    ProxyEnv). `extra_hosts` are (name, address) pairs for /etc/hosts.
    """

    args: tuple[str, ...]
    mounts: tuple[Mount, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    hostname: str = ""
    network: Literal["sandbox", "host", "none"] = "sandbox"
    security: Literal["sandbox", "insecure"] = "sandbox"
    proxy_env: Pairs = ()
    extra_hosts: Pairs = ()
    ulimits: tuple[Ulimit, ...] = ()
    cgroup_parent: str = ""
    shm_size: int = 0
    secret_env: tuple[SecretEnv, ...] = ()
    devices: tuple[tuple[str, bool], ...] = ()  # CDI name, optional
    valid_exit_codes: tuple[int, ...] = (0,)

    @property
    def root(self) -> Mount:
        return next(m for m in self.mounts if m.dest == "/")


# ---- file ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Owner:
    """Who shall own a file. `user` and `group` are ids, or names looked up in the passwd and group files of `input`.

    `input` counts like an action's `input`; None for a part that was not given.
    """

    user: int | str | None = None
    group: int | str | None = None
    input: int = NO_INPUT


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy `src` in `secondary` to `dest` in `input`. An index from len(inputs) on is an earlier action."""

    src: str
    dest: str
    input: int = 0
    secondary: int = 1
    output: int = 0
    owner: Owner | None = None
    mode: int = -1  # octal permission bits; -1 keeps the source's
    mode_text: str = ""  # symbolic mode, chmod(1) grammar; replaces `mode`
    follow_symlinks: bool = False
    contents_only: bool = False  # a directory's content rather than the directory (dirCopyContents)
    unpack: bool = False  # a local archive is unpacked (attemptUnpackDockerCompatibility)
    create_dest_path: bool = False
    wildcard: bool = False
    allow_empty_wildcard: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    required_paths: tuple[str, ...] = ()
    always_replace: bool = False  # replace an existing non-directory/directory at the destination of the other kind
    timestamp: int = -1  # nanoseconds since the epoch for all that is written; -1 keeps the source's


@dataclass(frozen=True, slots=True)
class MakeFile:
    path: str
    data: bytes
    mode: int
    input: int = 0
    output: int = 0
    owner: Owner | None = None
    timestamp: int = -1


@dataclass(frozen=True, slots=True)
class MakeDir:
    path: str
    mode: int
    parents: bool = False
    input: int = 0
    output: int = 0
    owner: Owner | None = None
    timestamp: int = -1


@dataclass(frozen=True, slots=True)
class Remove:
    path: str
    allow_not_found: bool = False
    wildcard: bool = False
    input: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True)
class Symlink:
    target: str
    path: str
    input: int = 0
    output: int = 0
    owner: Owner | None = None
    timestamp: int = -1


Action: TypeAlias = Copy | MakeFile | MakeDir | Remove | Symlink


@dataclass(frozen=True, slots=True)
class File:
    """File actions in order; each result that some action marks with an `output` is one output of the vertex."""

    actions: tuple[Action, ...]


# ---- snapshots -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Merge:
    """The inputs on top of each other, the first one lowest."""

    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Diff:
    """What `upper` has over `lower`; NO_INPUT stands for scratch."""

    lower: int
    upper: int


@dataclass(frozen=True, slots=True)
class Build:
    """A graph, marshalled in an input, to be solved in place. `definition_input` indexes Vertex.inputs."""

    definition_input: int
    attrs: Pairs = ()


@dataclass(frozen=True, slots=True)
class Passthrough:
    """The named inputs, unchanged, as outputs."""

    outputs: tuple[int, ...]


Op: TypeAlias = Source | Exec | File | Merge | Diff | Build | Passthrough
