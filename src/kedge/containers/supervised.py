"""One container as the supervisor sees it, and what a start of it needs: values and their state, no deeds.

Owns these shapes. Does not start, stop or know who does.
"""

import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from kedge.containers.log import ContainerLog, LogLimits
from kedge.model.errors import InvalidInput, KedgeError
from kedge.model.image import Healthcheck
from kedge.model.value import dataclass, field
from kedge.sandbox.container import Container, ContainerRecord
from kedge.sandbox.process import MountPoint, Process

if TYPE_CHECKING:  # `kedge run` needs none of these
    from kedge.containers.health import Health
    from kedge.containers.ports import Forwarder, Published
    from kedge.containers.streams import Streams
    from kedge.sandbox.freezer import Frozen

Policy: TypeAlias = Literal["no", "always", "unless-stopped", "on-failure"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a container that ended is started again: `most` times in a row at most, 0 for ever (on-failure only)."""

    name: Policy = "no"
    most: int = 0

    def wants(self, code: int, restarts: int) -> bool:
        """Another start after an end with that code, which nobody asked for?"""
        if self.name == "on-failure":
            return code != 0 and (not self.most or restarts < self.most)
        return self.name != "no"


@dataclass(frozen=True, slots=True)
class Launch:
    """All that a start needs. `health` is merged, with its command line in `health_command`."""

    process: Process
    mounts: tuple[MountPoint, ...]
    interactive: bool = False
    once: bool = True
    published: "tuple[Published, ...]" = ()
    health: Healthcheck | None = None
    health_command: tuple[str, ...] = ()
    restart: RestartPolicy = RestartPolicy()
    stop_signal: int = int(signal.SIGTERM)
    log: LogLimits = field(default_factory=LogLimits)


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
    streams: "Streams"
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
        self.labels: dict[str, str] | None = None  # of its description, once somebody asked
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
        self.stopping = threading.Event()  # somebody wants it to end: no policy starts it again
        self.waiting = False  # it has ended, and will be started again by its policy
        self.restarts = 0
        self.restart = RestartPolicy()
        self.frozen: Frozen | None = None
        self.leftovers: list[Callable[[], None]] = []  # what to take away when its run has ended
        self.health: Health | None = None
        self.ports: Forwarder | None = None

    @property
    def record(self) -> ContainerRecord:
        return self.container.record

    @property
    def running(self) -> bool:
        return self.send is not None

    @property
    def alive(self) -> bool:
        """It runs, or will again by itself."""
        return self.running or self.waiting

    @property
    def state(self) -> str:
        """Docker's word for it."""
        if self.waiting and not self.running:
            return "restarting"
        return "paused" if self.frozen is not None else self.record.state


def signal_number(text: str) -> int:
    """`SIGKILL`, `kill`, `9`: the number. Raises InvalidInput."""
    word = text.strip().upper()
    if word.isdecimal() and 0 < int(word[:4]) < 65 and len(word) < 4:
        return int(word)
    found = getattr(signal, word if word.startswith("SIG") else f"SIG{word}", None)
    if not isinstance(found, signal.Signals):
        raise InvalidInput(f"invalid signal: {text[:40]}")
    return int(found)
