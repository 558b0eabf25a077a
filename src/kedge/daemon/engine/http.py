"""One client's connection: HTTP/1.1 requests in, responses out, and the bare socket where a client asks for it.

Owns framing (by h11), limits and the socket. Does not know any path. What h11 calls malformed is answered 400 and the
connection ends.
"""

import json
import select
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, Final

import h11

from kedge.daemon.peer import Peer
from kedge.model.errors import Cancelled, InvalidInput

LARGEST_HEAD: Final = 1 << 20  # bytes; X-Registry-Config may hold many credentials
LARGEST_BODY: Final = 8 << 20  # bytes of a JSON body
IDLE: Final = 600.0  # seconds between two requests, and for each piece of one
_PIECE: Final = 1 << 16
_DRAIN: Final = 1 << 20  # bytes of a body nobody wanted that are read so that the connection can go on


class Disconnected(Exception):
    """The client has gone, or does not speak HTTP any more."""


class Exchange:
    """One request and its response. `target` is as it came; header names are lower case."""

    def __init__(self, connection: "Connection", request: h11.Request) -> None:
        self.method = request.method.decode("ascii")
        self.target = request.target.decode("latin-1")
        self.headers: dict[str, str] = {}
        for name, value in request.headers:
            key, text = name.decode("ascii"), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        self.peer = connection.peer
        self.stopping = connection.stopping
        self.started = self.finished = self.hijacked = False
        self.request_headers: list[tuple[str, str]] = []  # sent with whatever answer there is
        self._connection = connection
        self._rest = b""
        self._ended = False

    # ---- the request's body ------------------------------------------------------------------------------------------

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes of the body, `size` at most, b"" at its end; all of it below 0. Raises Cancelled when the
        client goes away.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(_PIECE), b""))
        while not self._rest and not self._ended:
            try:
                event = self._connection.next_event()
            except Disconnected:
                raise Cancelled("the client has gone") from None
            if isinstance(event, h11.Data):
                self._rest = bytes(event.data)
            else:
                self._ended = True
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def whole_body(self, limit: int = LARGEST_BODY) -> bytes:
        """All of the body. Raises InvalidInput when it is longer than `limit`."""
        pieces, size = [], 0
        while data := self.read(_PIECE):
            size += len(data)
            if size > limit:
                raise InvalidInput(f"the request's body is larger than {limit} bytes")
            pieces.append(data)
        return b"".join(pieces)

    def drained(self) -> bool:
        """Read what is left of the body if that is little; False when the connection cannot go on."""
        left = _DRAIN
        with suppress(Cancelled):
            while left > 0:
                data = self.read(_PIECE)
                if not data:
                    return True
                left -= len(data)
        return False

    # ---- the response ------------------------------------------------------------------------------------------------

    def send(self, status: int, body: bytes = b"", kind: str = "", headers: Iterable[tuple[str, str]] = ()) -> None:
        """A whole response. The answer to HEAD has its headers only."""
        fields = [*headers]
        if kind:
            fields.append(("Content-Type", kind))
        if status not in (204, 304):
            fields.append(("Content-Length", str(len(body))))
        self._head(status, fields)
        if body and self.method != "HEAD" and status not in (204, 304):
            self._connection.send(h11.Data(body))
        self._connection.send(h11.EndOfMessage())
        self.finished = True

    def json(self, status: int, value: Any) -> None:
        """A JSON response."""
        self.send(status, json.dumps(value).encode() + b"\n", "application/json")

    def begin(self, status: int = 200, kind: str = "application/json", headers: Iterable[tuple[str, str]] = ()) -> None:
        """The head of a response whose body follows piece by piece (`write`), to `end`."""
        self._head(status, [*headers, ("Content-Type", kind)])

    def write(self, data: bytes | memoryview) -> int:
        """A piece of the body, sent at once. Raises Cancelled when the client has gone."""
        try:
            if len(data):
                self._connection.send(h11.Data(bytes(data)))
        except Disconnected:
            raise Cancelled("the client has gone") from None
        return len(data)

    def end(self) -> None:
        """The end of the body."""
        self._connection.send(h11.EndOfMessage())
        self.finished = True

    def _head(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.started = True
        every = [*self.request_headers, *headers]
        self._connection.send(h11.Response(status_code=status, headers=every, reason=HTTPStatus(status).phrase))

    def hijack(self, kind: str, headers: Iterable[tuple[str, str]] = ()) -> socket.socket:
        """The bare socket, after the response that says so. What the client sent too early is read first from
        `early`.
        """
        self.started = self.hijacked = True
        upgrade = self.headers.get("upgrade", "")
        self._connection.take_over(upgrade, kind, headers)
        return self._connection.socket

    @property
    def early(self) -> bytes:
        """What came behind the request already, for who took the socket over."""
        return self._connection.trailing()

    # ---- the client --------------------------------------------------------------------------------------------------

    @property
    def connection(self) -> socket.socket:
        """The bare socket, for who took it over."""
        return self._connection.socket

    def is_gone(self) -> bool:
        """Has the client closed the connection?"""
        poll = select.poll()
        poll.register(self._connection.socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    @contextmanager
    def watched(self, gone: Callable[[], None]) -> Iterator[None]:
        """While entered, `gone` is called once from another thread if the client goes away, or the service has no more
        patience.
        """
        over = threading.Event()

        def watch() -> None:
            poll = select.poll()
            poll.register(self._connection.socket, select.POLLRDHUP)
            while not over.is_set():
                if poll.poll(200):
                    if not over.is_set():
                        gone()
                    return

        thread = threading.Thread(target=watch, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class Connection:
    """One connection, used by one thread that reads and any that write."""

    def __init__(self, connection: socket.socket, peer: Peer, stopping: threading.Event) -> None:
        self.socket, self.peer, self.stopping = connection, peer, stopping
        self.busy = False
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)
        self._lock = threading.Lock()
        connection.settimeout(IDLE)

    def requests(self) -> Iterator[Exchange]:
        """The requests, one after the other, to the connection's end."""
        while not self.stopping.is_set():
            try:
                event = self.next_event()
            except Disconnected:
                return
            if not isinstance(event, h11.Request):
                return
            self.busy = True
            exchange = Exchange(self, event)
            yield exchange
            if exchange.hijacked or not exchange.finished or not exchange.drained():
                return
            with self._lock:
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
            self.busy = False

    def next_event(self) -> Any:
        while True:
            with self._lock:
                try:
                    event = self._http.next_event()
                    if event is h11.NEED_DATA and self._http.they_are_waiting_for_100_continue:
                        self._put(h11.InformationalResponse(status_code=100, headers=[]))
                except h11.RemoteProtocolError as error:
                    self._refuse(error)
                    raise Disconnected from None
            if event is h11.NEED_DATA:
                data = self._receive()
                with self._lock:
                    self._http.receive_data(data)
                continue
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                raise Disconnected
            return event

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(_PIECE)
        except OSError:
            raise Disconnected from None

    def send(self, event: Any) -> None:
        """Send; raises Disconnected when the client has gone."""
        with self._lock:
            self._put(event)

    def _put(self, event: Any) -> None:
        try:
            data = self._http.send(event)
            if data:
                self.socket.sendall(data)
        except (OSError, h11.LocalProtocolError) as error:
            raise Disconnected(str(error)) from None

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """Answer what is no HTTP, if an answer is still possible."""
        with suppress(Disconnected):
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = json.dumps({"message": f"malformed request: {error}"[:300]}).encode() + b"\n"
                headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
                self._put(
                    h11.Response(status_code=error.error_status_hint, headers=[*headers, ("Connection", "close")])
                )
                self._put(h11.Data(body))
                self._put(h11.EndOfMessage())

    def take_over(self, upgrade: str, kind: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Say that the connection is no HTTP any more. Clients that did not ask for an upgrade get a 200 without
        length, as Docker gives it.
        """
        head = ["HTTP/1.1 200 OK"]
        if upgrade:
            head = ["HTTP/1.1 101 UPGRADED", "Connection: Upgrade", f"Upgrade: {_word(upgrade)}"]
        if kind:
            head.insert(1, f"Content-Type: {kind}")
        head += [f"{name}: {value}" for name, value in headers]
        with self._lock:
            try:
                self.socket.settimeout(None)
                self.socket.sendall("\r\n".join([*head, "", ""]).encode("ascii"))
            except OSError as error:
                raise Disconnected(str(error)) from None

    def trailing(self) -> bytes:
        with self._lock:
            data, _ = self._http.trailing_data
            return bytes(data)

    def close(self) -> None:
        """End the connection, from any thread."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


def _word(text: str) -> str:
    return "".join(c for c in text.split(",")[0] if c.isascii() and (c.isalnum() or c in "-./"))[:40] or "tcp"
