"""Connections that stop being HTTP and become BuildKit's: `/session` and `/grpc`.

Owns the handing over. What is spoken then is the business of `daemon.buildkit`.
"""

import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from typing import Protocol

from kedge.daemon.engine.routes import Call
from kedge.daemon.listening import splice
from kedge.daemon.peer import Peer
from kedge.model.errors import InvalidInput, Unsupported

_PIECE = 1 << 16


class BuildKit(Protocol):
    """BuildKit's side of the service. Blocking; any thread may call."""

    def session(
        self, metadata: Sequence[tuple[str, str]], peer: Peer, incoming: Iterator[bytes]
    ) -> Generator[bytes, None, None]:
        """Be the other side of a session that a client opened, until it or the generator ends. Raises InvalidInput,
        Conflict.
        """
        ...

    def solve(
        self, peer: Peer, ref: str, session: str, attrs: dict[str, str], names: str, tell: Callable[[bytes], None]
    ) -> str:
        """Build a Dockerfile of the client's session into the store; the image's id. `tell` is given StatusResponses.

        Raises KedgeError.
        """
        ...

    def serve(self, connection: socket.socket, peer: Peer) -> None:
        """Speak gRPC on a connected socket, for that peer, until it ends; closes the socket."""
        ...


def session(call: Call) -> None:
    buildkit = _required(call)
    exchange = call.exchange
    metadata = [(key, value) for key, values in exchange.headers.items() for value in values.split(", ")]
    joined = threading.Event()

    def incoming() -> Iterator[bytes]:
        joined.wait()
        if early := exchange.early:
            yield early
        with suppress(OSError):
            while data := exchange.connection.recv(_PIECE):
                yield data

    with closing(buildkit.session(metadata, exchange.peer, incoming())) as outgoing:
        try:
            connection = exchange.hijack("")
        finally:
            joined.set()
        with suppress(OSError):
            for data in outgoing:
                connection.sendall(data)


def grpc(call: Call) -> None:
    buildkit = _required(call)
    exchange = call.exchange
    connection = exchange.hijack("")
    ours, theirs = socket.socketpair()
    threading.Thread(target=buildkit.serve, args=(theirs, exchange.peer), name="grpc", daemon=True).start()
    with ours:
        if early := exchange.early:
            ours.sendall(early)
        splice(connection, ours)


def _required(call: Call) -> BuildKit:
    if call.engine.buildkit is None:
        raise Unsupported("this service was started without BuildKit's API")
    if call.header("upgrade").lower() != "h2c":
        raise InvalidInput("expected an upgrade to h2c")
    return call.engine.buildkit
