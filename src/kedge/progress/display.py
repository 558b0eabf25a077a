"""Choosing a display and feeding it from any thread.

Owns the border between a build that reports from many threads and a display that draws on one. Does not know what any
display looks like.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol, TextIO, TypeAlias, get_args

from kedge.model.errors import InvalidInput
from kedge.model.event import Event

Mode: TypeAlias = Literal["auto", "tty", "plain", "rawjson", "quiet"]
MODES: tuple[str, ...] = get_args(Mode)

INTERVAL = 0.1  # seconds between two drawings


class Display(Protocol):
    """What draws events. All three methods are called by one thread at a time and never raise for odd events."""

    def update(self, events: list[Event]) -> None:
        """Take in events, oldest first, and draw what is due."""

    def refresh(self) -> None:
        """Draw again because time has passed."""

    def close(self) -> None:
        """Draw the final state, with the last output of every step that failed."""


class Quiet:
    """A display that shows nothing: errors and results are the command's to print."""

    def update(self, events: list[Event]) -> None:
        pass

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        pass


class Screen:
    """A `Report` that hands events to a display on a thread of its own; a context manager that closes it.

    Calling it is cheap, never blocks on the terminal and never raises. A terminal that goes away (BrokenPipeError) ends
    the display, not the build.
    """

    def __init__(self, display: Display, interval: float = INTERVAL) -> None:
        self._display = display
        self._interval = interval
        self._events: deque[Event] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, event: Event) -> None:
        self._events.append(event)
        self._wake.set()

    def __enter__(self) -> "Screen":
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Draw what is left and stop; may be called twice."""
        if self._thread:
            self._closing.set()
            self._wake.set()
            self._thread.join()
            self._thread = None

    def _draw(self) -> None:
        try:
            while not self._closing.is_set():
                self._wake.wait(self._interval)
                self._wake.clear()
                self._step(self._display)
                # Events that come in a burst are drawn together: plain output jumps less between steps.
                self._closing.wait(self._interval / 4)
            self._step(self._display)
            self._display.close()
        except (OSError, ValueError):  # the reader of our output is gone, or the stream is closed
            self._display = Quiet()

    def _step(self, display: Display) -> None:
        events = [self._events.popleft() for _ in range(len(self._events))]
        if events:
            display.update(events)
        else:
            display.refresh()


def choose(mode: str, stream: TextIO, *, clock: Callable[[], float] | None = None, doing: str = "Building") -> Display:
    """The display of that name, drawing on `stream` what we are `doing`.

    `auto` is `tty` where `stream` is a terminal, else `plain`.

    Raises InvalidInput for an unknown mode, and for `tty` on something that is no terminal.
    """
    import time

    clock = clock or time.time
    terminal = stream.isatty()
    if mode == "auto":
        mode = "tty" if terminal else "plain"
    match mode:
        case "quiet":
            return Quiet()
        case "plain":
            from kedge.progress.plain import Plain

            return Plain(stream, clock)
        case "rawjson":
            from kedge.progress.rawjson import RawJson

            return RawJson(stream)
        case "tty" if terminal:
            from kedge.progress.tty import Tty

            return Tty.on(stream, clock, doing)
        case "tty":
            raise InvalidInput("--progress=tty needs a terminal", hint="Use --progress=plain, or leave the flag out.")
    raise InvalidInput(f"unknown progress mode {mode!r}", hint=f"Use one of {', '.join(MODES)}.")
