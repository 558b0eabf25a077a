"""What somebody asks of a container, and what that means for an image: sandbox values.

Owns Docker's rules for entrypoint, command and environment. Does not start anything.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kedge.containers.volumes import VolumeUse, keep_uses
from kedge.model.errors import InvalidInput, NotFound, StoreError
from kedge.model.graph import Snapshot
from kedge.model.image import ImageConfig
from kedge.model.ops import Pairs, Ulimit
from kedge.model.value import dataclass, field
from kedge.sandbox.container import Container
from kedge.sandbox.process import HostPath, Limits, MountPoint, Process, Resolver, Tmpfs

if TYPE_CHECKING:
    from kedge.containers.ports import Published
    from kedge.containers.volumes import Volumes
    from kedge.storage.store import Store
    from kedge.storage.tree import Tree
    from kedge.storage.users import User

DEFAULT_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Volume:
    """`-v`: a host path in the container. `made`: a directory is made there if nothing is."""

    source: Path
    dest: str
    readonly: bool = False
    made: bool = False


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume in the container, by name; "" is a new one for it alone. `copied`: it is filled from the image if it is
    empty.
    """

    name: str
    dest: str
    readonly: bool = False
    copied: bool = True
    subpath: str = ""
    labels: Pairs = ()


@dataclass(frozen=True, slots=True)
class TmpfsMount:
    """An empty file system in memory. `size` in bytes, 0 for the kernel's default; `mode` None is 1777."""

    dest: str
    size: int = 0
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A device node of this machine at `dest` in the container."""

    source: str
    dest: str


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """What to run. Empty and None mean what the image says."""

    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()  # NAME=value, over the image's; NAME alone takes the image's away
    user: str | None = None
    groups: tuple[str, ...] = ()  # besides the user's own, by name or number
    workdir: str | None = None
    hostname: str = ""
    name: str = ""
    network: Any = "sandbox"
    published: "tuple[Published, ...]" = ()
    interactive: bool = False
    terminal: bool = False
    readonly: bool = False
    volumes: tuple[Volume, ...] = ()
    named: tuple[VolumeMount, ...] = ()
    tmpfs: tuple[TmpfsMount, ...] = ()
    devices: tuple[Device, ...] = ()
    add_hosts: Pairs = ()
    resolver: Resolver = field(default_factory=Resolver)
    ulimits: tuple[Ulimit, ...] = ()
    limits: Limits = field(default_factory=Limits)
    shm_size: int = 0
    sysctls: Pairs = ()
    capabilities: frozenset[str] | None = None  # None: the default set
    privileged: bool = False
    init: bool = False
    no_new_privileges: bool | None = None  # None: for root only, as in build steps

    def __post_init__(self) -> None:
        if self.workdir and not self.workdir.startswith("/"):
            raise InvalidInput(
                f"the working directory '{self.workdir[:200]}' is invalid, it needs to be an absolute path"
            )


def network_of(request: ContainerRequest) -> Any:
    """The sandbox's word for the network it gets: one of its own where the machine's would not do.

    That is so for ports that have other numbers or addresses outside than inside, and for whoever may change the
    network: its sysctls, or with NET_ADMIN anything in it.
    """
    if request.network != "sandbox":
        return request.network
    mapped = any(each.host_port != each.port or each.host for each in request.published)
    changed = any(name.startswith("net.") for name, _ in request.sysctls)
    may_change = "net_admin" in (request.capabilities or ()) and not request.privileged
    return "private" if mapped or changed or may_change else "sandbox"


def command_line(config: ImageConfig, request: ContainerRequest) -> tuple[str, ...]:
    """Entrypoint and command by Docker's rules: an own entrypoint also drops the image's command."""
    entrypoint = config.entrypoint or ()
    command = request.command or config.cmd or ()
    if request.entrypoint is not None:
        entrypoint = request.entrypoint
        command = request.command
    if not entrypoint and not command:
        raise InvalidInput("the image says no command to run", hint="Write one behind the image's name.")
    return (*entrypoint, *command)


def environment(config: ImageConfig, request: ContainerRequest, home: str, hostname: str) -> tuple[str, ...]:
    """The image's variables under those of the request, with what Docker adds."""
    merged: dict[str, str] = {}
    defaults = [DEFAULT_PATH, f"HOSTNAME={hostname}", f"HOME={home}"] + (["TERM=xterm"] if request.terminal else [])
    for entry in (*defaults, *config.env, *request.env):
        name, equals, _ = entry.partition("=")
        if equals:
            merged[name] = entry
        else:
            merged.pop(name, None)
    return tuple(merged.values())


