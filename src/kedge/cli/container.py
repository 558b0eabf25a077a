"""One container of an image: what it runs, what it sees, and how its streams and signals reach it.

Owns the meaning of `kedge run`'s options as sandbox values, and that a name is in use by one container at a time.
Nothing of a container stays when it ends. Does not know how processes are started (`sandbox`) nor how layers are
stored.
"""

import fcntl
import os
import posixpath
import secrets
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kedge.model.errors import Conflict, InvalidInput, NotFound, StoreError
from kedge.model.graph import Snapshot
from kedge.model.image import ImageConfig
from kedge.model.ops import Pairs, Ulimit
from kedge.model.value import dataclass, field
from kedge.sandbox.process import (
    HostPath,
    Limits,
    MountPoint,
    Overlay,
    Process,
    Stdio,
    Tmpfs,
)

if TYPE_CHECKING:
    from kedge.storage.store import Store
    from kedge.storage.users import User

DEFAULT_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# With a terminal of its own, what its keys mean comes through the terminal.
PASSED_ON: Final = tuple(getattr(signal, f"SIG{name}") for name in "HUP INT QUIT TERM USR1 USR2 ALRM CONT".split())


@dataclass(frozen=True, slots=True)
class Volume:
    """`-v`: a host path in the container."""

    source: Path
    dest: str
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """What to run. Empty and None mean what the image says."""

    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: tuple[str, ...] = ()  # NAME=value, over the image's
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


def run_container(store: "Store", snapshot: Snapshot, config: ImageConfig, container: Container) -> int:
    """Run it to the end on this process's own streams; returns its exit code. Raises what the sandbox raises."""
    from kedge.sandbox.linux import LinuxExecutor

    args = command_line(config, container)
    with ExitStack() as stack:
        if container.name:
            stack.enter_context(_name_taken(store.root, container.name))
        user = _user(store, snapshot, config, container)
        draft = stack.enter_context(store.layers.draft(snapshot))
        root = Overlay(tuple(map(str, draft.lowers)), str(draft.upper), str(draft.work))
        executor = LinuxExecutor(store.root / "sandbox")
        stack.callback(executor.close)
        process = _process(args, config, container, user)
        return _run(
            executor, process, (MountPoint("/", root, readonly=container.readonly), *_mounts(container)), container
        )


def command_line(config: ImageConfig, container: Container) -> tuple[str, ...]:
    """Entrypoint and command by Docker's rules: an own entrypoint also drops the image's command."""
    entrypoint = config.entrypoint or ()
    command = container.command or config.cmd or ()
    if container.entrypoint is not None:
        entrypoint = (container.entrypoint,) if container.entrypoint else ()
        command = container.command
    if not entrypoint and not command:
        raise InvalidInput("the image says no command to run", hint="Write one behind the image's name.")
    return (*entrypoint, *command)


def environment(config: ImageConfig, container: Container, home: str, hostname: str) -> tuple[str, ...]:
    """The image's variables under those of the command line, with what Docker adds."""
    merged: dict[str, str] = {}
    defaults = [DEFAULT_PATH, f"HOSTNAME={hostname}", f"HOME={home}"] + (["TERM=xterm"] if container.terminal else [])
    for entry in (*defaults, *config.env, *container.env):
        merged[entry.partition("=")[0]] = entry
    return tuple(merged.values())


def parse_volume(text: str) -> Volume:
    """`HOST:CONTAINER[:ro]` or `CONTAINER` alone, which needs no mount of its own here. Raises InvalidInput."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise InvalidInput("expected HOST:CONTAINER[:ro], such as ./data:/data")
    source, dest, *options = parts
    unknown = set(options[0].split(",") if options else ()) - {
        "ro",
        "rw",
        "z",
        "Z",
        "delegated",
        "cached",
        "consistent",
    }
    if unknown:
        raise InvalidInput(f"unknown volume option {sorted(unknown)[0]!r}", hint="Options are ro and rw.")
    if "/" not in source and source not in (".", ".."):
        raise InvalidInput(f"{source!r} names a volume, and Kedge has none", hint=f"For a directory, write ./{source}.")
    if not dest.startswith("/"):
        raise InvalidInput(f"the path in the container must be absolute: {dest}")
    return Volume(Path(source).absolute(), posixpath.normpath(dest), bool(options) and "ro" in options[0].split(","))


def parse_tmpfs(text: str) -> tuple[str, int]:
    """`PATH[:size=SIZE]`. Raises InvalidInput."""
    from kedge.cli.spelling import parse_size

    path, _, options = text.partition(":")
    size = 0
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        size = parse_size(value) if key == "size" else size
    if not path.startswith("/"):
        raise InvalidInput("expected an absolute PATH[:size=SIZE]")
    return path, size


def read_env_file(path: Path, client: Mapping[str, str]) -> Iterator[str]:
    """The variables in an env file: NAME=value lines, NAME alone from the client's environment, # comments."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the env file {path}: {error}") from None
    for line in lines:
        line = line.lstrip()
        if line and not line.startswith("#"):
            yield from env_entry(line, client)


