"""The standard streams of one process of a container, as several clients share them.

Owns who is attached, the input pipe, the terminal's master. Does not know how bytes are framed for a client.
"""

import fcntl
import os
import select
import struct
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from kedge.containers.log import ContainerLog
from kedge.model.value import replace
from kedge.sandbox.process import Stdio

Sink: TypeAlias = Callable[[int, bytes], None]  # stream and bytes; raises OSError when its client has gone
_CHUNK = 1 << 16


class Streams:
    """The streams of one process, from before it starts until after it ended.

    `interactive`: it has an input; `once`: that ends when the first client that gave any ends its own.
    """

    def __init__(self, terminal: bool, interactive: bool, once: bool = True, log: ContainerLog | None = None) -> None:
        self.terminal, self.interactive, self.once = terminal, interactive, once
        self.ended = threading.Event()
        self._log = log
        self._sinks: dict[object, Sink] = {}
        self._lock = threading.Lock()
        self._order = threading.Lock()  # one piece of output after the other
        self._held: list[tuple[int, bytes]] | None = None
        self._master = -1
        self._size: tuple[int, int] | None = None
        self._pump: threading.Thread | None = None
        self._ending = threading.Event()
        self._input = self._theirs = -1
        if interactive and not terminal:
            self._theirs, self._input = os.pipe2(os.O_CLOEXEC)

    # ---- the process's side ------------------------------------------------------------------------------------------

    def stdio(self, base: Stdio) -> Stdio:
        """`base` with the streams that lead here."""
        start = base.on_start

        def on_start(send: Callable[[int], None], pid: int) -> None:
            self._close_theirs()
            if start is not None:
                start(send, pid)

        stdin = self._theirs if self._theirs >= 0 else None
        return replace(base, stdin=stdin, output=self.output, on_terminal=self._connect, on_start=on_start)

    def drain(self) -> None:
        """The process has ended: read what its terminal still holds."""
        self._ending.set()
        if self._pump is not None:
            self._pump.join()

    def finish(self) -> None:
        """The process has ended: pass on the rest, and let everybody go. Idempotent."""
        self.drain()
        self._close_theirs()
        self.close_input()
        with self._lock:
            master, self._master = self._master, -1
        if master >= 0:
            os.close(master)
        if self._log is not None:
            self._log.end()
        self.ended.set()

    def _close_theirs(self) -> None:
        with self._lock:
            theirs, self._theirs = self._theirs, -1
        if theirs >= 0:
            os.close(theirs)

    def hold(self) -> None:
        """Keep what comes for now: it may be why the program could not be executed, and no word of its own."""
        self._held = []

    def release(self) -> None:
        """The program runs: pass on what was kept, and all that comes."""
        with self._order:
            held, self._held = self._held or [], None
            for stream, data in held:
                self._deliver(stream, data)

    def withdraw(self) -> bytes:
        """The program does not run: what was kept goes to nobody but the caller."""
        with self._order:
            held, self._held = self._held or [], None
        return b"".join(data for _, data in held)

    def output(self, stream: int, data: bytes) -> None:
        """What the process said."""
        with self._order:
            if self._held is not None:
                self._held.append((stream, data))
            else:
                self._deliver(stream, data)

    def _deliver(self, stream: int, data: bytes) -> None:
        if self._log is not None:
            self._log.write(stream, data)
        with self._lock:
            sinks = list(self._sinks.items())
        for key, sink in sinks:
            try:
                sink(stream, data)
            except OSError:
                self.detach(key)

    def _connect(self, master: int) -> None:
        self._master = master
        if self._size:
            self.resize(*self._size)
        self._pump = threading.Thread(target=self._copy, args=(master,), name="terminal", daemon=True)
        self._pump.start()

    def _copy(self, master: int) -> None:
        """What the terminal shows, until nobody has it open (EIO), or the process has ended and nothing more comes."""
        poll = select.poll()
        poll.register(master, select.POLLIN)
        while True:
            ending = self._ending.is_set()
            if not poll.poll(0 if ending else 100):
                if ending:
                    return
                continue
            try:
                data = os.read(master, _CHUNK)
            except OSError:
                return
            if not data:
                return
            self.output(1, data)

    # ---- the clients' side -------------------------------------------------------------------------------------------

    def attach(self, sink: Sink) -> object:
        """Send what comes from now on to `sink` as well, from other threads; gives what `detach` takes."""
        key = object()
        with self._lock:
            self._sinks[key] = sink
        return key

    def detach(self, key: object) -> None:
        """Send it nothing more."""
        with self._lock:
            self._sinks.pop(key, None)

    def write(self, data: bytes) -> None:
        """Give the process input. Blocks while it takes none; silent when it never will."""
        with self._lock:
            target = self._master if self.terminal else self._input
            if target < 0:
                return
            own = os.dup(target)  # the other may be closed, and its number be another's, while we wait
        try:
            while data:
                data = data[os.write(own, data) :]
        except OSError:
            return
        finally:
            os.close(own)

    def close_input(self) -> None:
        """Let the process see the end of its input."""
        with self._lock:
            ours, self._input = self._input, -1
        if ours >= 0:
            os.close(ours)

    def end_of_client_input(self) -> None:
        """A client has no more to give. A terminal stays as it is: its keys say where input ends."""
        if self.once and not self.terminal:
            self.close_input()

    def resize(self, rows: int, columns: int) -> None:
        """The clients' window has this size; before the start, the terminal will begin with it."""
        self._size = rows, columns
        with self._lock:
            if self._master >= 0:
                with suppress(OSError):
                    fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
