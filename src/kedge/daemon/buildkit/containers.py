"""Containers that a client of the gateway asks for: their mounts, their processes, and their end with the build.

Owns what a request means (BuildKit's defaults for environment and root), and that the first process to start is the
container: the others join it and end with it. Does not know how a client hears of it (`processes`), nor namespaces.
"""

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kedge.containers.streams import Streams
from kedge.daemon.buildkit.definition import read_platform
from kedge.daemon.buildkit.errors import Bug, Refused, UnknownRef
from kedge.daemon.buildkit.ops import (
    MOST_BELOW_ONE_OP,
    read_host,
    read_mount,
    read_network,
    read_path,
    read_secret_env,
    read_security,
    read_text,
    read_variable,
)
from kedge.daemon.wire import llb
from kedge.kernel import syscalls
from kedge.model import ops
from kedge.model.digest import digest_of
from kedge.model.errors import Cancelled, Conflict, InvalidInput, KedgeError, NotFound, StepFailed
from kedge.model.graph import Snapshot
from kedge.model.value import dataclass, replace
from kedge.operations.exec import secret_variables
from kedge.operations.exec_mounts import Preparer
from kedge.sandbox.linux import LinuxExecutor
from kedge.sandbox.process import HostPath, MountPoint, MountSource, Overlay, Process, Stdio
from kedge.sources.handler import Work
from kedge.storage.users import User, resolve_user

if TYPE_CHECKING:
    from kedge.builder.parts import Parts
    from kedge.daemon.buildkit.jobs import Outcome
    from kedge.storage.store import Store

_MOST: Final = 250  # containers of one build, and processes of one container at once
_LONGEST_ID: Final = 256
# What BuildKit sets, whoever may run it.
_PATHS: Final = {"windows": "c:\\Windows\\System32;c:\\Windows;C:\\Windows\\System32\\WindowsPowerShell\\v1.0"}
_UNIX_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Settings:
    """What all processes of a container have in common."""

    network: Any = "sandbox"
    hostname: str = ""
    extra_hosts: ops.Pairs = ()
    path: str = _UNIX_PATH


