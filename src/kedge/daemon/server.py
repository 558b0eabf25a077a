"""gRPC for all who arrive, on Unix sockets and over TLS.

Owns the way from a connection to a method of a service, and from a method back to its caller. gRPC tells a method only
the address that a call comes from: so each connection on a Unix socket is carried to gRPC's own, private socket from an
address of its own, by which its peer is known. TCP is served with certificates of both sides only, by gRPC itself.
Does not know any service.
"""

import itertools
import re
import shutil
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc

from kedge.daemon.listening import Arrival, Listener, Tls, splice, split_address
from kedge.daemon.peer import Peer
from kedge.daemon.sessions.tunnel import socket_folder
from kedge.daemon.turns import Turns
from kedge.model.errors import Cancelled, InvalidInput

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
_CARRIED: Final = re.compile(r"unix:.*/peer-(\d+)$")
Log = Callable[[str], None]


class Server:
    """A gRPC server for some services. Use: `add`, then `listen` for each address, then `start`, then `stop`."""

    def __init__(self, log: Log, tls: Tls | None = None) -> None:
        self._log, self._tls = log, tls
        self._listener = Listener(self._arrived)
        self._folder = Path(tempfile.mkdtemp(prefix="kedge-serve-", dir=socket_folder()))
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="serve")
        self._grpc = grpc.server(self._pool, options=_OPTIONS)
        self._inner = self._folder / "grpc.sock"
        self._grpc.add_insecure_port(f"unix:{self._inner}")
        self._turns = Turns(_THREADS, self.peer_of)
        self._serials = itertools.count(1)
        self._peers: dict[int, Peer] = {}  # of carried connections, by their serial numbers

    def add(self, *handlers: Any) -> None:
        """Serve these (`wire.calls.handler`)."""
        self._grpc.add_generic_rpc_handlers(tuple(map(self._turns.shared, handlers)))

    def listen(self, address: str, group: str = "") -> None:
        """Serve at `unix://PATH`, `tcp://HOST:PORT` (with certificates), or `fd://` (systemd). Raises KedgeError."""
        scheme, rest = split_address(address)
        if scheme == "tcp":
            self._listen_tcp(rest)
        else:
            self._listener.listen(address, group)

    def start(self) -> None:
        """Begin to answer."""
        self._grpc.start()
        self._listener.start()

    def stop(self, grace: float) -> None:
        """Take no more connections; let calls end for `grace` seconds, then break them off."""
        self._listener.stop()
        self._grpc.stop(grace).wait(grace + 5)
        self._listener.end(grace)
        self._pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listen_tcp(self, address: str) -> None:
        tls = self._tls
        if tls is None:
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
        serial = next(self._serials)
        address = self._folder / f"peer-{serial}"
        self._peers[serial] = peer
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with connection, inner, suppress(OSError):  # gRPC may have ended
            inner.bind(str(address))
            inner.connect(str(self._inner))
            splice(connection, inner)
        address.unlink(missing_ok=True)
        del self._peers[serial]

    def peer_of(self, context: grpc.ServicerContext) -> Peer:
        """Who makes a call: the user behind a Unix socket, or the name in a certificate. Raises Cancelled."""
        if found := _CARRIED.match(context.peer()):
            try:
                return self._peers[int(found[1])]
            except KeyError:
                raise Cancelled("the client has gone") from None
        names = context.auth_context().get("x509_common_name") or [b""]
        return Peer(name=names[0].decode(errors="replace"))
