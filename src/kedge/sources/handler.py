"""The contract of a source: say what it is now, then bring it.

Owns the Protocol, the pin and `Work`, the hand with which blocking leaves report and notice that they should stop.
Knows no scheme.
"""

import threading
import time
from typing import Protocol

from kedge.model.digest import Digest
from kedge.model.errors import Cancelled
from kedge.model.event import LogEvent, Report, StatusEvent, silent
from kedge.model.graph import Snapshot
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.value import dataclass, field


@dataclass(frozen=True, slots=True)
class Work:
    """One vertex's line to the outside, for its blocking leaves. Thread-safe."""

    vertex: Digest
    report: Report = silent
    cancel: threading.Event = field(default_factory=threading.Event)

    def status(
        self, id: str, current: int = 0, total: int = 0, *, started: float | None = None, done: bool = False
    ) -> None:
        """Tell how far the part `id` is: `current` of `total` bytes. `started` is what the first call's clock said."""
        now = time.time()
        self.report(StatusEvent(self.vertex, id, now, current, total, started or now, now if done else None))

    def log(self, data: bytes, stream: int = 1) -> None:
        """Output of the step, as it came."""
        self.report(LogEvent(self.vertex, stream, data, time.time()))

    def check(self) -> None:
        """Raise Cancelled when the build is being stopped; to be called between pieces of long work."""
        if self.cancel.is_set():
            raise Cancelled("the build was stopped")


@dataclass(frozen=True, slots=True)
class Pin:
    """What a source is at this moment. Equal `digest`, equal bytes, for all time, unless it is `volatile`.

    `volatile` sources (a client's own directory) are never cached and known only by their files' content. `labels`
    spell the pin for a person, such as ("image", "docker.io/library/alpine:3.20@sha256:…"). `buildkit` are what
    BuildKit's source of that scheme calls the same thing: caches that travel are looked up by any of them.
    """

    digest: Digest
    volatile: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    buildkit: tuple[str, ...] = ()


class SourceHandler(Protocol):
    """One scheme's way to its bytes. Both methods block, are idempotent and safe from several threads."""

    def pin(self, source: Source, platform: Platform | None, work: Work) -> Pin:
        """Say what the source is now; fetches no content beyond what that takes. Raises KedgeError."""

    def fetch(self, source: Source, platform: Platform | None, pin: Pin, work: Work) -> Snapshot:
        """The pinned content as a snapshot, whose layers may be lazy. Raises KedgeError, and then keeps nothing."""