def env_entry(text: str, client: Mapping[str, str]) -> Iterator[str]:
    """One `-e`: as written, or with the client's value, or nothing where the client has none."""
    name, equals, _ = text.partition("=")
    if not name:
        raise InvalidInput(f"the variable {text!r} has no name")
    if equals:
        yield text
    elif name in client:
        yield f"{name}={client[name]}"


# ---- inside ----------------------------------------------------------------------------------------------------------


def _user(store: "Store", snapshot: Snapshot, config: ImageConfig, container: Container) -> "User":
    from kedge.storage.users import resolve_user

    text = config.user if container.user is None else container.user
    with store.layers.mounted(snapshot) as tree:
        return resolve_user(tree, text)


def _process(args: tuple[str, ...], config: ImageConfig, container: Container, user: "User") -> Process:
    hostname = container.hostname or secrets.token_hex(6)
    return Process(
        args=args,
        env=environment(config, container, user.home, hostname),
        cwd=container.workdir or config.working_dir or "/",
        uid=user.uid,
        gid=user.gid,
        groups=user.groups,
        hostname=hostname,
        network=container.network,
        extra_hosts=container.add_hosts,
        ulimits=container.ulimits,
        limits=container.limits,
        terminal=container.terminal,
        shm_size=container.shm_size,
    )


def _mounts(container: Container) -> Iterator[MountPoint]:
    for volume in container.volumes:
        if not volume.source.exists():
            raise NotFound(f"the volume's directory {volume.source} does not exist")
        yield MountPoint(volume.dest, HostPath(str(volume.source)), readonly=volume.readonly)
    for path, size in container.tmpfs:
        yield MountPoint(path, Tmpfs(size))


def _run(executor: Any, process: Process, mounts: tuple[MountPoint, ...], container: Container) -> int:
    def note(text: str) -> None:
        os.write(2, f"kedge: {text}\n".encode())

    with ExitStack() as stack:
        stdio = Stdio(
            stdin=0 if container.interactive else None,
            stdout=1,
            stderr=2,
            on_start=lambda send, _: stack.enter_context(_signals_passed_on(send)),
            note=note,
        )
        if container.terminal:
            from kedge.cli.terminal import Bridge

            bridge = stack.enter_context(Bridge(interactive=container.interactive))
            stdio = Stdio(on_terminal=bridge.connect, on_start=stdio.on_start, note=note)
        return int(executor.run(process, mounts, stdio))


@contextmanager
def _signals_passed_on(send: Any) -> Iterator[None]:
    """While the process runs, signals to us are meant for it.

    It is the first of its namespace, so the kernel drops those it has no handler for (pid_namespaces(7)). Who asks it
    three times to end means it: then it is killed, as Docker's client does.
    """
    asked = 0

    def pass_on(number: int, _: object) -> None:
        nonlocal asked
        asked += number in (signal.SIGINT, signal.SIGTERM)
        send(signal.SIGKILL if asked >= 3 else number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _name_taken(root: Path, name: str) -> Iterator[None]:
    """Hold a container's name; raises Conflict when a running one has it. The lock goes with the process."""
    if (
        not name.replace("_", "").replace("-", "").replace(".", "").isalnum()
        or not name[0].isalnum()
        or len(name) > 128
    ):
        raise InvalidInput(f"{name!r} is no container name", hint="Use letters, digits, '_', '.' and '-'.")
    folder = root / "containers"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / name, "w")  # noqa: SIM115
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"the container name {name!r} is in use") from None
        yield
        with suppress(OSError):
            os.unlink(folder / name)
