"""Containers that outlive the request that made them: started, waited for, stopped, entered, removed.

Owns one `Supervised` for each container of this service's store, and the executor they run in. Containers end with the
service. Does not know images (who starts one brings its process and mounts), HTTP, or what a request looked like.
"""

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

from kedge.containers.log import ContainerLog
from kedge.containers.streams import Streams
from kedge.kernel import syscalls
from kedge.model.errors import Conflict, InvalidInput, KedgeError, NotFound
from kedge.model.value import dataclass
from kedge.sandbox.container import Container, ContainerRecord, Containers
from kedge.sandbox.linux import LinuxExecutor
from kedge.sandbox.process import MountPoint, Process, Stdio

Tell: TypeAlias = Callable[[ContainerRecord, str, dict[str, str]], None]  # what happened to a container, with details
WaitFor: TypeAlias = Literal["not-running", "next-exit", "removed"]
_MOST_EXECS = 64  # finished ones that are remembered for each container


class NotStarted(KedgeError):
    """The container's program could not be executed. `exit_code` is 126 or 127, as shells number it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Exec:
    """One more process in a container, by its id. `exit_code` is None until it has ended."""

    id: str
    container: str
    process: Process
    streams: Streams
    settings: dict[str, object]
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    pid: int = 0


class Supervised:
    """One container and what happens to it now."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.log = ContainerLog(container.home / "log")
        self.streams: Streams | None = None
        self.changed = threading.Condition()
        self.ends = 0  # how often it has ended, in this service's life
        self.removed = False
        self.busy = threading.Lock()  # start, restart and removal, one after the other
        self.send: Callable[[int], None] | None = None
        self.pidfd = -1
        self.size: tuple[int, int] | None = None
        self.execs: dict[str, Exec] = {}
        self.stop_signal = int(signal.SIGTERM)

    @property
    def record(self) -> ContainerRecord:
        return self.container.record

    @property
    def running(self) -> bool:
        return self.send is not None


