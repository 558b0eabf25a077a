"""What somebody asks of a container, and what that means for an image: sandbox values.

Owns Docker's rules for entrypoint, command and environment. Does not start anything.
"""

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kedge.model.errors import InvalidInput, NotFound
from kedge.model.graph import Snapshot
from kedge.model.image import ImageConfig
from kedge.model.ops import Pairs, Ulimit
from kedge.model.value import dataclass, field
from kedge.sandbox.container import Container
from kedge.sandbox.process import HostPath, Limits, MountPoint, Process, Tmpfs

if TYPE_CHECKING:
    from kedge.storage.store import Store
    from kedge.storage.users import User

DEFAULT_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Volume:
    """`-v`: a host path in the container."""

    source: Path
    dest: str
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """What to run. Empty and None mean what the image says."""

    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()  # NAME=value, over the image's; NAME alone takes the image's away
    user: str | None = None
    workdir: str | None = None
    hostname: str = ""
    name: str = ""
    network: Any = "sandbox"
    interactive: bool = False
    terminal: bool = False
    readonly: bool = False
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[tuple[str, int], ...] = ()  # path, bytes
    add_hosts: Pairs = ()
    ulimits: tuple[Ulimit, ...] = ()
    limits: Limits = field(default_factory=Limits)
    shm_size: int = 0
    no_new_privileges: bool | None = None  # None: for root only, as in build steps


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
        groups=user.groups,
        hostname=hostname,
        network=request.network,
        extra_hosts=request.add_hosts,
        ulimits=request.ulimits,
        limits=request.limits,
        terminal=request.terminal,
        shm_size=request.shm_size,
        no_new_privileges=user.uid == 0 if request.no_new_privileges is None else request.no_new_privileges,
    )


def _user(store: "Store", snapshot: Snapshot, text: str) -> "User":
    from kedge.storage.users import resolve_user

    with store.layers.mounted(snapshot) as tree:
        return resolve_user(tree, text)


def root_of(container: Container, lowers: tuple[Path, ...], readonly: bool = False) -> MountPoint:
    """The container's root over an image's layer directories, bottom first."""
    if lowers and not container.record.started:
        from kedge.storage.drafts import like_root

        like_root(container.upper, lowers[-1])
    return container.root(tuple(map(str, lowers)), readonly)


def mounts_of(request: ContainerRequest) -> Iterator[MountPoint]:
    """What is mounted over the root. Raises NotFound for a host path that is not there."""
    for volume in request.volumes:
        if not volume.source.exists():
            raise NotFound(f"the volume's directory {volume.source} does not exist")
        yield MountPoint(volume.dest, HostPath(str(volume.source)), readonly=volume.readonly)
    for path, size in request.tmpfs:
        yield MountPoint(posixpath.normpath(path), Tmpfs(size))
