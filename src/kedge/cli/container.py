"""`kedge run`'s words as a container, and the container on this process's own streams.

Owns how options are spelled, and how the terminal and signals of this process reach the container. Nothing of a
container stays when it ends. What a container is belongs to `kedge.containers`.
"""

import os
import posixpath
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from kedge.containers.launching import Care, launch_of
from kedge.containers.request import ContainerRequest, TmpfsMount, Volume, VolumeMount, claim_volumes
from kedge.containers.volumes import Volumes, VolumeUse
from kedge.model.errors import InvalidInput
from kedge.model.graph import Snapshot
from kedge.model.value import replace
from kedge.sandbox.container import Containers
from kedge.sandbox.process import Signaller, Stdio

if TYPE_CHECKING:
    from kedge.containers.ports import Published
    from kedge.containers.supervised import Launch
    from kedge.images.lookup import StoredImage
    from kedge.storage.store import Store

# With a terminal of its own, what its keys mean comes through the terminal.
PASSED_ON: Final = tuple(getattr(signal, f"SIG{name}") for name in "HUP INT QUIT TERM USR1 USR2 ALRM CONT".split())
_PUBLISHED: Final = re.compile(r"(?:(?:(\d[\d.]*|\[[0-9a-f:]+\]):)?(\d{1,5})?:)?(\d{1,5})(?:/(tcp|udp))?").fullmatch
_HANG_UP: Final = 3.0  # seconds that a process may tidy up after its terminal was closed


def run_container(
    store: "Store",
    snapshot: Snapshot,
    image: "StoredImage",
    request: ContainerRequest,
    process_sandbox: bool,
) -> int:
    """Run it to the end on this process's own streams; returns its exit code. Raises what the sandbox raises."""
    from kedge.images.lookup import shown_name
    from kedge.sandbox.linux import LinuxExecutor

    containers, volumes = Containers(store.root / "containers"), Volumes(store.root)
    with ExitStack() as stack:
        name = shown_name(image.record.name)
        container = containers.create(name, image.id, request.command, request.name, auto_remove=True)
        stack.callback(lambda: volumes.forget(uses))
        stack.callback(container.remove)
        uses: tuple[VolumeUse, ...] = ()
        uses = claim_volumes(volumes, container, request, image.config, lambda: store.layers.mounted(snapshot))
        lowers = store.layers.directories(snapshot)
        launch = launch_of(store, container, image.config, snapshot, lowers, request, Care())
        container.update(command=launch.process.args)
        executor = LinuxExecutor(store.root / "sandbox", process_sandbox)
        stack.callback(executor.close)
        stdio = stack.enter_context(_own_streams(request))
        return container.run(executor, launch.process, launch.mounts, _forwarding(launch, stdio, stack))