class Running:
    """One process, from the wish to its end. `code` or `error` tell how it ended."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.begun, self.ended = threading.Event(), threading.Event()
        self.code: int | None = None
        self.error: KedgeError | None = None
        self._send: Callable[[int], None] | None = None
        self._unwanted = False
        self._lock = threading.Lock()

    def on_start(self, send: Callable[[int], None]) -> None:
        """It can be sent signals from now on."""
        with self._lock:
            self._send, unwanted = send, self._unwanted
        if unwanted:
            send(9)

    def signal(self, number: int) -> None:
        """Send it a signal; silent when it has not started, or has ended."""
        if self._send is not None:
            self._send(number)

    def end(self) -> None:
        """Kill it: now, or as soon as it has started."""
        with self._lock:
            self._unwanted = True
        self.signal(9)

    @property
    def failure(self) -> KedgeError | None:
        """Why it did not end well."""
        if self.error is None and self.code:
            return StepFailed(f"exit code: {self.code}", exit_code=self.code)
        return self.error


class Container:
    """One container. `mounts` are in the order in which they were asked for; None for what was optional and is not."""

    def __init__(
        self,
        parts: "Parts",
        executor: LinuxExecutor,
        settings: Settings,
        mounts: Sequence[MountPoint | None],
        held: ExitStack,
    ) -> None:
        self._parts, self._executor, self._settings = parts, executor, settings
        self._mounts, self._held = tuple(mounts), held
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._first: Running | None = None
        self._pidfd = -1
        self._processes: list[Running] = []  # those under way
        self._failure: KedgeError | None = None

    def start(self, told: Any, running: Running, on_end: Callable[[], None]) -> None:
        """Start what an InitMessage says; returns when the program runs or has failed. `on_end` hears of its end."""
        with self._lock:
            if self.cancelled.is_set():
                raise Cancelled("the container is released")
            if len(self._processes) >= _MOST:
                raise Conflict(f"{_MOST} processes run in this container already")
            self._processes.append(running)
            first = self._first
            if first is None:
                self._first = running
        work = (lambda: self._run(told, running)) if first is None else (lambda: self._join(told, running, first))
        threading.Thread(target=self._carry_out, args=(running, work, on_end), name="gateway-process").start()
        running.begun.wait()

    def _carry_out(self, running: Running, work: Callable[[], int], on_end: Callable[[], None]) -> None:
        try:
            running.code = work()
        except KedgeError as error:
            running.error = error
        except Exception as error:
            traceback.print_exception(error)
            running.error = Bug(f"internal error: {type(error).__name__}")
        if self.cancelled.is_set():
            running.error = Cancelled("context canceled")
        running.streams.finish()
        with self._lock:
            if self._first is running and not running.begun.is_set():
                self._first = None  # it never began: the next one may be the container
            self._processes.remove(running)
            self._failure = self._failure or running.failure
        running.ended.set()
        running.begun.set()
        on_end()

    def _run(self, told: Any, running: Running) -> int:
        def on_start(send: Callable[[int], None], pid: int) -> None:
            with self._lock, suppress(OSError):
                self._pidfd = syscalls.pidfd_open(pid)
            running.on_start(send)

        stdio = running.streams.stdio(Stdio(on_start=on_start, on_program=running.begun.set))
        points = tuple(mount for mount in self._mounts if mount is not None)
        try:
            return self._executor.run(self._process(told), points, stdio, self.cancelled)
        finally:
            with self._lock:
                pidfd, self._pidfd = self._pidfd, -1
            if pidfd >= 0:
                os.close(pidfd)

    def _join(self, told: Any, running: Running, first: Running) -> int:
        first.begun.wait()
        process = self._process(told)
        with self._lock:
            if self._pidfd < 0:
                raise InvalidInput("the container's first process has ended")
            pidfd = os.dup(self._pidfd)

        def on_start(send: Callable[[int], None], _: int) -> None:
            running.on_start(send)

        try:
            stdio = running.streams.stdio(Stdio(on_start=on_start, on_program=running.begun.set))
            return self._executor.enter(process, pidfd, stdio)
        finally:
            os.close(pidfd)

    # ---- what a process is -------------------------------------------------------------------------------------------

    def _process(self, told: Any) -> Process:
        meta, settings = told.Meta, self._settings
        security = read_security(told.Security)
        wanted = ops.Exec(("",), (), network=settings.network, security=security)
        self._parts.entitlements.require_op(wanted)
        user = self._user(read_text(meta.user, "user"))
        return Process(
            args=tuple(read_text(arg, "argument") for arg in meta.args),
            env=self._environment(told, user),
            cwd=read_path(meta.cwd, "working directory"),
            uid=user.uid,
            gid=user.gid,
            groups=tuple(dict.fromkeys((*user.groups, user.gid))),
            hostname=settings.hostname,
            network=settings.network,
            security=security,
            extra_hosts=settings.extra_hosts,
            terminal=bool(told.Tty),
            no_new_privileges=user.uid == 0,
        )

    def _user(self, text: str) -> User:
        if not text:
            return resolve_user(None, "")
        root = next(index for index, mount in enumerate(self._mounts) if mount is not None and mount.dest == "/")
        with self.tree(root) as fd:
            return resolve_user(fd, text)

    def _environment(self, told: Any, user: User) -> tuple[str, ...]:
        env = [read_variable(entry) for entry in told.Meta.env]
        names = {entry.partition("=")[0] for entry in env}
        defaults = {"PATH": self._settings.path, "HOME": user.home} | ({"TERM": "xterm"} if told.Tty else {})
        env += [f"{name}={value}" for name, value in defaults.items() if name not in names]
        return (*env, *secret_variables(self._parts.session, map(read_secret_env, told.secretenv)))

    # ---- its files, its end ------------------------------------------------------------------------------------------

    @contextmanager
    def tree(self, index: int) -> Iterator[int]:
        """A descriptor of the root of mount number `index` as it is now; raises NotFound."""
        if not 0 <= index < len(self._mounts):
            raise NotFound(f"mount index {index} is out of bounds ({len(self._mounts)} available)")
        mount = self._mounts[index]
        with self._lock:
            if mount is None or self.cancelled.is_set():
                raise NotFound(f"mountable {index} not found")
        with _opened(mount.source, self._parts.store) as fd:
            yield fd

    def release(self) -> None:
        """End all its processes and free its mounts. Idempotent."""
        with self._lock:
            self.cancelled.set()
            processes = list(self._processes)
        for one in processes:
            one.ended.wait()
        self._held.close()

    def verdict(self) -> KedgeError | None:
        """Why a process of it, once released, did not end well."""
        return self._failure


@contextmanager
def _opened(source: MountSource, store: "Store") -> Iterator[int]:
    if isinstance(source, Overlay):
        with store.layers.seen([Path(path) for path in (*source.lowers, source.upper) if path]) as tree:
            yield tree.fd
    elif isinstance(source, HostPath):
        fd = os.open(source.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    else:
        raise NotFound("this mount cannot be looked into")


class Containers:
    """The containers of one build, by the ids that its client gave them."""

    def __init__(self, make_parts: "Callable[[], Parts]", find: "Callable[[str], Outcome | None]") -> None:
        self._make_parts, self._find = make_parts, find
        self._parts: Parts | None = None
        self._executor: LinuxExecutor | None = None
        self._known: dict[str, Container] = {}
        self._lock = threading.Lock()
        self._closed = False

    def create(self, request: Any) -> None:
        """A container as a NewContainerRequest says, without any process. Raises KedgeError."""
        id = request.ContainerID
        if not id or len(id) > _LONGEST_ID:
            raise Refused("a container needs an id")
        with self._lock:
            self._require_room(id)
            if self._parts is None or self._executor is None:
                self._parts = self._make_parts()
                process_sandbox = self._parts.settings.sandbox.process_sandbox
                self._executor = LinuxExecutor(self._parts.store.root / "sandbox", process_sandbox)
            parts, executor = self._parts, self._executor
        container = self._prepared(parts, executor, request)
        with self._lock:
            try:
                self._require_room(id)
            except KedgeError:
                container.release()
                raise
            self._known[id] = container

    def _require_room(self, id: str) -> None:
        if self._closed:
            raise Cancelled("the build has ended")
        if id in self._known:
            raise Conflict(f"Container {id} already exists")
        if len(self._known) >= _MOST:
            raise Conflict(f"this build has {_MOST} containers already")

    def _prepared(self, parts: "Parts", executor: LinuxExecutor, request: Any) -> Container:
        settings = _settings(request)
        if len(request.Mounts) > MOST_BELOW_ONE_OP:
            raise Refused("a container with too many mounts")
        snapshots: list[Snapshot] = []
        mounts = tuple(self._mount(told, snapshots) for told in request.Mounts)
        roots = [mount for mount in mounts if mount.dest == "/"]
        if len(roots) != 1 or roots[0].kind != "bind":
            raise Refused("a container needs one root file system")
        op = ops.Exec(("",), mounts)
        with ExitStack() as stack:
            work = Work(digest_of(request.ContainerID), parts.report, parts.trunk.cancel)
            prepared = Preparer(parts.store, parts.session).prepare(op, snapshots, stack, work)
            points = {point.dest: point for point in prepared.points}
            found = [points.get(mount.dest) for mount in mounts]
            return Container(parts, executor, settings, found, stack.pop_all())

    def _mount(self, told: Any, snapshots: list[Snapshot]) -> ops.Mount:
        """The mount; what it shows of what was solved is added to `snapshots`."""
        plain, index = llb.Mount(), -1
        plain.CopyFrom(told)
        if told.resultID and (outcome := self._find(told.resultID)) is not None:
            snapshots.append(outcome.store.layers.kept(outcome.snapshot))
            index = len(snapshots) - 1
        plain.input, plain.output = index, -1
        mount = read_mount(plain, len(snapshots))
        # As in BuildKit, the root can always be written to: what is written ends with the container.
        return replace(mount, readonly=False) if mount.dest == "/" else mount

    def get(self, id: str) -> Container:
        """The container; raises UnknownRef."""
        with self._lock:
            found = self._known.get(id)
        if found is None:
            raise UnknownRef(f"container {id[:40]!r} previously released or not created")
        return found

    def release(self, id: str) -> None:
        """End a container. Raises UnknownRef, and what its processes failed with, as BuildKit does."""
        container = self.get(id)
        with self._lock:
            self._known.pop(id, None)
        container.release()
        if failure := container.verdict():
            raise failure

    def close(self) -> None:
        """End all of them. Idempotent."""
        with self._lock:
            self._closed = True
            containers, self._known = list(self._known.values()), {}
        for one in containers:
            one.cancelled.set()
        for one in containers:
            one.release()
        if self._executor is not None:
            self._executor.close()


def _settings(request: Any) -> Settings:
    platform = read_platform(request.platform) if request.platform.Architecture else None
    system = platform.os if platform else request.platform.OS
    return Settings(
        read_network(request.Network),
        read_text(request.hostname, "host name")[:253],
        tuple(read_host(host) for host in request.extraHosts),
        _PATHS.get(system, _UNIX_PATH),
    )
