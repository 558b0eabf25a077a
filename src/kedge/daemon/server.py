"""gRPC for all who arrive, on Unix sockets and over TLS.

Owns the way from a connection to a method of a service, and from a method back to its caller. Unix sockets are served
by our own code (`wire.serving`), whose callers the kernel names; TCP, with certificates of both sides only, by gRPC's
library. Does not know any service.
"""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import grpc

from kedge.daemon.listening import Arrival, Listener, Room, Tls, split_address
from kedge.daemon.peer import Peer
from kedge.daemon.turns import Turns
from kedge.daemon.wire.http2 import Connection
from kedge.daemon.wire.serving import Context, Services
from kedge.model.errors import InvalidInput

_THREADS: Final = 2048  # a build holds up to four: itself, its session, its listener, its gateway
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 128 << 20),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 4 << 20),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)
_PIECE: Final = 1 << 17  # bytes read from a connection at once
_LAST_WORDS: Final = 5.0  # seconds that a client has to read what is left to be said
Log = Callable[[str], None]


class Server:
    """A gRPC server for some services. Use: `add`, then `listen` for each address, then `start`, then `stop`."""

    def __init__(self, log: Log, tls: Tls | None = None) -> None:
        self._log, self._tls = log, tls
        self._listener = Listener(self._arrived)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="serve")
        self._services = Services(self._pool, Room(_THREADS))
        self._grpc = grpc.server(self._pool, options=_OPTIONS) if tls else None
        self._turns = Turns(_THREADS, self.peer_of)

    def add(self, *handlers: Any) -> None:
        """Serve these (`wire.calls.handler`)."""
        shared = tuple(map(self._turns.shared, handlers))
        for one in shared:
            self._services.add(one)
        if self._grpc:
            self._grpc.add_generic_rpc_handlers(shared)

    def listen(self, address: str, group: str = "") -> None:
        """Serve at `unix://PATH`, `tcp://HOST:PORT` (with certificates), or `fd://` (systemd). Raises KedgeError."""
        scheme, rest = split_address(address)
        if scheme == "tcp":
            self._listen_tcp(rest)
        else:
            self._listener.listen(address, group)

    def start(self) -> None:
        """Begin to answer."""
        if self._grpc:
            self._grpc.start()
        self._listener.start()

    def stop(self, grace: float) -> None:
        """Take no more connections; let calls end for `grace` seconds, then break them off."""
        self._listener.stop()
        stopping = self._grpc.stop(grace) if self._grpc else None
        self._services.stop(grace)
        if stopping:
            stopping.wait(grace + 5)
        self._listener.end(grace)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _listen_tcp(self, address: str) -> None:
        tls = self._tls
        if tls is None or self._grpc is None:
            raise InvalidInput(
                f"tcp://{address} would let anybody build here",
                hint="Give certificates: --tlscert, --tlskey and --tlscacert, whose clients are let in",
            )
        try:
            pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
            credentials = grpc.ssl_server_credentials([pair], tls.ca.read_bytes(), require_client_auth=True)
            if not self._grpc.add_secure_port(address, credentials):
                raise InvalidInput(f"cannot listen at tcp://{address}")
        except OSError as error:
            raise InvalidInput(f"cannot read {error.filename}: {error.strerror}") from None
        except RuntimeError:
            raise InvalidInput(f"cannot listen at tcp://{address}") from None

    # ---- connections -------------------------------------------------------------------------------------------------

    def _arrived(self, arrival: Arrival) -> None:
        if arrival.peer.uid is None:  # one whom the kernel does not know is nobody, and above all not root
            return
        self._log(f"connection from {arrival.peer}")
        self.carry(arrival.connection, arrival.peer)

    def carry(self, connection: socket.socket, peer: Peer) -> None:
        """Let a connected socket, whose bytes are HTTP/2 from now on, talk to the services until it ends; close it."""
        served = self._services.connect(peer)
        writer = threading.Thread(target=_write, args=(served, connection), name="answers", daemon=True)
        with connection:
            try:
                writer.start()
                with suppress(OSError):
                    while not served.closed and (data := connection.recv(_PIECE)):
                        served.feed(data)
            finally:
                self._services.disconnect(served)
            writer.join(_LAST_WORDS)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            writer.join()

    def peer_of(self, context: grpc.ServicerContext | Context) -> Peer:
        """Who makes a call: the user behind a Unix socket, or the name in a certificate."""
        if isinstance(context, Context):
            return context.caller
        names = context.auth_context().get("x509_common_name") or [b""]
        return Peer(name=names[0].decode(errors="replace"))


def _write(served: Connection, connection: socket.socket) -> None:
    with suppress(OSError):
        for data in served.output():
            connection.sendall(data)
    served.close()
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # the reader need wait no longer
