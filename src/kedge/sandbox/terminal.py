"""The user's side of a container's streams: raw mode, window size, copying, and signals passed on.

Owns this process's terminal while a container is attached, and gives it back as it was. Does not know what runs.
"""

import fcntl
import os
import select
import signal
import struct
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from kedge.model.errors import InvalidInput
from kedge.sandbox.process import Signaller, Stdio

_PASSED_ON = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGCONT, signal.SIGWINCH, signal.SIGALRM),
)
_PATIENCE = 3  # the process that is PID 1 ignores what it does not handle; the third Ctrl-C or SIGTERM kills
_CHUNK = 1 << 16


@contextmanager
def attached(interactive: bool, terminal: bool) -> Iterator[Stdio]:
    """Standard streams of this process lent to a container, with its signals passed on; restored at the end.

    Call it in the main thread. `interactive` passes standard input on, `terminal` goes with `Process.terminal`. Raises
    InvalidInput when a terminal is wanted but standard input is none.
    """
    if terminal and interactive and not os.isatty(0):
        raise InvalidInput("the input device is not a terminal", hint="leave out -t, or run it in a terminal")
    relay = _SignalRelay()
    with relay.installed():
        if not terminal:
            stdin = 0 if interactive else None
            sys.stdout.flush()
            yield Stdio(stdin=stdin, stdout=1, stderr=2, on_start=relay.start, note=_note)
            return
        console = _Console(interactive, relay)
        try:
            yield Stdio(on_terminal=console.start, on_start=relay.start, note=_note)
        finally:
            console.finish()


def _note(text: str) -> None:
    print(f"kedge: {text}", file=sys.stderr)


class _SignalRelay:
    """Passes signals to the container's process once it runs; those that came before are delivered then."""

    def __init__(self) -> None:
        self.send: Signaller | None = None
        self.waiting: list[int] = []
        self.master = -1
        self.demands = 0

    def start(self, send: Signaller, pid: int) -> None:
        self.send = send
        for number in self.waiting:
            send(number)

    @contextmanager
    def installed(self) -> Iterator[None]:
        old = {number: signal.signal(number, self._handle) for number in _PASSED_ON}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGWINCH and self.master >= 0:
            copy_window_size(self.master)
            return
        if number in (signal.SIGINT, signal.SIGTERM):
            self.demands += 1
            if self.demands >= _PATIENCE:
                number = signal.SIGKILL
        if self.send is None:
            self.waiting.append(number)
        else:
            self.send(number)


class _Console:
    """Copies between our terminal, in raw mode, and the master of the container's pseudo-terminal."""

    def __init__(self, interactive: bool, relay: _SignalRelay) -> None:
        self.interactive, self.relay = interactive, relay
        self.saved: list[object] | None = None
        self.master = -1
        self.thread: threading.Thread | None = None
        self.stop_read, self.stop_write = os.pipe2(os.O_CLOEXEC)

    def start(self, master: int) -> None:
        self.master = self.relay.master = master
        copy_window_size(master)
        if self.interactive and os.isatty(0):
            self.saved = termios.tcgetattr(0)
            tty.setraw(0)
        self.thread = threading.Thread(target=self._copy, name="terminal", daemon=True)
        self.thread.start()

    def finish(self) -> None:
        os.close(self.stop_write)
        if self.thread is not None:
            self.thread.join()
        if self.saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self.saved)  # type: ignore[arg-type]
        os.close(self.stop_read)
        self.relay.master = -1
        if self.master >= 0:
            os.close(self.master)

    def _copy(self) -> None:
        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        poll.register(self.stop_read, select.POLLIN)
        if self.interactive:
            poll.register(0, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self.master in ready and not _move(self.master, 1):
                return  # the last slave was closed
            if 0 in ready and not _move(0, self.master):
                poll.unregister(0)
                with suppress(OSError):
                    os.write(self.master, b"\x04")  # end of file, as a terminal says it
            if self.stop_read in ready and self.master not in ready:
                return


def _move(source: int, dest: int) -> bool:
    try:
        data = memoryview(os.read(source, _CHUNK))
    except OSError:  # EIO: a pseudo-terminal without its other side
        return False
    more = bool(data)
    while data:
        data = data[os.write(dest, data) :]
    return more


def copy_window_size(master: int) -> None:
    """Give the pseudo-terminal the size of our terminal: ioctl_tty(2)."""
    for fd in (1, 0, 2):
        try:
            size = fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8)
        except OSError:
            continue
        if struct.unpack("4H", size)[:2] != (0, 0):
            fcntl.ioctl(master, termios.TIOCSWINSZ, size)
        return
