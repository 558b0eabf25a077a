"""Streams between a container's processes and a client's socket: attach, exec, logs.

Owns Docker's framing (a header of stream and length before each piece, none with a terminal), detach keys, and the two
directions of one connection. Does not know where bytes come from.
"""

import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Final

from kedge.containers.log import LogLine
from kedge.containers.streams import Streams
from kedge.daemon.engine.containers import described, known
from kedge.daemon.engine.http import Exchange
from kedge.daemon.engine.routes import Call
from kedge.daemon.engine.websocket import WebSocket, answer_of
from kedge.model.errors import InvalidInput

RAW: Final = "application/vnd.docker.raw-stream"
FRAMED: Final = "application/vnd.docker.multiplexed-stream"
_PIECE: Final = 1 << 16
_DETACH: Final = "ctrl-p,ctrl-q"


def framed(stream: int, data: bytes) -> bytes:
    """A piece with Docker's header."""
    return struct.pack(">BxxxI", stream, len(data)) + data


def kind_of(call: Call, terminal: bool) -> str:
    """The media type of the answer; clients before 1.42 know one word for both."""
    return FRAMED if not terminal and call.version >= (1, 42) else RAW


class Line:
    """One client's connection on the streams of a process, from `join` to `serve`'s end."""

    def __init__(self, exchange: Exchange, streams: Streams, wanted: set[int]) -> None:
        self._exchange, self._streams, self._wanted = exchange, streams, wanted
        self._connection: socket.socket | WebSocket | None = None
        self._early, self._plain = b"", streams.terminal
        self._sending = threading.Lock()
        self._detached = threading.Event()
        self._sending.acquire()  # nothing is sent before the client knows that it is attached
        self._key = streams.attach(self._send)

    def join(self, kind: str) -> None:
        """Take the connection over; what the process said since this Line was made comes first."""
        try:
            self._connection = self._exchange.hijack(kind)
            self._early = self._exchange.early
        finally:
            self._sending.release()

    def join_by_websocket(self, accepted: tuple[str, str]) -> None:
        """The same as a WebSocket; Docker does not tell streams apart on one."""
        try:
            connection = self._exchange.hijack("", [accepted])
            self._connection, self._plain = WebSocket(connection, self._exchange.early), True
        finally:
            self._sending.release()

    def send(self, stream: int, data: bytes) -> None:
        """Send something else than the process's own words."""
        self._send(stream, data)

    def _send(self, stream: int, data: bytes) -> None:
        if stream not in self._wanted:
            return
        with self._sending:
            if self._connection is None:
                raise OSError("not attached")
            self._connection.sendall(data if self._plain else framed(stream, data))

    def serve(self, stdin: bool, detach_keys: str) -> None:
        """Carry bytes until the process has ended, or the client went or wants no more."""
        connection = self._connection
        assert connection is not None
        keys = read_keys(detach_keys) if self._streams.terminal else b""
        reader = threading.Thread(target=self._read, args=(connection, stdin, keys), name="stdin", daemon=True)
        reader.start()
        poll = select.poll()
        poll.register(connection, 0)  # tells of POLLHUP: closed in both directions
        try:
            while not self._streams.ended.wait(0.25) and not self._detached.is_set():
                if poll.poll(0) or (self._exchange.stopping.is_set() and self._streams.ended.is_set()):
                    break
        finally:
            self._streams.detach(self._key)
            with self._sending, suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        reader.join()

    def _read(self, connection: "socket.socket | WebSocket", stdin: bool, keys: bytes) -> None:
        scan = KeyScan(keys)
        data = self._early
        with suppress(OSError):
            while data or (data := connection.recv(_PIECE)):
                data, detached = scan.feed(data)
                if stdin:
                    self._streams.write(data)
                if detached:
                    self._detached.set()
                    return
                data = b""
        if stdin and not self._detached.is_set():
            self._streams.end_of_client_input()


class KeyScan:
    """Looks for the detach keys in what is typed; holds back what may be their beginning."""

    def __init__(self, keys: bytes) -> None:
        self._keys, self._held = keys, b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the keys were pressed."""
        if not self._keys:
            return data, False
        data, self._held = self._held + data, b""
        before, found, _ = data.partition(self._keys)
        if found:
            return before, True
        for length in range(len(self._keys) - 1, 0, -1):
            if data.endswith(self._keys[:length]):
                self._held = self._keys[:length]
                return data[:-length], False
        return data, False


def read_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as the bytes that a terminal sends for it. Raises InvalidInput."""
    keys = bytearray()
    for word in (text or _DETACH).split(","):
        letter = word.removeprefix("ctrl-")
        if len(letter) != 1 or not letter.isascii():
            raise InvalidInput(f"invalid detach keys {text[:40]!r}")
        keys.append(ord(letter.upper()) & 0x1F if word.startswith("ctrl-") else ord(letter))
    return bytes(keys)


# ---- attach ----------------------------------------------------------------------------------------------------------


def attach(call: Call) -> None:
    _attach(call, None)


def attach_by_websocket(call: Call) -> None:
    """Without a word on streams, all of them are meant: clients in browsers send none."""
    _attach(call, answer_of(call))


def _attach(call: Call, accepted: tuple[str, str] | None) -> None:
    one = known(call)
    asked = described(one)
    terminal, interactive = asked.request.terminal, asked.request.interactive
    keys = call.query("detachKeys")
    read_keys(keys)
    streams = call.engine.supervisor.streams_of(one, terminal, interactive, asked.care.once)
    default = accepted is not None
    wanted = {stream for stream, name in ((1, "stdout"), (2, "stderr")) if call.flag(name, default)}
    line = Line(call.exchange, streams, wanted)
    if accepted is None:
        line.join(kind_of(call, terminal))
    else:
        line.join_by_websocket(accepted)
    if call.flag("logs"):
        for entry in one.log.read():
            if entry is not None:
                line.send(entry.stream, entry.data)
    if call.flag("stream", default):
        line.serve(call.flag("stdin", default) and interactive, keys)


# ---- logs ------------------------------------------------------------------------------------------------------------


def logs(call: Call) -> None:
    one, exchange = known(call), call.exchange
    wanted = {stream for stream, name in ((1, "stdout"), (2, "stderr")) if call.flag(name)}
    if not wanted:
        raise InvalidInput("Bad parameters: you must choose at least one stream")
    terminal, stamps = described(one).request.terminal, call.flag("timestamps")
    tail = call.query("tail")
    exchange.begin(200, kind_of(call, terminal))
    for line in one.log.read(
        tail=int(tail) if tail.isdecimal() and len(tail) < 10 else None,
        since=_nanoseconds(call.query("since")),
        until=_nanoseconds(call.query("until")),
        follow=call.flag("follow"),
    ):
        if line is None:
            if exchange.is_gone() or exchange.stopping.is_set():
                return
        elif line.stream in wanted:
            data = (_stamp(line) if stamps else b"") + line.data
            exchange.write(data if terminal else framed(line.stream, data))
    exchange.end()


def _nanoseconds(text: str) -> int:
    try:
        moment = float(text or 0)
    except ValueError:
        raise InvalidInput(f"invalid time {text[:40]!r}") from None
    return int(moment * 1e9) if 0 <= moment < 1 << 40 else 0


def _stamp(line: LogLine) -> bytes:
    second, rest = divmod(line.time, 1_000_000_000)
    return (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + f".{rest:09}Z ").encode()