def _forwarding(launch: "Launch", stdio: Stdio, stack: ExitStack) -> Stdio:
    """Join a network of its own to this machine's, from the moment it has one. Raises Conflict for a taken port."""
    if launch.process.network != "private":
        return stdio
    from kedge.containers.ports import Forwarder
    from kedge.sandbox.network import name_servers

    forwarder = Forwarder(launch.published, name_servers(launch.process.resolver))
    stack.callback(forwarder.close)
    started = stdio.on_start

    def on_start(send: Signaller, pid: int) -> None:
        if started is not None:  # first: the program may run already, and from now on signals are for it
            started(send, pid)
        forwarder.start(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    return replace(stdio, on_start=on_start, on_way_out=forwarder.give_way_out)


def parse_publish(text: str) -> "Published":
    """`[[ADDRESS:]PORT:]PORT[/udp]`. Raises InvalidInput."""
    from kedge.containers.ports import Published

    match = _PUBLISHED(text)
    numbers = [int(number) for number in match.group(2, 3) if number] if match else [0]
    if not match or not all(0 < number < 1 << 16 for number in numbers):
        raise InvalidInput("expected [[ADDRESS:]PORT:]PORT[/udp], such as 8080:80")
    return Published(
        int(match[3]), "udp" if match[4] == "udp" else "tcp", (match[1] or "").strip("[]"), int(match[2] or 0)
    )


def parse_volume(text: str) -> Volume | VolumeMount:
    """`HOST:CONTAINER[:ro]`, `NAME:CONTAINER[:ro]`, or `CONTAINER` alone: a volume of its own. Raises InvalidInput."""
    parts = text.split(":")
    if len(parts) == 1 and text.startswith("/"):
        return VolumeMount("", posixpath.normpath(text))
    if len(parts) not in (2, 3) or not all(parts):
        raise InvalidInput("expected HOST:CONTAINER[:ro] or NAME:CONTAINER[:ro], such as ./data:/data")
    source, dest, *rest = parts
    options = set(rest[0].split(",")) if rest else set()
    if unknown := options - {"ro", "rw", "z", "Z", "delegated", "cached", "consistent", "nocopy"}:
        raise InvalidInput(f"unknown volume option {sorted(unknown)[0]!r}", hint="Options are ro, rw and nocopy.")
    if not dest.startswith("/"):
        raise InvalidInput(f"the path in the container must be absolute: {dest}")
    dest = posixpath.normpath(dest)
    if "/" not in source and source not in (".", ".."):
        return VolumeMount(source, dest, "ro" in options, copied="nocopy" not in options)
    return Volume(Path(source).absolute(), dest, "ro" in options)


def parse_tmpfs(text: str) -> TmpfsMount:
    """`PATH[:size=SIZE]`. Raises InvalidInput."""
    from kedge.cli.spelling import parse_size

    path, _, options = text.partition(":")
    size = 0
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        size = parse_size(value) if key == "size" else size
    if not path.startswith("/"):
        raise InvalidInput("expected an absolute PATH[:size=SIZE]")
    return TmpfsMount(posixpath.normpath(path), size)


def read_env_file(path: Path, client: Mapping[str, str]) -> Iterator[str]:
    """The variables in an env file: NAME=value lines, NAME alone from the client's environment, # comments."""
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        raise InvalidInput(f"cannot read the env file {path}: it is not UTF-8") from None
    except OSError as error:
        raise InvalidInput(f"cannot read the env file {path}: {error.strerror}") from None
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


# ---- streams ---------------------------------------------------------------------------------------------------------


@contextmanager
def _own_streams(request: ContainerRequest) -> Iterator[Stdio]:
    """This process's streams, lent to the container while it runs."""

    def note(text: str) -> None:
        os.write(2, f"kedge: {text}\n".encode())

    with ExitStack() as stack:
        stdio = Stdio(
            stdin=0 if request.interactive else None,
            stdout=1,
            stderr=2,
            on_start=stack.enter_context(_signals_passed_on(request.terminal)),
            note=note,
            on_oom=lambda: note(request.limits.exhausted),
        )
        if request.terminal:
            from kedge.cli.terminal import Bridge

            bridge = stack.enter_context(Bridge(interactive=request.interactive))
            stdio = replace(stdio, stdin=None, stdout=None, stderr=None, on_terminal=bridge.connect)
        yield stdio


@contextmanager
def _signals_passed_on(on_terminal: bool) -> Iterator[Callable[[Signaller, int], None]]:
    """While the process runs, signals to us are meant for it; gives what is to be told of its start.

    It is the first of its namespace, so the kernel drops those it has no handler for (pid_namespaces(7)). Who asks it
    three times to end means it: then it is killed, as Docker's client does. A terminal that is closed can ask but once,
    and nobody could end the process any more, so it is killed soon after.

    Its program may run, and say so, before we are told that it has started. What comes until then waits, and is for
    the process if that catches it by now, else for us.
    """
    asked, early = 0, list[int]()
    sender: Signaller | None = None
    last: threading.Timer | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked, last
        asked += number in (signal.SIGINT, signal.SIGTERM)
        if sender is None:
            early.append(number)
            if asked >= 3:
                as_before(number, frame)
            return
        sender(signal.SIGKILL if asked >= 3 else number)
        if number == signal.SIGHUP and on_terminal and last is None:
            last = threading.Timer(_HANG_UP, sender, (signal.SIGKILL,))
            last.daemon = True
            last.start()

    def as_before(number: int, frame: FrameType | None) -> None:
        handler = before[number]
        if callable(handler):
            handler(number, frame)

    def on_start(send: Signaller, pid: int) -> None:
        nonlocal sender
        sender = send
        for number in early:
            if _catches(pid, number):
                send(number)
            else:
                as_before(number, None)

    before = {int(number): signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        yield on_start
    finally:
        if last is not None:
            last.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _catches(pid: int, number: int) -> bool:
    """Does the process do something of its own about that signal?"""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigBlk:", "SigCgt:"))]
    return any(mask >> (number - 1) & 1 for mask in masks)
