"""Work that a build can do without, and so never waits long for: reading and writing caches.

Owns the clock: work that shows no sign of life for a while is told to stop and left behind. Does not know what is done.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from kedge.model.errors import Cancelled, SourceError
from kedge.model.event import Event
from kedge.sources.handler import Work

T = TypeVar("T")
SLOWEST = 16 << 10  # bytes a second, below which a download is given up
STALL = 30.0  # seconds without a byte, after which a cache is given up
_LOOK = 0.05
_GRACE = 2.0  # for work that was told to stop


def not_too_slow(progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """`progress` of a download that a build can do without: raises SourceError when bytes only trickle in."""
    started, first = time.monotonic(), list[int]()

    def told(current: int, total: int) -> None:
        if not first:
            first.append(current)
        seconds = time.monotonic() - started
        if seconds > STALL and current - first[0] < SLOWEST * seconds:
            raise SourceError(f"fewer than {SLOWEST >> 10} KiB a second came")
        progress(current, total)

    return told


class Patient(Generic[T]):
    """Runs one function on a thread of its own. `stop` is set when it is given up, or when the build is stopped."""

    def __init__(self, cancel: threading.Event, stall: float = STALL, limit: float = 0.0) -> None:
        self.stop = threading.Event()
        self._cancel, self._stall, self._limit = cancel, stall, limit
        self._moved = time.monotonic()

    def watched(self, work: Work) -> Work:
        """A Work whose every report is a sign of life, and which is stopped by `stop`."""

        def report(event: Event) -> None:
            self._moved = time.monotonic()
            if not self.stop.is_set():
                work.report(event)

        return Work(work.vertex, report, self.stop)

    def run(self, function: Callable[[], T]) -> T:
        """The function's value, or its error. Raises SourceError when it is given up, Cancelled with the build."""
        values: list[T] = []
        errors: list[BaseException] = []

        def body() -> None:
            try:
                values.append(function())
            except BaseException as error:  # told to whoever waits, if anyone still does
                errors.append(error)

        thread = threading.Thread(target=body, name="kedge-cache", daemon=True)
        thread.start()
        self._wait(thread)
        for error in errors:
            raise error
        return values[0]

    def _wait(self, thread: threading.Thread) -> None:
        started = self._moved = time.monotonic()
        while thread.is_alive():
            thread.join(_LOOK)
            now = time.monotonic()
            if self._cancel.is_set():
                self._give_up(thread, Cancelled("the build was stopped"))
            elif now - self._moved > self._stall:
                self._give_up(thread, SourceError(f"no answer for {self._stall:g} seconds"))
            elif self._limit and now - started > self._limit:
                self._give_up(thread, SourceError(f"not done within {self._limit:g} seconds"))

    def _give_up(self, thread: threading.Thread, error: Exception) -> None:
        if not thread.is_alive():
            return
        self.stop.set()
        thread.join(_GRACE)
        raise error
