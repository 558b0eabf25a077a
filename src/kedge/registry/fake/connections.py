"""The fake registry's HTTP: requests come in as values, answers go out whole, slowly, cut off or without end.

Owns how bytes are lost on the way. Does not know what is asked for.
"""

import contextlib
import socket
import ssl
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import urlsplit

from kedge.model.value import replace
from kedge.registry.fake.replies import Body, Reply, Seen


class Answers(Protocol):
    """Who answers; any thread asks."""

    def reply(self, seen: Seen, body: Body) -> Reply:
        """The answer. Raises ConnectionError to break the connection."""
        ...

    def bent(self, seen: Seen, reply: Reply) -> Reply:
        """What is sent instead of an answer."""
        ...


class Server(ThreadingHTTPServer):
    """Listens on a free port of loopback; with `tls`, the files of a certificate and its key."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answers: Answers, tls: tuple[str, str] | None) -> None:
        self.answers = answers
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection, in a thread of its own."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """Let go of a connection."""
        with self._lock:
            self._open.discard(request)
        super().close_request(request)

    def server_close(self) -> None:
        """Listen no more, and break off what is open: a client that keeps its connection is not to be answered."""
        super().server_close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # broken connections are what this server is for


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = Body(self.rfile, int(headers.get("content-length") or 0))
        seen = Seen(self.command, parts.path, parts.query, headers, body.left)
        if parts.path == "/token" and self.command == "POST":
            seen = replace(seen, body=body.read())
        try:
            reply = self.server.answers.reply(seen, body)
        except ConnectionError:
            self._reset()
            return
        if body.left:
            body.read()
        self._send(self.server.answers.bent(seen, reply))

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve

    def _send(self, reply: Reply) -> None:
        time.sleep(reply.delay)
        self.send_response(reply.status)
        names = {name.lower() for name in reply.headers}
        if (
            "content-length" not in names
            and "transfer-encoding" not in names
            and not reply.endless
            and reply.status != 204
        ):
            self.send_header("Content-Length", str(len(reply.body)))
        if reply.endless:
            self.send_header("Connection", "close")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = reply.body if reply.cut_at is None else reply.body[: reply.cut_at]
        if reply.drip:
            for start in range(0, len(body), reply.drip[0]):
                self.wfile.write(body[start : start + reply.drip[0]])
                time.sleep(reply.drip[1])
        else:
            self.wfile.write(body)
        while reply.endless:
            self.wfile.write(bytes(65536))
        if reply.cut_at is not None:
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)