class Supervisor:
    """All containers below `root`. Thread-safe."""

    def __init__(self, root: Path, state: Path, tell: Tell) -> None:
        self.containers = Containers(root)
        self._executor = LinuxExecutor(state)
        self._tell = tell
        self._known: dict[str, Supervised] = {}
        self._execs: dict[str, Exec] = {}
        self._lock = threading.Lock()
        self._closing = False

    # ---- which ones --------------------------------------------------------------------------------------------------

    def list(self) -> list[ContainerRecord]:
        """All records, newest first: those of `kedge run` too."""
        return self.containers.list()

    def find(self, reference: str) -> Supervised:
        """By name, id or unambiguous start of an id; raises NotFound."""
        container = self.containers.open(reference.removeprefix("/"))
        with self._lock:
            known = self._known.get(container.record.id)
            if known is None:
                known = self._known[container.record.id] = Supervised(container)
            elif not known.running:
                known.container.record = container.record
            return known

    def create(self, image: str, image_id: str, command: tuple[str, ...], name: str, auto_remove: bool) -> Supervised:
        """A new container; raises Conflict if the name is taken."""
        made = Supervised(self.containers.create(image, image_id, command, name, auto_remove))
        with self._lock:
            self._known[made.record.id] = made
        self._tell(made.record, "create", {})
        return made

    def rename(self, one: Supervised, name: str) -> None:
        """Give it another name; raises Conflict."""
        old = one.record.name
        one.container.record = self.containers.rename(one.record.id, name.removeprefix("/"))
        self._tell(one.record, "rename", {"oldName": f"/{old}"})

    # ---- running -----------------------------------------------------------------------------------------------------

    def streams_of(self, one: Supervised, terminal: bool, interactive: bool, once: bool) -> Streams:
        """The streams of the run that goes on, or of the next one."""
        with one.changed:
            if one.streams is None or one.streams.ended.is_set():
                one.streams = Streams(terminal, interactive, once, one.log)
                if one.size:
                    one.streams.resize(*one.size)
            return one.streams

    def start(self, one: Supervised, process: Process, mounts: tuple[MountPoint, ...], streams: Streams) -> None:
        """Start it; returns when its program runs. Raises NotStarted, or what the sandbox says."""
        with one.busy:
            if one.running:
                raise Conflict(f"container {one.record.name} is running already")
            if one.removed or self._closing:
                raise Conflict(f"container {one.record.name} is being removed")
            run = _Run(self, one, streams)
            one.log.begin()
            threading.Thread(target=run.go, args=(process, mounts), name=f"container-{one.record.name}").start()
            run.begun.wait()
            if run.failure is not None:
                raise run.failure
        self._tell(one.record, "start", {})

    def ended(self, one: Supervised, code: int) -> None:
        """What follows the end of a run."""
        for each in list(one.execs.values()):
            each.streams.finish()
        self._tell(one.record, "die", {"exitCode": str(code)})
        with one.changed:
            one.ends += 1
            one.changed.notify_all()
        if one.record.auto_remove:
            with suppress(KedgeError):
                self._remove(one)

    def wait(self, one: Supervised, condition: WaitFor, wanted: Callable[[], bool]) -> int | None:
        """Wait for an end of the container; its exit code, or None once `wanted` says that nobody waits any more."""
        with one.changed:
            before = one.ends
        while wanted():
            with one.changed:
                over = one.ends > before if condition == "next-exit" else not one.running
                if condition == "removed":
                    over = one.removed
                elif condition == "not-running" and one.record.state == "running" and not one.running:
                    over = not self._runs_elsewhere(one)
                elif one.removed:
                    over = True
                if over:
                    return one.record.exit_code
                one.changed.wait(0.5)
        return None

    def signal(self, one: Supervised, number: int) -> None:
        """Send a signal to its first process. Raises Conflict unless it runs."""
        if one.send is not None:
            one.send(number)
        elif one.record.state == "running" and one.record.pid:
            with suppress(ProcessLookupError):
                os.kill(one.record.pid, number)  # of `kedge run`
        else:
            raise Conflict(f"container {one.record.id} is not running")
        self._tell(one.record, "kill", {"signal": str(number)})

    def stop(self, one: Supervised, number: int, patience: float) -> bool:
        """Ask it to end, then kill it after `patience` seconds (below 0: never); False when it did not run."""
        if not one.running and one.record.state != "running":
            return False
        end = time.monotonic() + patience if patience >= 0 else float("inf")
        with suppress(Conflict):
            self.signal(one, number)
            self.wait(one, "not-running", lambda: time.monotonic() < end)
        if one.running or self._runs_elsewhere(one):
            with suppress(Conflict):
                self.signal(one, signal.SIGKILL)
            self.wait(one, "not-running", lambda: True)
        self._tell(one.record, "stop", {})
        return True

    def _runs_elsewhere(self, one: Supervised) -> bool:
        try:
            return self.containers.get(one.record.id).state == "running"
        except NotFound:
            return False

    def remove(self, one: Supervised, force: bool) -> None:
        """Delete it and what it wrote. Raises Conflict if it runs, unless `force`."""
        if one.running or one.record.state == "running":
            if not force:
                raise Conflict(
                    f'cannot remove container "{one.record.name}": container is running: '
                    "stop the container before removing or force remove"
                )
            with suppress(Conflict):
                self.signal(one, signal.SIGKILL)
            self.wait(one, "not-running", lambda: True)
        self._remove(one)

    def _remove(self, one: Supervised) -> None:
        with one.busy:
            if one.removed:
                return
            with suppress(NotFound):
                self.containers.remove(one.record.id, force=True)
            one.removed = True
        with self._lock:
            self._known.pop(one.record.id, None)
            for id in one.execs:
                self._execs.pop(id, None)
        if one.streams is not None and not one.running:
            one.streams.finish()
        self._tell(one.record, "destroy", {})
        with one.changed:
            one.changed.notify_all()

    def resize(self, one: Supervised, rows: int, columns: int) -> None:
        """Its terminal has this size now."""
        one.size = rows, columns
        if one.streams is not None:
            one.streams.resize(rows, columns)

    # ---- one more process --------------------------------------------------------------------------------------------

    def prepare(self, one: Supervised, process: Process, streams: Streams, settings: dict[str, object]) -> Exec:
        """Note a process to run in a running container; raises Conflict when it does not run."""
        if not one.running:
            raise Conflict(f"container {one.record.id} is not running")
        made = Exec(secrets.token_hex(32), one.record.id, process, streams, settings)
        with self._lock:
            finished = [each for each in one.execs.values() if each.exit_code is not None]
            for old in finished[: max(0, len(finished) - _MOST_EXECS)]:
                one.execs.pop(old.id)
                self._execs.pop(old.id, None)
            self._execs[made.id] = one.execs[made.id] = made
        return made

    def exec(self, id: str) -> Exec:
        """A process that was prepared; raises NotFound."""
        with self._lock:
            found = self._execs.get(id)
        if found is None:
            raise NotFound(f"No such exec instance: {id[:64]}")
        return found

    def run_exec(self, each: Exec) -> int:
        """Run it to its end; its exit code. Raises Conflict when it was started before or the container stopped."""
        one = self.find(each.container)
        with one.changed:
            if each.started:
                raise Conflict(f"exec command {each.id} has run already")
            if not one.running:
                raise Conflict(f"container {each.container} is not running")
            each.started = each.running = True
            pidfd = os.dup(one.pidfd)

        def on_start(_: Callable[[int], None], pid: int) -> None:
            each.pid = pid

        try:
            each.exit_code = self._executor.enter(each.process, pidfd, each.streams.stdio(Stdio(on_start=on_start)))
        except KedgeError as error:
            each.exit_code = 126
            with suppress(Exception):
                each.streams.output(2, error.message.encode() + b"\n")
        finally:
            os.close(pidfd)
            each.running = False
            each.streams.finish()
        self._tell(one.record, "exec_die", {"execID": each.id, "exitCode": str(each.exit_code)})
        return each.exit_code

    def execute(self, process: Process, mounts: tuple[MountPoint, ...], one: Supervised, stdio: Stdio) -> int:
        """The container's own run; used by `_Run`."""
        return one.container.run(self._executor, process, mounts, stdio)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def close(self, patience: float = 10.0) -> None:
        """Stop everything that runs, and the executor."""
        self._closing = True
        with self._lock:
            running = [one for one in self._known.values() if one.running]
        threads = [
            threading.Thread(target=self.stop, args=(one, one.stop_signal, patience), daemon=True) for one in running
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(patience + 5)
        self._executor.close()


class _Run:
    """One run of a container, in a thread of its own."""

    def __init__(self, owner: Supervisor, one: Supervised, streams: Streams) -> None:
        self.owner, self.one, self.streams = owner, one, streams
        self.begun = threading.Event()
        self.failure: KedgeError | None = None

    def go(self, process: Process, mounts: tuple[MountPoint, ...]) -> None:
        one, code = self.one, 125
        self.streams.hold()
        own = Stdio(on_start=self._on_start, on_program=self._on_program, note=self._note)
        stdio = self.streams.stdio(own)
        try:
            code = self.owner.execute(process, mounts, one, stdio)
            if not self.begun.is_set():
                self.streams.drain()
                text = self.streams.withdraw().decode(errors="replace").strip() or "the container ended before it began"
                self.failure = NotStarted(text, code)
        except KedgeError as error:
            self.failure = error
        except Exception as error:
            self.failure = KedgeError(f"the container could not be run: {error}")
            raise
        finally:
            self._over(code)

    def _over(self, code: int) -> None:
        one = self.one
        with one.changed:
            pidfd, one.pidfd, one.send = one.pidfd, -1, None
            if pidfd >= 0:
                os.close(pidfd)
        if self.failure is not None:
            with suppress(KedgeError):
                one.container.update(error=self.failure.message, exit_code=code)
        self.streams.finish()
        started = self.begun.is_set()
        self.begun.set()
        if started or self.failure is None:
            self.owner.ended(one, code)
        else:
            # Not started: no end to tell of, but who waits for one must not wait for ever.
            with one.changed:
                one.ends += 1
                one.changed.notify_all()
            if one.record.auto_remove:
                with suppress(KedgeError):
                    self.owner._remove(one)

    def _note(self, text: str) -> None:
        """A limit that could not be set, and the like: said where the user looks, as `kedge run` says it."""
        self.streams.output(2, f"kedge: {text}\r\n".encode() if self.streams.terminal else f"kedge: {text}\n".encode())

    def _on_program(self) -> None:
        self.streams.release()
        self.begun.set()

    def _on_start(self, send: Callable[[int], None], pid: int) -> None:
        with self.one.changed:
            with suppress(OSError):
                self.one.pidfd = syscalls.pidfd_open(pid)
            self.one.send = send


def signal_number(text: str) -> int:
    """`SIGKILL`, `kill`, `9`: the number. Raises InvalidInput."""
    word = text.strip().upper()
    if word.isdecimal() and 0 < int(word[:4]) < 65 and len(word) < 4:
        return int(word)
    found = getattr(signal, word if word.startswith("SIG") else f"SIG{word}", None)
    if not isinstance(found, signal.Signals):
        raise InvalidInput(f"invalid signal: {text[:40]}")
    return int(found)
