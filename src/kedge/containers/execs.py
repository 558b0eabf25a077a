"""One more process in a running container.

Owns the processes that were prepared, by id. Does not know how a process enters a container (`sandbox`), nor clients.
"""

import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kedge.containers.streams import Streams
from kedge.containers.supervised import Exec, Supervised
from kedge.model.errors import Conflict, KedgeError, NotFound
from kedge.sandbox.process import Process, Stdio

if TYPE_CHECKING:
    from kedge.containers.supervisor import Supervisor

_MOST: Final = 64  # finished ones that are remembered for each container
_MOST_WAITING: Final = 250  # of each container: prepared and not started, which may have a pipe each


class Execs:
    """All of one supervisor's. Thread-safe."""

    def __init__(self, owner: "Supervisor") -> None:
        self._owner = owner
        self._all: dict[str, Exec] = {}
        self._lock = threading.Lock()

    def prepare(self, one: Supervised, process: Process, streams: Streams, settings: dict[str, object]) -> Exec:
        """Note a process to run in a running container; raises Conflict when it does not run, or is held still."""
        if not one.running:
            raise Conflict(f"container {one.record.id} is not running")
        _require_moving(one)
        made = Exec(secrets.token_hex(32), one.record.id, process, streams, settings)
        with self._lock:
            given_up = _too_many(one)
            for old in given_up:
                one.execs.pop(old.id)
                self._all.pop(old.id, None)
            self._all[made.id] = one.execs[made.id] = made
        for old in given_up:
            old.streams.finish()
        self._owner.tell(one, f"exec_create: {' '.join(process.args)}", {"execID": made.id})
        return made

    def find(self, id: str) -> Exec:
        """A process that was prepared; raises NotFound."""
        with self._lock:
            found = self._all.get(id)
        if found is None:
            raise _not_found(id)
        return found

    def forget(self, one: Supervised) -> None:
        """The container is gone."""
        with self._lock:
            for id in one.execs:
                self._all.pop(id, None)

    def require_ready(self, each: Exec) -> None:
        """Raise Conflict when it was started before, or the container stopped or is held still."""
        _require_ready(self._owner.find(each.container), each)

    def run(self, each: Exec) -> int:
        """Run it to its end; its exit code. Raises Conflict as `require_ready`, NotFound when it was given up."""
        one = self._owner.find(each.container)
        with one.changed:
            _require_ready(one, each)
            with self._lock:
                if each.id not in self._all:
                    raise _not_found(each.id)
                each.started = each.running = True
            pidfd = os.dup(one.pidfd)
        self._owner.tell(one, f"exec_start: {' '.join(each.process.args)}", {"execID": each.id})

        def on_start(_: Callable[[int], None], pid: int) -> None:
            each.pid = pid

        try:
            stdio = each.streams.stdio(Stdio(on_start=on_start))
            each.exit_code = self._owner.executor.enter(each.process, pidfd, stdio)
        except KedgeError as error:
            each.exit_code = 126
            with suppress(Exception):
                each.streams.output(2, error.message.encode() + b"\n")
        finally:
            os.close(pidfd)
            each.running = False
            each.streams.finish()
        self._owner.tell(one, "exec_die", {"execID": each.id, "exitCode": str(each.exit_code)})
        return each.exit_code


def _too_many(one: Supervised) -> list[Exec]:
    """Those to give up before one more is prepared: the eldest of those that have ended, or that nobody starts."""
    ended = [each for each in one.execs.values() if each.exit_code is not None]
    waiting = [each for each in one.execs.values() if not each.started]
    return ended[: max(0, len(ended) - _MOST)] + waiting[: max(0, len(waiting) - _MOST_WAITING + 1)]


def _not_found(id: str) -> NotFound:
    return NotFound(f"No such exec instance: {id[:64]}")


def _require_ready(one: Supervised, each: Exec) -> None:
    if each.started:
        raise Conflict(f"exec command {each.id} has run already")
    if not one.running:
        raise Conflict(f"container {each.container} is not running")
    _require_moving(one)


def _require_moving(one: Supervised) -> None:
    if one.frozen is not None:
        raise Conflict(f"container {one.record.id} is paused, unpause the container before exec")
