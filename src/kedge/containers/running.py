"""The runs of one container, in a thread of its own: start, watch, end, and again if its policy says so.

Owns what belongs to a run and goes with it: its streams, published ports, health check, what holds it still. Does not
know what a client asked for.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kedge.containers.health import KEPT_OUTPUT, Health
from kedge.containers.ports import Forwarder
from kedge.containers.streams import Streams
from kedge.containers.supervised import Launch, NotStarted, Supervised
from kedge.kernel import syscalls
from kedge.model.errors import KedgeError, Unsupported
from kedge.model.value import replace
from kedge.sandbox.network import name_servers
from kedge.sandbox.process import Stdio

if TYPE_CHECKING:
    from kedge.containers.supervisor import Supervisor

_FIRST_PAUSE: Final = 0.1  # seconds before another start; doubled each time
_LONGEST_PAUSE: Final = 60.0
_LONG_ENOUGH: Final = 10.0  # seconds of running after which an end is the first one again


class Runs:
    """A container's runs from one start to the end that is the last."""

    def __init__(self, owner: "Supervisor", one: Supervised, launch: Launch, streams: Streams) -> None:
        self._owner, self._one, self._launch, self._streams = owner, one, launch, streams
        self._begun = threading.Event()
        self._failure: KedgeError | None = None  # why the latest run did not begin
        self._refusal: KedgeError | None = None  # why there is none at all
        self._ports: Forwarder | None = None

    def start(self) -> None:
        """Begin; returns when the program runs. Raises NotStarted, Conflict for a taken port, or what the sandbox
        says.
        """
        self._ports = self._forwarder()
        self._one.log.begin(self._launch.log)
        threading.Thread(target=self._go, name=f"container-{self._one.record.name}").start()
        self._begun.wait()
        if self._refusal is not None:
            raise self._refusal

    def _go(self) -> None:
        """The first run, and those that the policy adds."""
        one, pause = self._one, _FIRST_PAUSE
        while True:
            began = time.monotonic()
            code = self._run()
            if self._failure is not None and not one.restarts:
                self._refusal = self._failure
                self._begun.set()
                self._owner.not_started(one)
                return
            if time.monotonic() - began > _LONG_ENOUGH:
                pause = _FIRST_PAUSE
            self._owner.ended(one, code)
            if not self._is_again(pause):
                break
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._owner.over(one)

    def _is_again(self, pause: float) -> bool:
        """Wait for the next run, and make it ready; False when this was the last one, or somebody wants no more."""
        one = self._one
        while one.waiting and not one.stopping.wait(pause):
            one.restarts += 1
            try:
                self._make_ready()
                return True
            except (KedgeError, OSError) as error:  # somebody has the port now, or there are no descriptors left
                with suppress(KedgeError):
                    one.container.update(error=str(error))
        with one.changed:
            one.waiting = False
            one.changed.notify_all()
        return False

    def _make_ready(self) -> None:
        asked, ports = self._launch, self._forwarder()
        try:
            self._streams = self._owner.streams_of(self._one, asked.process.terminal, asked.interactive, asked.once)
            self._one.log.begin()
        except BaseException:
            if ports is not None:
                ports.close()
            raise
        self._ports = ports

    def _forwarder(self) -> Forwarder | None:
        """What joins a network of its own to this machine's. Raises Conflict for a taken port."""
        process = self._launch.process
        if process.network != "private":
            return None
        return Forwarder(self._launch.published, name_servers(process.resolver))

    def _run(self) -> int:
        """One run, to its end; its exit code. `_failure` says why it did not begin."""
        one, code, streams = self._one, 125, self._streams
        self._failure = None
        began = threading.Event()

        def on_program() -> None:
            began.set()
            self._on_program()

        streams.hold()
        way_out = self._ports.give_way_out if self._ports is not None else None
        own = Stdio(
            on_start=self._on_start, on_program=on_program, note=self._note, on_way_out=way_out, on_oom=self._on_oom
        )
        try:
            process, mounts = self._launch.process, self._launch.mounts
            code = one.container.run(self._owner.executor, process, mounts, streams.stdio(own))
            if not began.is_set():
                streams.drain()
                text = streams.withdraw().decode(errors="replace").strip() or "the container ended before it began"
                self._failure = NotStarted(text, code)
        except KedgeError as error:
            self._failure = error
        except Exception as error:  # a bug: told in the service's log, whole
            traceback.print_exc(file=sys.stderr)
            self._failure = KedgeError(f"the container could not be run: {error}")
        finally:
            self._over(code)
        return code

    def _over(self, code: int) -> None:
        """What belonged to the run goes, and whether another follows is decided in the same instant."""
        one = self._one
        with one.changed:
            pidfd, one.pidfd, one.send = one.pidfd, -1, None
            health, ports, leftovers = one.health, self._ports, one.leftovers
            one.frozen = one.ports = self._ports = None
            one.leftovers = []
            wanted = self._failure is None or one.restarts > 0
            one.waiting = wanted and not one.stopping.is_set() and one.restart.wants(code, one.restarts)
            if pidfd >= 0:
                os.close(pidfd)
        if health is not None:
            health.end()
        for take_away in leftovers:
            take_away()
        if ports is not None:
            ports.close()
        if self._failure is not None:
            with suppress(KedgeError):
                one.container.update(error=self._failure.message, exit_code=code)
        self._streams.finish()

    def _note(self, text: str) -> None:
        """A limit that could not be set, and the like: said where the user looks, as `kedge run` says it."""
        end = "\r\n" if self._streams.terminal else "\n"
        self._streams.output(2, f"kedge: {text}{end}".encode())

    def _on_oom(self) -> None:
        self._owner.tell(self._one, "oom", {})

    def _on_start(self, send: Callable[[int], None], pid: int) -> None:
        one = self._one
        with one.changed:
            with suppress(OSError):
                one.pidfd = syscalls.pidfd_open(pid)
            one.send = send
        if one.stopping.is_set():  # while its next run was made ready
            send(signal.SIGKILL)
        if self._ports is not None:
            with suppress(OSError):  # it has ended already
                self._ports.start(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            one.ports = self._ports

    def _on_program(self) -> None:
        one = self._one
        self._streams.release()
        with one.changed:
            one.waiting = False
            one.changed.notify_all()
        if self._launch.health is not None:
            one.health = Health(self._launch.health, self._probe, self._healthy)
        if self._begun.is_set():
            self._owner.tell(one, "start", {})  # the first time, who started it tells
        self._begun.set()

    # ---- health ------------------------------------------------------------------------------------------------------

    def _probe(self, cancel: threading.Event) -> tuple[int, bytes] | None:
        """The check's command beside the container's own process, unless that is held still."""
        said = bytearray()
        process = replace(self._launch.process, args=self._launch.health_command, terminal=False, init=False)

        def output(_: int, data: bytes) -> None:
            said.extend(data[: KEPT_OUTPUT - len(said)])

        with self._one.changed:
            if self._one.pidfd < 0 or self._one.frozen is not None:
                return None
            pidfd = os.dup(self._one.pidfd)
        try:
            code = self._owner.executor.enter(process, pidfd, Stdio(output=output), cancel)
            return code, bytes(said)
        except Unsupported as error:
            return 1, error.message.encode()
        except KedgeError as error:
            return -1, bytes(said) or error.message.encode()
        finally:
            os.close(pidfd)

    def _healthy(self, verdict: str) -> None:
        self._owner.tell(self._one, f"health_status: {verdict}", {})