def process_of(
    store: "Store", snapshot: Snapshot, config: ImageConfig, request: ContainerRequest, hostname: str
) -> Process:
    """The process to run in a root made of `snapshot`; `hostname` is what it gets unless the request says another."""
    args = command_line(config, request)
    user = _user(store, snapshot, config.user if request.user is None else request.user)
    hostname = request.hostname or hostname
    return Process(
        args=args,
        env=environment(config, request, user.home, hostname),
        cwd=request.workdir or config.working_dir or "/",
        uid=user.uid,
        gid=user.gid,
        groups=(*user.groups, *_groups(store, snapshot, request.groups)),
        hostname=hostname,
        network=network_of(request),
        security="insecure" if request.privileged else "sandbox",
        extra_hosts=request.add_hosts,
        ulimits=request.ulimits,
        limits=request.limits,
        terminal=request.terminal,
        shm_size=request.shm_size,
        no_new_privileges=user.uid == 0 if request.no_new_privileges is None else request.no_new_privileges,
        capabilities=request.capabilities,
        sysctls=request.sysctls,
        resolver=request.resolver,
        init=request.init,
    )


def _user(store: "Store", snapshot: Snapshot, text: str) -> "User":
    from kedge.storage.users import resolve_user

    with store.layers.mounted(snapshot) as tree:
        return resolve_user(tree, text)


def _groups(store: "Store", snapshot: Snapshot, names: Sequence[str]) -> Iterator[int]:
    from kedge.storage.users import resolve_user

    if names:
        with store.layers.mounted(snapshot) as tree:
            yield from [resolve_user(tree, f"0:{name}").gid for name in names]


def root_of(container: Container, lowers: tuple[Path, ...], readonly: bool = False) -> MountPoint:
    """The container's root over an image's layer directories, bottom first."""
    if lowers and not container.record.started:
        from kedge.storage.drafts import like

        like(container.upper, lowers[-1])
    return container.root(tuple(map(str, lowers)), readonly)


def mounts_of(
    request: ContainerRequest, uses: Sequence[VolumeUse] = (), volumes: "Volumes | None" = None
) -> Iterator[MountPoint]:
    """What is mounted over the root. Raises NotFound for a host path or volume that is not there, StoreError."""
    for volume in request.volumes:
        if not volume.source.exists():
            _make_source(volume)
        yield MountPoint(volume.dest, HostPath(str(volume.source), recursive=True), readonly=volume.readonly)
    for use in uses:
        assert volumes is not None
        path = str(volumes.get(use.name).path)
        yield MountPoint(use.dest, HostPath(path), use.subpath, readonly=use.readonly)
    for each in request.tmpfs:
        yield MountPoint(each.dest, Tmpfs(each.size, 0o1777 if each.mode is None else each.mode))
    for device in request.devices:
        if not Path(device.source).exists():
            raise NotFound(
                f"error gathering device information while adding custom device {device.source}: no such file"
            )
        yield MountPoint(device.dest, HostPath(device.source, device=True))


def _make_source(volume: Volume) -> None:
    """A directory that is missing is made, as Docker makes it for `-v`."""
    if not volume.made:
        raise NotFound(f"bind source path does not exist: {volume.source}")
    try:
        os.makedirs(volume.source, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the volume's directory {volume.source}: {error.strerror}") from None


def claim_volumes(
    volumes: "Volumes",
    container: Container,
    request: ContainerRequest,
    config: ImageConfig,
    mounted: "Callable[[], AbstractContextManager[Tree]]",
) -> tuple[VolumeUse, ...]:
    """Make the volumes that a new container uses, with those its image asks for, and fill the empty ones.

    `mounted` opens the image's tree. From now on they are in use, until the container is removed. Raises InvalidInput,
    StoreError.
    """
    asked: tuple[Volume | VolumeMount | TmpfsMount, ...] = (*request.volumes, *request.named, *request.tmpfs)
    taken = {each.dest for each in asked}
    wanted = [
        *request.named,
        *(VolumeMount("", path) for path in config.volumes if os.path.normpath(path) not in taken),
    ]
    if not wanted:
        return ()
    with volumes.locked():
        records = [volumes.create(each.name, each.labels) for each in wanted]
        uses = tuple(
            VolumeUse(record.name, os.path.normpath(each.dest), each.readonly, not each.name, each.subpath)
            for each, record in zip(wanted, records, strict=True)
        )
        keep_uses(container.home, uses)
    to_fill = [(r, each.dest) for each, r in zip(wanted, records, strict=True) if volumes.is_empty(r) and each.copied]
    if to_fill:
        with mounted() as tree:
            for record, dest in to_fill:
                volumes.fill(record, tree, dest)
    return uses
