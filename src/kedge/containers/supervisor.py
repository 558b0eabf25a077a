"""Containers that outlive the request that made them: made, started, waited for, held still, stopped, removed.

Owns one `Supervised` for each container of this service's store, and the executor they run in. Containers end with the
service. Does not know images (who starts one brings its process and mounts), HTTP, or what a request looked like.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

from kedge.containers.execs import Execs
from kedge.containers.running import Runs
from kedge.containers.streams import Streams
from kedge.containers.supervised import Launch, Supervised
from kedge.containers.volumes import Volumes, uses_of
from kedge.model.errors import Conflict, KedgeError, NotFound, StoreError
from kedge.sandbox.container import ContainerRecord, Containers
from kedge.sandbox.freezer import freeze
from kedge.sandbox.linux import LinuxExecutor

Tell: TypeAlias = Callable[[Supervised, str, dict[str, str]], None]  # what happened to a container, with details
WaitFor: TypeAlias = Literal["not-running", "next-exit", "removed"]


class Supervisor:
    """All containers of the store at `root`; `process_sandbox` is LinuxExecutor's. Thread-safe."""

    def __init__(self, root: Path, tell: Tell, process_sandbox: bool = True) -> None:
        self.containers = Containers(root / "containers")
        self.volumes = Volumes(root)
        self.executor = LinuxExecutor(root / "sandbox", process_sandbox)
        self.execs = Execs(self)
        self._tell = tell
        self._known: dict[str, Supervised] = {}
        self._lock = threading.Lock()
        self._closing = False

    # ---- which ones --------------------------------------------------------------------------------------------------

    def list(self) -> list[ContainerRecord]:
        """All records, newest first: those of `kedge run` too."""
        return self.containers.list()

    def find(self, reference: str) -> Supervised:
        """By name, id or unambiguous start of an id; raises NotFound."""
        return self.of(self.containers.get(reference.removeprefix("/")))

    def of(self, record: ContainerRecord) -> Supervised:
        """That container."""
        container = self.containers.held(record)
        with self._lock:
            known = self._known.get(container.record.id)
            if known is None:
                known = Supervised(container)
                if container.home.exists():  # else it went meanwhile
                    self._known[record.id] = known
            elif not known.alive:
                known.container.record = container.record
            return known

    def create(self, image: str, image_id: str, command: tuple[str, ...], name: str, auto_remove: bool) -> Supervised:
        """A new container; raises Conflict if the name is taken."""
        made = Supervised(self.containers.create(image, image_id, command, name, auto_remove))
        with self._lock:
            self._known[made.record.id] = made
        return made

    def rename(self, one: Supervised, name: str) -> None:
        """Give it another name; raises Conflict."""
        old = one.record.name
        one.container.record = self.containers.rename(one.record.id, name.removeprefix("/"))
        self.tell(one, "rename", {"oldName": f"/{old}"})

    def tell(self, one: Supervised, action: str, details: dict[str, str]) -> None:
        """Something happened to it."""
        self._tell(one, action, details)

    # ---- running -----------------------------------------------------------------------------------------------------

    def streams_of(self, one: Supervised, terminal: bool, interactive: bool, once: bool) -> Streams:
        """The streams of the run that goes on, or of the next one."""
        with one.changed:
            if one.streams is None or one.streams.ended.is_set():
                one.streams = Streams(terminal, interactive, once, one.log)
                if one.size:
                    one.streams.resize(*one.size)
            return one.streams

    def start(self, one: Supervised, launch: Launch) -> None:
        """Start it; returns when its program runs. Raises NotStarted, or what the sandbox says."""
        with one.busy:
            if one.alive:
                raise Conflict(f"container {one.record.name} is running already")
            if one.removed or self._closing:
                raise Conflict(f"container {one.record.name} is being removed")
            one.stopping.clear()
            one.restart, one.stop_signal = launch.restart, launch.stop_signal
            one.restarts, one.health = 0, None
            one.container.update(stopped=False)
            streams = self.streams_of(one, launch.process.terminal, launch.interactive, launch.once)
            Runs(self, one, launch, streams).start()
        self.tell(one, "start", {})

    def ended(self, one: Supervised, code: int) -> None:
        """What follows the end of every run."""
        for each in list(one.execs.values()):
            each.streams.finish()
        self.tell(one, "die", {"exitCode": str(code)})
        with one.changed:
            one.ends += 1
            one.changed.notify_all()

    def over(self, one: Supervised) -> None:
        """What follows the end that is the last."""
        if one.record.auto_remove:
            with suppress(KedgeError):
                self._remove(one, volumes=True)

    def not_started(self, one: Supervised) -> None:
        """There is no end to tell of, but who waits for one must not wait for ever."""
        with one.changed:
            one.ends += 1
            one.changed.notify_all()
        self.over(one)

    def wait(self, one: Supervised, condition: WaitFor, wanted: Callable[[], bool]) -> int | None:
        """Wait for an end of the container; its exit code, or None once `wanted` says that nobody waits any more."""
        with one.changed:
            before = one.ends
        while wanted():
            with one.changed:
                over = one.ends > before if condition == "next-exit" else not one.alive
                if condition == "removed":
                    over = one.removed
                elif condition == "not-running" and one.record.state == "running" and not one.alive:
                    over = not self._runs_elsewhere(one)
                elif one.removed:
                    over = True
                if over:
                    return one.record.exit_code
                one.changed.wait(0.5)
        return None

    def signal(self, one: Supervised, number: int) -> None:
        """Send a signal to its first process. Raises Conflict unless it runs. One that ends it is not undone by its
        policy.
        """
        if number in (signal.SIGKILL, one.stop_signal):
            self._want_no_more(one)
            self._thaw(one)
        if one.send is not None:
            one.send(number)
        elif one.record.state == "running" and one.record.pid:
            with suppress(ProcessLookupError):
                os.kill(one.record.pid, number)  # of `kedge run`
        elif not one.waiting:
            raise Conflict(f"container {one.record.id} is not running")
        self.tell(one, "kill", {"signal": str(number)})

    def _want_no_more(self, one: Supervised) -> None:
        if one.alive and not self._closing:
            one.container.update(stopped=True)
        one.stopping.set()

    def stop(self, one: Supervised, number: int, patience: float) -> bool:
        """Ask it to end, then kill it after `patience` seconds (below 0: never); False when it did not run."""
        if not one.alive and one.record.state != "running":
            return False
        self._want_no_more(one)
        end = time.monotonic() + patience if patience >= 0 else float("inf")
        with suppress(Conflict):
            self._thaw(one)
            self.signal(one, number)
            self.wait(one, "not-running", lambda: time.monotonic() < end)
        if one.running or self._runs_elsewhere(one):
            with suppress(Conflict):
                self.signal(one, signal.SIGKILL)
            self.wait(one, "not-running", lambda: True)
        self.tell(one, "stop", {})
        return True

    def _runs_elsewhere(self, one: Supervised) -> bool:
        try:
            return self.containers.get(one.record.id).state == "running"
        except NotFound:
            return False

    def resize(self, one: Supervised, rows: int, columns: int) -> None:
        """Its terminal has this size now."""
        one.size = rows, columns
        if one.streams is not None:
            one.streams.resize(rows, columns)

    # ---- held still --------------------------------------------------------------------------------------------------

    def pause(self, one: Supervised) -> None:
        """Hold all its processes. Raises Conflict, StoreError."""
        with one.changed:
            if not one.running or not one.record.pid:
                raise Conflict(f"container {one.record.id} is not running")
            if one.frozen is not None:
                raise Conflict(f"container {one.record.id} is already paused")
            try:
                one.frozen = freeze(one.record.pid)
                one.leftovers.append(one.frozen.release)
            except OSError as error:
                raise StoreError(f"cannot pause container {one.record.id}: {error}") from None
        self.tell(one, "pause", {})

    def unpause(self, one: Supervised) -> None:
        """Let them go on. Raises Conflict."""
        if not self._thaw(one):
            raise Conflict(f"container {one.record.id} is not paused")

    def _thaw(self, one: Supervised) -> bool:
        with one.changed:
            frozen, one.frozen = one.frozen, None
            if frozen is None:
                return False
            frozen.thaw()
        self.tell(one, "unpause", {})
        return True

    # ---- the end -----------------------------------------------------------------------------------------------------

    def remove(self, one: Supervised, force: bool, volumes: bool = False) -> None:
        """Delete it and what it wrote, with `volumes` also those made for it. Raises Conflict if it runs, unless
        `force`.
        """
        if one.alive or one.record.state == "running":
            if not force:
                raise Conflict(
                    f'cannot remove container "{one.record.name}": container is {one.state}: '
                    f"{'unpause' if one.state == 'paused' else 'stop'} the container before removing or force remove"
                )
            with suppress(Conflict):
                self.signal(one, signal.SIGKILL)
            self.wait(one, "not-running", lambda: True)
        self._remove(one, volumes)

    def _remove(self, one: Supervised, volumes: bool) -> None:
        uses = uses_of(one.container.home) if volumes else ()
        with one.busy:
            if one.removed:
                return
            with suppress(NotFound):
                self.containers.remove(one.record.id, force=True)
            one.removed = True
        with self._lock:
            self._known.pop(one.record.id, None)
        self.execs.forget(one)
        if one.streams is not None and not one.running:
            one.streams.finish()
        self.volumes.forget(uses)
        self.tell(one, "destroy", {})
        with one.changed:
            one.changed.notify_all()

    def close(self, patience: float = 10.0) -> None:
        """Stop everything that runs, and the executor."""
        self._closing = True
        with self._lock:
            running = [one for one in self._known.values() if one.alive]
        threads = [
            threading.Thread(target=self.stop, args=(one, one.stop_signal, patience), daemon=True) for one in running
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(patience + 5)
        self.executor.close()
