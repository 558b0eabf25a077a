"""A WebSocket (RFC 6455) over a connection that was taken over, as a socket of plain bytes.

Owns the handshake's answer and the frames. Does not know what is carried.
"""

import base64
import binascii
import hashlib
import socket
import struct
import threading
from contextlib import suppress
from typing import Final

from kedge.daemon.engine.routes import Call
from kedge.model.errors import InvalidInput

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LONGEST: Final = 1 << 20  # bytes of one frame from a client
_CONTINUED, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10


def answer_of(call: Call) -> tuple[str, str]:
    """The header that accepts a client's handshake. Raises InvalidInput for what is none."""
    key = call.header("sec-websocket-key")
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except (ValueError, binascii.Error):
        valid = False
    if call.header("upgrade").lower() != "websocket" or not valid or call.header("sec-websocket-version") != "13":
        raise InvalidInput("expected a WebSocket handshake, version 13")
    accepted = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return "Sec-WebSocket-Accept", base64.b64encode(accepted).decode()


class WebSocket:
    """What `attach.Line` needs of a socket. One thread receives, any may send."""

    def __init__(self, connection: socket.socket, early: bytes) -> None:
        self._connection, self._rest = connection, early
        self._sending = threading.Lock()

    def fileno(self) -> int:
        return self._connection.fileno()

    def sendall(self, data: bytes) -> None:
        """Send as one binary message."""
        self._frame(_BINARY, data)

    def recv(self, _: int) -> bytes:
        """What the next frame holds; b"" at the end. Raises OSError for what is no frame."""
        while True:
            kind, data = self._next()
            if kind == _PING:
                self._frame(_PONG, data)
            elif kind == _CLOSE:
                with suppress(OSError):
                    self._frame(_CLOSE, data[:2])
                return b""
            elif kind in (_CONTINUED, _TEXT, _BINARY) and data:
                return data
            elif kind not in (_CONTINUED, _TEXT, _BINARY, _PONG):
                raise self._refused(1002)

    def shutdown(self, how: int) -> None:
        """Say that this is the end, and end it."""
        with suppress(OSError):
            self._frame(_CLOSE, struct.pack(">H", 1000))
        self._connection.shutdown(how)

    def _next(self) -> tuple[int, bytes]:
        try:
            first, second = self._take(2)
        except EOFError:
            return _CLOSE, b""
        length = second & 0x7F
        try:
            if length >= 126:
                length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
            if length > _LONGEST:
                raise self._refused(1009)
            if not second & 0x80 or first & 0x70:  # clients mask, and no extension was agreed on
                raise self._refused(1002)
            mask, data = self._take(4), self._take(length)
        except EOFError:
            return _CLOSE, b""
        whole = (mask * (length // 4 + 1))[:length]
        plain = int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")
        return first & 0x0F, plain.to_bytes(length, "big")

    def _take(self, count: int) -> bytes:
        while len(self._rest) < count:
            more = self._connection.recv(1 << 16)
            if not more:
                raise EOFError
            self._rest += more
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    def _frame(self, kind: int, data: bytes) -> None:
        length = len(data)
        head = struct.pack(">BB", 0x80 | kind, length) if length < 126 else b""
        if not head:
            head = struct.pack(">BBH" if length <= 0xFFFF else ">BBQ", 0x80 | kind, 126 + (length > 0xFFFF), length)
        with self._sending:
            self._connection.sendall(head + data)

    def _refused(self, code: int) -> OSError:
        with suppress(OSError):
            self._frame(_CLOSE, struct.pack(">H", code))
        return OSError("not a WebSocket's frame")
