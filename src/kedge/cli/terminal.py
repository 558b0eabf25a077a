"""The user's terminal and a container's, as one.

Owns raw mode, the copying of bytes in both directions, and the window's size. Does not know what runs at the other end.
"""

import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
import threading
import tty
from typing import Any

_CHUNK = 1 << 16


class Bridge:
    """Joins descriptors 0 and 1 with a pseudo-terminal's master; a context manager that puts the terminal back in
    order.

    `connect` is called once with the master, which the bridge then owns.
    """

    def __init__(self, interactive: bool) -> None:
        self._interactive = interactive
        self._saved: list[Any] | None = None
        self._master = -1
        self._thread: threading.Thread | None = None
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._resized: Any = None

    def __enter__(self) -> "Bridge":
        if self._interactive and os.isatty(0):
            self._saved = termios.tcgetattr(0)
            tty.setraw(0)
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._stop_write, b"x")
        if self._thread:
            self._thread.join()
        if self._resized is not None:
            signal.signal(signal.SIGWINCH, self._resized)
        if self._saved:
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        for descriptor in (self._stop_read, self._stop_write, self._master):
            if descriptor >= 0:
                os.close(descriptor)

    def connect(self, master: int) -> None:
        """Start copying; the window's size is passed on now and at every change."""
        self._master = master
        self._resize()
        if threading.current_thread() is threading.main_thread():
            self._resized = signal.signal(signal.SIGWINCH, lambda *_: self._resize())
        self._thread = threading.Thread(target=self._copy, name="terminal", daemon=True)
        self._thread.start()

    def _resize(self) -> None:
        for descriptor in (1, 0):
            try:
                columns, lines = os.get_terminal_size(descriptor)
            except OSError:
                continue
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            return

    def _copy(self) -> None:
        """Both ways until the other end hangs up (EIO), or until we are told to stop and nothing more comes."""
        sources = [self._master, self._stop_read] + ([0] if self._interactive else [])
        stopping = False
        while True:
            ready, _, _ = select.select(sources, [], [], 0.1 if stopping else None)
            if stopping and self._master not in ready:
                return
            if self._stop_read in ready:
                sources, stopping = [self._master], True
            if self._master in ready and not self._from_container():
                return
            if 0 in ready and 0 in sources and not self._to_container():
                sources.remove(0)

    def _from_container(self) -> bool:
        try:
            data = os.read(self._master, _CHUNK)
        except OSError:  # EIO: no process has the terminal open any more
            return False
        try:
            _write(1, data)
        except OSError:
            return False
        return bool(data)

    def _to_container(self) -> bool:
        try:
            data = os.read(0, _CHUNK)
        except OSError:  # EIO: the user's terminal was closed
            data = b""
        with contextlib.suppress(OSError):
            _write(self._master, data or b"\x04")  # end of file, as a terminal says it
        return bool(data)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
