"""Is a container well? Its health check, run again and again beside it.

Owns the rhythm and the verdict (Dockerfile reference, HEALTHCHECK). How a command is run in the container is given by
the caller.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from kedge.model.image import Healthcheck
from kedge.model.value import dataclass

KEPT_OUTPUT: Final = 4096  # bytes of what a probe says
_KEPT_PROBES: Final = 5
_SECOND: Final = 1_000_000_000
_SHORTEST: Final = 1_000_000  # nanoseconds, of all times: Docker's
_DEFAULTS: Final = {"interval": 30 * _SECOND, "timeout": 30 * _SECOND, "start_interval": 5 * _SECOND}
Verdict: TypeAlias = Literal["starting", "healthy", "unhealthy"]
# Runs the command until it ends or the event is set; its exit code and what it said. None: not now.
Probe: TypeAlias = Callable[[threading.Event], tuple[int, bytes] | None]


@dataclass(frozen=True, slots=True)
class Probed:
    """One run of the check. Times are seconds since the epoch."""

    start: float
    end: float
    exit_code: int
    output: str


def merged(own: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    """The container's check over its image's, with the defaults; None where nothing is to be checked."""
    own, image = own or Healthcheck(), image or Healthcheck()
    test = own.test or image.test
    if not test or test[0] == "NONE" or len(test) < 2:
        return None
    names = ("interval", "timeout", "start_period", "start_interval", "retries")
    values = {name: getattr(own, name) or getattr(image, name) or _DEFAULTS.get(name, 0) for name in names}
    return Healthcheck(test, **values | {"retries": values["retries"] or 3})


def command_of(check: Healthcheck, shell: tuple[str, ...] | None) -> tuple[str, ...]:
    """The command line of a merged check."""
    if check.test[0] == "CMD":
        return check.test[1:]
    return (*(shell or ("/bin/sh", "-c")), " ".join(check.test[1:]))


class Health:
    """What is known of one run of a container, and the thread that finds it out.

    `changed` is told of every new verdict.
    """

    def __init__(self, check: Healthcheck, probe: Probe, changed: Callable[[Verdict], None]) -> None:
        self.verdict: Verdict = "starting"
        self.streak = 0  # failures since the last success
        self.probes: deque[Probed] = deque(maxlen=_KEPT_PROBES)
        self._check, self._probe, self._changed = check, probe, changed
        self._over = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="health", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The container has ended."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self._pause()):
            start = time.time()
            found = self._one()
            if self._over.is_set():
                return
            if found is None:
                continue
            code, output = found
            self.probes.append(Probed(start, time.time(), code, output))
            self._judge(code)

    def _pause(self) -> float:
        beginning = self.verdict == "starting" and self._is_starting()
        return max(self._check.start_interval if beginning else self._check.interval, _SHORTEST) / _SECOND

    def _is_starting(self) -> bool:
        return time.monotonic() - self._began < self._check.start_period / _SECOND

    def _one(self) -> tuple[int, str] | None:
        late = threading.Event()
        seconds = max(self._check.timeout, _SHORTEST) / _SECOND
        timer = threading.Timer(seconds, late.set)
        timer.daemon = True
        timer.start()
        try:
            found = self._probe(late)
        finally:
            timer.cancel()
        if found is None:
            return None
        code, output = found
        if late.is_set():
            return -1, f"Health check exceeded timeout ({seconds:g}s): {output.decode(errors='replace')}"
        return code, output.decode(errors="replace")

    def _judge(self, code: int) -> None:
        before = self.verdict
        if code == 0:
            self.streak, self.verdict = 0, "healthy"
        elif before != "starting" or not self._is_starting():  # failures of the start period do not count
            self.streak += 1
            if self.streak >= self._check.retries:
                self.verdict = "unhealthy"
        if self.verdict != before:
            self._changed(self.verdict)
